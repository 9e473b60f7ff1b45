"""What is suspicious in a topology that is right by the rules of its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rmqkit.errors import Location
from rmqkit.model import Binding, Suppression, Topology
from rmqkit.topology.file.names import any_part
from rmqkit.topology.file.schema import suggest
from rmqkit.topology.index import TopologyIndex, index_of
from rmqkit.topology.lint import bindings, dead_letters, policies, queue_types, reachability
from rmqkit.topology.lint.rule import Complaint, Rule, Severity, Subject, rule

_NOWHERE = Location("<topology>")  # of what was not read from a file


@dataclass(frozen=True, slots=True)
class Finding:
    """One suspicious thing: whose (an exchange, queue, binding or policy), where, what, and what to do about it."""

    code: str
    severity: Severity
    name: str
    where: Location
    message: str
    advice: str = ""


@rule(
    "silence-unused",
    "warning",
    why="An entry of `lint:` that silences nothing is misspelled, or left over and would hide the next finding.",
    page="",
    bad="""
queues: {replies: {}}
lint: [{ignore: drops-silently, name: replies, reason: Nobody waits for old replies.}]
""",
    good="""
queues: {replies: {arguments: {x-message-ttl: 60000}}}
lint: [{ignore: drops-silently, name: replies, reason: Nobody waits for old replies.}]
""",
)
def silence_unused(_: TopologyIndex) -> Iterator[Complaint]:
    """Find nothing: what is silenced is known only when all rules have run."""
    return iter(())


_ROOMS = (reachability, bindings, dead_letters, queue_types, policies)
RULES: Mapping[str, Rule] = {
    each.code: each
    for each in (*(each for room in _ROOMS for each in vars(room).values()), silence_unused)
    if isinstance(each, Rule)
}
"""Every rule by its code, in the order of the docs."""


def lint(topology: Topology) -> tuple[Finding, ...]:
    """Return what is suspicious and not silenced, by file, line, column and code.

    Silences that silence nothing are found too.
    """
    return examine(topology)[0]


def examine(topology: Topology) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return what `lint` does, and besides what the topology's own `lint:` silences."""
    wiring = index_of(topology)
    found = [_finding(each, *complaint) for each in RULES.values() for complaint in each.check(wiring)]
    silencers = {silence: any_part(silence.name) for silence in topology.suppressions}
    used: set[Suppression] = set()
    silenced: list[Finding] = []
    left: list[Finding] = []
    for finding in found:
        by = {each for each, name in silencers.items() if each.code == finding.code and name.fullmatch(finding.name)}
        used |= by
        (silenced if by else left).append(finding)
    left += [_unused(silence) for silence in topology.suppressions if silence not in used]
    return tuple(sorted(left, key=_place)), tuple(sorted(silenced, key=_place))


def _place(finding: Finding) -> tuple[str, int, int, str, str, str]:
    where = finding.where
    return where.file, where.line, where.column, finding.code, finding.name, finding.message


def _finding(found_by: Rule, about: Subject, message: str, advice: str) -> Finding:
    name = str(about) if isinstance(about, Binding) else about.name
    return Finding(found_by.code, found_by.severity, name, about.where or _NOWHERE, message, advice)


def _unused(silence: Suppression) -> Finding:
    whose = "" if silence.name == "*" else f" of {silence.name!r}"
    message = f"there is no finding {silence.code!r}{whose} to silence"
    advice = "Leave the entry out."
    if silence.code not in RULES:
        message = f"{silence.code!r} is no code of a finding"
        guess = suggest(silence.code, RULES)
        advice = f"Did you mean {guess}?" if guess else "Write the code that `rmqkit validate` prints behind a finding."
    found_by = RULES["silence-unused"]
    return Finding(found_by.code, found_by.severity, silence.name, silence.where or _NOWHERE, message, advice)
