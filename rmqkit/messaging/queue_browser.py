"""Browse the messages of a queue without removing or reordering them; none is acknowledged.

AMQP shows a message only by delivering it: it is held on one channel until browsing ends, and then requeued in its
place. The side effects on the message depend on the type of the queue and the version of the broker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from rmqkit.amqp.channel import NACK_NOT_COUNTED, Channel
from rmqkit.amqp.frames import ConsumerCancel
from rmqkit.errors import BrokerError, ConsumerCancelled, InputError
from rmqkit.message import Delivery
from rmqkit.messaging.held_deliveries import MOST_CONSUMERS, hold_returned
from rmqkit.payload.death_headers import DELIVERY_COUNT
from rmqkit.stop import Stop

# Each consumer receives at most this many times the messages of those before it, which show how large messages are.
_FIRST_PREFETCH, _GROWTH, _PREFETCH = 1, 16, 6000
_PREFETCH_BYTES = 16 * 1024 * 1024  # of bodies in memory, about
MOST = 100_000  # messages that a snapshot or a copy holds, unless its limit says more
_FIRST_S = 10.0  # until the first delivery
_IDLE_S = 0.2  # without a delivery, then the queue may be empty
_EMPTY = 3  # times in a row
_PRIORITY = {"x-priority": -100}  # a consumer with room for a message receives it first
_DEFAULT_LIMIT = 20  # of a quorum queue since RabbitMQ 4.0 (https://www.rabbitmq.com/docs/quorum-queues)
_LIMITED_SINCE = (4,)


@dataclass(frozen=True, slots=True)
class BrowseLimits:
    """When browsing ends: after this many messages, bytes of their bodies, or seconds since the first delivery."""

    messages: int
    seconds: float
    body_bytes: float = math.inf


@dataclass(frozen=True, slots=True)
class SideEffects:
    """The side effects of browsing on each message, as the rest of a sentence, and the risk; empty: none.

    `type` is the type of the queue, None if it is unknown, and `limit` its delivery limit, None if it has none;
    `single` tells whether only a single active consumer receives its messages.
    """

    text: str = ""
    risk: str = ""
    type: str | None = None
    limit: int | None = None
    single: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None, version: tuple[int, ...]) -> SideEffects:
        """Return the side effects for a queue with these settings, in argument form; None: they are unknown.

        From RabbitMQ 4.3 on, a nack does not count as a failed delivery (https://www.rabbitmq.com/docs/nack); before,
        each requeue does. A nacked message is delayed if the queue delays returned messages.
        """
        if settings is None:
            return cls("marked as redelivered", "" if version >= NACK_NOT_COUNTED else _UNKNOWN)
        kind, single = settings["x-queue-type"], settings.get("x-single-active-consumer") is True
        if kind == "stream":
            return cls("read by offset, which changes nothing", type=kind)
        if kind != "quorum":
            return cls("marked as redelivered", type=kind, single=single)
        limit = settings.get("x-delivery-limit", _DEFAULT_LIMIT if version >= _LIMITED_SINCE else None)
        limit = limit if isinstance(limit, int) and limit >= 0 else None
        text, risk = "marked as redelivered, which does not count toward the delivery limit", ""
        delay_ms = settings.get("x-delayed-retry-min")
        if version < NACK_NOT_COUNTED:
            text = "counted as delivered once more"
            if limit is not None:
                risk = f"each counts as delivered, and is dropped or dead-lettered after {limit + 1} failed deliveries"
        elif settings.get("x-delayed-retry-type") in ("all", "returned") and delay_ms:
            text = f"delayed for {delay_ms} ms by the queue's delayed retry"
            risk = f"its delayed retry would delay each message for {delay_ms} ms, and others would overtake it"
        return cls(text, risk, kind, limit, single)

    def check(self, queue: str) -> None:
        """Raise InputError if browsing may harm the messages of this queue."""
        if self.risk:
            raise InputError(
                f"delivering and requeueing the messages of queue {queue!r} may harm them: {self.risk}",
                advice="Add `force=True` to do so anyway.",
            )

    def deliveries_left(self, delivery: Delivery) -> int | None:
        """Return how many more deliveries may fail before the message is dead-lettered; None without a limit."""
        count = (delivery.properties.headers or {}).get(DELIVERY_COUNT, 0)
        return None if self.limit is None or not isinstance(count, int) else max(self.limit - count, 0)


_UNKNOWN = (
    "RabbitMQ's HTTP API, which shows the type and the delivery limit of a queue, does not answer; before RabbitMQ 4.3,"
    " peeking into a quorum queue counts as a delivery"
)


class QueueBrowser:
    """The first messages of a queue, held on a channel until `close`, which requeues them in their place.

    `ready` counts the messages that were ready at the start, and `consumers` the consumers, which receive the messages
    behind those that are held. `scanned` counts the messages that were yielded, at most `ready`. Raises InputError if a
    single active consumer receives the messages, NotFound, ResourceLocked, AccessRefused.
    """

    def __init__(
        self, channel: Channel, queue: str, bounds: BrowseLimits, stop: Stop, effects: SideEffects = SideEffects("")
    ) -> None:
        self.side_effects = effects
        self._channel, self._queue, self._bounds, self.stop = channel, queue, bounds, stop
        self._subject = f"queue {queue!r}"
        counts = channel.queue_counts(queue)
        self.ready: int = counts.message_count
        self.consumers: int = counts.consumer_count
        self.received = self.body_bytes = 0
        if effects.single and self.consumers:
            channel.close()
            raise InputError(
                f"queue {queue!r} delivers only to its single active consumer, so its messages cannot be shown",
                advice="Stop its consumers first.",
            )
        self.scanned = 0
        sorts = channel.transport.version >= NACK_NOT_COUNTED or effects.type == "classic"
        self._most_consumers = math.inf if sorts else MOST_CONSUMERS
        self._wanted: int = min(self.ready, bounds.messages)
        self._largest = 0
        self._redelivered = False  # the last one received
        self._silent = False  # messages are ready, but none was delivered for `_FIRST_S`
        self._subscriptions = self._subscribed_to = 0  # consumers so far, and the deliveries that they all receive
        self._until_s = math.inf

    def check_length(self, limit: int | None) -> None:
        """Raise InputError if there is no limit and the queue is too long to hold all of its messages."""
        if limit is None and self.ready > MOST:
            raise InputError(
                f"{self._subject} has {self.ready:,} messages, which would all be held until the last one is processed",
                advice=f"Add `limit={self.ready}` to do so; until then, consumers do not receive them.",
            )

    @property
    def missing(self) -> int:
        """Count the messages that were ready at the start and were not yielded."""
        return self._wanted - self.scanned

    @property
    def cut_short(self) -> str:
        """Return why browsing ended before all messages were yielded; empty if it did not, or others consumed them."""
        if not self.missing:
            return ""
        if self.received == self._subscribed_to and self._subscriptions == self._most_consumers:
            return "before RabbitMQ 4.3, no more messages of a quorum queue can be requeued in their order"
        if self.body_bytes >= self._bounds.body_bytes:
            return f"the limit of {self._bounds.body_bytes / 1024**2:g} MiB was reached"
        if time.monotonic() >= self._until_s:
            return f"the limit of {self._bounds.seconds:g} s was reached"
        return f"RabbitMQ delivered no more for {_FIRST_S:g} s" if self._silent else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.close()
        else:
            self._channel.release(self._tag)

    @property
    def _tag(self) -> str:
        return f"rmqkit-browse-{self._subscriptions:08}"  # the broker may sort by it

    def __iter__(self) -> Iterator[Delivery]:
        """Yield the deliveries as they arrive, until one of the bounds is reached, or a stop is requested.

        Raises ConsumerCancelled when the queue was deleted, Refused, ConnectionLost.
        """
        with self.stop.waking(self._channel.wake):
            for batch in self._batches(self._wanted, self.stop):
                for delivery in batch:
                    self.scanned += 1
                    yield delivery
                    if self.stop.requested or time.monotonic() >= self._until_s:
                        return

    def _batches(self, wanted: int, stop: Stop) -> Iterator[list[Delivery]]:
        idle_until_s, empty = time.monotonic() + _FIRST_S, 0
        while self.received < wanted and self.body_bytes < self._bounds.body_bytes and not stop.requested:
            if self.received == self._subscribed_to:
                if self._subscriptions == self._most_consumers:
                    return
                self._subscribe(wanted)
            wait_s = min(self._until_s - time.monotonic(), _IDLE_S)
            events = self._channel.wait(max(wait_s, 0), subject=self._subject)
            for event in events:
                if isinstance(event, list):
                    self._note(event)
                    yield event
                elif isinstance(event, ConsumerCancel):
                    raise ConsumerCancelled(f"{self._subject}: the broker cancelled the consumer")
            if events:
                idle_until_s, empty = time.monotonic() + _FIRST_S, 0
                continue
            self._silent = time.monotonic() > idle_until_s
            if empty == _EMPTY or self._silent or time.monotonic() > self._until_s:
                return  # other consumers have received the rest, or receive all, as a single active consumer does
            # A delivery may be on its way behind the first answer, but arrives before the second.
            empty = 0 if self._channel.queue_counts(self._queue).message_count else empty + 1

    def close(self) -> None:
        """Requeue the messages in their order, with the least side effects, and close the channel."""
        with suppress(BrokerError):
            if self._redelivered and self.side_effects.type != "classic":
                hold_returned(self._receive_more)
        self._channel.release(self._tag)

    def _receive_more(self, count: int, until_s: float) -> tuple[int, bool]:
        """Hold more messages, which are not kept in memory."""
        before, self._until_s = self.received, until_s
        self._bounds = replace(self._bounds, body_bytes=math.inf)
        for _ in self._batches(min(max(self._subscribed_to, before + count), self.ready), Stop()):
            pass
        return self.received - before, self._redelivered

    def _note(self, deliveries: list[Delivery]) -> None:
        if not self.received:
            self._until_s = time.monotonic() + self._bounds.seconds
        sizes = [len(each.body) for each in deliveries]
        self.received += len(sizes)
        self.body_bytes += sum(sizes)
        self._largest = max(self._largest, *sizes)
        self._redelivered = deliveries[-1].redelivered

    def _subscribe(self, wanted: int) -> None:
        """Start the next consumer, for at most as many messages as fit into memory."""
        if self._subscriptions:
            self._channel.cancel(self._tag, subject=self._subject)
        room = int(min(_PREFETCH_BYTES, self._bounds.body_bytes - self.body_bytes) // (self._largest + 1))
        growth = max(_FIRST_PREFETCH, self.received * _GROWTH)
        prefetch = max(min(wanted - self.received, room, growth, _PREFETCH), 1)
        self._subscriptions += 1
        self._subscribed_to += prefetch
        self._channel.qos(prefetch, subject=self._subject)
        self._channel.consume(self._queue, tag=self._tag, arguments=_PRIORITY, subject=self._subject)
