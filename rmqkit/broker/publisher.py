"""Publishing that ends with a number for every message: confirmed, returned, nacked, refused or unknown.

Comes in: messages, from any iterable. Goes out: a PublishReport. Room: broker.

All of it runs on the caller's thread; the I/O thread only moves bytes. A window bounds what is unconfirmed, so that
memory is bounded by the window and not by the work. After a lost connection everything unconfirmed is sent again, in
order: at least once (https://www.rabbitmq.com/docs/reliability#producer).
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pika import spec

from rmqkit.broker.channel import Channel
from rmqkit.broker.frames import Confirm, Encoder, Event, Returned
from rmqkit.broker.link import FIRST_PAUSE_S, Link
from rmqkit.broker.unconfirmed import Sent, Unconfirmed
from rmqkit.errors import BrokerError, ConnectionLost, NotConfirmed, NotFound, PayloadError, Refused
from rmqkit.message import Message
from rmqkit.report import Failure, Fate, PublishReport
from rmqkit.stop import Stop

NACK_TRIES = 5
NACK_PAUSE_S = 0.2  # doubled at each try: 0.2 + 0.4 + 0.8 + 1.6 s before a message is given up
KEPT_FAILURES = 100
LOOK_EVERY = 256  # messages between two looks at what the broker answered
PROGRESS_EVERY_S = 0.1
STOP_GRACE_S = 10.0  # how long a stop waits for confirms
STOP_GRACE_BLOCKED_S = 1.0  # ... when the broker has said that it takes nothing
ISOLATE_BY = 8  # after a refusal the window shrinks by this factor until the culprit is alone in it


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How to publish.

    `window` and `window_bytes` bound what is unconfirmed, in messages and in bytes of their bodies (one message may be
    larger); `rate` is in messages a second. Without any confirm for `confirm_timeout_s`, or under an alarm of the
    broker for `blocked_timeout_s`, publishing gives up.
    """

    confirms: bool = True
    window: int = 10_000
    window_bytes: int = 16 * 1024 * 1024
    rate: float | None = None
    confirm_timeout_s: float = 60.0
    blocked_timeout_s: float = 600.0


class _GivenUp(Exception):
    """Publishing ends here; `error` is None when a stop asked for it."""

    def __init__(self, error: BrokerError | None) -> None:
        self.error = error


class Publisher:
    """One run of publishing over one link.

    `on_progress` gets the report so far about ten times a second, and at the end also when `publish` raises;
    `on_settled` gets the index, the message and the fate of every message, once.
    """

    def __init__(
        self,
        link: Link,
        options: PublishOptions,
        *,
        stop: Stop | None = None,
        on_progress: Callable[[PublishReport], None] | None = None,
        on_settled: Callable[[int, Message, Fate], None] | None = None,
    ) -> None:
        self._link = link
        self._options = options
        self._stop = stop or Stop()
        self._on_progress = on_progress
        self._on_settled = on_settled
        self._counts = dict.fromkeys(Fate, 0)
        self._published = 0
        self._republished = 0
        self._failures: list[Failure] = []
        self._queue: deque[Sent] = deque()  # to be sent now, in this order
        self._later: list[tuple[float, int, Sent]] = []  # nacked: a heap by the time of the next try
        self._missing: dict[str, str] = {}  # exchanges that are not there, and the broker's words
        self._limit = options.window
        self._unconfirmed = Unconfirmed()
        self._channel: Channel
        self._encoder: Encoder
        self._started_s = self._moved_s = self._told_s = self._stopped_s = 0.0
        self._was_blocked = False
        self._interrupted = False

    def publish(self, messages: Iterable[Message | None]) -> PublishReport:
        """Publish all messages and wait until the fate of each is known; None in the stream waits for those before it.

        An exception of the iterable is raised again after what came before it was confirmed. Raises PayloadError for a
        message AMQP cannot carry, ConnectionLost, AuthenticationFailed or NotConfirmed when it had to give up: then
        the error's `report` tells what is known.
        """
        self._started_s = self._moved_s = time.monotonic()
        error: BrokerError | None = None
        with self._stop.waking(self._wake):
            try:
                self._open(self._link.channel())
                try:
                    self._feed(() if self._stop.requested else messages)
                except _GivenUp:
                    raise
                except Exception:  # of the iterable: what came before it still counts
                    self._drain()
                    raise
                self._drain()
                self._interrupted = self._stop.requested
            except _GivenUp as given_up:
                self._give_up()
                error = given_up.error
            finally:
                self._tell(self.report)
        if error is not None:
            error.report = self.report
            raise error
        self._channel.close()
        return self.report

    @property
    def report(self) -> PublishReport:
        """Return what is known so far."""
        return PublishReport(
            published=self._published,
            republished=self._republished,
            seconds=time.monotonic() - self._started_s,
            failures=tuple(self._failures),
            confirms=self._options.confirms,
            interrupted=self._interrupted,
            **{fate.value: number for fate, number in self._counts.items()},
        )

    # The way out.

    def _feed(self, messages: Iterable[Message | None]) -> None:
        stop, queue, rate = self._stop, self._queue, self._options.rate
        for message in messages:
            if message is None:
                self._drain()
                continue
            queue.append(Sent(self._published, message))
            self._published += 1
            try:
                self._flush()
            except PayloadError:  # it was never sent
                self._published -= 1
                raise
            if self._published % LOOK_EVERY == 0:
                self._look(0)
            if rate is not None:
                self._pace(self._started_s + self._published / rate)
            if stop.requested:  # asked after the send: what was taken from the input is never dropped
                return

    def _flush(self) -> None:
        """Send all that is queued; what a reopened channel puts back comes first, so the order holds."""
        queue, unconfirmed = self._queue, self._unconfirmed
        most_bytes = self._options.window_bytes
        while queue:
            size = len(queue[0].message.body)
            in_flight = len(unconfirmed)
            if not in_flight:
                self._moved_s = time.monotonic()
            if in_flight >= self._limit or (in_flight and unconfirmed.body_bytes + size > most_bytes):
                self._make_room()
                unconfirmed = self._unconfirmed  # a new one, if the channel was reopened
                continue
            sent = queue.popleft()
            if self._missing and sent.message.exchange in self._missing:
                self._fail(sent, Fate.REFUSED, self._missing[sent.message.exchange])
                continue
            data = self._encoder.encode(sent.message)
            unconfirmed.add(sent)
            if sent.tries:
                self._republished += 1
            try:
                self._channel.send(data)
            except BrokerError as exc:
                self._reopen(exc)
                unconfirmed = self._unconfirmed

    def _make_room(self) -> None:
        if self._options.confirms:
            self._look(self._patience())
        else:
            self._fence()

    def _fence(self) -> None:
        """Without confirms: bound what is under way by a method the broker answers in turn, after the publishes."""
        try:
            self._channel.call(spec.Basic.Qos(0, 0, False), spec.Basic.QosOk, subject="publishing")  # noqa: FBT003
            self._take(self._channel.wait(0))
        except BrokerError as exc:
            self._reopen(exc)
            return
        self._moved_s = time.monotonic()
        for sent in self._unconfirmed.take_all():
            self._conclude(sent, Fate.UNKNOWN)

    def _pace(self, due_s: float) -> None:
        while not self._stop.requested:
            ahead_s = due_s - time.monotonic()
            if ahead_s <= 0:
                return
            self._look(ahead_s, may_time_out=False)

    def _drain(self) -> None:
        """Wait until the fate of everything sent is known."""
        while self._queue or self._later or len(self._unconfirmed):
            self._requeue_nacked()
            self._flush()
            if len(self._unconfirmed):
                self._make_room()
            elif self._later and not self._stop.requested:
                self._look(max(self._later[0][0] - time.monotonic(), 0.001), may_time_out=False)
            elif self._later:
                self._check_patience()

    # The way back.

    def _look(self, timeout_s: float, *, may_time_out: bool = True) -> None:
        """Take in what the broker answered, waiting so long for it."""
        try:
            events = self._channel.wait(timeout_s)
        except BrokerError as exc:
            self._reopen(exc)
            return
        if events:
            self._take(events)
        elif may_time_out and timeout_s > 0:
            self._check_patience()
        self._requeue_nacked()
        now = time.monotonic()
        if now - self._told_s >= PROGRESS_EVERY_S:
            self._told_s = now
            self._tell(self.report)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Confirm):
                self._settle(event)
            elif isinstance(event, Returned):
                self._unconfirmed.note_return(event)

    def _settle(self, confirm: Confirm) -> None:
        settled = self._unconfirmed.settle(confirm)
        if not settled:
            return
        self._moved_s = time.monotonic()
        if not confirm.ack:
            for sent in settled:
                self._nacked(sent)
        elif self._unconfirmed.returned or self._on_settled is not None:
            for sent in settled:
                self._conclude(sent, Fate.CONFIRMED)
        else:
            self._counts[Fate.CONFIRMED] += len(settled)
        if self._limit < self._options.window and not self._queue and not len(self._unconfirmed):
            self._limit = self._options.window  # what was refused once is through

    def _conclude(self, sent: Sent, fate: Fate) -> None:
        """Note a message's fate: returned if it was, else the one given."""
        reason = self._unconfirmed.returned.pop(sent.place, "")
        if reason:
            self._fail(sent, Fate.RETURNED, reason)
            return
        self._counts[fate] += 1
        if self._on_settled is not None:
            self._on_settled(sent.place, sent.message, fate)

    def _fail(self, sent: Sent, fate: Fate, reason: str) -> None:
        self._counts[fate] += 1
        if len(self._failures) < KEPT_FAILURES:
            self._failures.append(Failure(sent.place, sent.message, fate, reason))
        if self._on_settled is not None:
            self._on_settled(sent.place, sent.message, fate)

    def _nacked(self, sent: Sent) -> None:
        if sent.tries + 1 >= NACK_TRIES:
            self._fail(sent, Fate.NACKED, f"the broker refused responsibility {NACK_TRIES} times (basic.nack)")
            return
        due_s = time.monotonic() + NACK_PAUSE_S * 2**sent.tries
        heapq.heappush(self._later, (due_s, sent.place, sent._replace(tries=sent.tries + 1)))

    def _requeue_nacked(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            self._queue.append(heapq.heappop(self._later)[2])

    # When it does not go well.

    def _open(self, channel: Channel) -> None:
        if self._options.confirms:
            channel.call(spec.Confirm.Select(), spec.Confirm.SelectOk, subject="publisher confirms")
        self._channel = channel
        self._unconfirmed = Unconfirmed()
        self._encoder = Encoder(channel.number, channel.transport.frame_max)

    def _reopen(self, error: BrokerError) -> None:
        """Open a new channel, and queue what was unconfirmed on the old one, ahead of everything else, in order."""
        unsettled = []
        for sent in self._unconfirmed.take_all():
            if sent.place in self._unconfirmed.returned:
                self._conclude(sent, Fate.RETURNED)
            else:
                unsettled.append(sent)
        if isinstance(error, Refused):
            self._isolate(unsettled, error)
        self._queue.extendleft(sent._replace(tries=sent.tries + 1) for sent in reversed(unsettled))
        while True:
            try:
                channel = self._link.recover(self._stop)
            except BrokerError as exc:
                self._interrupted = self._stop.requested
                raise _GivenUp(None if self._interrupted else exc) from exc
            try:
                self._open(channel)
            except ConnectionLost:
                self._check_patience()
                self._stop.wait(FIRST_PAUSE_S)
            else:
                return

    def _isolate(self, unsettled: list[Sent], error: Refused) -> None:
        """Find the message the broker closed the channel over: alone in flight, it is the culprit."""
        if not unsettled:
            raise _GivenUp(error)
        if len(unsettled) > 1:
            self._limit = max(1, len(unsettled) // ISOLATE_BY)
            return
        culprit = unsettled.pop()
        reason = f"{error.reply_code} {error.reply_text}"
        self._fail(culprit, Fate.REFUSED, reason)
        self._moved_s = time.monotonic()
        self._limit = self._options.window
        if isinstance(error, NotFound):
            self._missing[culprit.message.exchange] = reason

    def _patience(self) -> float:
        """Return how long to wait for the next event before looking at the clocks again."""
        return 0.2 if self._stop.requested else 1.0

    def _check_patience(self) -> None:
        """Give up when nothing was settled for too long."""
        now, blocked = time.monotonic(), self._link.blocked
        if self._was_blocked and not blocked:
            self._moved_s = now
        self._was_blocked = bool(blocked)
        if self._stop.requested:
            self._interrupted = True
            self._stopped_s = self._stopped_s or now
            if now - max(self._stopped_s, self._moved_s) > (STOP_GRACE_BLOCKED_S if blocked else STOP_GRACE_S):
                raise _GivenUp(None)
        waited_s = now - self._moved_s
        if blocked and waited_s > self._options.blocked_timeout_s:
            raise _GivenUp(NotConfirmed(f"the broker has been blocking publishers for {waited_s:.0f} s: {blocked}"))
        if not blocked and waited_s > self._options.confirm_timeout_s:
            raise _GivenUp(
                NotConfirmed(
                    f"no confirm for {waited_s:.0f} s; {len(self._unconfirmed)} messages are unconfirmed",
                    advice="they may or may not be in their queues; a quorum queue confirms nothing without a majority",
                )
            )

    def _give_up(self) -> None:
        pending = [*self._unconfirmed.take_all(), *self._queue, *(sent for *_, sent in sorted(self._later))]
        for sent in sorted(pending):
            if sent.place in self._unconfirmed.returned:
                self._conclude(sent, Fate.RETURNED)
            else:
                self._fail(sent, Fate.UNKNOWN, "no answer from the broker")

    def _wake(self) -> None:
        channel: Channel | None = getattr(self, "_channel", None)
        if channel is not None:
            channel.wake()

    def _tell(self, report: PublishReport) -> None:
        if self._on_progress is not None:
            self._on_progress(report)
