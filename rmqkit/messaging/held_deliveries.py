"""What a queue lends to one channel: each message is acknowledged, or kept and given back in its place at the end.

What is to stay is held until the channel closes, for requeued at once it would come at once again
(https://www.rabbitmq.com/docs/nack). It does not take the room of what follows: a prefetch is that of a consumer, so a
new one takes over from time to time.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import encode_nack
from rmqkit.messaging.acknowledger import SettledTags

PREFETCH, FIRST_PREFETCH, LEAST_PREFETCH = 6000, 20, 10
PREFETCH_BYTES = 16 * 1024 * 1024  # of bodies in memory, about
_LOT, _LOTS = 32, 20  # how many messages are given back together, and how many times in a row
_RETURN_S = 10.0  # what is not back in its queue by then may come back out of order
_PAUSE_S = 0.005  # between two looks whether it is


class HeldDeliveries:
    """The deliveries of one queue on one channel, and the consumers that get them, one after the other."""

    def __init__(self, channel: Channel, queue: str) -> None:
        self.subject = f"queue {queue!r}"
        self._channel = channel
        self._queue = queue
        self._settled = SettledTags()
        self._owed: list[int] = []  # delivery tags to be acknowledged
        self._kept = array("Q")  # delivery tags of what is to stay
        self._consumers = self._prefetch = 0
        self._received = self._base = 0  # the last delivery tag, and that when the last consumer began
        self._held = self._acked = 0  # of the last consumer's deliveries

    def ready(self) -> int:
        """Count what is ready in the queue."""
        return int(self._channel.queue_counts(self._queue).message_count)

    def subscribe(self, mean_bytes: int) -> None:
        """Put a consumer in the place of the one before: what that one holds does not count for it.

        The first one is there to see how large the messages are: `mean_bytes` is for the others.
        """
        channel, first = self._channel, not self._consumers
        self._cancel()
        wanted = max(LEAST_PREFETCH, min(PREFETCH, PREFETCH_BYTES // (mean_bytes + 1)))
        self._prefetch = FIRST_PREFETCH if first else wanted
        self._consumers += 1
        self._base, self._held, self._acked = self._received, 0, 0
        channel.qos(self._prefetch, subject=self.subject)
        channel.consume(self._queue, tag=self._tag, subject=self.subject)
        self.acknowledge()

    def is_spent(self) -> bool:
        """Tell whether the consumer is to be replaced, and nothing is on its way to it: that would lose its place."""
        if self._received - self._base - self._acked < self._prefetch:
            return False
        return self._consumers == 1 or self._held >= self._prefetch // 2

    def receive(self, tag: int) -> None:
        """Note that deliveries came, up to this one."""
        self._received = tag

    def keep(self, tag: int) -> None:
        """Note a delivery that is to stay in the queue."""
        self._kept.append(tag)
        self._held += 1

    def settle(self, tags: Iterable[int]) -> None:
        """Acknowledge deliveries; those of the first consumer later, else more would be on their way to it."""
        self._owed += tags
        if self._consumers > 1:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Acknowledge what that is to be done for."""
        if self._owed:
            tags, self._owed = sorted(self._owed), []
            self._acked += sum(tag > self._base for tag in tags)
            self._channel.send(self._settled.acknowledge(self._channel.number, tags))

    def give_back(self, others: Iterable[int]) -> None:
        """Acknowledge what is to be; requeue what is to stay and these others, in order.

        A consumer would get it again at once. RabbitMQ 3.10 mixes up what a quorum queue gets back in large lots, or
        in many at once.
        """
        self.acknowledge()
        self._cancel()
        channel, tags = self._channel, sorted((*self._kept, *others))
        lasts = [*range(_LOT - 1, len(tags) - 1, _LOT), len(tags) - 1] if tags else []
        deadline_s = time.monotonic() + _RETURN_S
        for number, last in enumerate(lasts, 1):
            channel.send(encode_nack(channel.number, tags[last], requeue=True, multiple=True))
            while not number % _LOTS and self.ready() <= last and time.monotonic() < deadline_s:
                channel.wait(_PAUSE_S)

    @property
    def _tag(self) -> str:
        return f"rmqkit-move-{self._consumers:08}"  # the broker may sort by it

    def _cancel(self) -> None:
        if self._consumers:
            self._channel.cancel(self._tag, subject=self.subject)
