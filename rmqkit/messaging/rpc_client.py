"""Send requests and match the replies to them.

Replies arrive straight on the channel that sent the request, with no queue in between, and are lost with it
(https://www.rabbitmq.com/docs/direct-reply-to). So a call ends with its replies or with one error, and a request that
may have been handled is not sent again unless the caller allows it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from uuid import uuid4

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import DIRECT_REPLY, Confirm, Encoder, Event, Returned
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import (
    BrokerError,
    ConnectionLost,
    NotConfirmed,
    PayloadError,
    RemoteError,
    ReplyTimeout,
    RmqkitError,
    Unroutable,
)
from rmqkit.message import Delivery, Message
from rmqkit.messaging import rpc_reply
from rmqkit.messaging.unconfirmed import Sent, Unconfirmed
from rmqkit.options import CallOptions
from rmqkit.payload.field_table import decode_properties
from rmqkit.payload.properties import MAX_EXPIRATION_MS
from rmqkit.report import Answer, Fate
from rmqkit.stop import Stop

# By the error of its call; any other leaves it unknown.
_FATES: dict[type, Fate] = {
    type(None): Fate.CONFIRMED,
    RemoteError: Fate.CONFIRMED,
    Unroutable: Fate.RETURNED,
    NotConfirmed: Fate.NACKED,
    PayloadError: Fate.REFUSED,
}


@dataclass(slots=True, eq=False)
class _PendingCall:
    """A request, the message that is sent for it, and the replies so far."""

    number: int
    correlation_id: str
    request: Message
    message: Message
    deadline_s: float
    replies: list[Delivery] = field(default_factory=list)
    error: RmqkitError | None = None
    done: bool = False

    def end(self, error: RmqkitError | None) -> None:
        """End the call; the first error stands."""
        self.error, self.done = self.error or error, True


class RpcClient:
    """Makes calls, used by one thread at a time; opens a channel when it needs one, and keeps it.

    `ignored` counts replies that belong to no call: late ones, duplicates, and strangers.
    """

    def __init__(self, connection: ReconnectingConnection) -> None:
        self.ignored = 0
        self._connection = connection
        self._hooks = connection.settings.hooks
        self._prefix = uuid4().hex  # makes correlation ids hard to guess
        self._numbers = count()
        self._options = CallOptions()
        self._unsent: deque[_PendingCall] = deque()
        self._waiting: dict[str, _PendingCall] = {}  # by correlation id
        self._unconfirmed: Unconfirmed[Sent] = Unconfirmed()
        self._channel: Channel | None = None
        self._encoder: Encoder

    def run(
        self, requests: Iterable[Message | None], options: CallOptions, on_warning: Callable[[str], None] | None = None
    ) -> Iterator[Answer]:
        """Send the requests, a window of them at a time, and yield an answer for each, in their order.

        A None among them waits until those before it were answered.

        An exception of the iterable is raised again after the requests before it were answered, and so are the error of
        a connection that cannot be recovered, and PayloadError for a request that has a reply_to or correlation_id.
        """
        self._options, ignored = options, self.ignored
        unread, calls = iter(requests), deque[_PendingCall]()
        ending: Exception | None = None
        more, room = True, 0
        try:
            while more or calls:
                while calls and calls[0].done:
                    call = calls.popleft()
                    if self._hooks is not None:
                        fate = _FATES.get(type(call.error), Fate.UNKNOWN)
                        self._hooks.settled(call.message, fate, time.monotonic() - call.deadline_s + options.timeout_s)
                    yield Answer(call.request, tuple(call.replies), call.error)
                room = room if calls else max(options.window, 1)
                if more and len(calls) < room:
                    try:
                        request = next(unread)
                        if request is None:
                            room = 0
                            continue
                        calls.append(self._prepare(request))
                        self._flush()
                    except StopIteration:
                        more = False
                    except Exception as exc:  # noqa: BLE001 - raised below
                        ending, more = exc, False
                elif calls:
                    self._receive(calls[0])
            if ending is not None:
                raise ending
        finally:
            self._unsent.clear()
            self._waiting.clear()
            if on_warning is not None and self.ignored > ignored:
                on_warning(f"{self.ignored - ignored} replies were ignored: late, or not to a request of this client")

    def _prepare(self, request: Message) -> _PendingCall:
        given = request.properties
        if not isinstance(request.body, bytes):
            raise PayloadError(f"a body has to be bytes, not {type(request.body).__name__}")
        if given.reply_to is not None or given.correlation_id is not None:
            raise PayloadError("the call sets reply_to and correlation_id: remove them")
        message = request if self._hooks is None else self._hooks.publishing(request)
        number, timeout_s = next(self._numbers), self._options.timeout_s
        expiration_ms = min(max(int(timeout_s * 1000), 1), MAX_EXPIRATION_MS)
        properties = replace(
            message.properties,
            delivery_mode=1,  # its reply does not survive a restart of the broker, so the request need not
            reply_to=DIRECT_REPLY,
            correlation_id=f"{self._prefix}.{number}",
            # A request whose requester no longer waits need not be handled (https://www.rabbitmq.com/docs/ttl).
            expiration=given.expiration or str(expiration_ms),
        )
        message = replace(message, properties=properties)
        call = _PendingCall(number, f"{self._prefix}.{number}", request, message, time.monotonic() + timeout_s)
        self._unsent.append(call)
        return call

    def _flush(self) -> None:
        """Send the unsent requests; when the broker cannot be reached, end those calls and raise."""
        while self._unsent:
            call = self._unsent[0]
            try:
                if self._channel is None:
                    self._connection.recover(Stop(), self._open, deadline_s=call.deadline_s)
                self._send(call)
            except PayloadError as exc:
                self._unsent.popleft().end(exc)
            except BrokerError as exc:
                while self._unsent:
                    self._unsent.popleft().end(exc)
                raise

    def _send(self, call: _PendingCall) -> None:
        channel = self._channel
        assert channel is not None, "it was opened just now"  # noqa: S101
        data = self._encoder.encode(call.message)
        try:
            channel.send(data, now=not self._waiting)
        except BrokerError as exc:  # known before any of it was sent, so it stays unsent
            self._lose(exc)
            return
        self._unsent.popleft()
        self._waiting[call.correlation_id] = call
        self._unconfirmed.add(Sent(call.number, call.message, len(call.message.body)))

    def _open(self, channel: Channel) -> None:
        channel.confirm_select()
        channel.consume(DIRECT_REPLY, no_ack=True, subject="replies")
        self._channel = channel
        self._unconfirmed = Unconfirmed()
        self._encoder = Encoder(channel.number, channel.transport.frame_max)

    def _lose(self, error: BrokerError) -> None:
        """Note that the channel is gone, and with it all outstanding replies."""
        self._channel = None
        lost, self._waiting = list(self._waiting.values()), {}
        again = isinstance(error, ConnectionLost) and self._options.idempotent
        for call in reversed(lost):
            if again and time.monotonic() < call.deadline_s:
                self._unsent.appendleft(call)
            else:
                call.end(error)

    def _receive(self, first: _PendingCall) -> None:
        """Process the events that have arrived, or wait for some until the first call times out."""
        left_s = first.deadline_s - time.monotonic()
        channel = self._channel
        assert channel is not None, "a call that is not done waits on a channel"  # noqa: S101
        try:
            events = channel.wait(max(left_s, 0), subject=_target(first.request))
        except BrokerError as exc:
            self._lose(exc)
            self._flush()
            return
        for event in events:
            self._process(event)
        if not events and time.monotonic() >= first.deadline_s:  # a reply in time was processed
            del self._waiting[first.correlation_id]
            first.end(self._timeout(first))

    def _process(self, event: Event) -> None:
        if isinstance(event, list):
            for delivery in event:
                self._take_reply(delivery)
        elif isinstance(event, Returned):
            message = f"the request reached no queue: there is no {_target(event)}"
            advice = "Declare it first: `rmqkit apply FILE`; then start a server: `rmqkit serve QUEUE`."
            self._end(decode_properties(event.header)[0].correlation_id, Unroutable(message, advice=advice))
        elif isinstance(event, Confirm):
            for sent in self._unconfirmed.settle(event):
                if not event.ack:
                    message = f"{_target(sent.message)}: the broker rejected the request (basic.nack)"
                    error = NotConfirmed(message, advice="The queue is full or unavailable: is a server running?")
                    self._end(sent.message.properties.correlation_id, error)

    def _take_reply(self, delivery: Delivery) -> None:
        call = self._waiting.get(delivery.properties.correlation_id or "")
        if call is None:
            self.ignored += 1
            return
        call.error = call.error or rpc_reply.find_error(delivery)
        call.replies.append(delivery)
        if len(call.replies) == self._options.replies:
            self._end(call.correlation_id, None)

    def _end(self, correlation_id: str | None, error: RmqkitError | None) -> None:
        call = self._waiting.pop(correlation_id or "", None)
        if call is not None:
            call.end(error)

    def _timeout(self, call: _PendingCall) -> ReplyTimeout | None:
        expected, received = self._options.replies, len(call.replies)
        if expected is None and received:
            return None
        missing = f"no reply from {_target(call.request)}" if not received else f"{received} of {expected} replies"
        blocked = f"; the broker is blocking publishers: {self._connection.blocked}" if self._connection.blocked else ""
        return ReplyTimeout(
            f"{missing} within {self._options.timeout_s:g} s{blocked}",
            advice="It may have been handled, or may still be. Is a server running? `rmqkit serve QUEUE` starts one.",
        )


def _target(message: Message | Returned) -> str:
    if not message.exchange:
        return f"queue {message.routing_key!r}"
    return f"exchange {message.exchange!r} with routing key {message.routing_key!r}"
