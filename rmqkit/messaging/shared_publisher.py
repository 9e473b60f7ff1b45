"""Publish single messages, from any number of threads.

A thread that is alone publishes on a channel of its own, which saves two switches of threads. As soon as there are
several, their messages travel together: one channel, few writes, few confirms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import BrokerError, RmqkitError
from rmqkit.message import Message
from rmqkit.messaging.background_publisher import BackgroundPublisher
from rmqkit.messaging.publish_channel import IdleChannels
from rmqkit.messaging.publish_counts import PublishCallbacks
from rmqkit.messaging.publish_window import unconfirmed
from rmqkit.messaging.publisher import Publisher
from rmqkit.options import PublishOptions
from rmqkit.report import Failure, Fate, PublishReport


class SharedPublisher:
    """Publishes single messages with the default options."""

    def __init__(
        self,
        connection: ReconnectingConnection,
        idle_channels: IdleChannels,
        on_warning: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._idle_channels = idle_channels
        self._warn = on_warning
        self._alone = threading.RLock()  # only the thread that holds it can release it
        self._background = BackgroundPublisher(
            connection, PublishOptions(), idle_channels, on_warning=on_warning, direct=True, write_now=True
        )

    def publish(self, message: Message, timeout_s: float | None) -> PublishReport:
        """Publish a message and return its report; raise what `Publisher.publish` raises."""
        try:
            if not self._background.pending and self._alone.acquire(blocking=False):
                return self._publish_alone(message, timeout_s)
        finally:  # also when a signal handler raises as soon as the lock is held
            try:  # noqa: SIM105 - it may raise in any other call before this one
                self._alone.release()
            except RuntimeError:  # this thread does not hold it
                pass
        return self._publish_with_others(message, timeout_s)

    def close(self) -> None:
        """End the threads that still wait."""
        self._background.close(0)

    def _publish_alone(self, message: Message, timeout_s: float | None) -> PublishReport:
        publisher = Publisher(
            self._connection,
            PublishOptions(),
            idle_channels=self._idle_channels,
            timeout_s=timeout_s,
            callbacks=PublishCallbacks(on_warning=self._warn),
        )
        hooks = self._connection.settings.hooks
        return publisher.publish((message,) if hooks is None else hooks.each_publishing((message,)))

    def _publish_with_others(self, message: Message, timeout_s: float | None) -> PublishReport:
        started_s = time.monotonic()
        outcome = _LockedOutcome()
        self._background.queue(message, outcome, timeout_s)
        if timeout_s is None:
            outcome.wait()
        elif not outcome.wait(timeout_s - (time.monotonic() - started_s)):
            raise timed_out(message, timeout_s, self._connection.blocked, sent=not outcome.cancel())
        return report_of(outcome.error, started_s)


def report_of(error: RmqkitError | None, started_s: float) -> PublishReport:
    """Return the report of a single message; raise the error if its fate is not known, or it is no message."""
    if error is None:
        return PublishReport(published=1, confirmed=1, seconds=time.monotonic() - started_s)
    report = error.report if isinstance(error, BrokerError) else None
    if isinstance(report, PublishReport) and not report.unknown:
        return report
    raise error


def timed_out(message: Message, timeout_s: float, blocked: str, *, sent: bool) -> RmqkitError:
    """Return the error of a message that was not confirmed in time."""
    error = unconfirmed(1, timeout_s, blocked, sent=sent)
    return Failure(0, message, Fate.UNKNOWN, error.message, error).error()


class CancellableOutcome:
    """The part of an outcome that decides between sending its message and cancelling it."""

    def __init__(self) -> None:
        self._unsent = [True]  # whoever takes it decides: it works without a lock

    def set_running_or_notify_cancel(self) -> bool:
        """Return whether the message is still to be sent."""
        with suppress(IndexError):
            return self._unsent.pop()
        return False

    def cancel(self) -> bool:
        """Return whether this keeps the message from being sent."""
        return self.set_running_or_notify_cancel()


class _LockedOutcome(CancellableOutcome):
    """An outcome that one thread waits for: cheaper than a future."""

    def __init__(self) -> None:
        super().__init__()
        self.error: RmqkitError | None = None
        self._known = threading.Lock()
        self._known.acquire()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return whether the outcome is known in time."""
        return self._known.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0))

    def set_result(self, _: Fate, /) -> None:
        self._known.release()

    def set_exception(self, error: RmqkitError, /) -> None:
        self.error = error
        self._known.release()
