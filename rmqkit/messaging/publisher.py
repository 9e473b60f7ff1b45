"""Publishing that ends with a number for every message: confirmed, returned, nacked, refused or unknown.

All of it runs on the caller's thread; the I/O thread only moves bytes. A window bounds what is unconfirmed, so that
memory is bounded by the window and not by the work. After a lost connection everything unconfirmed is sent again, in
order: at least once (https://www.rabbitmq.com/docs/reliability#producer).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import Confirm, Encoder, Event, QosOk, Returned, encode_qos
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.errors import BrokerError, ConnectionLost, NotConfirmed, NotFound, PayloadError, Refused, Unroutable
from rmqkit.message import Message
from rmqkit.messaging.publish_window import TRIES, ConfirmDeadline, PublishWindow, RetryQueue, StoppedWaiting
from rmqkit.messaging.unconfirmed import Sent, Unconfirmed
from rmqkit.model import Target
from rmqkit.options import PublishOptions
from rmqkit.report import Failure, Fate, PublishReport
from rmqkit.stop import Stop

KEPT_FAILURES = 100

OnSettled = Callable[[int, Message, Fate], None]


class PublishCounts:
    """The numbers of one run of publishing; `on_settled` hears of every message once."""

    def __init__(self, *, confirms: bool, on_settled: OnSettled | None = None) -> None:
        self.published = 0
        self.republished = 0
        self.interrupted = False
        self._confirms = confirms
        self._on_settled = on_settled
        self._counts = dict.fromkeys(Fate, 0)
        self._failures: list[Failure] = []
        self._started_s = time.monotonic()

    @property
    def report(self) -> PublishReport:
        """Return what is known so far."""
        return PublishReport(
            published=self.published,
            republished=self.republished,
            seconds=time.monotonic() - self._started_s,
            failures=tuple(self._failures),
            confirms=self._confirms,
            interrupted=self.interrupted,
            **{fate.value: number for fate, number in self._counts.items()},
        )

    def settle(self, settled: list[Sent], fate: Fate, returned: dict[int, str]) -> None:
        """Note the fate of messages, except that those in `returned`, by place, were returned; they leave it."""
        if not returned and self._on_settled is None:
            self._counts[fate] += len(settled)
            return
        for sent in settled:
            reason = returned.pop(sent.place, "")
            if reason:
                self.fail(sent, Fate.RETURNED, reason)
            else:
                self._note(sent, fate)

    def fail(self, sent: Sent, fate: Fate, reason: str) -> None:
        """Note a message that is not where it was sent, and why."""
        if len(self._failures) < KEPT_FAILURES:
            self._failures.append(Failure(sent.place, sent.message, fate, reason))
        self._note(sent, fate)

    def balance(self) -> None:
        """Call unknown what an exception from a signal handler caught on its way from one place to another."""
        self._counts[Fate.UNKNOWN] += self.published - sum(self._counts.values())

    def _note(self, sent: Sent, fate: Fate) -> None:
        self._counts[fate] += 1
        if self._on_settled is not None:
            self._on_settled(sent.place, sent.message, fate)


def of_run(report: PublishReport) -> NotConfirmed | Unroutable | None:
    """Return what makes a run a failure; that a message had no reader behind its exchange does not."""
    unknown = report.unknown if report.confirms else 0
    error: NotConfirmed | Unroutable | None = None
    returned = (each.message for each in report.failures if each.fate is Fate.RETURNED)
    absent = sorted({each.routing_key for each in returned if not each.exchange})
    if failed := report.nacked + report.refused + unknown:
        reasons = {failure.reason for failure in report.failures if failure.fate is not Fate.RETURNED}
        error = NotConfirmed(
            f"{failed} of {report.published} messages were not confirmed: {'; '.join(sorted(reasons))}"
        )
    elif absent:
        error = Unroutable(
            f"{report.returned} of {report.published} messages reached no queue: there is no queue {absent[0]!r}",
            advice="Declare it first: `connection.apply(topology)`, or `rmqkit apply FILE`.",
        )
    if error:
        error.report = report
    return error


def of_copies(report: PublishReport, what: str, advice: str) -> NotConfirmed | Unroutable | None:
    """Return what is wrong with the first copy that was not taken; `what` begins the sentence.

    One that a stop left without an answer is all right. The advice is for one that reached no queue.
    """
    for each in report.failures:
        where = f"{what} to {Target(each.message.exchange, each.message.routing_key)}"
        if each.fate is Fate.RETURNED:
            return Unroutable(f"{where}: it reached no queue", advice=advice)
        if each.fate is not Fate.UNKNOWN or not report.interrupted:
            return NotConfirmed(f"{where}: {each.reason}", advice="It is in its own queue still.")
    return None


LOOK_EVERY = 256  # messages between two looks at what the broker answered
PROGRESS_EVERY_S = 0.1
WAIT_S, WAIT_STOPPING_S = 1.0, 0.2  # between two looks at the clocks
FRESH_S = 0.5  # what was nacked goes out on a channel that is not older
HARD = 500  # from this reply code on, it is not an operator who closes a connection (AMQP 0-9-1 section 1.8)
_NACKED = (
    f"basic.nack: a queue is full, or takes no responsibility; its messages are sent again, {TRIES - 1} times at most,"
    " and every other queue that they are routed to gets them again"
)


class _GivenUp(Exception):
    """Publishing ends here; `error` is None when a stop asked for it."""

    def __init__(self, error: BrokerError | None) -> None:
        self.error = error


class Publisher:
    """One run of publishing over one link; the callbacks are explained at `Connection.publish`."""

    def __init__(
        self,
        link: ReconnectingConnection,
        options: PublishOptions,
        *,
        stop: Stop | None = None,
        on_progress: Callable[[PublishReport], None] | None = None,
        on_settled: OnSettled | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self._link = link
        self._options = options
        self._stop = stop or Stop()
        self._tell = on_progress or (lambda _: None)
        self._warn = on_warning or (lambda _: None)
        self._warn_once = cache(self._warn)
        self._tally = PublishCounts(confirms=options.confirms, on_settled=on_settled)
        self._patience = ConfirmDeadline(options)
        self._queue: deque[Sent] = deque()  # to be sent now, in this order
        self._postponed = RetryQueue()  # nacked: to be sent again after a pause
        self._missing: dict[str, str] = {}  # exchanges that are not there, and the broker's words
        self._window = PublishWindow(options.window, options.window_bytes)
        self._unconfirmed = Unconfirmed()
        self._channel: Channel
        self._encoder: Encoder
        self._told_s = self._opened_s = 0.0
        self._stale = False  # what is to be sent next was nacked

    def publish(self, messages: Iterable[Message | None]) -> PublishReport:
        """Publish all messages and wait until the fate of each is known; None in the stream waits for those before it.

        An exception of the iterable is raised again after what came before it was confirmed. Raises PayloadError for a
        message AMQP cannot carry, ConnectionLost, AuthenticationFailed or NotConfirmed when it had to give up: then
        the error's `report` tells what is known.
        """
        self._link.recover(self._stop, self._open)
        try:
            with self._stop.waking(self._wake):
                self._run(messages)
        except _GivenUp as given_up:
            self._give_up()
            if given_up.error is not None:
                given_up.error.report = self._tally.report
                raise given_up.error from None
        except BaseException:  # of the iterable, after what came before it is settled; or a signal that cannot wait
            self._give_up()
            raise
        finally:
            self._channel.close()
            self._tell(self._tally.report)
        return self._tally.report

    def _wake(self) -> None:
        self._channel.wake()  # whichever it is by then

    def _run(self, messages: Iterable[Message | None]) -> None:
        try:
            self._feed(() if self._stop.requested else messages)
        except _GivenUp:
            raise
        except Exception:
            self._drain()
            raise
        self._drain()
        self._tally.interrupted = self._stop.requested

    # The way out.

    def _feed(self, messages: Iterable[Message | None]) -> None:
        stop, queue, tally, rate = self._stop, self._queue, self._tally, self._options.rate
        started_s = time.monotonic()
        for message in messages:
            if message is None:
                self._drain()
                continue
            if not isinstance(message.body, bytes):
                raise PayloadError(f"a body has to be bytes, not {type(message.body).__name__}")
            queue.append(Sent(tally.published, message))
            tally.published += 1
            try:
                self._flush()
            except PayloadError:  # it was never sent
                tally.published -= 1
                raise
            if tally.published % LOOK_EVERY == 0:
                self._look(0)
            if rate is not None:
                self._pace(started_s + tally.published / rate)
            if stop.requested:  # asked after the send: what was taken from the input is never dropped
                return

    def _flush(self) -> None:
        """Send all that is queued; what a reopened channel puts back comes first, so the order holds."""
        queue, unconfirmed = self._queue, self._unconfirmed
        while queue:
            if not len(unconfirmed):
                self._patience.moved()
            if not self._has_room(len(queue[0].message.body)):
                self._make_room()
                unconfirmed = self._unconfirmed  # a new one, if the channel was reopened
                continue
            if self._stale:
                self._renew()
                unconfirmed = self._unconfirmed
            sent = queue.popleft()
            if self._missing and sent.message.exchange in self._missing:
                self._tally.fail(sent, Fate.REFUSED, self._missing[sent.message.exchange])
                continue
            data = self._encoder.encode(sent.message)
            unconfirmed.add(sent)
            if sent.tries:
                self._tally.republished += 1
            try:
                self._channel.send(data)
            except BrokerError as exc:
                self._reopen(exc)
                unconfirmed = self._unconfirmed

    def _has_room(self, size: int) -> bool:
        """Tell whether a body of that size may be sent; what waits for another try takes room too."""
        unconfirmed, postponed = self._unconfirmed, self._postponed
        if self._stale and len(unconfirmed):
            return False
        pending_bytes = unconfirmed.body_bytes + postponed.body_bytes
        return self._window.has_room(len(unconfirmed) + len(postponed), pending_bytes, size)

    def _make_room(self) -> None:
        if not self._options.confirms and len(self._unconfirmed):
            self._fence()
            return
        timeout_s = WAIT_STOPPING_S if self._stop.requested else WAIT_S
        self._look(min(timeout_s, max(self._postponed.due_in_s(), 0.001)))

    def _fence(self) -> None:
        """Without confirms: bound what is under way by a method the broker answers in turn, after the publishes."""
        answered = False
        try:
            self._channel.send(encode_qos(self._channel.number))
            while not answered:
                events = self._channel.wait(WAIT_STOPPING_S if self._stop.requested else WAIT_S)
                self._take(events)
                answered = any(isinstance(event, QosOk) for event in events)
                if not events:
                    self._check_patience()
        except BrokerError as exc:
            self._reopen(exc)
        else:
            self._patience.moved()
            self._tally.settle(self._unconfirmed.take_all(), Fate.UNKNOWN, self._unconfirmed.returned)

    def _pace(self, due_s: float) -> None:
        while not self._stop.requested and (ahead_s := due_s - time.monotonic()) > 0:
            self._look(ahead_s)

    def _drain(self) -> None:
        """Wait until the fate of everything sent is known."""
        while self._queue or len(self._postponed) or len(self._unconfirmed):
            self._flush()
            if len(self._postponed) or len(self._unconfirmed):
                self._make_room()

    # The way back.

    def _look(self, timeout_s: float) -> None:
        """Take in what the broker answered, waiting so long for it."""
        try:
            events = self._channel.wait(timeout_s)
        except BrokerError as exc:
            self._reopen(exc)
            return
        if events:
            self._take(events)
        elif timeout_s > 0:
            self._check_patience()
        if due := self._postponed.take_due():
            self._queue.extend(due)
            self._stale = time.monotonic() - self._opened_s > FRESH_S
        now = time.monotonic()
        if now - self._told_s >= PROGRESS_EVERY_S:
            self._told_s = now
            self._tell(self._tally.report)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Confirm):
                self._settle(event)
            elif isinstance(event, Returned):
                self._unconfirmed.note_return(event)

    def _settle(self, confirm: Confirm) -> None:
        settled = self._unconfirmed.settle(confirm)
        if settled:
            self._patience.moved()
        else:
            self._warn_once("the broker confirmed a message that has its confirm already, or was never sent")
        if confirm.ack:
            self._tally.settle(settled, Fate.CONFIRMED, self._unconfirmed.returned)
        elif settled:
            self._warn_once(_NACKED)
            for sent in settled:
                if not self._postponed.add(sent):
                    self._tally.fail(sent, Fate.NACKED, f"basic.nack, {TRIES} times: no responsibility taken")
        self._window.grow(len(settled))

    # When it does not go well.

    def _open(self, channel: Channel) -> None:
        if self._options.confirms:
            channel.confirm_select()
        self._channel, self._opened_s, self._stale = channel, time.monotonic(), False
        self._unconfirmed = Unconfirmed()
        self._encoder = Encoder(channel.number, channel.transport.frame_max)

    def _reopen(self, error: BrokerError) -> None:
        """Open a new channel, and queue what was unconfirmed on the old one, ahead of everything else, in order."""
        returned, in_flight = self._unconfirmed.returned, self._unconfirmed.take_all()
        self._tally.settle([sent for sent in in_flight if sent.place in returned], Fate.RETURNED, returned.copy())
        unsettled = [sent for sent in in_flight if sent.place not in returned]
        if isinstance(error, Refused) or (isinstance(error, ConnectionLost) and unsettled and error.reply_code >= HARD):
            self._isolate(unsettled, error)
        else:
            self._window.begin_again(len(unsettled))
            self._warn(f"{error}; connecting again, {len(unsettled)} unconfirmed messages will be sent again")
        self._queue.extendleft(sent._replace(tries=sent.tries + 1) for sent in reversed(unsettled))
        self._recover()

    def _renew(self) -> None:
        """Open a new channel, with nothing unconfirmed on the old one.

        One of RabbitMQ 3.10 that first published to a quorum queue while its leader was dying nacks for ever.
        """
        self._channel.close()
        self._recover()

    def _recover(self) -> None:
        try:
            self._link.recover(self._stop, self._open)
        except BrokerError as exc:
            raise _GivenUp(None if self._stop.requested else exc) from exc

    def _isolate(self, unsettled: list[Sent], error: Refused | ConnectionLost) -> None:
        """Find the message the broker closed the channel over, or broke at: alone in flight, it is the culprit."""
        if not unsettled:
            raise _GivenUp(error)
        if len(unsettled) > 1:
            self._window.shrink(len(unsettled))
            return
        if isinstance(error, ConnectionLost) and unsettled[0].tries < TRIES:
            return  # it may have been the broker's own trouble
        culprit = unsettled.pop()
        reason = f"{error.reply_code} {error.reply_text}"
        self._tally.fail(culprit, Fate.REFUSED, reason)
        self._patience.moved()
        if isinstance(error, NotFound):
            self._missing[culprit.message.exchange] = reason

    def _check_patience(self) -> None:
        unconfirmed = len(self._unconfirmed)
        if not unconfirmed:
            self._patience.moved()  # there is nothing to wait for but our own clock
        try:
            self._patience.check(blocked=self._link.blocked, stopping=self._stop.requested, waiting_for=unconfirmed)
        except (StoppedWaiting, NotConfirmed) as exc:
            raise _GivenUp(exc if isinstance(exc, NotConfirmed) else None) from exc

    def _give_up(self) -> None:
        """Call everything unknown that was not settled; the connection goes, lest it be sent after that was said."""
        returned = self._unconfirmed.returned
        pending = [*self._unconfirmed.take_all(), *self._queue, *self._postponed.take_all()]
        if pending:
            self._link.reset()
        for sent in sorted(pending):
            why = returned.pop(sent.place, "")
            self._tally.fail(sent, Fate.RETURNED if why else Fate.UNKNOWN, why or "no answer from the broker")
        self._tally.balance()
        self._tally.interrupted = self._stop.requested
