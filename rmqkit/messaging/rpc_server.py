"""Serve the requests in a queue with a function, and confirm each reply before its request is acknowledged.

A server that dies before that leaves the request in the queue: another handles it again, and a requester may receive
two replies, of which it takes the first: at least once (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import HandlerError, InputError, Location, PayloadError
from rmqkit.message import Delivery, Message, Properties, Verdict
from rmqkit.messaging import rpc_reply, thread_group
from rmqkit.messaging.consumer import ACK_WITHIN_S, Consumer
from rmqkit.messaging.publish_counts import PublishCallbacks
from rmqkit.messaging.publisher import Publisher
from rmqkit.messaging.rpc_reply import Result
from rmqkit.options import ConsumeOptions, PublishOptions, ServeOptions, shares
from rmqkit.payload import formats
from rmqkit.payload.compression import contents
from rmqkit.payload.contracts import reason
from rmqkit.payload.formats import Check, Format
from rmqkit.payload.sources import MessageDefaults
from rmqkit.report import Fate, ServeReport
from rmqkit.stop import Stop

Function = Callable[[Delivery], Result]
OnFailure = Callable[[Delivery, Exception], None]

_log = logging.getLogger("rmqkit")


def log_failure(request: Delivery, error: Exception) -> None:
    """Log the failure of a function, with its traceback: the default for `on_failure`."""
    _log.error("a message with routing key %r failed", request.routing_key, exc_info=error)


def checked(function: Function, check: Check) -> Function:
    """Return a function that answers requests that match their contract, and raises HandlerError for any other."""

    def answer(request: Delivery) -> Result:
        where = Location("the request")
        try:
            check(contents(request.body, request.properties.content_encoding, where), where)
        except PayloadError as exc:
            raise HandlerError(f"the request breaks its contract: {reason(exc)}") from exc
        return function(request)

    return answer


def typed(function: Function, format: Format | None, content_type: str | None) -> Function:  # noqa: A002 - the flag's word
    """Return a function that sets the content type of replies, and raises PayloadError for one not in the format."""
    if format is None and content_type is None:
        return function
    defaults = MessageDefaults(properties=Properties(content_type=content_type), format=format)

    def answer(request: Delivery) -> Result:
        result = function(request)
        if not isinstance(result, bytes | str | None):
            return result  # a Message has its own type; the caller refuses anything else
        body = result.encode() if isinstance(result, str) else result or b""
        formats.check(body, format, Location("the reply"))
        return defaults.message(body)

    return answer


@dataclass(frozen=True, slots=True)
class ServedFunction:
    """A function, and the queue of its requests."""

    function: Function
    queue: str
    options: ServeOptions


@dataclass(frozen=True, slots=True)
class ServeContext:
    """The connections of servers, the stop that ends them, and the callbacks for failures and warnings."""

    consuming: ReconnectingConnection
    publishing: ReconnectingConnection
    stop: Stop
    on_failure: OnFailure
    on_warning: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply(Message):
    """A reply, its request, and the verdict on that once the reply is confirmed."""

    request: Delivery
    verdict: Verdict


class RpcServer:
    """One thread that serves a function: a consumer, the function, and a publisher. It is used once."""

    def __init__(self, served: ServedFunction, count: int | None, context: ServeContext) -> None:
        self._served, self._context = served, context
        options = ConsumeOptions(served.options.prefetch, count)
        self._consumer = Consumer(
            context.consuming, served.queue, options, stop=context.stop, on_warning=context.on_warning
        )
        self._counts: Counter[str] = Counter()
        self._refused: list[Delivery] = []  # requests whose reply the broker refused
        self._done: list[tuple[Delivery, Verdict]] = []  # to be settled

    @property
    def counts(self) -> Counter[str]:
        """Return the numbers so far, by the names of a ServeReport."""
        consumed = self._consumer.report
        return self._counts + Counter(requests=consumed.consumed, redelivered=consumed.redelivered)

    def run(self) -> None:
        """Serve until the consumer ends, by its count, a stop or an error; a running function is finished."""
        context = self._context
        callbacks = PublishCallbacks(
            on_settled=self._on_settled,
            on_failure=lambda _: None,  # the report of a server's whole life would hold too many
            on_warning=context.on_warning,
        )
        publisher = Publisher(context.publishing, PublishOptions(), stop=context.stop, callbacks=callbacks)
        with self._consumer:
            self._consumer.subscribe()
            try:
                publisher.publish(self._replies())
            finally:
                self._settle()

    def _replies(self) -> Iterator[Message | None]:
        """Yield replies, and None to wait for their confirms, before requests are acknowledged."""
        settled_s = time.monotonic()
        for batch in self._consumer.batches():
            for request in batch:
                if self._context.stop.requested:
                    return  # the rest of the batch goes back to its queue
                reply, verdict = self._handle(request)
                if reply is None:
                    self._done.append((request, verdict))
                else:
                    yield reply
                idle = request is batch[-1] and self._consumer.is_idle
                if idle or time.monotonic() - settled_s >= ACK_WITHIN_S:
                    yield from self._confirms()
                    self._settle()
                    settled_s = time.monotonic()
        yield from self._confirms()

    def _confirms(self) -> Iterator[Message | None]:
        """Wait for the confirms, and answer requests whose reply was refused with an error."""
        yield None
        while self._refused:
            for request in self._refused:
                yield self._fail(request, HandlerError("the broker refused the reply: most likely it is too large"))[0]
            self._refused = []
            yield None

    def _handle(self, request: Delivery) -> tuple[_Reply | None, Verdict]:
        """Call the function; return the reply, or None if the request wants none, and the verdict on the request."""
        wanted = bool(request.properties.reply_to)
        if not wanted:
            if not self._counts["unaddressed"]:
                self._context.on_warning(
                    f"queue {self._consumer.queue!r}: requests without reply_to are handled but not answered"
                )
            self._counts["unaddressed"] += 1
        try:
            with self._consumer.handling((request,)):
                result = self._served.function(request)
            made = rpc_reply.make_reply(request, result, self._consumer.frame_max) if wanted else None
            return (_reply(made, request, Verdict.ACK) if made else None), Verdict.ACK
        except Exception as exc:  # noqa: BLE001 - any error of the function is sent to the requester
            return self._fail(request, exc)

    def _fail(self, request: Delivery, error: Exception) -> tuple[_Reply | None, Verdict]:
        """Count and report a failure; return the reply, if one is wanted, and the verdict once it is confirmed.

        Of a foreign error the reply has the name alone: its text may hold a password.
        """
        self._counts["failed"] += 1
        self._context.on_failure(request, error)
        if not request.properties.reply_to:
            return None, Verdict.REJECT
        verdict = Verdict.REJECT if self._served.options.reject_failed else Verdict.ACK
        text = error.message if isinstance(error, HandlerError) else type(error).__name__
        return _reply(rpc_reply.make_error_reply(request, text), request, verdict), verdict

    def _on_settled(self, _index: int, reply: Message, fate: Fate) -> None:
        """Process the fate of a reply; if it is unknown, the request stays in its queue."""
        assert isinstance(reply, _Reply)  # noqa: S101 - no other message is published
        if fate is Fate.UNKNOWN:
            return
        if fate is Fate.REFUSED and reply.properties.type != rpc_reply.ERROR_TYPE:
            self._refused.append(reply.request)  # answered with the error, unless a stop comes first
            return
        self._done.append((reply.request, reply.verdict))
        if fate is Fate.CONFIRMED:
            self._counts["replied"] += 1
            return
        if fate is not Fate.RETURNED or not self._counts["undelivered"]:  # a client that is gone may have sent many
            reason = "the requester is gone" if fate is Fate.RETURNED else f"it was {fate.value}"
            self._context.on_warning(
                f"a reply did not reach {reply.routing_key!r}: {reason}; its request is acknowledged"
            )
        self._counts["undelivered"] += 1

    def _settle(self) -> None:
        for verdict in (Verdict.ACK, Verdict.REJECT):
            requests = [request for request, given in self._done if given is verdict]
            if requests:
                self._consumer.settle(requests, verdict)
        self._done.clear()


def _reply(message: Message, request: Delivery, verdict: Verdict) -> _Reply:
    return _Reply(
        message.body, message.routing_key, message.exchange, message.properties, request=request, verdict=verdict
    )


def run(everything: Sequence[ServedFunction], context: ServeContext) -> ServeReport:
    """Serve, on a thread for each server if there are several. The first that fails stops the others; raises it."""
    if not everything:
        raise InputError("nothing is served: decorate a function with `connection.serve(queue)` first")
    started_s = time.monotonic()
    servers = [
        RpcServer(each, count, context)
        for each in everything
        for count in shares(each.options.count, each.options.concurrency)
    ]
    thread_group.run_all([server.run for server in servers], context.stop)
    counts = sum((server.counts for server in servers), Counter())
    return ServeReport(**counts, seconds=time.monotonic() - started_s)
