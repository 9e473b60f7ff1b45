"""What is given back again and again waits first, so that a requeue is never a hot loop.

Comes in: tags of deliveries to be requeued. Goes out: those whose time has come. Room: broker.

RabbitMQ hands a requeued message out again at once, before the others (https://www.rabbitmq.com/docs/nack). A first
requeue is done at once: there are no more of these than messages. A message that comes redelivered and is to go back
once more is held for a pause, which doubles as long as nothing else is settled. Held deliveries count against the
prefetch, so no more than that go back in one pause.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0


class Brake:
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
