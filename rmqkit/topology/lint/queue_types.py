"""Check for arguments and policies that a type of queue, or a release of RabbitMQ, does not support."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rmqkit.model import QUEUE_TYPES, Policy, Queue
from rmqkit.topology.file.schema import schema
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import Violations, check, series
from rmqkit.topology.names import suggest
from rmqkit.topology.policies import SUPPORTED_BY, queue_type

_OUTDATED = {
    "queue-mode": "has no effect since RabbitMQ 3.12",
    "queue-version": "1 is a format that RabbitMQ 4.0 removed",
    "queue-master-locator": "was renamed queue-leader-locator, and RabbitMQ 4.3 refuses it",
    "max-in-memory-length": "has no effect in RabbitMQ 4",
    "max-in-memory-bytes": "has no effect in RabbitMQ 4",
}
_NEWER: dict[
    str, str
] = {  # with the type of queue that supports it; RabbitMQ 3.10 ignores such arguments, and refuses such policies
    **dict.fromkeys(("consumer-timeout", "consumer-disconnected-timeout", "target-group-size"), "quorum"),
    **dict.fromkeys(("delayed-retry-type", "delayed-retry-min", "delayed-retry-max"), "quorum"),
    "stream-filter-size-bytes": "stream",
}


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
    for queue in index.queues.values():
        arguments = queue.arguments.items()
        yield from _release(
            queue, {name: _outdated(queue, name.removeprefix("x-"), value) for name, value in arguments}
        )
    for policy in index.policies:
        yield from _release(policy, {key: _outdated(policy, key, value) for key, value in policy.definition.items()})


def _outdated(entity: Queue | Policy, key: str, value: object) -> str:
    if isinstance(entity, Policy) and key.startswith("ha-"):
        return "is classic mirroring, which RabbitMQ 4.0 removed: it refuses such a policy"
    kind = queue_type(entity) if isinstance(entity, Queue) else ""
    if kind in QUEUE_TYPES and key != "target-group-size" and _NEWER.get(key, kind) != kind:
        return f"is for {_NEWER[key]} queues, and RabbitMQ 4.3 refuses it"
    if key == "queue-version" and value == 1 and kind:
        return f"{_OUTDATED[key]}, and 4.3 refuses it"
    return "" if key == "queue-version" and value != 1 else _OUTDATED.get(key, "")


@check
def newer_setting(index: TopologyIndex) -> Violations:
    """Find arguments and policies that older releases refuse or take for something else."""
    for queue in index.queues.values():
        faults = {}
        if queue_type(queue) == "classic" and "x-queue-leader-locator" in queue.arguments:
            faults["x-queue-leader-locator"] = "is refused by RabbitMQ 3.10 for classic queues"
        is_for_4_3 = any(f"x-{key}" in queue.arguments for key in _NEWER)
        if queue_type(queue) == "quorum" and queue.arguments.get("x-delivery-limit") == -1 and not is_for_4_3:
            faults["x-delivery-limit: -1"] = "makes RabbitMQ 3 drop or dead-letter a message instead of redelivering it"
        yield from _release(queue, faults)
    for policy in index.policies:
        faults = {key: "is refused by RabbitMQ 3.10" for key in policy.definition if key in _NEWER}
        if policy.apply_to not in ("all", "exchanges", "queues"):
            faults[f"apply-to: {policy.apply_to}"] = "is refused before RabbitMQ 3.12"
        yield from _release(policy, faults)


def _release(entity: Queue | Policy, faults: dict[str, str]) -> Violations:
    """Yield one violation for the settings of an entity, given the fault of each."""
    groups: dict[str, list[str]] = {}
    for name, fault in faults.items():
        if fault:
            groups.setdefault(fault, []).append(name)
    if groups:
        yield entity, {"faults": "; ".join(f"{series(names)} {fault}" for fault, names in groups.items())}
