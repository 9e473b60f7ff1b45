"""Consume from a queue, acknowledge each delivery after it was handled, and recover from lost connections.

All of it runs on the caller's thread. After a lost connection the consumer subscribes again; unacknowledged messages
are redelivered, and acknowledging an old delivery does nothing: at least once
(https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import chain
from typing import Any, Self

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import ConsumerCancel
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import AccessRefused, BrokerError, ConnectionLost, ConsumerCancelled, NotFound, PropertyMismatch
from rmqkit.hooks import EventKind
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging import deletion_check
from rmqkit.messaging.acknowledger import Acknowledger
from rmqkit.messaging.arrivals import Arrivals
from rmqkit.messaging.consume_counts import ConsumeCounts
from rmqkit.messaging.consumer_timeout import ConsumerTimeouts, is_timeout
from rmqkit.messaging.offset_tracker import OffsetTracker
from rmqkit.options import ConsumeOptions
from rmqkit.report import ConsumeReport
from rmqkit.stop import Stop, StoppedAtOnce

ACK_WITHIN_S = 0.02  # iterating, deliveries handled within this time are acknowledged together
ACK_TOGETHER = 200
_NO_ACK_TOGETHER = 100  # with `no_ack`, deliveries handed out at a time: those in hand can be lost
_DELETED = "Declare it again with `rmqkit apply`, then consume again."
_UNOBSERVED = nullcontext()
_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it


class Consumer:
    """A consumer of one queue, used from one thread.

    Iterating acknowledges each delivery once the next is asked for; one that ended the loop by `break` or by an
    exception is not acknowledged, unless it was settled by hand. Outside a `with` block the consumer is closed when the
    loop is left, however that happens. Ends by count, idle time, or a requested stop. With `no_ack` a delivery is
    acknowledged before it is handed out: the prefetch still bounds what the broker sends, which an AMQP consumer
    without acknowledgements cannot do (https://www.rabbitmq.com/docs/consumer-prefetch).
    `on_warning` receives a sentence about each error that is recovered from. `open_queue` declares a queue that is
    deleted with its connection, on each new connection, and returns its name.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        queue: str,
        options: ConsumeOptions,
        *,
        stop: Stop | None = None,
        on_warning: Callable[[str], None] | None = None,
        open_queue: Callable[[Channel], str] | None = None,
    ) -> None:
        self.queue = queue
        self.tag = ""
        self._connection = connection
        self._options = options
        self._open_queue = open_queue
        self._offsets = OffsetTracker(options.offset)
        self._entered = False  # a `with` block closes the consumer, else leaving its loop does
        self._stop = stop or Stop()
        self._channel: Channel | None = None
        self._acknowledger = Acknowledger(None)
        self._arrivals = Arrivals(queue)  # on this channel
        self._lost_acks: set[int] = set()  # tags on this channel: handled, and not acknowledged, because it was lost
        self._woken, self._wake_s = False, math.inf
        self._cancelled_at = -1  # the number of deliveries when the broker last cancelled the consumer
        self._received = 0  # deliveries
        self._timeouts = ConsumerTimeouts()
        self._checked_s = 0.0  # when the queue was last found to exist
        self._consumed_before = 0  # this subscription
        self._counts = ConsumeCounts()
        self._rest: deque[Delivery] = deque()  # of a batch, for the next call
        self._warn = on_warning or (lambda _: None)
        self._hooks = connection.settings.hooks

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is StoppedAtOnce:
            self._connection.reset()
        self.close()

    @property
    def report(self) -> ConsumeReport:
        """Return the numbers so far."""
        return self._counts.report

    def subscribe(self) -> None:
        """Start consuming now, not when the first delivery is requested.

        Raises NotFound if the queue does not exist, AccessRefused, ResourceLocked, ConnectionLost.
        """
        if self._channel is None:
            self._connection.recover(self._stop, self._subscribe)

    def __iter__(self) -> Iterator[Delivery]:
        done: list[Delivery] = []
        try:
            for batch in chain((list(self._rest),), self._batches(lambda: False, 1)):
                self._rest = rest = deque(batch)
                since_s = time.monotonic()
                # Else the rest returns to the queue.
                while rest and not self._stop.requested and not self.is_lost(rest[0]):
                    delivery = rest.popleft()
                    if self._options.no_ack:
                        self.settle((delivery,), Verdict.ACK)
                    if self._hooks is None:
                        yield delivery
                    else:
                        with self._hooks.handling(self.queue, (delivery,)):
                            yield delivery
                    if self._options.no_ack:
                        continue
                    done.append(delivery)
                    now = time.monotonic()
                    if now - since_s >= ACK_WITHIN_S or len(done) >= ACK_TOGETHER:
                        self.settle(done, Verdict.ACK)
                        done, since_s = [], now
                self.settle(done, Verdict.ACK)
                done = []
            self.close()  # else the broker would send more deliveries, which are not consumed
        finally:
            self.settle(done, Verdict.ACK)
            self._leave()

    def batches(self, *, busy: Callable[[], bool] = lambda: False) -> Iterator[list[Delivery]]:
        """Yield deliveries in the batches they arrive in, to be settled by the caller; after a `wake` an empty batch.

        While the caller is `busy` with earlier deliveries, the time is not idle, and the count does not end this: those
        that are lost with the connection are redelivered. Raises ConsumerCancelled when the
        broker ends the consumer, NotFound, AccessRefused, ResourceLocked, ConnectionLost when recovery fails.
        """
        try:
            yield from self._batches(busy, _NO_ACK_TOGETHER)
        finally:
            self._leave()

    def _batches(self, busy: Callable[[], bool], no_ack_together: int) -> Iterator[list[Delivery]]:
        self.subscribe()
        idle_s = self._options.idle_timeout_s
        self._counts.note_active()
        with self._stop.waking(self._end_wait):
            while not self._stop.requested and (self._wants_more() or self._has_lost() or busy()):
                self._acknowledger.requeue_due()
                now_s = time.monotonic()
                if self._woken or now_s >= self._wake_s:
                    self._woken, self._wake_s = False, math.inf
                    yield []
                    self._counts.note_active()
                    continue
                if busy():
                    self._counts.note_active()
                left_s = _WAIT_S if idle_s is None else self._counts.last_s + idle_s - time.monotonic()
                if left_s <= 0:
                    return
                if now_s - max(self._counts.last_s, self._checked_s) >= deletion_check.CHECK_EVERY_S:
                    self._check_deletion()
                wait_s = min(left_s, _WAIT_S, self._wake_s - now_s, self._acknowledger.backoff.due_in_s())
                for batch in self._receive(wait_s):
                    self._counts.note_arrival()
                    together = no_ack_together if self._options.no_ack else len(batch)
                    for first in range(0, len(batch), together):
                        if wanted := self._cut(batch[first : first + together]):
                            yield wanted
                        self._counts.note_active()

    @property
    def frame_max(self) -> int:
        """Return the largest frame that the broker accepts, in bytes; 0 before subscribing."""
        return self._channel.transport.frame_max if self._channel is not None else 0

    @property
    def is_idle(self) -> bool:
        """Tell whether all deliveries that have arrived were yielded."""
        channel = self._channel
        return not (self._arrivals.events or self._rest) and (channel is None or not channel.inbox)

    def settle(self, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        """Acknowledge, reject or requeue deliveries; skip those that are settled, or arrived on a lost channel.

        A rejected message is sent to the queue's dead-letter exchange, or dropped where there is none. A redelivered
        one is requeued after a pause, which grows up to ten seconds.
        """
        self._counts.note_active()
        if self._options.no_ack:
            self._counts.settled[verdict] += len(deliveries)
            if self._hooks is not None:
                self._hooks.consumed(self.queue, deliveries, verdict)
        elif self._channel is not None:
            self._end_before_last(deliveries)
            settled = self._acknowledger.settle(deliveries, verdict)
            self._counts.settled[verdict] += settled
            if settled and self._hooks is not None:
                self._hooks.consumed(self.queue, deliveries, verdict)
            if not settled and verdict is not Verdict.REQUEUE and self._options.offset is None:
                session = self._channel.session
                self._lost_acks.update(
                    each.delivery_tag
                    for each in deliveries
                    if each.session == session and each not in self._acknowledger
                )

    def _end_before_last(self, deliveries: Sequence[Delivery]) -> None:
        """End the consumer before its whole count is settled at once: the broker would deliver others instead.

        They would be requeued, behind those of a quorum queue that were requeued before. If any may be in flight,
        closing keeps their order.
        """
        if self._channel is None or self._wants_more():
            return
        settled, yielded = len(self._acknowledger.settled), self._counts.consumed - self._consumed_before
        arrived, prefetch = self._arrivals.count, self._arrivals.prefetch
        if settled + len(deliveries) == yielded == arrived and settled + prefetch <= yielded:
            with suppress(BrokerError):
                self._channel.cancel_soon(self.tag)

    def return_failed(self, deliveries: Sequence[Delivery]) -> int:
        """Requeue deliveries that failed, to a queue with a delayed retry, and return their number.

        A quorum queue delays what is rejected, since RabbitMQ 4.3, and counts it as a failed delivery
        (https://www.rabbitmq.com/docs/nack).
        """
        self._counts.note_active()
        returned = self._acknowledger.return_failed(deliveries)
        self._counts.settled[Verdict.REQUEUE] += returned
        return returned

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge one delivery now."""
        self.settle((delivery,), Verdict.ACK)

    def reject(self, delivery: Delivery) -> None:
        """Reject one delivery: it is dead-lettered, or dropped where no dead-letter exchange is set."""
        self.settle((delivery,), Verdict.REJECT)

    def requeue(self, delivery: Delivery) -> None:
        """Requeue one delivery."""
        self.settle((delivery,), Verdict.REQUEUE)

    def handling(self, deliveries: Sequence[Delivery]) -> AbstractContextManager[object]:
        """Return a block in which deliveries are handled: see `Hooks.handling`."""
        return _UNOBSERVED if self._hooks is None else self._hooks.handling(self.queue, deliveries)

    def is_lost(self, delivery: Delivery) -> bool:
        """Tell whether the broker requeued a delivery, as after a lost connection; any thread may call this."""
        if self._options.no_ack:  # it was acknowledged before it was handed out
            return False
        channel = self._channel
        return self._open_queue is None and (channel is None or channel.ended or delivery.session != channel.session)

    def _check_deletion(self) -> None:
        if self._channel is not None and deletion_check.was_deleted(self._channel, self.queue):
            raise ConsumerCancelled(f"queue {self.queue!r} was deleted", advice=_DELETED)
        self._checked_s = time.monotonic()

    def _wants_more(self) -> bool:
        return self._counts.consumed != self._options.count

    def _has_lost(self) -> bool:
        """Tell whether the broker requeued deliveries that were yielded, and had not been handled until then."""
        channel, yielded = self._channel, self._counts.consumed - self._consumed_before
        if self._open_queue is not None or channel is None or not channel.ended:
            return False
        in_doubt = 0 if channel.transport.lost is None else len(self._lost_acks)
        return len(self._acknowledger.settled) + in_doubt < yielded

    def wake(self, after_s: float = 0.0) -> None:
        """Have `batches` yield an empty batch soon; any thread may call this, but with `after_s` only its own."""
        if after_s:
            self._wake_s = time.monotonic() + after_s
            return
        self._woken = True  # first, for by now there may be another channel
        self._end_wait()

    def hold_returned(self, settings: Callable[[], Mapping[str, Any] | None]) -> None:
        """Hold more messages of a quorum queue, so that `close` requeues all in their order: see `Arrivals`.

        To be called after the last delivery was handled.
        """
        if self._channel is not None:
            with suppress(BrokerError):  # closing the channel requeues the messages in any case
                self._arrivals.hold_returned(self._channel, self.tag, len(self._acknowledger.settled), settings)

    def close(self) -> None:
        """Stop consuming; unsettled deliveries return to their queue."""
        if self._channel is not None:
            channel, no_ack = self._channel, self._options.no_ack
            if not no_ack and self._options.offset is None:
                with suppress(BrokerError):
                    self._arrivals.receive_in_flight(channel, len(self._acknowledger.settled))
            if not (channel.close() if no_ack else channel.release(self.tag)):
                self._doubt_last()
            elif self._lost_acks:
                self._counts.doubt(0, len(self._lost_acks))
                if advice := self._timeouts.advice(f"queue {self.queue!r}: the broker cancelled the consumer"):
                    self._warn(advice)
            self._channel = None
            self._arrivals.events.clear()
            self._rest.clear()

    def _doubt_last(self) -> None:
        """Count the deliveries whose acknowledgement the broker may not have taken before the connection was lost."""
        acknowledges = not self._options.no_ack and self._options.offset is None
        doubtful = self._arrivals.in_doubt(len(self._acknowledger.settled)) if acknowledges else 0
        self._counts.doubt(doubtful, len(self._lost_acks))

    def _leave(self) -> None:
        if not self._entered:
            self.close()

    def _cut(self, batch: list[Delivery]) -> list[Delivery]:
        """Drop the deliveries beyond the count: closing the channel requeues them."""
        count, consumed = self._options.count, self._counts.consumed
        self._arrivals.note(batch)
        wanted = batch if count is None else batch[: count - consumed]
        if self._options.no_ack:
            acknowledged = self._acknowledger.settle(wanted, Verdict.ACK)
            if not acknowledged:  # the channel is lost: they will be redelivered
                return []
            self._counts.handed_out += acknowledged
        self._offsets.track(wanted, self._acknowledger.settled.low)
        self._counts.take(wanted)
        if wanted and self._hooks is not None:
            self._hooks.received(self.queue, wanted)
        return wanted

    def _receive(self, timeout_s: float) -> Iterator[list[Delivery]]:
        channel = self._channel
        if channel is None:
            raise ConnectionLost("the consumer was closed")
        events = self._arrivals.events
        try:
            if not events:
                events.extend(channel.wait(timeout_s, subject=f"consuming from queue {self.queue!r}"))
        except ConnectionLost as exc:
            self._resubscribe(str(exc))
            if not self._stop.requested:
                self._warn(f"reconnected: consuming from queue {self.queue!r} again")
            return
        except PropertyMismatch as exc:
            if not is_timeout(exc):
                raise
            self._resubscribe_after_timeout(exc.reply_text)
            return
        while events and self._channel is channel:  # else a handler closed the consumer meanwhile
            event = events.popleft()
            if isinstance(event, list):
                self._received += len(event)
                if not self.is_lost(event[0]):
                    yield event
            elif isinstance(event, ConsumerCancel):
                self._recover_from_cancel(channel)
                return

    def _recover_from_cancel(self, channel: Channel) -> None:
        """Subscribe again if the queue exists: newer brokers cancel a consumer that holds a delivery for too long.

        Raises ConsumerCancelled if it does not, or if no delivery has arrived since the last time.
        """
        message = f"queue {self.queue!r}: the broker cancelled the consumer"
        self._connection.tell(EventKind.CANCELLED, message)
        try:
            if self._open_queue is not None or self._received == self._cancelled_at:
                raise ConsumerCancelled(message)
            with suppress(AccessRefused):  # subscribing again tells
                channel.queue_counts(self.queue, subject=message)
        except NotFound as exc:
            raise ConsumerCancelled(f"{message}; the queue was deleted", advice=_DELETED) from exc
        self._cancelled_at = self._received
        channel.close()
        self._resubscribe_after_timeout(f"{message}, but the queue still exists")

    def _resubscribe_after_timeout(self, reason: str) -> None:
        self._stop.wait(self._timeouts.pause_s(acknowledged=len(self._acknowledger.settled) > 0))
        self._resubscribe(self._timeouts.advice(reason))

    def _resubscribe(self, reason: str) -> None:
        """Subscribe again; without a reason, no warning is given."""
        lost = "; messages that were waiting, or are published until then, are lost" if self._open_queue else ""
        if not lost:
            self._counts.consumed = self._consumed_before + len(self._acknowledger.settled)
        if reason and not self._connection.is_closed:
            self._warn(f"{reason}; subscribing again{lost}")
        try:
            self._connection.recover(self._stop, self._subscribe)
        except ConnectionLost:
            if not self._stop.requested:  # else unacknowledged messages are requeued anyway
                raise

    def _subscribe(self, channel: Channel) -> None:
        if self._open_queue is not None:
            self.queue = self._open_queue(channel)
        count, queue = self._options.count, f"queue {self.queue!r}"
        prefetch = self._options.prefetch if count is None else max(1, min(self._options.prefetch, count))
        self._channel = channel
        arguments = self._offsets.arguments(self._acknowledger.settled.low)
        self._acknowledger = Acknowledger(channel)
        self._consumed_before = self._counts.consumed
        self._arrivals, self._lost_acks = Arrivals(self.queue, prefetch), set()
        self._rest.clear()
        self.tag = f"rmqkit-{channel.session}"
        channel.qos(prefetch, subject=queue)
        try:
            channel.consume(self.queue, tag=self.tag, arguments=arguments, subject=queue)
        except PropertyMismatch as exc:
            if arguments and not exc.advice:
                exc.advice = "Only streams have offsets: consume any other queue without one."
            raise
        self._counts.note_active()  # an outage is not idle time

    def _end_wait(self) -> None:
        if self._channel is not None:
            self._channel.wake()
