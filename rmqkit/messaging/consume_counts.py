"""The numbers of one consumer, and the time in which it was idle."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rmqkit.message import Delivery, Verdict
from rmqkit.report import ConsumeReport

_IDLE_S = 1.0  # a longer time without a delivery counts as idle


class ConsumeCounts:
    """The numbers of one consumer; they are explained at `ConsumeReport`."""

    def __init__(self) -> None:
        self.consumed = self.redelivered = self.in_doubt = 0
        self.handed_out = 0  # with `no_ack`
        self.settled = dict.fromkeys(Verdict, 0)
        self.last_s = self._started_s = time.monotonic()  # when a delivery last arrived or was settled
        self._idle_s = 0.0

    @property
    def report(self) -> ConsumeReport:
        """Return the numbers so far."""
        now_s = time.monotonic()
        return ConsumeReport(
            consumed=self.consumed,
            acknowledged=self.settled[Verdict.ACK],
            rejected=self.settled[Verdict.REJECT],
            requeued=self.settled[Verdict.REQUEUE],
            redelivered=self.redelivered,
            lost=max(self.handed_out - sum(self.settled.values()), 0),
            in_doubt=self.in_doubt,
            seconds=now_s - self._started_s,
            idle_s=self._idle_s + self._gap_s(now_s),
        )

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Count deliveries that are handed out."""
        self.consumed += len(deliveries)
        self.redelivered += sum(each.redelivered for each in deliveries)

    def doubt(self, acknowledged: int, others: int) -> None:
        """Count acknowledgements that the broker may not have received, and other deliveries in doubt."""
        self.settled[Verdict.ACK] = max(self.settled[Verdict.ACK] - acknowledged, 0)
        self.in_doubt = acknowledged + others

    def note_active(self) -> None:
        """Note that the consumer is not idle now."""
        self.last_s = time.monotonic()

    def note_arrival(self) -> None:
        """Count the time since the last activity as idle, unless it was short."""
        self._idle_s += self._gap_s(time.monotonic())

    def _gap_s(self, now_s: float) -> float:
        gap_s = now_s - self.last_s
        return gap_s if gap_s > _IDLE_S else 0.0
