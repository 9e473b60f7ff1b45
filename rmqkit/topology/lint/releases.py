"""Find what a release of RabbitMQ refuses, or changes without an error: the facts of `releases.yaml`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from rmqkit.errors import InputError
from rmqkit.model import Policy, Queue
from rmqkit.topology.file.document import parse
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import CHECKS, Severity, Violations, each_of, listed
from rmqkit.topology.policies import applies, queue_type
from rmqkit.topology.retry import waiting_queues

Release = tuple[int, ...]
"""A version in numbers, such as (4, 3, 6)."""

_SERIES = [*((3, minor) for minor in range(10, 14)), *((4, minor) for minor in range(5))]
UPGRADE = "upgrade"  # the code of findings without a rule of their own
_LATEST = 999  # the patch release that a version without one stands for


@dataclass(frozen=True, slots=True)
class Fact:
    """What releases refuse, change or only deserve a note for; see `releases.yaml`."""

    name: str
    rule: str
    find: Mapping[str, Any]
    fault: str = ""
    message: str = ""
    advice: str = ""
    page: str = ""
    refused: str = ""
    changed: str = ""
    noted: str = ""
    measured: str = ""

    @property
    def finder(self) -> str:
        """Return the name of the function that finds it."""
        return next(iter(self.find))

    @property
    def url(self) -> str:
        """Return the address of the source, or an empty string."""
        return self.page if "://" in self.page or not self.page else f"https://www.rabbitmq.com/{self.page}"

    def severity(self, release: Release, current: Release | None = None) -> Severity | None:
        """Return the severity for a release; None if it does not hold, or is no change to a broker of `current`."""
        if _holds(self.refused, release):
            return "error"
        severities: tuple[tuple[str, Severity], ...] = ((self.changed, "warning"), (self.noted, "hint"))
        for versions, severity in severities:
            if _holds(versions, release):
                return None if current and _holds(versions, current) else severity
        return None


@cache
def facts() -> tuple[Fact, ...]:
    """Return the facts in the order of the file."""
    entries = parse(files(__package__).joinpath("releases.yaml").read_text("utf-8"), "releases.yaml").data
    return tuple(Fact(name, **entry) for name, entry in entries.items())


def parse_release(text: str) -> Release:
    """Read a version such as `4.3`, its latest release, or `4.3.6`. Raises InputError for one that no fact covers."""
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", text)
    release = tuple(int(each or _LATEST) for each in found.groups(str(_LATEST))) if found else ()
    if release[:2] not in _SERIES:
        first, last = (".".join(map(str, _SERIES[each])) for each in (0, -1))
        raise InputError(
            f"`rabbitmq={text}`: not a version from {first} to {last}", advice=f"Write one such as {last}."
        )
    return release


def numbers(text: str) -> Release:
    """Return the numbers of a version, without a suffix such as `-rc.1` or `+2`."""
    return tuple(map(int, re.findall(r"\d+", re.split(r"[-+]", text)[0])))


def _holds(versions: str, release: Release) -> bool:
    """Tell whether a release is `since` a version, or `before` it."""
    word, _, version = versions.partition(" ")
    return bool(word) and (release >= numbers(version)) is (word == "since")


def violations(fact: Fact, index: TopologyIndex) -> Violations:
    """Yield the entities for which a fact matters; none if only a live broker shows it."""
    return FINDERS[fact.finder](index, **fact.find) if fact.finder in FINDERS else iter(())


def faults(rule: str, index: TopologyIndex) -> Iterator[tuple[Queue | Policy, dict[str, list[str]]]]:
    """Yield queues and policies with settings that any release refuses or changes: the settings by their fault."""
    found: dict[int, tuple[Queue | Policy, dict[str, list[str]]]] = {}
    for fact in facts():
        if fact.rule == rule and fact.finder == "settings":
            for entity, names in _with_settings(index, **fact.find):
                by_fault = found.setdefault(id(entity), (entity, {}))[1]
                by_fault.setdefault(fact.fault, []).extend(names)
    yield from found.values()


def _with_settings(
    index: TopologyIndex,
    settings: list[str],
    values: list[object] | None = None,
    types: list[str] | None = None,
    of: str = "",
) -> Iterator[tuple[Queue | Policy, list[str]]]:
    """Yield queues with these arguments and policies with these keys; `apply-to` counts as a key."""
    entities: list[Queue | Policy] = [] if of == "policy" else [*index.queues.values()]
    entities += [] if of == "queue" else index.topology.policies
    for entity in entities:
        if isinstance(entity, Queue):
            present, wanted = entity.arguments, {f"x-{name}" for name in settings}
            if types and queue_type(entity) not in types:
                continue
        else:
            present, wanted = {**entity.definition, "apply-to": entity.apply_to}, {*settings}
        found = [name for name, value in present.items() if name in wanted and (values is None or value in values)]
        if found:
            yield entity, [f"{name}: {present[name]}" for name in found] if values else found


def _settings(index: TopologyIndex, **find: Any) -> Violations:
    return ((entity, {"settings": each_of(names)}) for entity, names in _with_settings(index, **find))


def _rule(index: TopologyIndex, rule: str) -> Violations:
    return CHECKS[rule](index)


def _default_delivery_limit(index: TopologyIndex, default_delivery_limit: bool) -> Violations:  # noqa: ARG001, FBT001 - of the file
    """Find quorum queues that dead-letter by the limit of RabbitMQ 4; delivery-limit-drops finds those that drop."""
    waiting = {each.name for queue in index.queues.values() for each in waiting_queues(queue)}  # without consumers
    for queue in index.queues.values():
        settings = index.settings(queue.name)
        if queue_type(queue) == "quorum" and queue.name not in waiting and "x-delivery-limit" not in settings:
            yield from [(queue, {})] if "x-dead-letter-exchange" in settings else []


def _native_retry(index: TopologyIndex, native_retry: bool) -> Violations:  # noqa: ARG001, FBT001 - of the file
    return ((each, {}) for each in index.queues.values() if each.retry and each.retry.native)


def _exchange_type(index: TopologyIndex, exchange_type: str) -> Violations:
    return ((each, {}) for each in index.exchanges.values() if each.type == exchange_type)


def _header_numbers(index: TopologyIndex, header_numbers: bool) -> Violations:  # noqa: ARG001, FBT001 - of the file
    for binding in index.topology.bindings:
        names = [name for name, value in binding.arguments.items() if type(value) in (int, float)]
        if names and index.type_of(binding.source) == "headers":
            yield binding, {"headers": names}


def _matched(index: TopologyIndex, matched: list[str], types: list[str]) -> Violations:
    """Find policies with one of these settings that match queues of these types, by name and apply-to."""
    for policy in index.policies:
        settings = [key for key in policy.definition if key in matched]
        plain = replace(policy, definition={})
        queues = [each for each in index.queues.values() if queue_type(each) in types and applies(plain, each)]
        if settings and queues:
            yield policy, {"settings": settings, "queues": listed([each.name for each in queues])}


FINDERS: Mapping[str, Callable[..., Violations]] = {
    "settings": _settings,
    "rule": _rule,
    "default_delivery_limit": _default_delivery_limit,
    "native_retry": _native_retry,
    "exchange_type": _exchange_type,
    "header_numbers": _header_numbers,
    "matched": _matched,
}
