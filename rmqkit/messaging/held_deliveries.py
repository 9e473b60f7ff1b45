"""The deliveries of one queue that one channel holds: each is acknowledged, or kept and requeued in its place.

A message that stays is held until the channel closes, because requeued at once it would be delivered again at once
(https://www.rabbitmq.com/docs/nack). It does not take the room of those that follow: a prefetch is that of a consumer,
so a new one takes over from time to time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from rmqkit.amqp.channel import NACK_NOT_COUNTED, Channel
from rmqkit.amqp.frames import encode_nack
from rmqkit.errors import BrokerError
from rmqkit.messaging.acknowledger import SettledTags

PREFETCH, FIRST_PREFETCH, LEAST_PREFETCH = 6000, 20, 10
PREFETCH_BYTES = 16 * 1024 * 1024  # of bodies in memory, about
_LOT, _LOTS = 32, 20  # how many messages are requeued together, and how many times in a row
_RETURN_S = 10.0  # a message that is not back in its queue by then may return out of order
_PAUSE_S = 0.005  # between two checks whether it is
_IN_FLIGHT_S = 1.0  # for deliveries to a consumer that is to end
_QUIET_S, _EMPTY = 0.02, 2  # without one and without a ready message for this time, this many times: there are no more
_RETURNED_S = 10.0  # for messages that were requeued before
# What a closed channel returns to a quorum queue, it returns consumer by consumer; of more than 32, in any order.
MOST_CONSUMERS = 24


def hold_returned(receive: Callable[[int, float], tuple[int, bool]]) -> None:
    """Also hold the messages that were requeued before, up to the first one that was never delivered.

    A quorum queue requeues a message behind all ready messages that were requeued before, and ahead of the others.
    `receive` takes the number of messages to hold, and until when on the monotonic clock; it returns how many arrived,
    and whether the last one is marked as redelivered.
    """
    until_s, held = time.monotonic() + _RETURNED_S, 0
    while time.monotonic() < until_s:
        received, redelivered = receive(1 + held // 2, until_s)
        held += received
        if not received or not redelivered:
            return


class HeldDeliveries:
    """The deliveries of one queue on one channel, and the consumers that receive them, one after the other.

    `received` counts the deliveries. Those that are not settled stay.
    """

    def __init__(self, channel: Channel, queue: str) -> None:
        self._subject = f"queue {queue!r}"
        self._channel = channel
        self._queue = queue
        self._settled = SettledTags()
        self._unacknowledged: list[int] = []  # delivery tags to be acknowledged
        self._consumers = self._prefetch = 0
        self._consuming = self._ending = False
        self.received = self._base = 0  # the last delivery tag, and that when the last consumer started
        self._held = self._acknowledged = 0  # of the last consumer's deliveries

    def ready(self) -> int:
        """Count the messages that are ready in the queue."""
        return int(self._channel.queue_counts(self._queue).message_count)

    def subscribe(self, mean_bytes: int) -> None:
        """Replace the consumer; the deliveries that the one before holds do not count for it.

        The first one measures how large the messages are: `mean_bytes` is for the others.
        """
        wanted = max(LEAST_PREFETCH, min(PREFETCH, PREFETCH_BYTES // (mean_bytes + 1)))
        self._subscribe(wanted if self._consumers else FIRST_PREFETCH)

    def subscribe_to(self, count: int) -> int:
        """Replace the consumer by one that receives `count` messages, or fewer; none if their order would be lost."""
        if self._consumers >= MOST_CONSUMERS and self._channel.transport.version < NACK_NOT_COUNTED:
            return 0
        self._subscribe(min(count, PREFETCH))
        return self._prefetch

    def _subscribe(self, prefetch: int) -> None:
        self.cancel()
        self._prefetch = prefetch
        self._consumers += 1
        self._consuming = True
        self._base, self._held, self._acknowledged = self.received, 0, 0
        self._channel.qos(prefetch, subject=self._subject)
        self._channel.consume(self._queue, tag=self._tag, subject=self._subject)
        self._acknowledge()

    def receive_more(self, count: int, until_s: float, receive: Callable[[float], bool]) -> int:
        """Replace the consumer, wait for so many messages, or fewer, and return how many arrived; see `end`."""
        before, last = self.received, self.received + self.subscribe_to(count)
        if last > before:
            self.end(receive, until_s)
            receive(0)
        return self.received - before

    def is_spent(self) -> bool:
        """Tell whether the consumer is to be replaced, and no delivery to it is in flight: it would lose its place."""
        return self._is_full and (self._consumers == 1 or self._held >= self._prefetch // 2)

    def receive(self, tag: int) -> None:
        """Note that deliveries have arrived, up to this tag."""
        self.received = tag

    @property
    def some_stay(self) -> bool:
        """Tell whether there are deliveries that are not settled."""
        return self.received > len(self._settled) + len(self._unacknowledged)

    def keep(self, deliveries: int) -> None:
        """Note how many more deliveries are to stay in the queue."""
        self._held += deliveries

    def settle(self, tags: Iterable[int]) -> None:
        """Acknowledge deliveries; those of the first consumer later, else more would be delivered to it."""
        self._unacknowledged += tags
        if self._consumers > 1 and not self._ending:
            self._acknowledge()

    def cancel(self) -> None:
        """End the consumer, if there is one: an acknowledgement would bring it one more message."""
        if self._consuming:
            self._consuming = False
            self._channel.cancel(self._tag, subject=self._subject)

    def end(self, receive: Callable[[float], bool], until_s: float | None = None) -> None:
        """End the consumer once no delivery to it is in flight, which would lose its place in the queue.

        `receive` waits for events and tells whether there were any. Deliveries are acknowledged later: each
        acknowledgement would bring one more.
        """
        self._ending, empty = True, 0
        until_s = time.monotonic() + _IN_FLIGHT_S if until_s is None else until_s
        while self._consuming and not self._is_full and empty < _EMPTY and time.monotonic() < until_s:
            if not receive(_QUIET_S):
                empty = 0 if self.ready() else empty + 1
        self.cancel()

    def requeue(self, *, whole: bool, classic: bool) -> None:
        """End the consumer, send outstanding acknowledgements, and requeue all that stays, in order.

        A consumer would receive them again at once. Closing the channel requeues them all in one step, which keeps the
        order of a `classic` queue; there, each lot takes longer than the one before. RabbitMQ 3.10 mixes up what
        returns to a quorum queue in large lots, or in many at once; before RabbitMQ 4, what a nack requeues there goes
        behind messages that were never delivered, so unless the `whole` queue was delivered, closing the channel
        requeues them (from 4.3 on, that counts as a failed delivery). After `_RETURN_S`, their order is not waited for.
        """
        self.cancel()
        self._acknowledge()
        self.ready()  # once the queue has settled those
        channel, tags = self._channel, self._settled.unsettled(self.received)
        if classic or (channel.transport.version < (4,) and not whole):
            return
        deadline_s, requeued = time.monotonic() + _RETURN_S, 0
        while lot := tuple(islice(tags, _LOT)):
            channel.send(encode_nack(channel.number, lot[-1], requeue=True, multiple=True))
            requeued += len(lot)
            while not requeued % (_LOT * _LOTS) and self.ready() < requeued and time.monotonic() < deadline_s:
                channel.wait(_PAUSE_S)

    def close(self) -> None:
        """Close the channel: what is unsettled is requeued."""
        self._channel.deadline_s = time.monotonic() + _IN_FLIGHT_S
        with suppress(BrokerError):
            self.end(self._skip)
        self._channel.release(self._tag)

    @property
    def _is_full(self) -> bool:
        return self.received - self._base - self._acknowledged >= self._prefetch

    @property
    def _tag(self) -> str:
        return f"rmqkit-move-{self._consumers:08}"  # the broker may sort by it

    def _acknowledge(self) -> None:
        if self._unacknowledged:
            tags, self._unacknowledged = sorted(self._unacknowledged), []
            self._acknowledged += sum(tag > self._base for tag in tags)
            self._channel.send(self._settled.acknowledge(self._channel.number, tags))

    def _skip(self, timeout_s: float) -> bool:
        events = self._channel.wait(timeout_s, subject=self._subject)
        for event in events:
            if isinstance(event, list):
                self.receive(event[-1].delivery_tag)
        return bool(events)
