"""What lint finds, and what it lets be."""

from __future__ import annotations

import pytest

from rmqkit.topology.lint import RULES, Finding, lint
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


@pytest.mark.parametrize("path", shipped().values(), ids=shipped())
def test_a_shipped_topology_has_no_finding(path: str) -> None:
    assert lint(load(path)) == ()
