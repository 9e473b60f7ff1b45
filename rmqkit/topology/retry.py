"""A queue's retry becomes the queues that messages wait in between two tries.

    orders -failed-> orders.retry.5s -expired-> orders -failed-> orders.retry.30s -expired-> orders -failed-> parked

Who failed publishes a copy to the next one; the broker brings it back (https://www.rabbitmq.com/docs/ttl, /docs/dlx).
A waiting queue is named after its delay, so that other delays make other queues, and no conflict with those in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rmqkit.model import Queue, Retry, Topology

MAX_DELAY_MS = 315_360_000_000  # RabbitMQ takes no longer TTL: ten years
_UNITS_MS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # the longest first


def parse_delay(text: str) -> int:
    """Return the milliseconds that a well-formed delay means: `500ms`, `5s`, `2m`, `1h`."""
    number = text.rstrip("hms")
    return int(number) * _UNITS_MS[text[len(number) :]]


def delay_text(delay_ms: int) -> str:
    """Write a delay in the longest unit that it is a whole number of."""
    unit = next(unit for unit, length_ms in _UNITS_MS.items() if delay_ms % length_ms == 0)
    return f"{delay_ms // _UNITS_MS[unit]}{unit}"


def in_words(retry: Retry) -> str:
    """Say what becomes of what fails: it ..."""
    return f"comes back after {', '.join(map(delay_text, retry.delays_ms))}, and ends in queue {retry.then!r}"


def waiting_queue(queue: str, delay_ms: int) -> str:
    """Return the name of the queue that messages of another wait in for so long."""
    return f"{queue}.retry.{delay_text(delay_ms)}"


def waiting_queues(queue: Queue) -> Iterator[Queue]:
    """Yield what a queue's retry needs: one queue for each delay, of the queue's own type.

    A quorum queue keeps what has waited until it has arrived
    (https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering).
    """
    kind = {name: value for name, value in queue.arguments.items() if name == "x-queue-type"}
    safe = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    for delay_ms in dict.fromkeys(queue.retry.delays_ms if queue.retry else ()):
        back = {"x-message-ttl": delay_ms, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name}
        arguments = kind | back | (safe if kind.get("x-queue-type") == "quorum" else {})
        name = waiting_queue(queue.name, delay_ms)
        yield Queue(name, queue.durable, exclusive=queue.exclusive, arguments=arguments, where=queue.where)


def expand(topology: Topology) -> Topology:
    """Add the waiting queues that are not there yet, each after the queue it belongs to."""
    known = {each.name for each in topology.queues}
    queues: list[Queue] = []
    for queue in topology.queues:
        queues += [queue, *(each for each in waiting_queues(queue) if each.name not in known)]
    return topology if len(queues) == len(known) else replace(topology, queues=tuple(queues))


def collapse(topology: Topology) -> Topology:
    """Leave out the waiting queues, as far as they are what `expand` makes."""
    made = {each.name: each for queue in topology.queues for each in waiting_queues(queue)}
    return replace(topology, queues=tuple(each for each in topology.queues if made.get(each.name) != each))
