"""Find suspicious declarations that the schema allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rmqkit.errors import Location
from rmqkit.model import Binding, Suppression, Topology
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint import bindings, dead_letters, policies, queue_types  # noqa: F401 - checks
from rmqkit.topology.lint.rule import CHECKS, Entity, Severity, rules, series
from rmqkit.topology.names import any_part, suggest

_UNUSED = "suppression-unused"  # without a check: known only after all checks have run
_NOWHERE = Location("<topology>")  # of entities that were not read from a file


@dataclass(frozen=True, slots=True)
class Finding:
    """A suspicious exchange, queue, binding or policy: its name and place, the fault, and advice."""

    code: str
    severity: Severity
    name: str
    where: Location
    message: str
    advice: str = ""


def lint(topology: Topology) -> tuple[Finding, ...]:
    """Return the findings that are not suppressed, by file, line, column and code.

    Suppressions that suppress nothing are findings too.
    """
    return examine(topology)[0]


def examine(topology: Topology) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return the findings of `lint`, and those that the topology's `lint:` suppresses."""
    index = TopologyIndex(topology)
    findings = [_finding(code, *violation) for code, check in CHECKS.items() for violation in check(index)]
    patterns = {each: any_part(each.name) for each in topology.suppressions}
    used: set[Suppression] = set()
    suppressed: list[Finding] = []
    reported: list[Finding] = []
    for finding in findings:
        by = {each for each, name in patterns.items() if each.code == finding.code and name.fullmatch(finding.name)}
        used |= by
        (suppressed if by else reported).append(finding)
    reported += [_unused(each) for each in topology.suppressions if each not in used]
    return tuple(sorted(reported, key=_order)), tuple(sorted(suppressed, key=_order))


def _order(finding: Finding) -> tuple[str, int, int, str, str, str]:
    where = finding.where
    return where.file, where.line, where.column, finding.code, finding.name, finding.message


def _finding(code: str, entity: Entity, values: Mapping[str, object]) -> Finding:
    rule, name = rules()[code], str(entity) if isinstance(entity, Binding) else entity.name
    values = {key: series(value) if isinstance(value, list) else value for key, value in values.items()}
    fields = {"entity": entity, "name": name, "kind": type(entity).__name__.lower(), **values}
    texts = (text.format(**fields) for text in (rule.message, rule.advice))
    return Finding(code, rule.severity, name, entity.where or _NOWHERE, *texts)


def unknown_code(code: str) -> tuple[str, str]:
    """Say that no finding has a code, and which one may be meant."""
    guess = suggest(code, rules())
    return f"unknown finding code {code!r}", f"Did you mean {guess}?" if guess else ""


def _unused(suppression: Suppression) -> Finding:
    rule, name = rules()[_UNUSED], "" if suppression.name == "*" else f" of {suppression.name!r}"
    fault, advice = f"there is no finding {suppression.code!r}{name} to suppress", rule.advice
    if suppression.code not in rules():
        fault, advice = unknown_code(suppression.code)
        advice = advice or "Write the code that `rmqkit validate` prints behind a finding."
    message = rule.message.format(fault=fault)
    return Finding(_UNUSED, rule.severity, suppression.name, suppression.where or _NOWHERE, message, advice)
