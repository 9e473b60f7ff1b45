"""How long a publisher waits for the broker, and for what reason it stops waiting.

Comes in: the news that something moved. Goes out: an error when nothing did for too long. Room: broker.
"""

from __future__ import annotations

import time

from rmqkit.broker.options import PublishOptions
from rmqkit.errors import NotConfirmed

STOP_GRACE_S = 10.0  # how long a stop waits for confirms
STOP_GRACE_BLOCKED_S = 1.0  # ... when the broker has said that it takes nothing


class StoppedWaiting(Exception):
    """A stop was requested, and its grace is over."""


class Patience:
    """The clocks of one run: since something moved, since the broker blocked us, since a stop was requested."""

    def __init__(self, options: PublishOptions) -> None:
        self._options = options
        self._moved_s = time.monotonic()
        self._stopped_s = 0.0
        self._was_blocked = False

    def moved(self) -> None:
        """Note that something was settled, or that there was nothing to wait for."""
        self._moved_s = time.monotonic()

    def check(self, *, blocked: str, stopping: bool, waiting_for: int) -> None:
        """Raise NotConfirmed or StoppedWaiting when it has lasted too long; `blocked` is the broker's reason, or ""."""
        now = time.monotonic()
        if self._was_blocked and not blocked:
            self._moved_s = now  # time under an alarm is not held against the broker
        self._was_blocked = bool(blocked)
        if stopping:
            self._stopped_s = self._stopped_s or now
            if now - max(self._stopped_s, self._moved_s) > (STOP_GRACE_BLOCKED_S if blocked else STOP_GRACE_S):
                raise StoppedWaiting
        waited_s = now - self._moved_s
        if blocked and waited_s > self._options.blocked_timeout_s:
            raise NotConfirmed(
                f"the broker has been blocking publishers for {waited_s:.0f} s: {blocked}",
                advice="Free memory or disk space on the broker: `rabbitmqctl status` tells which alarm it is.",
            )
        if not blocked and waited_s > self._options.confirm_timeout_s:
            raise NotConfirmed(
                f"no confirm for {waited_s:.0f} s; {waiting_for} messages are unconfirmed",
                advice="They may or may not be in their queues. A quorum queue confirms nothing without a majority.",
            )
