"""Expand a queue's retry into the queues in which messages wait between two tries.

    orders -failed-> orders.retry.5s -expired-> orders -failed-> orders.retry.30s -expired-> orders -failed-> parked

A handler that fails publishes a copy to the next waiting queue, and the broker returns it
(https://www.rabbitmq.com/docs/ttl, /docs/dlx). Waiting queues are named after their delay, so that changing the delays
declares other queues and conflicts with none in use.

From RabbitMQ 4.3 on a quorum queue can delay the messages itself that a consumer rejects with `requeue`
(https://www.rabbitmq.com/docs/quorum-queues#delayed-retry); a `native` retry uses that, and waiting queues elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rmqkit.errors import TopologyError
from rmqkit.model import Queue, Retry, Topology
from rmqkit.topology.cycles import cycle_from

NATIVE_SINCE = (4, 3)  # the RabbitMQ release with delayed retries
DELAY_TYPE, FIRST_DELAY, LONGEST_DELAY = (f"x-delayed-retry-{each}" for each in ("type", "min", "max"))
MAX_DELAY_MS = 315_360_000_000  # the longest TTL that RabbitMQ accepts: ten years
_UNITS_MS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # the longest first


def parse_delay(text: str) -> int:
    """Return the milliseconds of a well-formed delay: `500ms`, `5s`, `2m`, `1h`."""
    number = text.rstrip("hms")
    return int(number) * _UNITS_MS[text[len(number) :]]


def delay_text(delay_ms: int) -> str:
    """Write a delay in the longest unit of which it is a whole number."""
    unit = next(unit for unit, length_ms in _UNITS_MS.items() if delay_ms % length_ms == 0)
    return f"{delay_ms // _UNITS_MS[unit]}{unit}"


def in_words(retry: Retry) -> str:
    """Describe a retry, as the predicate of a sentence about a message."""
    return f"is retried after {', '.join(map(delay_text, retry.delays_ms))}, then moved to queue {retry.then!r}"


def endless(queue: str, then: str, queues: Mapping[str, Queue]) -> tuple[str, str] | None:
    """Return the fault of a queue's retry that ends in `then`, and advice, if its messages never stay anywhere."""

    def successor(name: str) -> str | None:
        declared = queues.get(name)
        return then if name == queue else declared.retry.then if declared and declared.retry else None

    if cycle := cycle_from(queue, successor):
        fault = f"failed messages are retried forever: {' -> '.join(cycle)}"
        return fault, "Name a queue without a retry, in which they stay until they are handled by hand."
    return None


def check_ends(topology: Topology) -> None:
    """Raise TopologyError for a retry that never ends; the loader refuses it in a file."""
    queues = {each.name: each for each in topology.queues}
    for name, queue in queues.items():
        if queue.retry and (fault := endless(name, queue.retry.then, queues)):
            raise TopologyError(fault[0], advice=fault[1])


def waiting_queue(queue: str, delay_ms: int) -> str:
    """Return the name of the queue in which failed messages of a queue wait for a delay."""
    return f"{queue}.retry.{delay_text(delay_ms)}"


def waiting_queues(queue: Queue) -> Iterator[Queue]:
    """Yield the queues of a retry that is not native: one for each delay, of the same type as the queue.

    A quorum queue keeps a message that has waited until it has arrived
    (https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering).
    """
    kind = {name: value for name, value in queue.arguments.items() if name == "x-queue-type"}
    safe = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    for delay_ms in dict.fromkeys(queue.retry.delays_ms if queue.retry and not queue.retry.native else ()):
        returning = {"x-message-ttl": delay_ms, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name}
        arguments = kind | returning | (safe if kind.get("x-queue-type") == "quorum" else {})
        name = waiting_queue(queue.name, delay_ms)
        yield Queue(name, queue.durable, exclusive=queue.exclusive, arguments=arguments, where=queue.where)


def native_delays(retry: Retry) -> tuple[int, ...]:
    """Return the milliseconds by which a quorum queue would delay: the first delay times the try, at most the last."""
    first_ms, longest_ms = retry.delays_ms[0], retry.delays_ms[-1]
    return tuple(min(first_ms * number, longest_ms) for number, _ in enumerate(retry.delays_ms, 1))


def native_arguments(queue: Queue) -> dict[str, Any]:
    """Return the arguments of a queue that has a native retry."""
    if not (queue.retry and queue.retry.native):
        return {}
    first_ms, longest_ms = queue.retry.delays_ms[0], queue.retry.delays_ms[-1]
    return {DELAY_TYPE: "failed", FIRST_DELAY: first_ms, LONGEST_DELAY: longest_ms}


def for_broker(topology: Topology, version: tuple[int, ...]) -> Topology:
    """Return a topology as a broker of a version is to have it, native retries and waiting queues included."""

    def adapted(queue: Queue) -> Queue:
        if not (queue.retry and queue.retry.native):
            return queue
        if version < NATIVE_SINCE:
            return replace(queue, retry=replace(queue.retry, native=False))
        return replace(queue, arguments={**queue.arguments, **native_arguments(queue)})

    return expand(replace(topology, queues=tuple(map(adapted, topology.queues))))


def expand(topology: Topology) -> Topology:
    """Add the missing waiting queues, each after the queue it belongs to."""
    known = {each.name for each in topology.queues}
    queues: list[Queue] = []
    for queue in topology.queues:
        queues += [queue, *(each for each in waiting_queues(queue) if each.name not in known)]
    return topology if len(queues) == len(known) else replace(topology, queues=tuple(queues))


def collapse(topology: Topology) -> Topology:
    """Remove the waiting queues that `expand` would add."""
    expanded = {each.name: each for queue in topology.queues for each in waiting_queues(queue)}
    return replace(topology, queues=tuple(each for each in topology.queues if expanded.get(each.name) != each))
