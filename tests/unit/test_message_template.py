"""Templates render as in Jinja2, faults are reported with their place, and none can reach out or grow without bound."""

import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest

from rmqkit.errors import PayloadError
from rmqkit.message import Message
from rmqkit.payload.formats import Format
from rmqkit.payload.input_stream import InputPosition, InputStream
from rmqkit.payload.jinja_sandbox import TemplateSandbox
from rmqkit.payload.message_template import MessageTemplate
from rmqkit.payload.sources import MessageDefaults
from rmqkit.stop import Stop


def _bodies(text: str, count: int = 1, **more: object) -> list[str]:
    template = MessageTemplate(MessageDefaults(routing_key="q"), body=text, **more)  # type: ignore[arg-type]
    template.check_names()
    return [message.body.decode() for message in template.numbered(count)]


def _rows(path: Path, begin: InputPosition = InputPosition(), **parts: object) -> list[Message]:  # noqa: B008
    template = MessageTemplate(MessageDefaults("ex", "key"), **parts)  # type: ignore[arg-type]
    return [each for each in template.rows(InputStream(str(path), Stop()), begin) if each is not None]


def test_the_number_counts_from_0_and_a_final_newline_stays() -> None:
    assert _bodies("{{ n }}\n", 3) == ["0\n", "1\n", "2\n"]


def test_loops_conditions_and_sets_work_and_do_not_affect_the_next_message() -> None:
    text = "{% if n == 0 %}{% set x = 'set' %}{% endif %}{% for i in [1, 2] %}{{ i }}{% endfor %}{{ x|default('not') }}"
    assert _bodies(text, 2) == ["12set", "12not"]


def test_uuid_is_the_same_within_a_message_and_differs_between_messages() -> None:
    template = MessageTemplate(
        MessageDefaults(), body="{{ uuid }} {{ uuid }}", routing_key="{{ uuid }}", headers=["id={{ uuid }}"]
    )
    seen = set()
    for message in template.numbered(50):
        one, two = message.body.decode().split()
        assert one == two == message.routing_key == (message.properties.headers or {})["id"]
        assert UUID(one).version == 4
        seen.add(one)
    assert len(seen) == 50


_RANDOM = (
    "{{ uuid }} {{ random_int(-5, 5) }} {{ random_float(1, 2) }} {{ random_text(5) }} {{ choice(['a', 'b', 'c']) }}"
)


def test_a_seed_makes_a_run_repeatable_wherever_it_begins() -> None:
    one = _bodies(_RANDOM, 50, seed=1)
    assert one == _bodies(_RANDOM, 50, seed=1)
    assert not set(one) & set(_bodies(_RANDOM, 50, seed=2))
    assert not set(_bodies(_RANDOM, 50)) & set(_bodies(_RANDOM, 50))


def test_rows_from_the_middle_have_the_random_values_they_would_have_had(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n" + "".join(f"{n}\n" for n in range(20)))
    whole = _rows(path, body="{{ a }} " + _RANDOM, seed=9)
    rest = _rows(path, InputPosition(len("a\n0\n1\n2\n"), 4, 3), body="{{ a }} " + _RANDOM, seed=9)
    assert [each.body for each in rest] == [each.body for each in whole[3:]]


def test_random_values_are_spread_over_their_range() -> None:
    values = [int(each) for each in _bodies("{{ random_int(1, 6) }}", 6000, seed=3)]
    assert all(800 < values.count(face) < 1200 for face in range(1, 7))
    floats = [float(each) for each in _bodies("{{ random_float(0, 10) }}", 1000, seed=3)]
    assert 4.5 < sum(floats) / 1000 < 5.5


def test_now_is_the_time_in_utc() -> None:
    [text] = _bodies("{{ now }}")
    written = time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")
    assert abs(time.mktime(written) - time.mktime(time.gmtime())) < 60
    assert text.endswith("Z")


def test_fields_of_a_row_hide_built_in_names_and_odd_names_are_in_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("n,a field\nx,y\n")
    [message] = _rows(
        path, body="{{ n }} {{ row['a field'] }}", routing_key="k.{{ n }}", headers=["id:=[{{ row|length }}]"]
    )
    assert (message.body, message.routing_key, message.exchange) == (b"x y", "k.x", "ex")
    assert message.properties.headers == {"id": [2]}


def test_rows_without_a_template_are_json(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"a":  1}\n')
    [message] = _rows(path)
    assert (message.body, message.properties.content_type) == (b'{"a":  1}', "application/json")


def test_messages_with_equal_headers_share_their_properties() -> None:
    template = MessageTemplate(MessageDefaults(), body="", headers=["half={{ n // 50 }}", "fixed=1"])
    assert len({id(message.properties) for message in list(template.numbered(100))}) == 2


def test_rendered_bodies_are_checked_and_the_error_names_the_row(tmp_path: Path) -> None:
    template = MessageTemplate(MessageDefaults(format=Format.JSON), body='{"a": {{ row.a }}}')
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\nx\n")
    with pytest.raises(PayloadError, match=r"the body made for .*rows\.csv:3:1:1:7: not JSON"):
        list(template.rows(InputStream(str(path), Stop())))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a\n {{ 1 + }}", "2:9: unexpected"),
        ("{{ uiud }}", "1:4: 'uiud' is not known"),
        ("uiud\n{{ n }} uiud {% if n == uiud %}{% endif %}", "2:25: 'uiud' is not known"),
        ("{{ 'abc }}", "1:4: unexpected char"),
        ("{% for i in [] %}", "1:"),
        ("{{ n|nope }}", "1:"),
        ("a{% include 'x' %}", "1:5: a template may contain if"),
        ("{% macro a() %}{% endmacro %}", "1:4: a template may contain if"),
        ("{% set x %}{% endset %}", "1:4: a template may contain if"),
        ("{% for i in [] recursive %}{% endfor %}", "1:4: a template may contain if"),
        ("{{ " + "(" * 3000 + ")" * 3000 + " }}", "1:1: nested too deeply"),
        ("\udcff", "1:1: not UTF-8"),
    ],
)
def test_a_bad_template_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(PayloadError) as caught:
        _bodies(text)
    assert str(caught.value.problems[0]).startswith(f"`template=`:{place}")


def _doubled(first: str, step: str) -> str:
    return f"{{% set a = {first} %}}" + f"{{% set a = {step} %}}" * 60 + "{{ a }}"


@pytest.mark.parametrize(
    "text",
    [
        "{{ n.__class__.__mro__ }}",
        "{{ random_int.__func__.__globals__ }}",
        "{{ choice.__self__ }}",
        "{{ n|attr('__class__') }}",
        "{{ 'a' * 10**9 }}",
        "{{ 10**(10**10) }}",
        _doubled("'aa'", "a + a"),
        _doubled("'aa'", "a ~ a"),
        _doubled("[1, 2]", "[a, a]"),
        _doubled("{'a': 1}", "{'a': a, 'b': a}"),
        _doubled("'aa'", "a.join([a, a])"),
        "{% for i in [[0] * 1000] * 1000 %}{% for j in i %}{% for k in i %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for i in 'a' * 9999 %}" + "x" * 9999 + "{% endfor %}",
        "{{ random_text(10**9) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 1 / 0 }}",
        "{{ row.missing }}",
        "{{ row['missing'].more }}",
        "{{ choice([]) }}",
        "{{ random_int('a', 'b') }}",
    ],
)
def test_a_hostile_or_careless_template_soon_ends_with_an_error(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(PayloadError):
        _bodies(text)
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("name", sorted(set(TemplateSandbox().filters) - {"_counted", "_measured"}))
def test_no_filter_makes_a_large_text_of_a_small_one(name: str) -> None:
    text = "{{ ('a' * 1000)|" + name + "(1000000000) }}"
    try:
        [body] = _bodies(text)
    except PayloadError:
        return
    assert len(body) < 100_000


def test_an_error_shows_nothing_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\nsecret\n")
    for text in ("{{ a + 1 }}", "{{ a.nope }}", "{{ a|int + [] }}", "{{ random_int(a, 1) }}"):
        with pytest.raises(PayloadError) as caught:
            _rows(path, body=text)
        assert "secret" not in str(caught.value)
        assert f"{path}:2:1" in str(caught.value)


def test_a_routing_key_or_header_that_does_not_fit_is_reported_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\nx\n")
    for parts in ({"routing_key": "{{ a * 300 }}"}, {"headers": ["h:={{ a }}"]}, {"headers": ["h:={{ 10**30 }}"]}):
        with pytest.raises(PayloadError, match=r"rows\.csv:2:1"):
            _rows(path, body="", **parts)


def test_standard_input_that_is_a_large_file_is_sent_whole(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 100)
    code = (
        "from rmqkit.payload import sources; from rmqkit.stop import Stop; sources._HELD_BYTES = 10;"
        "print([len(each.body) for each in sources.InputFiles(sources.MessageDefaults(), ['-'], Stop())])"
    )
    with path.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=stdin, capture_output=True, text=True, check=True, env=os.environ
        )
    assert done.stdout == "[100]\n"
