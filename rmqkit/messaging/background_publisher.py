"""A publisher for any number of threads: each message gets a future; a background thread publishes them.

The thread runs a `Publisher` while there is something to publish or to confirm, so all threads share its channel, its
writes and its recovery. User code runs on it only as a callback of a future, never on the I/O thread.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Protocol, Self, TypeVar

from rmqkit.amqp import error_mapping
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import BrokerError, ConnectionLost, NotConfirmed, RmqkitError
from rmqkit.message import Message
from rmqkit.messaging.publish_channel import IdleChannels
from rmqkit.messaging.publish_counts import NOTHING_YET
from rmqkit.messaging.publish_window import PublishWindow
from rmqkit.messaging.publisher import Publisher, check
from rmqkit.options import PublishOptions
from rmqkit.report import Failure, Fate
from rmqkit.stop import Stop, StoppedAtOnce


class MessageOutcome(Protocol):
    """The part of a `concurrent.futures.Future` that the publisher uses."""

    def set_running_or_notify_cancel(self) -> bool:
        """Return whether the message is still to be sent; from now on it cannot be cancelled."""

    def set_result(self, result: Fate, /) -> None:
        """Tell that the message was confirmed or, without confirms, sent."""

    def set_exception(self, exception: RmqkitError, /) -> None:
        """Tell why the message was not confirmed."""


T = TypeVar("T")
_KNOWN = (None, None)
_log = logging.getLogger("rmqkit")


class BackgroundPublisher:
    """Publishes messages in the background, for any number of threads; made by `Connection.publisher`.

    At most a window of messages is unconfirmed. Messages are sent in the order of the calls, and sent again after a
    lost connection. `on_warning` receives each fault that publishing recovered from, and how many messages failed.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        options: PublishOptions,
        idle_channels: IdleChannels,
        *,
        on_warning: Callable[[str], None],
        warn_of_failures: bool = False,
    ) -> None:
        self._connection = connection
        self._options = options
        self._idle_channels = idle_channels
        self._warn = on_warning
        self._warns_of_failures = warn_of_failures
        self._window = PublishWindow(options.window, options.window_bytes)
        self._lock = threading.Lock()
        self._submitted: deque[tuple[Message | None, MessageOutcome]] = deque()  # None: a barrier
        self._sent: dict[int, tuple[Message | None, MessageOutcome]] = {}  # by their position in the current run
        self.pending = self._pending_bytes = 0  # messages of both, whose outcome is not known
        self._room: Future[Fate] | None = None  # ends when there is room; all that wait share it
        self._thread: threading.Thread | None = None
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._wake: Callable[[], None] | None = None  # while the thread sleeps
        self._stop = Stop()
        self._closed = False
        self._process = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(0 if kind is StoppedAtOnce else None)

    @property
    def blocked(self) -> str:
        """Return why the broker currently blocks publishers; empty if it does not."""
        return self._connection.blocked

    @property
    def confirms(self) -> bool:
        """Tell whether the broker confirms the messages."""
        return self._options.confirms

    def publish(self, message: Message, *, timeout_s: float | None = None) -> Future[Fate]:
        """Queue a message and return a future of its outcome: `Fate.CONFIRMED`, or `UNKNOWN` without confirms.

        Waits, up to `timeout_s`, while the window is full; then raises NotConfirmed, and the message is not sent. A
        future that is cancelled before its message was sent keeps it from being sent. The future raises Unroutable,
        NotConfirmed, Refused such as NotFound for a missing exchange, PayloadError for a message that AMQP cannot
        carry, and ConnectionLost when recovery fails. Raises PayloadError, ConnectionLost after `close`.
        """
        future: Future[Fate] = Future()
        self.queue(message, future, timeout_s)
        return future

    def queue(self, message: Message, outcome: MessageOutcome, timeout_s: float | None = None) -> None:
        """Queue a message as `publish` does, with any outcome."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        message = self.prepare(message)
        while (room := self.submit(message, outcome)) is not None:
            left_s = None if deadline_s is None else max(deadline_s - time.monotonic(), 0)
            try:
                room.result(0 if threading.current_thread() is self._thread else left_s)
            except TimeoutError:
                error = f"the window is full: {self.pending:,} messages are unconfirmed; the message was not sent"
                raise NotConfirmed(error, advice="Wait for earlier messages, or enlarge the window.") from None

    def prepare(self, message: Message) -> Message:
        """Return the message to submit: as a hook changes it, on the thread of the caller. Raises PayloadError."""
        check(message)
        hooks = self._connection.settings.hooks
        return message if hooks is None else hooks.publishing(message)

    def submit(self, message: Message, outcome: MessageOutcome) -> Future[Fate] | None:
        """Queue a message of `prepare`; if the window is full, return a future that ends when there is room instead.

        Raises PayloadError, ConnectionLost after `close`.
        """
        check(message)
        if os.getpid() != self._process:  # before the lock: another thread may have held it
            raise error_mapping.forked()
        size = len(message.body)
        with self._lock:
            if self._closed:
                raise ConnectionLost("the publisher was closed")
            if self._room is not None or not self._window.has_room(self.pending, self._pending_bytes, size):
                self._room = self._room or _uncancellable()
                return self._room
            self.pending += 1
            self._pending_bytes += size
            self._submitted.append((message, outcome))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rmqkit-publisher", daemon=True)
                self._thread.start()
        self._wake_up()
        return None

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until the outcome of every message queued so far is known. Raises NotConfirmed after `timeout_s`."""
        try:
            self.barrier().result(timeout_s)
        except TimeoutError:
            raise NotConfirmed(f"messages are unconfirmed after {timeout_s:g} s") from None

    def barrier(self) -> Future[Fate]:
        """Return a future that ends when the outcome of every message queued so far is known."""
        ended = _uncancellable()
        with self._lock:
            if self.pending and os.getpid() == self._process:
                self._submitted.append((None, ended))
            else:
                ended.set_result(Fate.CONFIRMED)
        self._wake_up()
        return ended

    def close(self, timeout_s: float | None = None) -> None:
        """Wait until the outcome of every message is known; after `timeout_s`, give up those that are unconfirmed."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed, thread = True, self._thread
        if thread is None or thread is threading.current_thread():
            return
        self._wake_up()
        thread.join(timeout_s)
        if thread.is_alive():
            self._stop.request()
            thread.join()

    def _wake_up(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    # Called on the thread.

    def _work(self) -> None:
        while True:
            self._wake = self._wake_idle
            if self._submitted:
                self._wake = None
                try:
                    self._run()
                except BaseException:  # noqa: BLE001 - of on_warning: every outcome is known, and others will be submitted
                    _log.exception("publishing in the background failed")
            elif self._closed:
                return
            else:
                self._woken.get()

    def _wake_idle(self) -> None:
        self._woken.put(None)

    def _run(self) -> None:
        """Publish until nothing is submitted or unconfirmed; every outcome is known at the end."""
        publisher = Publisher(
            self._connection,
            self._options,
            idle_channels=self._idle_channels,
            stop=self._stop,
            on_settled=self._on_settled,
            on_failure=self._on_failure,
            on_warning=self._warn,
            refuse_invalid=True,
        )
        messages = self._messages(publisher.wake)
        try:
            report = publisher.publish(messages)
            if self._stop.requested:
                self._fail_all(ConnectionLost("the publisher was closed"))
            if self._warns_of_failures and (failed := report.error()):
                self._warn(str(failed))
        except BrokerError as exc:
            self._fail_all(exc)
        except BaseException as exc:
            self._fail_all(ConnectionLost(f"the publisher failed: {exc!r}"))
            raise
        finally:
            messages.close()

    def _messages(self, wake: Callable[[], None]) -> Generator[Message | None]:
        position = 0
        while True:
            while self._submitted:
                submitted = self._submitted.popleft()
                message, outcome = submitted
                if message is None:
                    try:
                        yield None
                    finally:
                        outcome.set_result(Fate.CONFIRMED)
                elif outcome.set_running_or_notify_cancel():
                    self._sent[position] = submitted
                    position += 1
                    yield message
                else:
                    self._release(message)
            if not self._sent:
                return
            self._wake = wake
            if not self._submitted:
                yield NOTHING_YET
            self._wake = None

    def _on_settled(self, position: int, message: Message, fate: Fate) -> None:
        _, outcome = self._sent.pop(position, _KNOWN)
        self._release(message)
        if outcome is not None:
            _call(outcome.set_result, fate)

    def _on_failure(self, failure: Failure) -> None:
        _, outcome = self._sent.pop(failure.index, _KNOWN)
        if outcome is not None:
            _call(outcome.set_exception, failure.error())

    def _release(self, message: Message) -> None:
        """Note that a message is no longer pending; half a window has to be free before anyone may go on."""
        with self._lock:
            self.pending -= 1
            self._pending_bytes -= len(message.body)
            options = self._options
            few = self.pending <= options.window // 2 and self._pending_bytes <= options.window_bytes // 2
            if self._room is None or not few:
                return
            room, self._room = self._room, None
        room.set_result(Fate.CONFIRMED)

    def _fail_all(self, error: RmqkitError) -> None:
        """End the outcomes that a publisher which gave up left behind, and those of the messages it never took."""
        hooks = self._connection.settings.hooks
        for message, outcome in (*self._sent.values(), *self._take_submitted()):
            if message is None:
                outcome.set_result(Fate.CONFIRMED)  # of a barrier
            else:
                if hooks is not None:
                    hooks.settled(message, Fate.UNKNOWN, 0.0)
                _call(outcome.set_exception, Failure(0, message, Fate.UNKNOWN, error.message, error).error())
                self._release(message)
        self._sent.clear()

    def _take_submitted(self) -> Iterator[tuple[Message | None, MessageOutcome]]:
        for _ in range(len(self._submitted)):
            message, outcome = self._submitted.popleft()
            if message is None or outcome.set_running_or_notify_cancel():
                yield message, outcome
            else:
                self._release(message)


def _call(end: Callable[[T], None], outcome: T) -> None:
    """End an outcome; a callback that exits, as by sys.exit, ends neither the thread nor the other outcomes."""
    try:
        end(outcome)
    except BaseException:  # noqa: BLE001 - a future itself logs each Exception
        _log.exception("a callback of a published message raised")


def _uncancellable() -> Future[Fate]:
    """Return a future that several may wait for: none of them can cancel it."""
    future: Future[Fate] = Future()
    future.set_running_or_notify_cancel()
    return future
