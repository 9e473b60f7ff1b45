"""Publish messages and report the fate of each: confirmed, returned, nacked, refused or unknown.

All of it runs on the caller's thread; the I/O thread only moves bytes. A window bounds the unconfirmed messages, and so
the memory. After a lost connection all unconfirmed messages are sent again, in order: at least once
(https://www.rabbitmq.com/docs/reliability#producer).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import LARGE_BODY_BYTES, Confirm, Encoder, Event, QosOk, Returned, encode_qos
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import BrokerError, ConnectionLost, NotConfirmed, NotFound, PayloadError, Refused
from rmqkit.message import Message
from rmqkit.messaging.publish_channel import IdleChannels, PublishChannel
from rmqkit.messaging.publish_counts import NOTHING_YET, HookWatch, PublishCallbacks, PublishCounts, check
from rmqkit.messaging.publish_window import (
    TRIES,
    ConfirmDeadline,
    GivenUp,
    PublishWindow,
    RetryQueue,
    StoppedWaiting,
    unconfirmed,
)
from rmqkit.messaging.unconfirmed import Sent, Unconfirmed
from rmqkit.options import PublishOptions
from rmqkit.report import Fate, PublishReport
from rmqkit.stop import Stop

RECEIVE_EVERY = 256  # messages between two checks for the broker's answers
PROGRESS_EVERY_S = 0.1
WAIT_S, WAIT_STOPPING_S = 1.0, 0.2  # between two checks of the clocks
FRESH_S = 0.5  # nacked messages are sent on a channel that is not older
HARD = 500  # from this reply code on, no operator closed the connection (AMQP 0-9-1 section 1.8)
_NACKED = (
    f"the broker rejected the message (queue full or unavailable); retrying up to {TRIES - 1} times:"
    " any other queue that it is routed to receives it again"
)


class Publisher:
    """One run of publishing over one connection."""

    def __init__(
        self,
        connection: ReconnectingConnection,
        options: PublishOptions,
        *,
        idle_channels: IdleChannels | None = None,
        stop: Stop | None = None,
        timeout_s: float | None = None,
        callbacks: PublishCallbacks = PublishCallbacks(),  # noqa: B008 - it has no state
        refuse_invalid: bool = False,
        taken_over: PublishChannel | None = None,
    ) -> None:
        self._connection = connection
        self._options = options
        self._idle_channels = IdleChannels() if idle_channels is None else idle_channels
        self._stop = stop or Stop()
        self._timeout_s = timeout_s
        self._end_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._on_progress = callbacks.on_progress
        self._warn = callbacks.on_warning
        self._warned: set[str] = set()
        hooks = connection.settings.hooks
        self._watch = HookWatch(hooks, callbacks.on_settled) if hooks is not None else None
        on_settled = callbacks.on_settled if self._watch is None else self._watch.settle
        self._counts = PublishCounts(confirms=options.confirms, on_settled=on_settled, on_failure=callbacks.on_failure)
        self._deadline = ConfirmDeadline(options, connection.settings.blocked_timeout_s)
        self._queue: deque[Sent] = deque()  # to be sent now, in this order
        self._retries: RetryQueue[Sent] = RetryQueue()  # nacked, to be sent again after a pause
        self._missing: dict[str, NotFound] = {}  # exchanges that do not exist, and the broker's reply
        self._window = PublishWindow(options.window, options.window_bytes)
        self._opened: PublishChannel  # and three of its parts, at hand
        self._unconfirmed: Unconfirmed[Sent]
        self._channel: Channel
        self._encoder: Encoder
        self._reported_s = 0.0
        self._refuse_invalid = refuse_invalid  # a message that AMQP cannot carry is a failure, not the end of the run
        self._stale = False  # the next message to be sent was nacked on this channel
        self._looking: Stop | None = None  # ends a recovery on the thread that looks
        self._taken_over = taken_over  # a channel with unconfirmed messages: the first of this run

    def publish(self, messages: Iterable[Message | None]) -> PublishReport:
        """Publish all messages and wait until the fate of each is known; a None waits for those before it.

        An exception of the iterable is raised again after the messages before it were confirmed. Raises PayloadError
        for a message AMQP cannot carry, ConnectionLost, AuthenticationFailed or NotConfirmed when it had to give up:
        then the error's `report` has the numbers.
        """
        if opened := self._taken_over or self._idle_channels.take(self._options):
            self._use(opened)
            self._counts.published = len(opened.unconfirmed)
        else:
            self._connection.recover(self._stop, self._open, deadline_s=self._end_s)
        try:
            with self._stop.waking(self.wake):
                self._run(messages)
            self._idle_channels.add(self._opened, self._options)
        except GivenUp as given_up:
            self._give_up(given_up.error, drop_connection=given_up.stuck)
            if given_up.error is not None:
                given_up.error.report = self._counts.report
                raise given_up.error from None
        except BaseException as exc:  # of the iterable, after the messages before it are settled; or of a signal
            self._give_up(interrupted=not isinstance(exc, Exception))
            raise
        finally:
            self._report_progress()
        return self._counts.report

    def _report_progress(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._counts.report)

    def wake(self) -> None:
        """End a wait for the broker early; any thread may call this during a run."""
        self._channel.wake()  # whichever it is by then

    def look(self, ended: Stop) -> None:
        """Process the broker's answers, and republish messages as needed, without waiting for room in the window.

        For another thread, while the iterable waits for its next message; `ended` ends a recovery early.
        """
        self._looking = ended
        try:
            with self._stop.waking(ended.request):
                self._receive(0)
                self._flush(wait=False)
        finally:
            self._looking = None

    def _run(self, messages: Iterable[Message | None]) -> None:
        if self._watch is not None:
            messages = self._watch.watch(messages)
        try:
            self._feed(() if self._stop.requested else messages)
        except GivenUp:
            raise
        except Exception:
            self._drain()
            raise
        self._drain()
        self._counts.interrupted = self._stop.requested

    def _feed(self, messages: Iterable[Message | None]) -> None:
        stop, queue, counts, rate = self._stop, self._queue, self._counts, self._options.rate
        started_s = time.monotonic()
        for message in messages:
            if message is None:
                self._drain()
                continue
            if message is NOTHING_YET:
                self._flush()
                self._make_room()
                continue
            if type(message) is not Message or type(message.body) is not bytes:
                check(message)
            queue.append(Sent(counts.published, message, len(message.body)))
            counts.published += 1
            try:
                self._flush()
            except PayloadError:  # it was never sent
                counts.published -= 1
                if self._watch is not None:
                    self._watch.refuse(counts.published, message)
                raise
            if counts.published % RECEIVE_EVERY == 0:
                self._receive(0)
            if rate is not None:
                self._pace(started_s + counts.published / rate)
            if stop.requested:  # checked after the send: a message that was taken from the input is never dropped
                return

    def _flush(self, *, wait: bool = True) -> None:
        """Send all queued messages; those that a reopened channel puts back are first, so the order holds."""
        queue, unconfirmed = self._queue, self._unconfirmed
        while queue:
            in_flight = len(unconfirmed)
            if not in_flight:
                self._deadline.restart()
            if not self._has_room(in_flight, queue[0].body_bytes):
                if not wait:
                    return
                self._make_room()
                unconfirmed = self._unconfirmed  # a new one, if the channel was reopened
                continue
            if self._stale:
                self._renew()
                unconfirmed = self._unconfirmed
            sent = queue.popleft()
            if self._missing and sent.message.exchange in self._missing:
                self._refuse(sent, self._missing[sent.message.exchange])
                continue
            try:
                large = in_flight and sent.body_bytes >= LARGE_BODY_BYTES
                encode = self._encoder.encode_pieces if large else self._encoder.encode
                data = encode(sent.message)
            except PayloadError as exc:
                if not self._refuse_invalid:
                    raise
                self._counts.fail(sent, Fate.REFUSED, exc.message, exc)
                continue
            unconfirmed.add(sent)
            if sent.tries:
                self._counts.republished += 1
            try:
                self._channel.send(data, now=not in_flight)
            except BrokerError as exc:
                self._reopen(exc)
                unconfirmed = self._unconfirmed

    def _has_room(self, in_flight: int, size: int) -> bool:
        """Tell whether a body of this size may be sent; messages that wait for another try take room too."""
        if self._stale and in_flight:
            return False
        retries = self._retries
        pending_bytes = self._unconfirmed.body_bytes + retries.body_bytes
        return self._window.has_room(in_flight + len(retries), pending_bytes, size)

    def _make_room(self) -> None:
        if not self._options.confirms and len(self._unconfirmed):
            self._fence()
            return
        timeout_s = WAIT_STOPPING_S if self._stop.requested else WAIT_S
        left_s = min(self._retries.due_in_s(), self._end_s - time.monotonic())
        self._receive(min(timeout_s, max(left_s, 0.001)))

    def _fence(self) -> None:
        """Without confirms, bound the messages in flight by a method that the broker answers in turn, after them."""
        answered = False
        try:
            self._channel.send(encode_qos(self._channel.number))
            while not answered:
                events = self._channel.wait(WAIT_STOPPING_S if self._stop.requested else WAIT_S)
                self._process(events)
                answered = any(isinstance(event, QosOk) for event in events)
                if not events:
                    self._check_deadline()
        except BrokerError as exc:
            self._reopen(exc)
        else:
            self._deadline.restart()
            self._counts.settle(self._unconfirmed.take_all(), Fate.UNKNOWN, self._unconfirmed.returned)

    def _pace(self, due_s: float) -> None:
        while not self._stop.requested and (ahead_s := due_s - time.monotonic()) > 0:
            self._receive(ahead_s)

    def _drain(self) -> None:
        while self._queue or len(self._retries) or len(self._unconfirmed):
            self._flush()
            if len(self._retries) or len(self._unconfirmed):
                self._make_room()

    def _receive(self, timeout_s: float) -> None:
        try:
            events = self._channel.wait(timeout_s)
        except BrokerError as exc:
            self._reopen(exc)
            return
        if events:
            self._process(events)
        elif timeout_s > 0:
            self._check_deadline()
        if due := self._retries.take_due():
            self._queue.extend(due)
            self._stale = time.monotonic() - self._opened.opened_s > FRESH_S
        now = time.monotonic()
        if now >= self._end_s and (number := len(self._unconfirmed) + len(self._queue) + len(self._retries)):
            raise GivenUp(unconfirmed(number, self._timeout_s or 0.0, self._connection.blocked))
        if now - self._reported_s >= PROGRESS_EVERY_S:
            self._reported_s = now
            self._report_progress()

    def _process(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Confirm):
                self._settle(event)
            elif isinstance(event, Returned):
                self._unconfirmed.note_return(event)

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)

    def _settle(self, confirm: Confirm) -> None:
        settled = self._unconfirmed.settle(confirm)
        if settled:
            self._deadline.restart()
        else:
            self._warn_once("the broker confirmed a message that was already confirmed or never sent")
        if confirm.ack:
            self._counts.settle(settled, Fate.CONFIRMED, self._unconfirmed.returned)
        elif settled:
            self._warn_once(_NACKED)
            for sent in settled:
                if not self._retries.add(sent):
                    self._counts.fail(sent, Fate.NACKED, f"rejected {TRIES} times (basic.nack)")
        self._window.grow(len(settled))

    # Failures.

    def _open(self, channel: Channel) -> None:
        self._use(PublishChannel.prepare(channel, self._options))

    def _use(self, opened: PublishChannel) -> None:
        self._opened, self._stale = opened, False
        self._channel, self._encoder, self._unconfirmed = opened.channel, opened.encoder, opened.unconfirmed
        self._channel.stop = self._stop

    def _reopen(self, error: BrokerError) -> None:
        """Open a new channel, and queue the unconfirmed messages of the old one ahead of all others, in order."""
        returned, in_flight = self._unconfirmed.returned, self._unconfirmed.take_all()
        self._counts.settle([sent for sent in in_flight if sent.position in returned], Fate.RETURNED, returned.copy())
        unsettled = [sent for sent in in_flight if sent.position not in returned]
        done = ""
        if isinstance(error, Refused) or (isinstance(error, ConnectionLost) and unsettled and error.reply_code >= HARD):
            self._isolate(unsettled, error)
        else:
            self._window.reopen(len(unsettled))
            if not self._connection.is_closed:
                self._warn(f"{error}; reconnecting to resend {len(unsettled)} unconfirmed messages")
            done = "reconnected: publishing again"
        self._queue.extendleft(sent._replace(tries=sent.tries + 1) for sent in reversed(unsettled))
        self._recover()
        if done:
            self._warn(done)

    def _renew(self) -> None:
        """Open a new channel, with nothing unconfirmed on the old one.

        In RabbitMQ 3.10, a channel that first published to a quorum queue while its leader was dying nacks forever.
        """
        self._channel.close()
        self._recover()

    def _recover(self) -> None:
        try:
            self._connection.recover(self._looking or self._stop, self._open, deadline_s=self._end_s)
        except BrokerError as exc:
            raise GivenUp(None if self._stop.requested else exc) from exc

    def _isolate(self, unsettled: list[Sent], error: Refused | ConnectionLost) -> None:
        """Find the message for which the broker closed the channel, or broke: the only one in flight."""
        if not unsettled:
            raise GivenUp(error)
        if len(unsettled) > 1:
            self._window.shrink(len(unsettled))
            return
        if isinstance(error, ConnectionLost) and unsettled[0].tries < TRIES:
            return  # the cause may lie in the broker
        culprit = unsettled.pop()
        self._refuse(culprit, error)
        self._deadline.restart()
        if isinstance(error, NotFound):
            self._missing[culprit.message.exchange] = error

    def _refuse(self, sent: Sent, error: Refused | ConnectionLost) -> None:
        self._counts.fail(sent, Fate.REFUSED, f"{error.reply_code} {error.reply_text}", error)

    def _check_deadline(self) -> None:
        unconfirmed = len(self._unconfirmed)
        if not unconfirmed:
            self._deadline.restart()  # only a retry is due, later
        try:
            self._deadline.check(
                blocked=self._connection.blocked, stopping=self._stop.requested, waiting_for=unconfirmed
            )
        except (StoppedWaiting, NotConfirmed) as exc:
            raise GivenUp(exc if isinstance(exc, NotConfirmed) else None, stuck=True) from exc

    def _give_up(
        self, error: BrokerError | None = None, *, drop_connection: bool = False, interrupted: bool = False
    ) -> None:
        """Count all unsettled messages as unknown, and close the channel that they are on.

        Dropping the connection keeps unwritten messages from being sent later; but other threads may use it.
        """
        returned = self._unconfirmed.returned
        pending = [*self._unconfirmed.take_all(), *self._queue, *self._retries.take_all()]
        if pending and (drop_connection or self._connection.blocked):
            self._connection.reset()
        if pending or interrupted:
            self._channel.abandon()
        else:
            self._idle_channels.add(self._opened, self._options)
        for sent in sorted(pending):
            if reason := returned.pop(sent.position, ""):
                self._counts.fail(sent, Fate.RETURNED, reason)
            else:
                self._counts.fail(sent, Fate.UNKNOWN, "no answer from the broker", error)
        self._counts.balance()
        self._counts.interrupted = self._stop.requested
