"""How the deliveries of a consumer are settled: acknowledged, rejected, or requeued, at once or after a pause.

Comes in: deliveries, and verdicts. Goes out: frames for the channel they came by. Room: broker.
"""

from __future__ import annotations

from collections.abc import Sequence

from rmqkit.broker.brake import Brake
from rmqkit.broker.channel import Channel
from rmqkit.broker.frames import encode_nack
from rmqkit.broker.settled import Settled
from rmqkit.errors import BrokerError
from rmqkit.message import Delivery, Verdict


class Settlement:
    """What is settled of the deliveries of one channel, None before there is one; those of others are skipped."""

    def __init__(self, channel: Channel | None) -> None:
        self._channel = channel
        self._settled = Settled()
        self._brake = Brake()

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
