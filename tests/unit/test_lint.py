"""What lint finds, and what it lets be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmqkit.topology.lint import RULES, lint
from rmqkit.topology.loader import load, loads
from rmqkit.topology.rules.rule import Rule
from rmqkit.topology.shipped import shipped


def of(text: str) -> list[str]:
    """Return the codes of what lint finds in a topology."""
    return [finding.code for finding in lint(loads(text))]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_bad_example_of_a_rule_has_its_finding_and_no_other(rule: Rule) -> None:
    assert {*of(rule.bad)} == {rule.code}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_good_example_of_a_rule_has_no_finding_but_hints(rule: Rule) -> None:
    assert [finding for finding in lint(loads(rule.good)) if finding.severity != "hint"] == []
    assert rule.code not in of(rule.good)


CASES = sorted((Path(__file__).parents[1] / "cases" / "lint").glob("*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_has_the_findings_that_its_lines_name(path: Path) -> None:
    lines = enumerate(path.read_text("utf-8").splitlines(), 1)
    expected = [(number, code) for number, line in lines for code in line.partition("# finds ")[2].split()]
    assert [(finding.where.line, finding.code) for finding in lint(load(path))] == sorted(expected)


@pytest.mark.parametrize("path", shipped().values(), ids=shipped())
def test_a_shipped_topology_has_no_finding(path: Path) -> None:
    assert lint(load(path)) == ()
