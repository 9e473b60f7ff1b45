"""Show the first messages of a queue, or those of a stream from an offset on, and leave them there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import InputError
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.consumer import Consumer
from rmqkit.messaging.look import Look, LookBounds, LookCost
from rmqkit.options import ConsumeOptions, Offset
from rmqkit.report import PeekedMessage, PeekReport
from rmqkit.stop import Stop

BODY_BYTES = 64 * 1024 * 1024  # of the bodies that are held, about
_HOLD_S = 5.0  # consumers do not receive the messages meanwhile
_STREAM_PREFETCH, _STREAM_IDLE_S = 100, 1.0
_OFFSET = "x-stream-offset"  # the header that holds a message's offset
_FREE = "read by offset, which changes nothing"


@dataclass
class Peek:
    """A look into a queue for `limit` messages that match, among the first `scan`; `settings` are the queue's.

    `offset` is the start in a stream.
    """

    connection: ReconnectingConnection
    queue: str
    settings: Mapping[str, Any] | None
    limit: int
    scan: int
    matches: Callable[[Delivery], bool]
    offset: Offset | None
    cost: LookCost
    stop: Stop

    def run(self) -> PeekReport:
        """Return the messages; `Connection.peek` has the errors."""
        if (self.settings or {}).get("x-queue-type") == "stream":
            return self._stream()
        if self.offset is not None:
            raise InputError(f"queue {self.queue!r} has no offsets: it is not a stream")
        started_s, cost = time.monotonic(), self.cost
        with Look(
            self.connection.channel(self.stop), self.queue, LookBounds(self.scan, _HOLD_S, BODY_BYTES), self.stop
        ) as look:
            check_single_consumer(self.queue, self.settings, look.consumers)
            messages, scanned = self._select(look, cost)
        return PeekReport(
            messages,
            type=(self.settings or {}).get("x-queue-type"),
            ready=look.ready,
            consumers=look.consumers,
            scanned=scanned,
            delivery_limit=cost.limit,
            cost=cost.text,
            seconds=time.monotonic() - started_s,
        )

    def _stream(self) -> PeekReport:
        started_s = time.monotonic()
        options = ConsumeOptions(
            min(self.scan, _STREAM_PREFETCH), self.scan, _STREAM_IDLE_S, offset=self.offset or "first"
        )
        consumer = Consumer(self.connection, self.queue, options, stop=self.stop)

        def batches() -> Iterator[list[Delivery]]:
            for batch in consumer.batches():
                yield batch
                consumer.settle(batch, Verdict.ACK)  # which only asks for more
                if time.monotonic() - started_s > _HOLD_S:
                    return

        with consumer:
            messages, scanned = self._select(chain.from_iterable(batches()), LookCost(_FREE))
        return PeekReport(messages, "stream", scanned=scanned, cost=_FREE, seconds=time.monotonic() - started_s)

    def _select(self, deliveries: Iterable[Delivery], cost: LookCost) -> tuple[tuple[PeekedMessage, ...], int]:
        """Return the messages that match, and how many were scanned for them."""
        found: list[PeekedMessage] = []
        scanned = size = 0
        for delivery in deliveries:
            scanned += 1
            if self.matches(delivery):
                position = (delivery.properties.headers or {}).get(_OFFSET, scanned)
                found.append(PeekedMessage(position, delivery, cost.deliveries_left(delivery)))
                size += len(delivery.body)
            if len(found) == self.limit or scanned == self.scan or size >= BODY_BYTES:
                break
        return tuple(found), scanned


def check_single_consumer(queue: str, settings: Mapping[str, Any] | None, consumers: int) -> None:
    """Raise InputError if one consumer alone receives the messages of a queue, as its setting demands."""
    if consumers and (settings or {}).get("x-single-active-consumer") is True:
        raise InputError(
            f"queue {queue!r} delivers to its single active consumer alone: nobody else can look into it",
            advice="Stop its consumers first, or use the tracing of the broker.",
        )
