"""Rules about what a type of queue takes, and what newer releases of RabbitMQ no longer do."""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import Complaint, rule
from rmqkit.topology.policies import queue_type

_KNOWN_TYPES = ("classic", "quorum", "stream")
TAKEN_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator"), ("classic",)),
    **dict.fromkeys(("x-delivery-limit", "x-dead-letter-strategy", "x-quorum-initial-group-size"), ("quorum",)),
    **dict.fromkeys(("x-max-in-memory-length", "x-max-in-memory-bytes"), ("quorum",)),
    **dict.fromkeys(("x-max-age", "x-stream-max-segment-size-bytes", "x-initial-cluster-size"), ("stream",)),
    **dict.fromkeys(("x-expires", "x-message-ttl", "x-max-length", "x-overflow"), ("classic", "quorum")),
    **dict.fromkeys(("x-dead-letter-exchange", "x-dead-letter-routing-key"), ("classic", "quorum")),
    "x-single-active-consumer": ("classic", "quorum"),
}
"""The types of queue that take an argument, where not all do."""

_MAX_HASHES = 2  # in a topic pattern, since RabbitMQ 4.3.5
_OUTDATED = {
    "queue-mode": "does nothing since RabbitMQ 3.12, and 4.3 refuses it",
    "queue-version": "1 is a format that RabbitMQ 4.0 gave up, and 4.3 refuses it",
    "queue-master-locator": "has become queue-leader-locator, and RabbitMQ 4.3 refuses it",
    "max-in-memory-length": "does nothing in RabbitMQ 4",
    "max-in-memory-bytes": "does nothing in RabbitMQ 4",
}
_MIRRORING = "is classic mirroring, which RabbitMQ 4.0 gave up: it refuses such a policy"


@rule(
    "argument-refused",
    "error",
    why="The broker refuses to declare a queue with an argument that its type does not take (406).",
    page="docs/queues#optional-arguments",
    bad="queues: {history: {type: stream, arguments: {x-max-length: 1000}}}",
    good="queues: {history: {type: stream, arguments: {x-max-length-bytes: 1000000000}}}",
)
def argument_refused(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find arguments of another type of queue."""
    for queue in wiring.queues.values():
        kind = queue.arguments.get("x-queue-type")
        for name in queue.arguments if kind in _KNOWN_TYPES else ():
            if kind not in (takers := TAKEN_BY.get(name, _KNOWN_TYPES)):
                message = f"queue {queue.name!r} is of type {kind}, which does not take {name}"
                yield queue, message, f"Leave it out, or choose type: {' or '.join(takers)}."


@rule(
    "type-missing",
    "warning",
    why="Without a type the virtual host's default decides, mostly classic, and the broker refuses the argument (406).",
    page="docs/vhosts#default-queue-type",
    bad="queues: {history: {arguments: {x-max-age: 7D}}}",
    good="queues: {history: {type: stream, arguments: {x-max-age: 7D}}}",
)
def type_missing(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find queues that only their arguments tell the type of."""
    for queue in wiring.queues.values():
        for name in queue.arguments if "x-queue-type" not in queue.arguments else ():
            takers = TAKEN_BY.get(name, _KNOWN_TYPES)
            if "classic" not in takers:
                message = f"{name} is for {takers[0]} queues, and queue {queue.name!r} does not say what it is"
                yield queue, message, f"Write type: {takers[0]}."


@rule(
    "overflow-ignored",
    "warning",
    why="A quorum queue takes reject-publish-dlx for drop-head: a full one drops its oldest messages.",
    page="docs/quorum-queues#feature-matrix",
    bad="""
queues:
  orders:
    type: quorum
    arguments:
      x-max-length: 1000
      x-overflow: reject-publish-dlx
      x-dead-letter-exchange: ""
      x-dead-letter-routing-key: failed
      x-dead-letter-strategy: at-most-once
  failed: {type: quorum}
""",
    good="queues: {orders: {type: quorum, arguments: {x-max-length: 1000, x-overflow: reject-publish}}}",
)
def overflow_ignored(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find quorum queues with the overflow behaviour of classic ones."""
    for queue in wiring.queues.values():
        if queue_type(queue) == "quorum" and wiring.settings[queue.name].get("x-overflow") == "reject-publish-dlx":
            message = f"the quorum queue {queue.name!r} ignores x-overflow: reject-publish-dlx"
            yield queue, message, "Write reject-publish, or choose type: classic."


@rule(
    "transient-queue",
    "warning",
    why="RabbitMQ 4.3 refuses queues that are neither durable nor exclusive, unless its configuration permits them.",
    page="docs/queues#temporary-queues",
    bad="queues: {replies: {durable: false}}",
    good="queues: {replies: {arguments: {x-expires: 1800000}}}",
)
def transient_queue(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find queues that are to vanish with the broker, and not with a connection."""
    for queue in wiring.queues.values():
        if not queue.durable and not queue.exclusive:
            message = f"queue {queue.name!r} is transient and not exclusive"
            yield queue, message, "Make it durable, with x-expires if it is to go when nobody uses it."


@rule(
    "outdated-setting",
    "warning",
    why="Newer releases of RabbitMQ ignore or refuse it, so an upgrade changes what the file means.",
    page="docs/deprecated-features",
    bad="queues: {orders: {type: classic, arguments: {x-queue-mode: lazy}}}",
    good="queues: {orders: {type: classic}}",
)
def outdated_setting(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find arguments and policies of older releases."""
    for queue in wiring.queues.values():
        for name, value in queue.arguments.items():
            if why := _outdated(name.removeprefix("x-"), value):
                yield queue, f"{name} of queue {queue.name!r} {why}", "Leave it out."
    for policy in wiring.topology.policies:
        for key, value in policy.definition.items():
            why = _MIRRORING if key.startswith("ha-") else _outdated(key, value)
            if why:
                yield policy, f"{key} of policy {policy.name!r} {why}", "Leave it out; quorum queues are replicated."


def _outdated(key: str, value: object) -> str:
    return "" if key == "queue-version" and value != 1 else _OUTDATED.get(key, "")


@rule(
    "many-hashes",
    "hint",
    why="From 4.3.5 on RabbitMQ refuses a topic pattern in which more than two words are #: each slows every match.",
    page="docs/exchanges#types",
    bad="""
exchanges: {orders: {type: topic}}
queues: {billing: {}}
bindings: [{source: orders, destination: billing, routing_key: "#.eu.#.paid.#"}]
""",
    good="""
exchanges: {orders: {type: topic}}
queues: {billing: {}}
bindings: [{source: orders, destination: billing, routing_key: "order.eu.#.paid.#"}]
""",
)
def many_hashes(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find topic patterns that newer releases do not take."""
    for binding in wiring.topology.bindings:
        number = binding.routing_key.split(".").count("#")
        if number > _MAX_HASHES and wiring.type_of(binding.source) == "topic":
            message = f"the pattern {binding.routing_key!r} to {binding.destination!r} has {number} words that are #"
            yield binding, message, "Write * for what is always one word; # is mostly needed once, at the end."
