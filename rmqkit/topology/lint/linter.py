"""Find suspicious declarations that the schema allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rmqkit.errors import Location
from rmqkit.model import Binding, Suppression, Topology
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint import bindings, dead_letters, policies, queue_types  # noqa: F401 - checks
from rmqkit.topology.lint.releases import Fact, Release, facts, violations
from rmqkit.topology.lint.rule import CHECKS, Entity, Severity, rules, series
from rmqkit.topology.names import any_part, suggest

_UNUSED = "suppression-unused"  # without a check: known only after all checks have run
_NOWHERE = Location("<topology>")  # of entities that were not read from a file


@dataclass(frozen=True, slots=True)
class Finding:
    """A suspicious exchange, queue, binding or policy: its name and place, the fault, and advice.

    `url` is the address of RabbitMQ's page about it, or an empty string. With a release, findings are also about a live
    broker and its clients.
    """

    code: str
    severity: Severity
    name: str
    where: Location
    message: str
    advice: str = ""
    url: str = ""


def lint(topology: Topology) -> tuple[Finding, ...]:
    """Return the findings that are not suppressed, by file, line, column and code.

    Suppressions that suppress nothing are findings too.
    """
    return examine(topology)[0]


def examine(topology: Topology, release: Release | None = None) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return the findings of `lint`, and those that the topology's `lint:` suppresses.

    For a release, the findings that depend on it are those of `upgrade_findings`.
    """
    index = TopologyIndex(topology)
    of_releases = {fact.rule for fact in facts()} if release else set()
    findings = [
        _finding(code, *violation)
        for code, check in CHECKS.items()
        if code not in of_releases
        for violation in check(index)
    ]
    findings += _of_release(index, release) if release else []
    patterns = {each: any_part(each.name) for each in topology.suppressions}
    used: set[Suppression] = set()
    suppressed: list[Finding] = []
    reported: list[Finding] = []
    for finding in findings:
        by = {each for each, name in patterns.items() if each.code == finding.code and name.fullmatch(finding.name)}
        used |= by
        (suppressed if by else reported).append(finding)
    used |= {each for each in patterns if each.code in of_releases}  # another release may have its finding
    reported += [_unused(each) for each in topology.suppressions if each not in used]
    return tuple(sorted(reported, key=_order)), tuple(sorted(suppressed, key=_order))


def upgrade_findings(topology: Topology, release: Release, current: Release | None = None) -> tuple[Finding, ...]:
    """Return what a release refuses (errors), or changes without an error (warnings), in the order of `lint`.

    On a broker of the `current` release, changes of that release or an older one are none.
    """
    return tuple(sorted(_of_release(TopologyIndex(topology), release, current), key=_order))


def _of_release(index: TopologyIndex, release: Release, current: Release | None = None) -> Iterator[Finding]:
    for fact in facts():
        if severity := fact.severity(release, current):
            for entity, values in violations(fact, index):
                yield fact_finding(fact, severity, _name(entity), entity.where or _NOWHERE, _fields(entity, values))


def fact_finding(fact: Fact, severity: Severity, name: str, where: Location, fields: Mapping[str, object]) -> Finding:
    """Make the finding of a fact; `fields` complete its texts."""
    rule = rules()[fact.rule]
    fields = {"name": name, "faults": f"{fields.get('settings', '')} {fact.fault}", **fields}
    message, advice = (fact.message or rule.message).format(**fields), (fact.advice or rule.advice).format(**fields)
    return Finding(fact.rule, severity, name, where, message, advice, fact.url or rule.url)


def _order(finding: Finding) -> tuple[str, int, int, str, str, str]:
    where = finding.where
    return where.file, where.line, where.column, finding.code, finding.name, finding.message


def _finding(code: str, entity: Entity, values: Mapping[str, object]) -> Finding:
    rule, fields = rules()[code], _fields(entity, values)
    message, advice = (text.format(**fields) for text in (rule.message, rule.advice))
    return Finding(code, rule.severity, _name(entity), entity.where or _NOWHERE, message, advice, rule.url)


def _name(entity: Entity) -> str:
    return str(entity) if isinstance(entity, Binding) else entity.name


def _fields(entity: Entity, values: Mapping[str, object]) -> dict[str, object]:
    values = {key: series(value) if isinstance(value, list) else value for key, value in values.items()}
    return {"entity": entity, "name": _name(entity), "kind": type(entity).__name__.lower(), **values}


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
    return Finding(_UNUSED, rule.severity, suppression.name, suppression.where or _NOWHERE, message, advice, rule.url)
