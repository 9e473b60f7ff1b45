"""A channel, used from one thread: send bytes, call methods, wait for events."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from itertools import islice
from queue import Empty
from typing import Any, NamedTuple, Protocol

from pika import spec

from rmqkit.address import Address
from rmqkit.amqp import error_mapping
from rmqkit.amqp.frames import Event, Piece, encode_method, encode_nack
from rmqkit.errors import AccessRefused, BrokerError, ConnectionLost, Refused
from rmqkit.stop import Stop
from rmqkit.thread_queue import ThreadQueue

# To be sent: bytes, pieces of them, or a function that is called just before, in turn.
Data = bytes | list[Piece] | Callable[[], bytes]
Received = list[Event] | BrokerError | None  # events, the end of the connection, or a wake-up
_PIPELINED_CALLS = 100
_CLOSE_S = 5.0
_BLOCKED_S = 0.2  # between two checks for a stop, while an alarm keeps the broker from answering
NACK_NOT_COUNTED = (4, 3)  # the first version whose quorum queues do not count a nack as a failed delivery
ANY_PERMISSION = (4, 3, 1)  # the first version that answers a passive declare with any permission; 4.3.0: configure
CALL_TIMEOUT_S = 30.0  # a broker that takes longer to answer a method counts as gone


class MethodCall(NamedTuple):
    """A synchronous method, the class of its answer, its subject in errors, and its `arguments` table."""

    method: Any
    answer: type[Any]
    subject: str
    arguments: Mapping[str, Any] | None = None


class ChannelTransport(Protocol):
    """The part of a connection that a channel uses."""

    address: Address
    blocked: str
    blocked_until_s: float
    lost: BrokerError | None
    frame_max: int
    version: tuple[int, ...]

    def send(self, data: Data) -> None:
        """Send bytes; any thread may call this."""

    def send_now(self, data: bytes) -> None:
        """Send bytes on the caller's thread, if nothing else waits to be written."""

    def write_now(self, make: Callable[[], bytes]) -> bool:
        """Send what a function returns, on the caller's thread; return False if anything else waits to be written."""

    def abort(self) -> None:
        """Drop the connection without closing it first."""

    def open_channel(self, stop: Stop | None = None, deadline_s: float = math.inf) -> Channel:
        """Open another channel; see `Transport.open_channel`."""

    def forget(self, number: int) -> None:
        """Free the number of a closed channel."""


class Channel:
    """A channel of a Transport.

    `session` is unique in the process: it distinguishes the deliveries of this channel from those of an earlier one
    with the same number. Once the broker closed the channel or the connection is lost, every call raises that error.
    """

    def __init__(
        self,
        transport: ChannelTransport,
        number: int,
        session: int,
        stop: Stop | None = None,
        deadline_s: float = math.inf,
    ) -> None:
        self.transport = transport
        self.stop = stop  # ends calls that an alarm keeps from being answered
        self.deadline_s = deadline_s  # ends calls, and with them this channel; on the monotonic clock
        self.abandoned = False  # nobody waits for the answer to its closing
        self.number = number
        self.session = session
        self.inbox: ThreadQueue[Received] = ThreadQueue()
        self.receive: Callable[[Received], None] = self.inbox.put  # called on the I/O thread
        self.ended = False  # the broker requeued the unsettled deliveries; set before the inbox has it
        self._unread: list[Event] = []  # events that arrived while a call waited for its answer
        self._closing = False  # its closing was sent
        self._closed: BrokerError | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether the channel is open, as far as is known."""
        return not self.ended and self._closed is None and self.transport.lost is None

    def send(self, data: bytes | list[Piece], *, now: bool = False) -> None:
        """Send what `frames` encoded for this channel; with `now`, bytes are faster, if nothing else follows at once.

        Raises Refused, ConnectionLost if the channel is known to be closed.
        """
        if self.transport.lost is not None or self._closed is not None:
            raise copy(self._closed or self.transport.lost or ConnectionLost("closed"))
        if now and isinstance(data, bytes):
            self.transport.send_now(data)
        else:
            self.transport.send(data)

    def call(
        self,
        method: Any,
        answer: type[Any],
        *,
        subject: str,
        arguments: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Send a synchronous method and return the broker's answer; `subject` names the entity in errors.

        Without `timeout_s`, it waits as long as the settings allow for an alarm, or until the stop. `arguments` are as
        in `frames.encode_method`. Raises Refused if the broker refuses and closes the channel, NotConfirmed when the
        alarm lasts too long, and ConnectionLost, also when no answer arrives in time.
        """
        self.send(encode_method(self.number, method, arguments))
        called_s = time.monotonic()
        deadline = called_s + (CALL_TIMEOUT_S if timeout_s is None else timeout_s)
        while True:
            left_s = min(deadline, self.deadline_s) - time.monotonic()
            if self.transport.blocked:
                if self.stop and self.stop.requested:
                    raise self._unanswered(subject)
                if timeout_s is None:
                    now = time.monotonic()
                    if 0 < self.transport.blocked_until_s <= now:
                        raise error_mapping.blocked(self.transport.blocked, now - called_s)
                    deadline = now + CALL_TIMEOUT_S  # once the alarm is over
                left_s = min(left_s, _BLOCKED_S)
            try:
                events = self._receive(left_s, subject)
            except ConnectionLost as exc:
                raise error_mapping.refused_by_closing(exc, subject, divmod(method.INDEX, 1 << 16)) from exc
            for position, event in enumerate(events):
                if isinstance(event, answer):
                    self._unread += events[:position] + events[position + 1 :]
                    return event
            self._unread += events
            if time.monotonic() >= self.deadline_s:  # of the caller: the connection may be in order
                self.abandon()
                raise self._unanswered(subject)
            if time.monotonic() >= deadline:
                if not self.transport.blocked:  # else it is alive, and reads the method once the alarm is over
                    self.transport.abort()
                raise self._unanswered(subject)

    def confirm_select(self) -> None:
        """Have the broker confirm messages published on this channel (https://www.rabbitmq.com/docs/confirms)."""
        self.call(spec.Confirm.Select(), spec.Confirm.SelectOk, subject="publisher confirms")

    def qos(self, prefetch: int, *, subject: str) -> None:
        """Bound the unacknowledged deliveries of each consumer started after this call."""
        self.call(spec.Basic.Qos(prefetch_count=prefetch), spec.Basic.QosOk, subject=subject)

    def consume(
        self,
        queue: str,
        *,
        tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        subject: str = "",
    ) -> None:
        """Start a consumer of a queue; without a tag, the broker chooses one. Raises what `call` raises."""
        method = spec.Basic.Consume(queue=queue, consumer_tag=tag, no_ack=no_ack, exclusive=exclusive)
        self.call(method, spec.Basic.ConsumeOk, subject=subject or f"queue {queue!r}", arguments=arguments)

    def cancel(self, tag: str, *, subject: str) -> None:
        """End a consumer; its unacknowledged deliveries remain on this channel."""
        self.call(spec.Basic.Cancel(tag), spec.Basic.CancelOk, subject=subject)

    def cancel_soon(self, tag: str) -> None:
        """End a consumer before the broker reads what is sent next; see `cancel`."""
        if self.is_open:
            self.send(encode_method(self.number, spec.Basic.Cancel(tag, nowait=True)))

    def queue_counts(self, queue: str, *, subject: str = "") -> Any:
        """Return the counts of a queue: `message_count`, its ready messages, and `consumer_count`.

        A passive declare (AMQP 0-9-1 section 1.7.2.1): raises NotFound, ResourceLocked, AccessRefused, ConnectionLost.
        """
        passive = spec.Queue.Declare(queue=queue, passive=True)
        try:
            return self.call(passive, spec.Queue.DeclareOk, subject=subject or f"queue {queue!r}")
        except AccessRefused as exc:
            if self.transport.version >= ANY_PERMISSION:
                error_mapping.add_permission_advice(exc, (0, 0), "read")
            raise

    def purge(self, queue: str) -> int:
        """Delete the ready messages of a queue, and return their number (AMQP 0-9-1 section 1.7.2.7)."""
        answer = self.call(spec.Queue.Purge(queue=queue), spec.Queue.PurgeOk, subject=f"purging queue {queue!r}")
        return int(answer.message_count)

    def call_each(self, calls: Iterable[MethodCall]) -> Iterator[Any]:
        """Send calls in order, up to a hundred ahead of their answers; yield each answer.

        The broker executes them in order and stops at the first that it refuses. Raises Refused for that one, and
        ConnectionLost, also when no answer arrives in time.
        """
        remaining = iter(calls)
        pending: deque[MethodCall] = deque()
        while True:
            batch = list(islice(remaining, _PIPELINED_CALLS - len(pending)))
            pending.extend(batch)
            if not pending:
                return
            try:
                if batch:
                    self.send(b"".join(encode_method(self.number, each.method, each.arguments) for each in batch))
                answers = self._receive(CALL_TIMEOUT_S, pending[0].subject)
            except (Refused, ConnectionLost) as exc:
                subject, method = pending[0].subject, divmod(pending[0].method.INDEX, 1 << 16)
                if isinstance(exc, ConnectionLost):
                    raise error_mapping.refused_by_closing(exc, subject, method) from exc
                raise error_mapping.refused(exc.reply_code, exc.reply_text, subject, method) from exc
            if not answers:
                self.transport.abort()
                raise self._unanswered(pending[0].subject)
            for answer in answers:
                if isinstance(answer, pending[0].answer):
                    pending.popleft()
                    yield answer
                else:
                    self._unread.append(answer)

    def wait(self, timeout_s: float, *, subject: str = "the channel") -> list[Event]:
        """Return the events that arrived, or wait for some; the list is empty after the time, or after a `wake`.

        Raises Refused, ConnectionLost.
        """
        if self._unread:
            events, self._unread = self._unread, []
            return events
        return self._receive(timeout_s, subject)

    def wake(self) -> None:
        """End a wait early; a signal handler may call this."""
        self.inbox.put(None)

    def release(self, tag: str) -> bool:
        """End a consumer, requeue its unsettled deliveries in their order, and close the channel; see `close`.

        Whether this counts as a failed delivery of a quorum queue depends on the broker: from 4.3 on a nack does not
        count, and closing the channel does (https://www.rabbitmq.com/docs/nack); before, both count, and only closing
        keeps the order.
        """
        if self.transport.version >= NACK_NOT_COUNTED:
            with suppress(BrokerError):
                self.call(spec.Basic.Cancel(tag), spec.Basic.CancelOk, subject="a consumer", timeout_s=_CLOSE_S)
                self.send(encode_nack(self.number, 0, requeue=True, multiple=True))  # 0: all (AMQP 0-9-1, basic.ack)
        return self.close()

    def close(self) -> bool:
        """Close the channel if it is open; its unsettled deliveries are requeued.

        Return whether the broker answered: then it has processed everything that was sent before.
        """
        answered = False
        if self.transport.blocked or self._closing or time.monotonic() >= self.deadline_s:
            self.abandon()
        elif self.transport.lost is None and self._closed is None:
            self._closing, self.deadline_s = True, math.inf
            with suppress(BrokerError):  # closed in any case
                self.call(
                    spec.Channel.Close(200, "done", 0, 0), spec.Channel.CloseOk, subject="a channel", timeout_s=_CLOSE_S
                )
                self.transport.forget(self.number)  # without an answer the number stays in use
                answered = True
        self._closed = self._closed or ConnectionLost(f"{self.transport.address}: the channel was closed")
        return answered

    def abandon(self) -> None:
        """Close the channel without waiting for the broker, which first processes what was sent before."""
        if self.transport.lost is None and self._closed is None:
            if not self._closing:
                self._closing = True
                self.transport.send(encode_method(self.number, spec.Channel.Close(200, "done", 0, 0)))
            self.abandoned = True
            self.finish()
        self._closed = self._closed or ConnectionLost(f"{self.transport.address}: the channel was closed")

    def finish(self) -> None:
        """Free the number of an abandoned channel once the broker has closed it, too; drop what else arrived."""
        with suppress(Empty):
            while True:
                item = self.inbox.get()
                for event in item if isinstance(item, list) else ():
                    if isinstance(event, spec.Channel.CloseOk):
                        self.transport.forget(self.number)
                    elif isinstance(event, spec.Channel.Close):  # both sides closed it at once
                        self.transport.send(encode_method(self.number, spec.Channel.CloseOk()))

    def _unanswered(self, subject: str) -> ConnectionLost:
        message = f"{self.transport.address}: no answer about {subject}"
        if self.transport.blocked:
            return ConnectionLost(f"{message}: the broker is blocking publishers: {self.transport.blocked}")
        return ConnectionLost(message, advice=error_mapping.NO_MAJORITY if subject.startswith("queue") else "")

    def _receive(self, timeout_s: float, subject: str) -> list[Event]:
        if self._closed is not None:
            raise copy(self._closed)
        try:
            item = self.inbox.get(timeout_s)
        except Empty:
            return []
        if isinstance(item, BrokerError):
            self._closed = item
            raise copy(item)
        if item is None:
            return []
        for position, event in enumerate(item):
            if isinstance(event, spec.Channel.Close):
                if error_mapping.login_expired(event):  # only a new connection, with the current secret, can recover
                    self.transport.abort()
                    self._closed = ConnectionLost(f"{self.transport.address}: the login has expired")
                    raise copy(self._closed)
                method = event.class_id, event.method_id
                self._closed = error_mapping.refused(event.reply_code, event.reply_text, subject, method)
                # Answered on this thread, after all that it has sent: a frame for a closed channel ends the connection.
                self.transport.send(encode_method(self.number, spec.Channel.CloseOk()))
                self.transport.forget(self.number)
                if position == 0:
                    raise copy(self._closed)
                return item[:position]  # earlier events still count; the next call raises
        return item
