"""Settle the deliveries of a consumer: acknowledge, reject or requeue them, at once or after a pause."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import encode_ack, encode_nack, encode_reject
from rmqkit.errors import BrokerError
from rmqkit.message import Delivery, Verdict


class SettledTags:
    """The settled delivery tags of one channel; its length counts them.

    Memory grows with the gaps between them, not with their number: a message may be held while millions are settled.
    """

    def __init__(self) -> None:
        self._edges = array("Q", (0, 1))  # start, end, start, end ...: ranges of settled tags without the ends
        self._count = 0

    @property
    def low(self) -> int:
        """Return the lowest tag that is not settled."""
        return self._edges[1]

    def __len__(self) -> int:
        return self._count

    def __contains__(self, tag: int) -> bool:
        return bisect_right(self._edges, tag) % 2 == 1

    def unsettled(self, last: int) -> Iterator[int]:
        """Yield the tags up to `last` that are not settled, rising; none above it may be settled."""
        edges = self._edges
        for place in range(1, len(edges), 2):
            yield from range(edges[place], edges[place + 1] if place + 1 < len(edges) else last + 1)

    def add(self, tags: Iterable[int]) -> None:
        """Add settled tags."""
        edges = self._edges
        for tag in tags:
            place = bisect_right(edges, tag)
            if place % 2:
                continue
            self._count += 1
            follows, precedes = edges[place - 1] == tag, place < len(edges) and edges[place] == tag + 1
            if follows and precedes:
                del edges[place - 1 : place + 1]
            elif follows:
                edges[place - 1] = tag + 1
            elif precedes:
                edges[place] = tag
            else:
                edges[place:place] = array("Q", (tag, tag + 1))

    def acknowledge(self, channel: int, tags: Sequence[int]) -> bytes:
        """Add rising tags, and return the frames that acknowledge them: one frame if all below are settled."""
        first, last = tags[0], tags[-1]
        if first != self.low or last - first + 1 != len(tags):
            self.add(tags)
            if self.low > last:
                return encode_ack(channel, last, multiple=True)
            return b"".join(encode_ack(channel, tag, multiple=False) for tag in tags)
        self._edges[1] = last
        self._count += len(tags) - 1
        self.add((last,))  # with the range above it, if they meet
        return encode_ack(channel, last, multiple=True)


FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0


class RequeueBackoff:
    """Back off before requeueing again: the deliveries of one channel that wait, by their tags."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._pause_s = FIRST_PAUSE_S
        self._due_s = 0.0

    def __contains__(self, tag: int) -> bool:
        return tag in self._held

    def hold(self, tags: Sequence[int]) -> None:
        """Let deliveries wait; if others wait already, they are due together."""
        if tags and not self._held:
            self._due_s = time.monotonic() + self._pause_s
        self._held.update(tags)

    def reset(self) -> None:
        """Shorten the next pause, because another delivery was settled: there is progress."""
        self._pause_s = FIRST_PAUSE_S

    def due_in_s(self) -> float:
        """Return the seconds until the deliveries are due; infinite if there are none."""
        return max(self._due_s - time.monotonic(), 0) if self._held else float("inf")

    def take_due(self) -> list[int]:
        """Remove and return the tags that are due, in order."""
        if self.due_in_s() > 0:
            return []
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        due, self._held = sorted(self._held), set()
        return due


class Acknowledger:
    """Settles the deliveries of one channel, None before there is one; skips those of other channels."""

    def __init__(self, channel: Channel | None) -> None:
        self._channel = channel
        self.settled = SettledTags()
        self.backoff = RequeueBackoff()

    def __contains__(self, delivery: Delivery) -> bool:
        """Tell whether a delivery was settled, or waits to be requeued."""
        return delivery.delivery_tag in self.settled or delivery.delivery_tag in self.backoff

    def settle(self, deliveries: Sequence[Delivery], verdict: Verdict) -> int:
        """Settle deliveries that are unsettled; return their number. A redelivered one is requeued after a pause."""
        if self._channel is None or self._channel.ended:  # the broker ignores it
            return 0
        session = self._channel.session
        tags = sorted({each.delivery_tag for each in deliveries if each.session == session and each not in self})
        if verdict is Verdict.REQUEUE:
            again = {each.delivery_tag for each in deliveries if each.redelivered}
            self.backoff.hold([tag for tag in tags if tag in again])
            self._send(verdict, [tag for tag in tags if tag not in again])
        elif not self._send(verdict, tags):
            return 0
        else:
            self.backoff.reset()
        return len(tags)

    def return_failed(self, deliveries: Sequence[Delivery]) -> int:
        """Requeue unsettled deliveries at once, by basic.reject; return their number."""
        channel = self._channel
        if channel is None or channel.ended:
            return 0
        tags = [each.delivery_tag for each in deliveries if each.session == channel.session and each not in self]
        with suppress(BrokerError):  # it is gone, and redelivers
            for tag in tags:
                channel.send(encode_reject(channel.number, tag, requeue=True))
                self.settled.add((tag,))
        return sum(tag in self.settled for tag in tags)

    def requeue_due(self) -> None:
        """Requeue the deliveries that have waited long enough."""
        self._send(Verdict.REQUEUE, self.backoff.take_due())

    def _send(self, verdict: Verdict, tags: list[int]) -> bool:
        """Send the verdict; return False if the broker is gone: it redelivers, and the next wait recovers or raises."""
        if not tags or self._channel is None or self._channel.ended:
            return False
        number = self._channel.number
        try:
            if verdict is Verdict.ACK:
                self._channel.send(self.settled.acknowledge(number, tags))
            else:
                again = verdict is Verdict.REQUEUE
                self._channel.send(b"".join(encode_nack(number, tag, requeue=again) for tag in tags))
                self.settled.add(tags)
        except BrokerError:
            return False
        return True
