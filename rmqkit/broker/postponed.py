"""Messages the broker refused responsibility for, until their next try. Pure but for the clock.

Comes in: nacked messages. Goes out: those whose time has come. Room: broker.
"""

from __future__ import annotations

import heapq
import time

from rmqkit.broker.unconfirmed import Sent

TRIES = 5
PAUSE_S = 0.2  # doubled at each try: 0.2 + 0.4 + 0.8 + 1.6 s before a message is given up


class Postponed:
    """A waiting room; `body_bytes` is the sum of the bodies in it."""

    def __init__(self) -> None:
        self.body_bytes = 0
        self._heap: list[tuple[float, int, Sent]] = []  # due, place

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, sent: Sent) -> bool:
        """Take a message in for another try; false when it has had all of them."""
        if sent.nacks + 1 >= TRIES:
            return False
        due_s = time.monotonic() + PAUSE_S * 2**sent.nacks
        again = sent._replace(tries=sent.tries + 1, nacks=sent.nacks + 1)
        heapq.heappush(self._heap, (due_s, sent.place, again))
        self.body_bytes += len(sent.message.body)
        return True

    def due_in_s(self) -> float:
        """Return the seconds until the first one is due; infinite if there are none."""
        return self._heap[0][0] - time.monotonic() if self._heap else float("inf")

    def take_due(self) -> list[Sent]:
        """Take out those whose time has come, the longest due first."""
        return [self._pop() for _ in range(len(self._heap)) if self.due_in_s() <= 0]

    def take_all(self) -> list[Sent]:
        """Take out everything."""
        return [self._pop() for _ in range(len(self._heap))]

    def _pop(self) -> Sent:
        *_, sent = heapq.heappop(self._heap)
        self.body_bytes -= len(sent.message.body)
        return sent
