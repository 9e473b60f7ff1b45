"""Expand a queue's retry into the queues in which messages wait between two tries.

    orders -failed-> orders.retry.5s -expired-> orders -failed-> orders.retry.30s -expired-> orders -failed-> parked

A handler that fails publishes a copy to the next waiting queue, and the broker returns it
(https://www.rabbitmq.com/docs/ttl, /docs/dlx). Waiting queues are named after their delay, so that changing the delays
declares other queues and conflicts with none in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rmqkit.model import Queue, Retry, Topology

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


def waiting_queue(queue: str, delay_ms: int) -> str:
    """Return the name of the queue in which failed messages of a queue wait for a delay."""
    return f"{queue}.retry.{delay_text(delay_ms)}"


def waiting_queues(queue: Queue) -> Iterator[Queue]:
    """Yield the queues of a retry: one for each delay, of the same type as the queue.

    A quorum queue keeps a message that has waited until it has arrived
    (https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering).
    """
    kind = {name: value for name, value in queue.arguments.items() if name == "x-queue-type"}
    safe = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    for delay_ms in dict.fromkeys(queue.retry.delays_ms if queue.retry else ()):
        returning = {"x-message-ttl": delay_ms, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name}
        arguments = kind | returning | (safe if kind.get("x-queue-type") == "quorum" else {})
        name = waiting_queue(queue.name, delay_ms)
        yield Queue(name, queue.durable, exclusive=queue.exclusive, arguments=arguments, where=queue.where)


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
