"""Expressions say where they are wrong, are safe to ask for anything, and cannot fill the memory."""

from __future__ import annotations

import re

import pytest

from rmqkit.errors import PayloadError
from rmqkit.payload.jinja_sandbox import Expression

NAMES = ("body", "headers")
VARIABLES = {"body": {"n": 5, "text": "5", "items": [1, 2]}, "headers": {"x-a": 1}}


def evaluate(text: str) -> object:
    return Expression(text, names=NAMES, origin="--filter").evaluate(VARIABLES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("body.n > 3 and headers['x-a'] == 1", True),
        ("body.items|length", 2),
        ("body.text in ('4', '5')", True),
        ("{'a': {'b': 1}}.a.b", 1),
        ("body.missing", None),
        ("body.missing.and.what.is['in'].it", None),
        ("body.missing > 3", None),
        ("not body.missing", True),
        ("body|tojson|length > 10", True),
        ("2 ** 10 * 3", 3072),
        ("body.__class__", None),
        ("''.__class__.__mro__", None),
    ],
)
def test_an_expression_has_its_value_and_a_missing_name_is_not_an_error(text: str, value: object) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "unexpected 'end of template'"),
        ("body ==", 6, "unexpected 'end of template'"),
        ("body == = 1", 9, "unexpected '='"),
        ("body b", 6, "chunk after expression"),
        ("body)", 5, "unexpected ')'"),
        ("body == 'a\nb' 7", 15, "chunk after expression"),
        ("body § 1", 6, "unexpected char '§'"),
        ("body|nosuch", 6, "No filter named 'nosuch'."),
        ("body }} b", 6, "chunk after expression"),
        ("1 == bdoy", 6, "'bdoy' is not known"),
        ("range(10)", 1, "'range' is not known"),
        ('body.a < 1 and headers.x-tenant == "a"', 16, "headers.x-tenant is a subtraction"),
        ("properties.headers.x-death", 1, "properties.headers.x-death is a subtraction"),
        ("not body.line-items", 5, "body.line-items is a subtraction"),
        ("(" * 5_000, 1, "nested too deeply"),
        ("body" + ".a" * 300, 407, "nested too deeply"),
    ],
)
def test_a_bad_expression_is_reported_with_its_place(text: str, column: int, said: str) -> None:
    with pytest.raises(PayloadError) as caught:
        Expression(text, names=NAMES, origin="--filter")
    [problem] = caught.value.problems
    assert (str(problem.where), problem.message) == (f"--filter:1:{column}", said)


def test_a_header_with_a_hyphen_is_shown_in_quotes() -> None:
    with pytest.raises(PayloadError, match=re.escape('Write headers["x-tenant"].')):
        Expression("headers.x-tenant == 1", names=NAMES, origin="--filter")
    for subtraction in ("body.a-body.a", "body.a-1", 'headers.a == "headers.x-tenant"', "headers.x - 1"):
        Expression(subtraction, names=NAMES, origin="--filter")


@pytest.mark.parametrize(
    "text",
    [
        "'a' * 10 ** 10",
        "10 ** 10 * 'a'",
        "[0] * 10 ** 9",
        "7 ** (10 ** 10)",
        "'%1000000000d' % 1",
        "'x'.ljust(10 ** 9)",
        "'{:1000000000}'.format(1)",
        "'x'['format'](1)",
    ],
)
def test_an_expression_that_would_exhaust_memory_is_stopped(text: str) -> None:
    with pytest.raises(PayloadError, match="was stopped"):
        evaluate(text)


@pytest.mark.parametrize("text", ["body.text > body.n", "1 / 0", "body.items + 1"])
def test_the_error_of_an_expression_without_a_value_shows_nothing_of_the_message(text: str) -> None:
    with pytest.raises(PayloadError, match=r"no value for a message: \w+Error$"):
        evaluate(text)
