"""How much may be unconfirmed: a bound in messages and in bytes, and less after a loss or a refusal. Pure."""

from __future__ import annotations

import heapq
import time

from rmqkit.errors import NotConfirmed
from rmqkit.messaging.unconfirmed import Sent
from rmqkit.options import PublishOptions

STOP_GRACE_S = 10.0  # how long a stop waits for confirms
STOP_GRACE_BLOCKED_S = 1.0  # ... when the broker has said that it takes nothing


class StoppedWaiting(Exception):
    """A stop was requested, and its grace is over."""


class ConfirmDeadline:
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


TRIES = 5
PAUSE_S = 0.2  # doubled at each try: 0.2 + 0.4 + 0.8 + 1.6 s before a message is given up


class RetryQueue:
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


FEW = 256  # messages that may be on their way on any new connection
ISOLATE_BY = 8  # a refusal divides the window by this, until the culprit is alone in it


class PublishWindow:
    """The window of one run of publishing; a body larger than all of it may go alone."""

    def __init__(self, messages: int, body_bytes: int) -> None:
        self._messages = self._most = messages
        self._body_bytes = body_bytes

    def has_room(self, pending: int, pending_bytes: int, size: int) -> bool:
        """Tell whether a body of that size may be sent, with so many messages and bytes pending."""
        return pending < self._messages and (not pending or pending_bytes + size <= self._body_bytes)

    def shrink(self, refused: int) -> None:
        """Take less at a time: one of so many messages was refused, and nobody knows which."""
        self._messages = max(1, refused // ISOLATE_BY)

    def begin_again(self, unsettled: int) -> None:
        """Take less at a time: a line that broke may break again soon, and all that is on its way is sent anew then."""
        self._messages = min(self._messages, max(FEW, unsettled // ISOLATE_BY))

    def grow(self, settled: int) -> None:
        """Take more again, as TCP's slow start does: the window doubles with each round trip."""
        self._messages = min(self._messages + settled, self._most)
