"""Every file in tests/cases, and every shipped topology, is a test."""

from pathlib import Path

import pytest

from rmqkit.errors import InputError, Problem
from rmqkit.topology.examples import example_names
from rmqkit.topology.file.loader import load

CASES = Path(__file__).parents[1] / "cases"
VALID = sorted(CASES.glob("valid/*.yaml"))
INVALID = sorted(CASES.glob("invalid/*.yaml"))


def by_name(path: Path) -> str:
    return path.stem


def printed(problem: Problem) -> str:
    """Return a problem as printed, without the path."""
    return str(problem).removeprefix(problem.where.file).removeprefix(":").lstrip()


@pytest.mark.parametrize("path", [*VALID, *example_names().values()], ids=by_name)
def test_a_valid_topology_loads(path: Path) -> None:
    topology = load(path)
    assert topology.queues or topology.exchanges


@pytest.mark.parametrize("path", INVALID, ids=by_name)
def test_an_invalid_topology_is_refused_with_the_expected_words(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(path)
    problems = caught.value.problems
    assert [printed(each) for each in problems] == path.with_suffix(".expected").read_text().split("\n\n")[:-1]
    assert caught.value.message == f"{path}: {len(problems)} problem" + ("s" if len(problems) != 1 else "")


def test_every_expectation_has_its_file() -> None:
    assert {path.stem for path in CASES.glob("invalid/*.expected")} == {path.stem for path in INVALID}
    assert len(VALID) > 5
    assert len(INVALID) > 40
