"""How much may be unconfirmed, how long a confirm may take, and when a nacked message is published again. Pure."""

from __future__ import annotations

import heapq
import time
from typing import Generic

from rmqkit.amqp import error_mapping
from rmqkit.errors import BrokerError, NotConfirmed
from rmqkit.messaging.unconfirmed import PublishedT
from rmqkit.options import PublishOptions
from rmqkit.plural import plural

STOP_GRACE_S = 10.0  # how long a stop waits for confirms
STOP_GRACE_BLOCKED_S = 0.5  # ... while the broker blocks publishers


class StoppedWaiting(Exception):
    """A stop was requested, and its grace period is over."""


class GivenUp(Exception):
    """Publishing ends here: `error` is None if a stop was requested; `stuck` if the broker does not answer."""

    def __init__(self, error: BrokerError | None, *, stuck: bool = False) -> None:
        self.error = error
        self.stuck = stuck


class ConfirmDeadline:
    """The clocks of one run: since the last progress, since the broker blocked it, since a stop was requested."""

    def __init__(self, options: PublishOptions, blocked_timeout_s: float) -> None:
        self._confirm_timeout_s = options.confirm_timeout_s
        self._blocked_timeout_s = blocked_timeout_s if options.blocked_timeout_s is None else options.blocked_timeout_s
        self._progress_s = time.monotonic()
        self._stopped_s = 0.0
        self._was_blocked = False

    def restart(self) -> None:
        """Note that a message was settled, or that there was nothing to wait for."""
        self._progress_s = time.monotonic()

    def check(self, *, blocked: str, stopping: bool, waiting_for: int) -> None:
        """Raise NotConfirmed or StoppedWaiting when a clock has run out; `blocked` is the broker's reason, or ""."""
        now = time.monotonic()
        if self._was_blocked and not blocked:
            self._progress_s = now  # time under an alarm is not held against the broker
        self._was_blocked = bool(blocked)
        if stopping:
            self._stopped_s = self._stopped_s or now
            if now - max(self._stopped_s, self._progress_s) > (STOP_GRACE_BLOCKED_S if blocked else STOP_GRACE_S):
                raise StoppedWaiting
        waited_s = now - self._progress_s
        if blocked and waited_s > self._blocked_timeout_s:
            raise error_mapping.blocked(blocked, waited_s)
        if not blocked and waited_s > self._confirm_timeout_s:
            raise NotConfirmed(
                f"no confirm for {waited_s:.0f} s; {are_unconfirmed(waiting_for)}",
                advice="They may or may not have reached their queues. A quorum queue needs a majority to confirm.",
            )


def are_unconfirmed(number: int) -> str:
    """Say that this many messages are unconfirmed."""
    return f"{plural(number, 'message')} {'is' if number == 1 else 'are'} unconfirmed"


def unconfirmed(number: int, timeout_s: float, blocked: str, *, sent: bool = True) -> NotConfirmed:
    """Return the error of messages whose confirms did not arrive in time."""
    reason = f": the broker is blocking publishers: {blocked}" if blocked else ""
    if not sent:
        return NotConfirmed(f"the message was not sent within {timeout_s:g} s{reason}")
    messages = "the message is" if number == 1 else f"{number:,} messages are"
    return NotConfirmed(
        f"{messages} unconfirmed after {timeout_s:g} s{reason}",
        advice="It may or may not have reached its queue. A quorum queue needs a majority to confirm.",
    )


TRIES = 5
PAUSE_S = 0.2  # doubled at each try: 0.2 + 0.4 + 0.8 + 1.6 s before a message is given up


class RetryQueue(Generic[PublishedT]):
    """Nacked messages that wait for their next try; `body_bytes` is the sum of their bodies."""

    def __init__(self) -> None:
        self.body_bytes = 0
        self._heap: list[tuple[float, int, PublishedT]] = []  # when it is due, position

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, nacked: PublishedT) -> bool:
        """Add a message for another try; return False when it has had all of them."""
        if nacked.nacks + 1 >= TRIES:
            return False
        due_s = time.monotonic() + PAUSE_S * 2**nacked.nacks
        heapq.heappush(self._heap, (due_s, nacked.position, nacked.retried()))
        self.body_bytes += nacked.body_bytes
        return True

    def due_in_s(self) -> float:
        """Return the seconds until the first message is due; infinite if there is none."""
        return self._heap[0][0] - time.monotonic() if self._heap else float("inf")

    def take_due(self) -> list[PublishedT]:
        """Remove and return the messages that are due, the longest due first."""
        return [self._pop() for _ in range(len(self._heap)) if self.due_in_s() <= 0]

    def take_all(self) -> list[PublishedT]:
        """Remove and return all messages."""
        return [self._pop() for _ in range(len(self._heap))]

    def _pop(self) -> PublishedT:
        *_, nacked = heapq.heappop(self._heap)
        self.body_bytes -= nacked.body_bytes
        return nacked


NEW_CONNECTION_MESSAGES = 256  # that may be in flight on any new connection
ISOLATE_BY = 8  # a refusal divides the window by this, until the culprit is alone in it


class PublishWindow:
    """The bounds of one run, in messages and in bytes; a body larger than the window may be in flight alone."""

    def __init__(self, messages: int, body_bytes: int) -> None:
        self._messages = self._limit = messages
        self._body_bytes = body_bytes

    def has_room(self, pending: int, pending_bytes: int, size: int) -> bool:
        """Tell whether a body of this size may be sent while these numbers of messages and bytes are pending."""
        return pending < self._messages and (not pending or pending_bytes + size <= self._body_bytes)

    def shrink(self, refused: int) -> None:
        """Narrow the window because one of the `refused` messages is at fault, and it is not known which."""
        self._messages = max(1, refused // ISOLATE_BY)

    def reopen(self, unsettled: int) -> None:
        """Narrow the window on a new connection: it may break again soon, and then all in flight is sent again."""
        self._messages = min(self._messages, max(NEW_CONNECTION_MESSAGES, unsettled // ISOLATE_BY))

    def grow(self, settled: int) -> None:
        """Widen the window, as TCP's slow start does: it doubles with each round trip."""
        self._messages = min(self._messages + settled, self._limit)
