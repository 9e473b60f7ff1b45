"""Look at the messages of a queue and leave them there, in their order, acknowledged by nobody.

AMQP shows a message only by delivering it: it is held on one channel until the look is over, and then requeued in its
place. What that costs the message differs by the type of queue and by the version of the broker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from rmqkit.amqp.channel import NACK_IS_FREE, Channel
from rmqkit.amqp.frames import ConsumerCancel
from rmqkit.errors import BrokerError, ConsumerCancelled, InputError
from rmqkit.message import Delivery
from rmqkit.payload.death_headers import DELIVERY_COUNT
from rmqkit.stop import Stop

# Each consumer receives at most so many times as many messages as those before it: they tell how large messages are.
_FIRST_PREFETCH, _GROWTH, _PREFETCH = 1, 16, 6000
_PREFETCH_BYTES = 16 * 1024 * 1024  # of bodies in memory, about
MOST = 100_000  # messages that a snapshot or a copy holds, unless its limit says more
# What a closed channel returns to a quorum queue, it returns consumer by consumer; of more than 32, in any order.
MOST_CONSUMERS = 24
_FIRST_S = 10.0  # until the first delivery
_RETURNED_S = 10.0  # for messages that were returned before the look
_IDLE_S = 0.2  # without a delivery, then the queue may be empty
_EMPTY = 3  # times in a row
_PRIORITY = {"x-priority": -100}  # a consumer with room for a message receives it first
_DEFAULT_LIMIT = 20  # of a quorum queue since RabbitMQ 4.0 (https://www.rabbitmq.com/docs/quorum-queues)
_LIMITED_SINCE = (4,)


@dataclass(frozen=True, slots=True)
class LookBounds:
    """When a look ends: after so many messages, bytes of their bodies, or seconds since the first delivery."""

    messages: int
    seconds: float
    body_bytes: float = math.inf


@dataclass(frozen=True, slots=True)
class LookCost:
    """The cost of a look for each message, as the rest of a sentence, and the harm it may do; empty: none.

    `type` is the type of the queue, None if it is unknown, and `limit` its delivery limit, None if it has none;
    `single` tells that a single active consumer alone receives its messages.
    """

    text: str = ""
    harm: str = ""
    type: str | None = None
    limit: int | None = None
    single: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None, version: tuple[int, ...]) -> LookCost:
        """Return the cost for a queue with these settings, in argument form; None: they are unknown.

        From RabbitMQ 4.3 on, a nack does not count as a failed delivery (https://www.rabbitmq.com/docs/nack); before,
        each requeue does. A nacked message is delayed where the queue delays what is returned.
        """
        if settings is None:
            return cls("marked as redelivered", "" if version >= NACK_IS_FREE else _UNKNOWN)
        kind, single = settings["x-queue-type"], settings.get("x-single-active-consumer") is True
        if kind == "stream":
            return cls("read by offset, which changes nothing", type=kind)
        if kind != "quorum":
            return cls("marked as redelivered", type=kind, single=single)
        limit = settings.get("x-delivery-limit", _DEFAULT_LIMIT if version >= _LIMITED_SINCE else None)
        limit = limit if isinstance(limit, int) and limit >= 0 else None
        text, harm = "marked as redelivered, which does not count toward the delivery limit", ""
        delay_ms = settings.get("x-delayed-retry-min")
        if version < NACK_IS_FREE:
            text = "counted as delivered once more"
            if limit is not None:
                harm = f"a look counts as a delivery, and one more than {limit} failed ones ends in a dead letter"
        elif settings.get("x-delayed-retry-type") in ("all", "returned") and delay_ms:
            text = f"delayed for {delay_ms} ms by the queue's delayed retry"
            harm = f"its delayed retry would delay each message for {delay_ms} ms, and others would overtake it"
        return cls(text, harm, kind, limit, single)

    def check(self, queue: str) -> None:
        """Raise InputError if a look may harm the messages of this queue."""
        if self.harm:
            raise InputError(
                f"looking into queue {queue!r} may harm its messages: {self.harm}",
                advice="Add --force, in Python force=True, to look nevertheless.",
            )

    def deliveries_left(self, delivery: Delivery) -> int | None:
        """Return how many more deliveries may fail before the message is dead-lettered; None without a limit."""
        count = (delivery.properties.headers or {}).get(DELIVERY_COUNT, 0)
        return None if self.limit is None or not isinstance(count, int) else max(self.limit - count, 0)


_UNKNOWN = (
    "RabbitMQ's HTTP API, which shows the type and the delivery limit of a queue, does not answer; a look counts as a"
    " delivery of a quorum queue before RabbitMQ 4.3"
)


class Look:
    """The first messages of a queue, held on a channel until `close`, which requeues them in their place.

    `ready` counts the messages that were ready at the start, and `consumers` the consumers: they receive the messages
    behind those that are held. `looked` counts the messages that were looked at, `ready` at most. Raises InputError if
    a single active consumer receives the messages, NotFound, ResourceLocked, AccessRefused.
    """

    def __init__(
        self, channel: Channel, queue: str, bounds: LookBounds, stop: Stop, cost: LookCost = LookCost("")
    ) -> None:
        self.cost = cost
        self._channel, self._queue, self._bounds, self._stop = channel, queue, bounds, stop
        self._subject = f"queue {queue!r}"
        counts = channel.queue_counts(queue)
        self.ready: int = counts.message_count
        self.consumers: int = counts.consumer_count
        self.received = self.body_bytes = 0
        if cost.single and self.consumers:
            channel.close()
            raise InputError(
                f"queue {queue!r} delivers to its single active consumer alone: nobody else can look into it",
                advice="Stop its consumers first.",
            )
        self.looked = 0
        sorts = channel.transport.version >= NACK_IS_FREE or cost.type == "classic"
        self._most_consumers = math.inf if sorts else MOST_CONSUMERS
        self._wanted: int = min(self.ready, bounds.messages)
        self._largest = 0
        self._redelivered = False  # the last one received
        self._subscriptions = self._subscribed_to = 0  # consumers so far, and the deliveries that they all receive
        self._until_s = math.inf

    def check_length(self, limit: int | None) -> None:
        """Raise InputError if there is no limit and the queue is too long to hold all of its messages."""
        if limit is None and self.ready > MOST:
            raise InputError(
                f"{self._subject} has {self.ready:,} messages, and all of them would be held until the last is done",
                advice=f"Add --limit {self.ready} to do so; consumers receive none of them meanwhile.",
            )

    @property
    def missing(self) -> int:
        """Count the messages that were ready at the start and were not looked at."""
        return self._wanted - self.looked

    @property
    def cut_short(self) -> str:
        """Return why the look ended before all messages were looked at; empty if it did not, or if others took them."""
        if not self.missing:
            return ""
        if self.received == self._subscribed_to and self._subscriptions == self._most_consumers:
            return "before RabbitMQ 4.3, no more messages of a quorum queue can be returned in their order"
        return f"{self._bounds.seconds:g} s were over" if time.monotonic() >= self._until_s else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.close()
        else:
            self._channel.release(self._tag)

    @property
    def _tag(self) -> str:
        return f"rmqkit-look-{self._subscriptions:08}"  # the broker may sort by it

    def __iter__(self) -> Iterator[Delivery]:
        """Yield the deliveries as they arrive, until one of the bounds is reached, or a stop is requested.

        Raises ConsumerCancelled when the queue was deleted, Refused, ConnectionLost.
        """
        with self._stop.waking(self._channel.wake):
            for batch in self._batches(self._wanted, self._stop):
                for delivery in batch:
                    self.looked += 1
                    yield delivery
                    if self._stop.requested or time.monotonic() >= self._until_s:
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
            if empty == _EMPTY or time.monotonic() > min(idle_until_s, self._until_s):
                return  # other consumers have received the rest
            # A delivery may be on its way behind the first answer, but arrives before the second.
            empty = 0 if self._channel.queue_counts(self._queue).message_count else empty + 1

    def close(self) -> None:
        """Requeue the messages in their order, in the way that costs them least, and close the channel."""
        with suppress(BrokerError):
            self._hold_returned()
        self._channel.release(self._tag)

    def _hold_returned(self) -> None:
        """Hold the messages, too, that were returned before the look, up to the first that was never delivered.

        A quorum queue puts what returns behind all that was returned before and is ready, ahead of the others.
        """
        beyond, self._until_s = self.received, time.monotonic() + _RETURNED_S
        self._bounds = replace(self._bounds, body_bytes=math.inf)  # these are not kept in memory
        while self._redelivered and self.cost.type != "classic" and time.monotonic() < self._until_s:
            before = self.received
            wanted = max(self._subscribed_to, before + 1 + (before - beyond) // 2)
            for _ in self._batches(min(wanted, self.ready), Stop()):
                pass
            if self.received == before:
                return

    def _note(self, deliveries: list[Delivery]) -> None:
        if not self.received:
            self._until_s = time.monotonic() + self._bounds.seconds
        sizes = [len(each.body) for each in deliveries]
        self.received += len(sizes)
        self.body_bytes += sum(sizes)
        self._largest = max(self._largest, *sizes)
        self._redelivered = deliveries[-1].redelivered

    def _subscribe(self, wanted: int) -> None:
        """Start the next consumer, for no more messages than memory has room for."""
        if self._subscriptions:
            self._channel.cancel(self._tag, subject=self._subject)
        room = int(min(_PREFETCH_BYTES, self._bounds.body_bytes - self.body_bytes) // (self._largest + 1))
        growth = max(_FIRST_PREFETCH, self.received * _GROWTH)
        prefetch = max(min(wanted - self.received, room, growth, _PREFETCH), 1)
        self._subscriptions += 1
        self._subscribed_to += prefetch
        self._channel.qos(prefetch, subject=self._subject)
        self._channel.consume(self._queue, tag=self._tag, arguments=_PRIORITY, subject=self._subject)
