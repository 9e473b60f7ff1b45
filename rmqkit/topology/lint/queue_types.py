"""Check for arguments and policies that a type of queue, or a release of RabbitMQ, does not support."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rmqkit.model import QUEUE_TYPES, Policy, Queue
from rmqkit.topology.file.schema import schema
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.releases import UPGRADE, facts, faults
from rmqkit.topology.lint.rule import Violations, check, each_of
from rmqkit.topology.names import suggest
from rmqkit.topology.policies import SUPPORTED_BY, queue_type


def known_arguments() -> dict[str, Any]:
    """Return the schema of each known argument of a queue, with its `x-`."""
    arguments: dict[str, Any] = schema()["$defs"]["queue"]["properties"]["arguments"]["properties"]
    return arguments


@check
def argument_unknown(index: TopologyIndex) -> Violations:
    """Find arguments that are probably misspelled, and those of another kind of entity; a plugin may know the rest."""
    of_queues, of_exchanges = {*known_arguments()}, {"alternate-exchange", "x-delayed-type"}
    for entity in index.entities:
        known, others = (of_queues, of_exchanges) if isinstance(entity, Queue) else (of_exchanges, of_queues)
        for name in entity.arguments.keys() - known:
            guess = suggest(name, sorted(known))
            if guess or name in others:
                yield entity, {"argument": name, "advice": f"Did you mean {guess}?" if guess else "Remove it."}


@check
def argument_refused(index: TopologyIndex) -> Violations:
    for queue in index.queues.values():
        kind = queue.arguments.get("x-queue-type")
        names = {name: types for name, types in _supported(queue) if kind in QUEUE_TYPES and kind not in types}
        if names:
            others = [each for each in QUEUE_TYPES if all(each in types for types in names.values())]
            choice = f", or choose type: {' or '.join(others)}" if others else ""
            yield queue, {"type": kind, "arguments": [*names], "choice": choice}


@check
def type_missing(index: TopologyIndex) -> Violations:
    for queue in index.queues.values():
        if "x-queue-type" not in queue.arguments:
            needed = {name: types[0] for name, types in _supported(queue) if "classic" not in types}
            for kind in dict.fromkeys(needed.values()):
                names = [name for name, each in needed.items() if each == kind]
                yield queue, {"arguments": names, "type": kind}


def _supported(queue: Queue) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the arguments of a queue that not all types of queue support, each with those that do."""
    yield from ((f"x-{key}", types) for key, types in SUPPORTED_BY.items() if f"x-{key}" in queue.arguments)


@check
def overflow_ignored(index: TopologyIndex) -> Violations:
    for queue in index.queues.values():
        if queue_type(queue) == "quorum" and index.settings(queue.name).get("x-overflow") == "reject-publish-dlx":
            yield queue, {}


@check
def delayed_retry_ignored(index: TopologyIndex) -> Violations:
    """Find delayed retries without their type, or their delay; a policy like that would be refused."""
    kind, delay = "x-delayed-retry-type", "x-delayed-retry-min"
    for queue in index.queues.values():
        settings = index.settings(queue.name)
        given = [name for name in (kind, delay, "x-delayed-retry-max") if name in settings]
        missing = [name for name in (kind, delay) if name not in settings]
        if given and missing and settings.get(kind) != "disabled":
            yield queue, {"given": given, "missing": missing}


@check
def transient_queue(index: TopologyIndex) -> Violations:
    return ((queue, {}) for queue in index.queues.values() if not queue.durable and not queue.exclusive)


@check
def exclusive_queue(index: TopologyIndex) -> Violations:
    return ((queue, {}) for queue in index.queues.values() if queue.exclusive)


@check
def outdated_setting(index: TopologyIndex) -> Violations:
    """Find arguments and policies of older releases."""
    yield from _in_words(faults("outdated-setting", index))


@check
def newer_setting(index: TopologyIndex) -> Violations:
    """Find arguments and policies that older releases refuse or take for something else."""
    newer = {f"x-{name}" for fact in facts() if fact.rule == UPGRADE for name in fact.find.get("settings", ())}
    for entity, by_fault in faults("newer-setting", index):
        # A quorum queue with a newer setting is not meant for RabbitMQ 3, whatever its delivery limit.
        if not (isinstance(entity, Queue) and queue_type(entity) == "quorum" and newer & entity.arguments.keys()):
            yield from _in_words([(entity, by_fault)])


def _in_words(found: Iterable[tuple[Queue | Policy, dict[str, list[str]]]]) -> Violations:
    for entity, by_fault in found:
        yield entity, {"faults": "; ".join(f"{each_of(names)} {fault}" for fault, names in by_fault.items())}
