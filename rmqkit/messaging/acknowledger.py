"""How the deliveries of a consumer are settled: acknowledged, rejected, or requeued, at once or after a pause."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import encode_ack, encode_nack
from rmqkit.errors import BrokerError
from rmqkit.message import Delivery, Verdict


class SettledTags:
    """The settled delivery tags of one channel: every one below `low`, and others; its length counts them."""

    def __init__(self) -> None:
        self.low = 1
        self._above: set[int] = set()

    def __len__(self) -> int:
        return self.low - 1 + len(self._above)

    def __contains__(self, tag: int) -> bool:
        return tag < self.low or tag in self._above

    def add(self, tags: Iterable[int]) -> None:
        """Note that deliveries are settled."""
        above = self._above
        above.update(tags)
        while self.low in above:
            above.remove(self.low)
            self.low += 1

    def acknowledge(self, channel: int, tags: Sequence[int]) -> bytes:
        """Note deliveries, by rising tags, and return what acknowledges them: one frame if all below are settled."""
        first, last = tags[0], tags[-1]
        if first != self.low or last - first + 1 != len(tags):
            self.add(tags)
            return b"".join(encode_ack(channel, tag, multiple=False) for tag in tags)
        self.low = last + 1
        self.add(())  # what was settled ahead of these
        return encode_ack(channel, last, multiple=True)


FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0


class RequeueBackoff:
    """The deliveries of one channel that wait to be given back, by their tags."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._pause_s = FIRST_PAUSE_S
        self._due_s = 0.0

    def __contains__(self, tag: int) -> bool:
        return tag in self._held

    def hold(self, tags: Sequence[int]) -> None:
        """Let deliveries wait; those that wait already set the time."""
        if tags and not self._held:
            self._due_s = time.monotonic() + self._pause_s
        self._held.update(tags)

    def ease(self) -> None:
        """Note that something else was settled: there is progress, and the pause need not grow."""
        self._pause_s = FIRST_PAUSE_S

    def due_in_s(self) -> float:
        """Return in how many seconds the held ones are due; infinite if there are none."""
        return max(self._due_s - time.monotonic(), 0) if self._held else float("inf")

    def take_due(self) -> list[int]:
        """Return what may go back now, in the order of the tags."""
        if self.due_in_s() > 0:
            return []
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        due, self._held = sorted(self._held), set()
        return due


class Acknowledger:
    """What is settled of the deliveries of one channel, None before there is one; those of others are skipped."""

    def __init__(self, channel: Channel | None) -> None:
        self._channel = channel
        self._settled = SettledTags()
        self._brake = RequeueBackoff()

    def __contains__(self, delivery: Delivery) -> bool:
        """Tell whether a delivery was settled, or is about to be given back."""
        return delivery.delivery_tag in self._settled or delivery.delivery_tag in self._brake

    @property
    def low(self) -> int:
        """Return the delivery tag below which all are settled."""
        return self._settled.low

    @property
    def due_in_s(self) -> float:
        """Return in how many seconds something is to be given back; infinite if nothing is."""
        return self._brake.due_in_s()

    def settle(self, deliveries: Sequence[Delivery], verdict: Verdict) -> int:
        """Settle deliveries that are not; return how many that are.

        One that is requeued again, having been redelivered, waits for a while.
        """
        session = self._channel.session if self._channel else 0
        tags = sorted({each.delivery_tag for each in deliveries if each.session == session and each not in self})
        if verdict is Verdict.REQUEUE:
            again = {each.delivery_tag for each in deliveries if each.redelivered}
            self._brake.hold([tag for tag in tags if tag in again])
            self._send(verdict, [tag for tag in tags if tag not in again])
        elif not self._send(verdict, tags):
            return 0
        else:
            self._brake.ease()
        return len(tags)

    def give_back_due(self) -> None:
        """Requeue what has waited for long enough."""
        self._send(Verdict.REQUEUE, self._brake.take_due())

    def _send(self, verdict: Verdict, tags: list[int]) -> bool:
        """Tell the broker; False if it is gone: it gives them out again, and the next wait recovers, or raises."""
        if not tags or self._channel is None:
            return False
        number = self._channel.number
        try:
            if verdict is Verdict.ACK:
                self._channel.send(self._settled.acknowledge(number, tags))
            else:
                again = verdict is Verdict.REQUEUE
                self._channel.send(b"".join(encode_nack(number, tag, requeue=again) for tag in tags))
                self._settled.add(tags)
        except BrokerError:
            return False
        return True
