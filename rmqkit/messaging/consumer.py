"""Consuming that acknowledges nothing before it was handled, and goes on after the broker was gone.

All of it runs on the caller's thread. After a lost connection the consumer subscribes again; what was not acknowledged
comes again, marked redelivered, and acknowledging an old delivery does nothing: at least once
(https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Self

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import ConsumerCancel, Event
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.errors import ConnectionLost, ConsumerCancelled, NotFound, PropertyMismatch
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.acknowledger import Acknowledger
from rmqkit.options import ConsumeOptions, Offset
from rmqkit.report import ConsumeReport
from rmqkit.stop import Stop

_HEADER = "x-stream-offset"


class OffsetTracker:
    """The offset from which a consumer goes on after a lost connection: that of the first delivery not settled."""

    def __init__(self, offset: Offset | None) -> None:
        self._next = offset
        self._unsettled: deque[tuple[int, int]] = deque()  # delivery tags and their offsets
        self._ordinary = False  # a queue whose deliveries have no offset

    def take(self, deliveries: Sequence[Delivery], low: int) -> None:
        """Note deliveries of the current channel; every delivery tag below `low` is settled."""
        if self._ordinary or not deliveries:
            return
        self._ordinary = _HEADER not in (deliveries[0].properties.headers or {})
        if not self._ordinary:
            self._forget(low)
            self._unsettled.extend((each.delivery_tag, (each.properties.headers or {})[_HEADER]) for each in deliveries)

    def arguments(self, low: int) -> dict[str, Offset]:
        """Return the arguments of the next subscription, when every delivery tag below `low` of this one is settled."""
        self._forget(low)
        if self._unsettled:
            self._next = self._unsettled[0][1]
        self._unsettled.clear()
        return {} if self._next is None else {_HEADER: self._next}

    def _forget(self, low: int) -> None:
        while self._unsettled and self._unsettled[0][0] < low:
            self._next = self._unsettled.popleft()[1] + 1


ACK_WITHIN_S = 0.02  # iterating, an acknowledgement waits this long at most for others to go with it
ACK_TOGETHER = 200
_WAIT_S = 0.5  # an endless wait, in slices: a signal that comes just before a wait does not end it


class Consumer:
    """A consumer of one queue, used from one thread.

    Iterating acknowledges each delivery once the next is asked for; one that ended the loop by `break` or by an
    exception is not acknowledged, unless it was settled by hand. Ends by count, idle time, or a requested stop.
    `on_warning` hears, in a sentence, of what went wrong and is recovered from. `open_queue` declares a queue that is
    gone with its connection, on each connection anew, and returns its name.
    """

    def __init__(
        self,
        link: ReconnectingConnection,
        queue: str,
        options: ConsumeOptions,
        *,
        stop: Stop | None = None,
        on_warning: Callable[[str], None] | None = None,
        open_queue: Callable[[Channel], str] | None = None,
    ) -> None:
        self.queue = queue
        self.tag = ""
        self._link = link
        self._options = options
        self._open_queue = open_queue
        self._position = OffsetTracker(options.offset)
        self._manual = not options.no_ack or options.count is not None or options.offset is not None
        self._stop = stop or Stop()
        self._channel: Channel | None = None
        self._settlement = Acknowledger(None)
        self._woken = False
        self._cancelled_at = -1  # how much had come when the broker cancelled us last
        self._report = ConsumeReport()
        self._started_s = time.monotonic()
        self._last_s = self._started_s  # when the last delivery came, or the last subscription was made
        self._events: deque[Event] = deque()  # that came together; what is left is there for the next call
        self._left: deque[Delivery] = deque()  # likewise of a batch
        self._warn = on_warning or (lambda _: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def report(self) -> ConsumeReport:
        """Return what was done so far."""
        return replace(self._report, seconds=time.monotonic() - self._started_s)

    def subscribe(self) -> None:
        """Start consuming now, and not at the first delivery asked for.

        Raises NotFound if there is no such queue, AccessRefused, ResourceLocked, ConnectionLost.
        """
        if self._channel is None:
            self._link.recover(self._stop, self._subscribe)

    def __iter__(self) -> Iterator[Delivery]:
        done: list[Delivery] = []
        done_since_s = 0.0
        try:
            for batch in chain((list(self._left),), self.batches()):
                self._left = left = deque(batch)
                while left and not self._stop.requested:  # else the rest goes back to the queue
                    delivery = left.popleft()
                    yield delivery
                    now = time.monotonic()
                    done_since_s = done_since_s if done else now
                    done.append(delivery)
                    if now - done_since_s >= ACK_WITHIN_S or len(done) >= ACK_TOGETHER:
                        self.settle(done, Verdict.ACK)
                        done = []
                self.settle(done, Verdict.ACK)
                done = []
            self.close()  # nobody is left to take what the broker would send ahead
        finally:
            self.settle(done, Verdict.ACK)

    def batches(self, *, busy: Callable[[], bool] = lambda: False) -> Iterator[list[Delivery]]:
        """Yield deliveries in the lots they arrive in, each to be settled by the caller; after a `wake` an empty one.

        While the caller is `busy` with earlier ones, the time is not idle. Raises ConsumerCancelled when the broker
        ends the consumer, NotFound, AccessRefused, ResourceLocked, ConnectionLost when the connection cannot be
        recovered.
        """
        self.subscribe()
        idle_s = self._options.idle_timeout_s
        self._last_s = time.monotonic()
        with self._stop.waking(self._end_wait):
            while not self._stop.requested and self._report.consumed != self._options.count:
                self._settlement.give_back_due()
                if self._woken:
                    self._woken = False
                    yield []
                    self._last_s = time.monotonic()
                    continue
                if busy():
                    self._last_s = time.monotonic()
                left_s = _WAIT_S if idle_s is None else self._last_s + idle_s - time.monotonic()
                if left_s <= 0:
                    return
                for batch in self._receive(min(left_s, _WAIT_S, self._settlement.due_in_s)):
                    wanted = self._cut(batch)
                    if wanted:
                        yield wanted
                    self._last_s = time.monotonic()

    @property
    def frame_max(self) -> int:
        """Return how large a frame may be on the way to this broker, in bytes; 0 before subscribing."""
        return self._channel.transport.frame_max if self._channel is not None else 0

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing has come that was not yielded yet."""
        channel = self._channel
        return not (self._events or self._left) and (channel is None or channel.inbox.empty())

    def settle(self, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        """Acknowledge, reject or requeue deliveries; what was settled before, or came from a lost channel, is skipped.

        A rejected message goes to the queue's dead-letter exchange, or is dropped where there is none. One that is
        requeued again, having been redelivered, goes back after a pause, which grows up to ten seconds.
        """
        if not self._manual:
            self._count(verdict, len(deliveries))
        elif self._channel is not None:
            self._count(verdict, self._settlement.settle(deliveries, verdict))

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge one delivery now."""
        self.settle((delivery,), Verdict.ACK)

    def reject(self, delivery: Delivery) -> None:
        """Reject one delivery: it is dead-lettered, or dropped where no dead-letter exchange is set."""
        self.settle((delivery,), Verdict.REJECT)

    def requeue(self, delivery: Delivery) -> None:
        """Give one delivery back to its queue."""
        self.settle((delivery,), Verdict.REQUEUE)

    def is_settled(self, delivery: Delivery) -> bool:
        """Tell whether a delivery of the current channel was settled, or is about to be given back."""
        return delivery in self._settlement

    def wake(self) -> None:
        """Have `batches` yield an empty batch soon; any thread may call this."""
        self._woken = True  # first, for by now there may be another channel
        self._end_wait()

    def close(self) -> None:
        """Stop consuming; what was delivered and not settled goes back to its queue."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _count(self, verdict: Verdict, number: int) -> None:
        report = self._report
        match verdict:
            case Verdict.ACK:
                self._report = replace(report, acknowledged=report.acknowledged + number)
            case Verdict.REJECT:
                self._report = replace(report, rejected=report.rejected + number)
            case Verdict.REQUEUE:
                self._report = replace(report, requeued=report.requeued + number)

    def _cut(self, batch: list[Delivery]) -> list[Delivery]:
        """Leave out what is beyond the count: closing gives it back."""
        count, consumed = self._options.count, self._report.consumed
        wanted = batch if count is None else batch[: count - consumed]
        self._position.take(wanted, self._settlement.low)
        redelivered = self._report.redelivered + sum(each.redelivered for each in wanted)
        self._report = replace(self._report, consumed=consumed + len(wanted), redelivered=redelivered)
        return wanted

    def _receive(self, timeout_s: float) -> Iterator[list[Delivery]]:
        channel = self._channel
        if channel is None:
            raise ConnectionLost("the consumer was closed")
        try:
            if not self._events:
                self._events.extend(channel.wait(timeout_s, subject=f"consuming from queue {self.queue!r}"))
        except ConnectionLost as exc:
            self._resubscribe(str(exc))
            return
        except PropertyMismatch as exc:
            if "timeout" not in exc.reply_text and "timed out" not in exc.reply_text:
                raise
            # The broker closes the channel of a consumer that holds a delivery for longer than consumer_timeout
            # (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
            self._resubscribe(exc.reply_text)
            return
        while self._events and self._channel is channel:  # else the handler closed us while it had the batch before
            event = self._events.popleft()
            if isinstance(event, list):
                yield event
            elif isinstance(event, ConsumerCancel):
                self._recover_from_cancel(channel)
                return

    def _recover_from_cancel(self, channel: Channel) -> None:
        """Subscribe again where the queue is still there: so newer brokers end one that holds a delivery for too long.

        Raises ConsumerCancelled where it is not, or where nothing has come since the last time.
        """
        what = f"queue {self.queue!r}: the broker cancelled the consumer"
        try:
            if self._open_queue is not None or self._report.consumed == self._cancelled_at:
                raise ConsumerCancelled(what)
            channel.queue_counts(self.queue, subject=what)
        except NotFound as exc:
            advice = "Declare it again with `rmqkit apply`, then consume again."
            raise ConsumerCancelled(f"{what}; the queue was deleted", advice=advice) from exc
        self._cancelled_at = self._report.consumed
        channel.close()
        self._resubscribe(f"{what}, and the queue is there")

    def _resubscribe(self, why: str) -> None:
        lost = "; what waited for us, and what comes until then, is lost" if self._open_queue else ""
        self._warn(f"{why}; subscribing again{lost}")
        try:
            self._link.recover(self._stop, self._subscribe)
        except ConnectionLost:
            if not self._stop.requested:  # else what is unacknowledged goes back by itself
                raise

    def _subscribe(self, channel: Channel) -> None:
        if self._open_queue is not None:
            self.queue = self._open_queue(channel)
        count, queue = self._options.count, f"queue {self.queue!r}"
        prefetch = self._options.prefetch if count is None else max(1, min(self._options.prefetch, count))
        self._channel = channel
        arguments = self._position.arguments(self._settlement.low)
        self._settlement = Acknowledger(channel)
        self._events.clear()
        self._left.clear()
        self.tag = f"rmqkit-{channel.session}"
        channel.qos(prefetch, subject=queue)
        try:
            channel.consume(self.queue, tag=self.tag, no_ack=not self._manual, arguments=arguments, subject=queue)
        except PropertyMismatch as exc:
            if arguments and not exc.advice:
                exc.advice = "Only a stream is read from an offset: consume any other queue without one."
            raise
        self._last_s = time.monotonic()  # an outage is no idle time

    def _end_wait(self) -> None:
        if self._channel is not None:
            self._channel.wake()
