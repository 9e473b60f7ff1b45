"""Drain a queue into an exchange, and lose no message on the way.

A message that was not settled when a connection broke is delivered again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import encode_nack
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import AccessRefused, ConnectionLost, NotConfirmed, PayloadError, Unroutable
from rmqkit.message import Delivery
from rmqkit.messaging.acknowledger import SettledTags
from rmqkit.messaging.message_rewrite import DestinationFor
from rmqkit.messaging.publish_window import PAUSE_S, TRIES, StoppedWaiting
from rmqkit.messaging.transfer import LATE_S, WAIT_S, Transfer
from rmqkit.messaging.unconfirmed import Transferred
from rmqkit.stop import Stop

PREFETCH = 500  # messages in flight, and in memory, at most
IDLE_S = 0.2
_TAG = "rmqkit-drain"


@dataclass(slots=True)
class DrainResult:
    """How many messages were moved so far, and how many of them at most are duplicated.

    `body_bytes` is the sum of the bodies that were sent, `last_exchange` the one the last message was first published
    to, and `notes` counts messages by the note of their destination. `lost` tells that a connection was lost.
    """

    messages: int = 0
    duplicates_max: int = 0
    body_bytes: int = 0
    last_exchange: str = ""
    notes: Counter[str] = field(default_factory=Counter)
    lost: bool = False


@dataclass(frozen=True)
class Drain:
    """The move of all messages of one queue, over a connection that broker alarms may block.

    `may_duplicate` tells that an earlier drain of this queue may have been killed: then a redelivered message may be
    duplicated.
    """

    connection: ReconnectingConnection
    queue: str
    destination_for: DestinationFor
    may_duplicate: bool = False
    stop: Stop = field(default_factory=Stop)

    def run(self, *, count: int | None = None, idle_s: float = IDLE_S) -> Generator[DrainResult, None, None]:
        """Move messages until `count` were moved, or none arrives for `idle_s`, or a stop is requested.

        Yield the result so far, one object, before each wait; what was delivered by the end is moved as well. Raises
        NotFound, AccessRefused when the queue has another consumer, ResourceLocked, ConsumerCancelled when it was
        deleted, Unroutable when a message reached no queue, NotConfirmed when a queue rejects messages at every try or
        nothing is confirmed for too long, ConnectionLost when recovery fails. Draining again resumes.
        """
        result, refusals = DrainResult(), 0
        while True:
            before = result.messages
            session = self.connection.recover(self.stop, partial(self._open, result))
            if result.lost and count is not None:
                # A broker that was killed may have forgotten acknowledgements, and marks no message as redelivered.
                again = max(0, session.ready - (count - before))
                result.duplicates_max, count = result.duplicates_max + again, count + again
            else:
                session.may_duplicate |= result.lost
            try:
                with self.stop.waking(session.channel.wake):
                    yield from session.run(count, idle_s)
            except ConnectionLost:
                result.lost = True
                result.duplicates_max += session.in_flight
                if self.stop.requested:
                    return
                continue
            finally:
                session.channel.close()
            if not session.rejected or self.stop.requested:
                return
            refusals = refusals + 1 if result.messages == before else 1
            if refusals == TRIES:
                raise NotConfirmed(
                    f"the queue that receives the messages of {self.queue!r} rejected them {TRIES} times (basic.nack)",
                    advice="Consume from it, or raise its length limit, and run the command again: nothing is lost.",
                )
            self.stop.wait(PAUSE_S * 2**refusals)

    def _open(self, result: DrainResult, channel: Channel) -> _DrainSession:
        try:
            return _DrainSession(self, channel, result, exclusive=True)
        except AccessRefused as exc:
            if "exclusive" not in exc.reply_text:
                raise
            # A queue with a single active consumer accepts no exclusive one; but the first is as good
            # (https://www.rabbitmq.com/docs/consumers#single-active-consumer).
            return _DrainSession(self, self.connection.channel(), result, exclusive=False)


class _DrainSession(Transfer):
    """The messages that are moved over one channel; they are added to `result`."""

    def __init__(self, drain: Drain, channel: Channel, result: DrainResult, *, exclusive: bool) -> None:
        super().__init__(drain.connection, channel, drain.queue, drain.destination_for, drain.stop)
        self.may_duplicate = drain.may_duplicate
        self.rejected = False  # a copy was nacked
        self._result = result
        self._settled = SettledTags()
        channel.qos(PREFETCH, subject=self.subject)
        self.ready: int = channel.queue_counts(drain.queue).message_count
        channel.consume(drain.queue, tag=_TAG, exclusive=exclusive)

    def run(self, count: int | None, idle_s: float) -> Iterator[DrainResult]:
        """Move messages until there is a reason to end, and then those that were delivered by then."""
        waited_s = 0.0  # without a message: the caller's time does not count
        while True:
            yield self._result
            done = count is not None and self._result.messages >= count
            if self.stop.requested or self.rejected or done or (not self.in_flight and waited_s >= idle_s):
                break
            timeout_s = WAIT_S if self.in_flight else min(idle_s - waited_s, WAIT_S)
            waited_s = 0.0 if self.receive(timeout_s) or self.in_flight else waited_s + timeout_s
        self.receive(LATE_S)
        self.channel.cancel(_TAG, subject=self.subject)
        try:
            while self.receive(WAIT_S if self.in_flight else LATE_S) or self.in_flight:
                pass
        except StoppedWaiting:
            pass  # closing the channel requeues everything

    def take(self, deliveries: list[Delivery]) -> None:
        """Publish deliveries; once a copy was nacked, leave them in their queue."""
        if self.rejected:
            return
        result, messages = self._result, []
        for delivery in deliveries:
            destination = self.destination(delivery)
            assert not isinstance(destination, str), "an exchange is a destination"  # noqa: S101
            messages.append(Transferred(delivery, destination, len(delivery.body)))
            result.body_bytes += len(delivery.body)
            if self.may_duplicate and delivery.redelivered:
                result.duplicates_max += 1
            if destination.note:
                result.notes[destination.note] += 1
        result.last_exchange = deliveries[-1].exchange
        self.publish(messages)

    def acknowledge(self, confirmed: list[Transferred]) -> None:
        """Acknowledge deliveries, in one frame for a run of them, and count them."""
        tags = [each.delivery.delivery_tag for each in confirmed]
        self.channel.send(self._settled.acknowledge(self.channel.number, tags))
        self._result.messages += len(tags)

    def nacked(self, message: Transferred) -> None:
        """Requeue a delivery, and end the session."""
        self.rejected = True
        tag = message.delivery.delivery_tag
        self.channel.send(encode_nack(self.channel.number, tag, requeue=True))
        self._settled.add((tag,))

    def failed(self, message: Transferred, error: PayloadError | Unroutable) -> None:  # noqa: ARG002
        """End the drain; closing the channel requeues the delivery."""
        raise error
