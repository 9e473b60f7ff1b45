"""A publisher for any number of threads: each message gets a future; a background thread publishes them.

The thread runs a `Publisher` while there is something to publish or to confirm, so all threads share its channel, its
writes and its recovery. User code runs on it only as a callback of a future, never on the I/O thread. Where an outcome
calls no user code, messages bypass the thread, on a `DirectPublisher`, until anything but a confirm arrives.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from queue import Empty
from typing import Self, TypeVar

from rmqkit.amqp import error_mapping
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import BrokerError, ConnectionLost, NotConfirmed, RmqkitError
from rmqkit.message import Message
from rmqkit.messaging.direct_publisher import CallSoon, DirectPublisher, MessageOutcome, Submitted
from rmqkit.messaging.publish_channel import IdleChannels
from rmqkit.messaging.publish_counts import NOTHING_YET, PublishCallbacks, check
from rmqkit.messaging.publish_window import PublishWindow, are_unconfirmed
from rmqkit.messaging.publisher import WAIT_S, Publisher
from rmqkit.options import PublishOptions
from rmqkit.report import Failure, Fate
from rmqkit.stop import Stop, StoppedAtOnce
from rmqkit.thread_queue import ThreadQueue

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
        direct: bool = False,
        write_now: bool = False,
    ) -> None:
        self.direct = direct  # outcomes may end on the I/O thread: they call no user code
        self.call_soon: CallSoon | None = None  # see `DirectPublisher.flush`
        self._write_now = write_now  # each message on the thread of its caller, which waits for the outcome
        self._connection = connection
        self._options = options
        self._idle_channels = idle_channels
        self._warn = on_warning
        self._warns_of_failures = warn_of_failures
        self._window = PublishWindow(options.window, options.window_bytes)
        self._lock = threading.Lock()
        self._submitted: deque[Submitted] = deque()
        self._sent: dict[int, Submitted] = {}  # by their position in the current run
        self._direct: DirectPublisher | None = None  # while the thread has nothing to do
        self._ended: DirectPublisher | None = None  # the last one, until the thread takes over its channel
        self.pending = self._pending_bytes = 0  # messages of both, whose outcome is not known
        self._room: Future[Fate] | None = None  # ends when there is room; all that wait share it
        self._thread: threading.Thread | None = None
        self._woken: ThreadQueue[None] = ThreadQueue()
        self._wake_idle = partial(self._woken.put, None)
        self._wake: Callable[[], None] | None = None  # while the thread sleeps
        self._stop = Stop()
        self._closed = False

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
                error = f"the window is full: {are_unconfirmed(self.pending)}; the message was not sent"
                raise NotConfirmed(error, advice="Wait for earlier messages, or enlarge the window.") from None

    def prepare(self, message: Message) -> Message:
        """Return the message to submit: as a hook changes it, on the thread of the caller. Raises PayloadError."""
        check(message)
        hooks = self._connection.settings.hooks
        if hooks is not None:
            message = hooks.publishing(message)
            check(message)
        return message

    def submit(self, message: Message, outcome: MessageOutcome) -> Future[Fate] | None:
        """Queue a message of `prepare`; if the window is full, return a future that ends when there is room instead.

        Raises ConnectionLost after `close`.
        """
        if self._connection.forked:  # before the lock: another thread may have held it
            raise error_mapping.forked()
        size = len(message.body)
        with self._lock:
            if self._closed:
                raise ConnectionLost("the publisher was closed")
            direct = self._direct
            if self._room is not None or not self._window.has_room(self.pending, self._pending_bytes, size):
                room = self._room = self._room or _uncancellable()
            else:
                room = None
                self.pending += 1
                self._pending_bytes += size
                self._submitted.append((message, outcome))
                if self._thread is None or self._thread.ident is None:  # a signal handler kept it from starting
                    self._thread = threading.Thread(target=self._work, name="rmqkit-publisher", daemon=True)
                    self._thread.start()
        self._wake_up()
        if direct is not None:  # a caller that waits for room calls nothing later
            direct.flush(now=self._write_now, call_soon=None if room else self.call_soon)
        return room

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until the outcome of every message queued so far is known. Raises NotConfirmed after `timeout_s`."""
        try:
            self.barrier().result(timeout_s)
        except TimeoutError:
            raise NotConfirmed(f"messages are unconfirmed after {timeout_s:g} s") from None

    def barrier(self) -> Future[Fate]:
        """Return a future that ends when the outcome of every message queued so far is known."""
        if self._connection.forked:
            raise error_mapping.forked()
        ended = _uncancellable()
        with self._lock:
            if self.pending:
                self._submitted.append((None, ended))
            else:
                ended.set_result(Fate.CONFIRMED)
        self._end_direct()
        self._wake_up()
        return ended

    def close(self, timeout_s: float | None = None) -> None:
        """Wait until the outcome of every message is known; after `timeout_s`, give up those that are unconfirmed."""
        if self._connection.forked:
            return
        with self._lock:
            self._closed, thread = True, self._thread
        if thread is None or thread.ident is None or thread is threading.current_thread():
            return
        self._end_direct()
        self._wake_up()
        thread.join(timeout_s)
        if thread.is_alive():
            self._stop.request()
            thread.join()

    def _wake_up(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            try:
                wake()
            except BaseException:  # of a signal handler: other threads rely on this wake-up
                wake()
                raise

    def _end_direct(self) -> None:
        direct = self._direct
        if direct is not None:
            direct.end()

    def _on_direct_ended(self, direct: DirectPublisher) -> None:
        with self._lock:
            self._ended, self._direct = direct, None
        self._woken.put(None)

    def _on_confirmed(self, message: Message, outcome: MessageOutcome) -> None:
        self._release(message)
        _call(outcome.set_result, Fate.CONFIRMED)

    # Called on the thread.

    def _work(self) -> None:
        with self._lock:
            if threading.current_thread() is not self._thread:  # it started late, and another took its place
                return
        while True:
            self._wake = self._wake_idle
            if self._direct is not None:
                self._watch(self._direct)
            elif self._submitted or self._ended is not None:
                self._wake = None
                try:
                    self._run()
                    self._open_direct()
                except BaseException:  # noqa: BLE001 - of on_warning: every outcome is known, and others will be submitted
                    _log.exception("publishing in the background failed")
            elif self._closed:
                return
            else:
                self._woken.get(math.inf)

    def _watch(self, direct: DirectPublisher) -> None:
        """Sleep while messages are confirmed, or there are none; end the direct channel when it seems to be stuck."""
        if self._closed:
            direct.end()
        elif not self.pending:
            self._woken.get(math.inf)
        else:
            self._wake = None
            confirms = direct.confirms
            try:
                self._woken.get(WAIT_S)
            except Empty:
                if self.pending and direct.confirms == confirms:
                    direct.end()

    def _open_direct(self) -> None:
        """From now on, bypass the thread, if the outcomes and the options permit it."""
        connection, options = self._connection, self._options
        if not self.direct or options.rate or connection.settings.hooks or connection.blocked:
            return
        if self._closed or self._submitted:
            return
        opened = self._idle_channels.take(options)
        if opened is None:
            return
        direct = DirectPublisher(
            opened,
            self._submitted,
            on_confirmed=self._on_confirmed,
            on_cancelled=self._release,
            on_ended=self._on_direct_ended,
        )
        direct.start()
        with self._lock:
            if self._ended is None and not self._submitted and not self._closed:
                self._direct = direct
                return
        direct.end()

    def _run(self) -> None:
        """Publish until nothing is submitted or unconfirmed; every outcome is known at the end."""
        ended, self._ended = self._ended, None
        taken_over = None
        if ended is not None:
            taken_over, self._sent = ended.take_over()
        publisher = Publisher(
            self._connection,
            self._options,
            idle_channels=self._idle_channels,
            stop=self._stop,
            callbacks=PublishCallbacks(None, self._on_settled, self._on_failure, self._warn),
            refuse_invalid=True,
            taken_over=taken_over,
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
        position = len(self._sent)
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
