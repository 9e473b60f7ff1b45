"""Check for arguments that a type of queue, or a newer release of RabbitMQ, does not support."""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import Violation, check
from rmqkit.topology.policies import queue_type

_KNOWN_TYPES = ("classic", "quorum", "stream")
SUPPORTED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator"), ("classic",)),
    **dict.fromkeys(("x-delivery-limit", "x-dead-letter-strategy", "x-quorum-initial-group-size"), ("quorum",)),
    **dict.fromkeys(("x-max-in-memory-length", "x-max-in-memory-bytes"), ("quorum",)),
    **dict.fromkeys(("x-max-age", "x-stream-max-segment-size-bytes", "x-initial-cluster-size"), ("stream",)),
    **dict.fromkeys(("x-expires", "x-message-ttl", "x-max-length", "x-overflow"), ("classic", "quorum")),
    **dict.fromkeys(("x-dead-letter-exchange", "x-dead-letter-routing-key"), ("classic", "quorum")),
    "x-single-active-consumer": ("classic", "quorum"),
}
"""The types of queue that support an argument, for those that not all types support."""

_MAX_HASHES = 2  # in a topic pattern, since RabbitMQ 4.3.5
_OUTDATED = {
    "queue-mode": "has no effect since RabbitMQ 3.12",
    "queue-version": "1 is a format that RabbitMQ 4.0 removed, and 4.3 refuses it",
    "queue-master-locator": "was renamed queue-leader-locator, and RabbitMQ 4.3 refuses it",
    "max-in-memory-length": "has no effect in RabbitMQ 4",
    "max-in-memory-bytes": "has no effect in RabbitMQ 4",
}
_MIRRORING = "is classic mirroring, which RabbitMQ 4.0 removed: it refuses such a policy"


@check("argument-refused")
def argument_refused(index: TopologyIndex) -> Iterator[Violation]:
    """Find arguments of another type of queue."""
    for queue in index.queues.values():
        kind = queue.arguments.get("x-queue-type")
        for name in queue.arguments if kind in _KNOWN_TYPES else ():
            if kind not in (types := SUPPORTED_BY.get(name, _KNOWN_TYPES)):
                message = f"queue {queue.name!r} is of type {kind}, which does not support {name}"
                yield queue, message, f"Leave it out, or choose type: {' or '.join(types)}."


@check("type-missing")
def type_missing(index: TopologyIndex) -> Iterator[Violation]:
    """Find queues whose arguments need a type that is not set."""
    for queue in index.queues.values():
        for name in queue.arguments if "x-queue-type" not in queue.arguments else ():
            types = SUPPORTED_BY.get(name, _KNOWN_TYPES)
            if "classic" not in types:
                message = f"{name} is for {types[0]} queues, and queue {queue.name!r} has no type"
                yield queue, message, f"Write type: {types[0]}."


@check("overflow-ignored")
def overflow_ignored(index: TopologyIndex) -> Iterator[Violation]:
    """Find quorum queues with the overflow behavior of classic ones."""
    for queue in index.queues.values():
        if queue_type(queue) == "quorum" and index.settings(queue.name).get("x-overflow") == "reject-publish-dlx":
            message = f"the quorum queue {queue.name!r} ignores x-overflow: reject-publish-dlx"
            yield queue, message, "Write reject-publish, or choose type: classic."


@check("transient-queue")
def transient_queue(index: TopologyIndex) -> Iterator[Violation]:
    """Find queues that a restart of the broker deletes, and the end of a connection does not."""
    for queue in index.queues.values():
        if not queue.durable and not queue.exclusive:
            message = f"queue {queue.name!r} is transient and not exclusive"
            yield queue, message, "Make it durable, and set x-expires to delete it when unused."


@check("outdated-setting")
def outdated_setting(index: TopologyIndex) -> Iterator[Violation]:
    """Find arguments and policies of older releases."""
    for queue in index.queues.values():
        for name, value in queue.arguments.items():
            if fault := _outdated(name.removeprefix("x-"), value):
                yield queue, f"{name} of queue {queue.name!r} {fault}", "Leave it out."
    for policy in index.policies:
        for key, value in policy.definition.items():
            if fault := _MIRRORING if key.startswith("ha-") else _outdated(key, value):
                yield policy, f"{key} of policy {policy.name!r} {fault}", "Leave it out; quorum queues are replicated."


def _outdated(key: str, value: object) -> str:
    return "" if key == "queue-version" and value != 1 else _OUTDATED.get(key, "")


@check("many-hashes")
def many_hashes(index: TopologyIndex) -> Iterator[Violation]:
    """Find topic patterns that newer releases refuse."""
    for binding in index.topology.bindings:
        number = binding.routing_key.split(".").count("#")
        if number > _MAX_HASHES and index.type_of(binding.source) == "topic":
            message = f"the pattern {binding.routing_key!r} to {binding.destination!r} has {number} # words"
            yield binding, message, "Write * for exactly one word; # is rarely needed more than once, at the end."
