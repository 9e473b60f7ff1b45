"""The error tree: documented, and each leaf with an exit code."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rmqkit
from rmqkit import errors, exit_codes
from rmqkit.cli import output
from rmqkit.errors import Location, Problem, Refused, RmqkitError
from rmqkit.report import PublishReport

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, RmqkitError)]
ABSTRACT = {"RmqkitError", "BrokerError"}  # never raised themselves


def make(error: type[RmqkitError]) -> RmqkitError:
    return error(404, "NOT_FOUND", "queue 'q'") if issubclass(error, Refused) else error("it happened")


def test_the_tree_at_the_top_names_every_error_and_nothing_else() -> None:
    tree = errors.__doc__ or ""
    assert set(re.findall(r"^[ │├└─]+([A-Z]\w+)", tree, re.MULTILINE)) == {each.__name__ for each in CLASSES}


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_every_concrete_error_has_an_exit_code(error: type[RmqkitError]) -> None:
    code = exit_codes.exit_code(make(error))
    assert code in exit_codes.MEANINGS
    assert (code == exit_codes.BUG) == (error.__name__ in ABSTRACT)


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_the_exit_code_is_the_one_the_tree_documents(error: type[RmqkitError]) -> None:
    names = [each.__name__ for each in error.__mro__]
    lines = {name: line for line in (errors.__doc__ or "").splitlines() for name in names if f" {name} " in f"{line} "}
    codes = [match[1] for name in names if (match := re.search(r"\(exit (\d)\)", lines.get(name, "")))]
    assert codes[:1] == ([] if error.__name__ in ABSTRACT else [str(exit_codes.exit_code(make(error)))])


def test_an_error_prints_its_message_problems_and_advice() -> None:
    problems = [Problem(Location("a.yaml", 3, 5), "wrong", "write right"), Problem(Location("b.yaml"), "unreadable")]
    text = str(RmqkitError("2 problems", advice="see the docs", problems=problems))
    assert text == "2 problems\na.yaml:3:5: wrong\n  write right\nb.yaml: unreadable\nsee the docs"


def test_a_foreign_exception_has_the_exit_code_of_a_bug() -> None:
    assert exit_codes.exit_code(ValueError()) == exit_codes.BUG
    assert exit_codes.exit_code(None) == exit_codes.DONE


@pytest.mark.parametrize(
    "duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_every_error_survives_copy_and_pickle(
    error: type[RmqkitError], duplicate: Callable[[RmqkitError], RmqkitError]
) -> None:
    original = make(error)
    original.advice, original.problems = "Declare it.", (Problem(Location("a.yaml", 3), "wrong"),)
    original.report = PublishReport(published=2, confirmed=1)
    again = duplicate(original)
    assert type(again) is error
    assert vars(again) == vars(original)
    assert (str(again), again.args) == (str(original), original.args)


def test_raising_copies_of_an_error_keeps_nothing_alive_through_it() -> None:
    kept = errors.NotFound(404, "no queue", "queue 'q'", advice="Declare it.")
    with pytest.raises(errors.NotFound):
        raise copy.copy(kept)
    assert (kept.__traceback__, kept.__context__) == (None, None)


def _texts(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_no_text_of_the_library_names_an_option_of_the_command_line() -> None:
    package = Path(rmqkit.__file__).parent
    beside = ("cli", "node", "pytest_plugin.py", "exit_codes.py")  # exit codes and causes are for the command line
    files = [each for each in package.rglob("*.py") if each.relative_to(package).parts[0] not in beside]
    options = [
        f"{file.relative_to(package)}: {text}"
        for file in files
        if file.name not in ("diagnosis.py", "html.py")  # which has properties of CSS
        for text in _texts(file)
        if re.search(r"(?<![\w-])--[a-z]", text)
    ]
    assert len(files) > 100
    assert options == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Use `force=True`, or wait with `wait_s=SECONDS`.", "Use --force, or wait with --wait SECONDS."),
        ("`ca_file=`: x.pem: no such file", "--tls-ca-file: x.pem: no such file"),
        ("write `type: quorum`", "write `type: quorum`"),
    ],
)
def test_a_command_names_the_options_of_the_arguments_in_a_text(text: str, shown: str) -> None:
    assert output.in_options(text) == shown
