"""Serving: a function answers the requests in a queue.

A server that dies before that leaves the request in the queue: another handles it again, and a requester may get two
replies, of which it takes the first: at least once (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.errors import HandlerError, InputError, Location, PayloadError
from rmqkit.message import Delivery, Message, Verdict
from rmqkit.messaging import rpc_reply, thread_group
from rmqkit.messaging.consumer import ACK_WITHIN_S, Consumer
from rmqkit.messaging.publisher import Publisher
from rmqkit.messaging.rpc_reply import Result
from rmqkit.options import ConsumeOptions, PublishOptions, ServeOptions, shares
from rmqkit.payload.contracts import reason
from rmqkit.payload.formats import Check
from rmqkit.report import Fate, ServeReport
from rmqkit.stop import Stop

Function = Callable[[Delivery], Result]
OnFailure = Callable[[Delivery, Exception], None]

_log = logging.getLogger("rmqkit")


def log_failure(request: Delivery, error: Exception) -> None:
    """Log that a function failed, with its traceback: what is done when nobody else wants to hear of it."""
    _log.error("a message with routing key %r failed", request.routing_key, exc_info=error)


def checked(function: Function, check: Check) -> Function:
    """Return a function that answers requests which keep their contract; it raises HandlerError for any other."""

    def answer(request: Delivery) -> Result:
        try:
            check(request.body, Location("the request"))
        except PayloadError as exc:
            raise HandlerError(f"the request breaks its contract: {reason(exc)}") from exc
        return function(request)

    return answer


@dataclass(frozen=True, slots=True)
class ServedFunction:
    """A function, and the queue of its requests."""

    function: Function
    queue: str
    options: ServeOptions


@dataclass(frozen=True, slots=True)
class ServeContext:
    """Where servers work, what ends them, and who hears of failures and warnings."""

    consuming: ReconnectingConnection
    publishing: ReconnectingConnection
    stop: Stop
    on_failure: OnFailure | None = None
    on_warning: Callable[[str], None] | None = None


class RpcServer:
    """One thread's work at what is served: a consumer, the function, and a publisher. It is used once."""

    def __init__(self, served: ServedFunction, count: int | None, site: ServeContext) -> None:
        self._function = served.function
        self._options = served.options
        self._site = site
        self._warn = site.on_warning or (lambda _: None)
        options = ConsumeOptions(served.options.prefetch, count)
        self._consumer = Consumer(site.consuming, served.queue, options, stop=site.stop, on_warning=site.on_warning)
        self._counts: Counter[str] = Counter()
        self._replies_made = 0  # and handed to the publisher, which counts them as well
        self._unconfirmed: dict[int, tuple[Delivery, Verdict]] = {}  # by the publisher's number
        self._refused: list[Delivery] = []  # whose reply the broker did not take
        self._done: list[tuple[Delivery, Verdict]] = []  # to be settled

    @property
    def counts(self) -> Counter[str]:
        """Count what was done so far, by the names of a ServeReport."""
        consumed = self._consumer.report
        return self._counts + Counter(requests=consumed.consumed, redelivered=consumed.redelivered)

    def run(self) -> None:
        """Serve until the consumer ends, by its count, a stop or an error; what is running is finished."""
        publisher = Publisher(
            self._site.publishing, PublishOptions(), stop=self._site.stop, on_settled=self._note, on_warning=self._warn
        )
        with self._consumer:
            self._consumer.subscribe()
            try:
                publisher.publish(self._replies())
            finally:
                self._settle()

    def _replies(self) -> Iterator[Message | None]:
        """Yield the replies as they are made, and None to wait for their confirms, before requests are acknowledged."""
        settled_s = time.monotonic()
        for batch in self._consumer.batches():
            for request in batch:
                if self._site.stop.requested:
                    return  # the rest of the batch goes back to its queue
                made, verdict = self._handle(request)
                if made is None:
                    self._done.append((request, verdict))
                else:
                    yield self._send(made, request, verdict)
                idle = request is batch[-1] and self._consumer.is_idle
                if idle or time.monotonic() - settled_s >= ACK_WITHIN_S:
                    yield from self._confirms()
                    self._settle()
                    settled_s = time.monotonic()
        yield from self._confirms()

    def _send(self, made: Message, request: Delivery, verdict: Verdict) -> Message:
        """Note a reply that is handed to the publisher, and what becomes of its request once that is confirmed."""
        self._unconfirmed[self._replies_made] = request, verdict
        self._replies_made += 1
        return made

    def _confirms(self) -> Iterator[Message | None]:
        """Wait for the confirms, and tell those whose reply was refused that there will be none."""
        yield None
        while self._refused:
            for request in self._refused:
                error = HandlerError("the broker refused the reply: most likely it is too large")
                verdict = self._fail(request, error)
                yield self._send(_failure(request, error), request, verdict)
            self._refused = []
            yield None

    def _handle(self, request: Delivery) -> tuple[Message | None, Verdict]:
        """Run the function; return the reply, None if nobody asked for one, and what becomes of the request."""
        wanted = bool(request.properties.reply_to)
        if not wanted:
            if not self._counts["unaddressed"]:
                self._warn(f"queue {self._consumer.queue!r}: requests without reply_to are handled, and not answered")
            self._counts["unaddressed"] += 1
        try:
            result = self._function(request)
            made = rpc_reply.answer(request, result, self._consumer.frame_max) if wanted else None
        except Exception as exc:  # noqa: BLE001 - whatever the function does wrong is told to who asked
            verdict = self._fail(request, exc)
            return _failure(request, exc) if wanted else None, verdict
        return made, Verdict.ACK

    def _fail(self, request: Delivery, error: Exception) -> Verdict:
        """Count a failure and tell of it; return what becomes of the request once the requester was told."""
        self._counts["failed"] += 1
        (self._site.on_failure or log_failure)(request, error)
        return Verdict.REJECT if self._options.reject_failed or not request.properties.reply_to else Verdict.ACK

    def _note(self, index: int, message: Message, fate: Fate) -> None:
        """Take in what became of a reply; one whose fate is unknown leaves its request where it is."""
        request, verdict = self._unconfirmed.pop(index)
        if fate is Fate.UNKNOWN:
            return
        if fate is Fate.REFUSED and message.properties.type != rpc_reply.ERROR_TYPE:
            self._refused.append(request)  # and told, unless a stop comes first: then another server has it next
            return
        self._done.append((request, verdict))
        if fate is Fate.CONFIRMED:
            self._counts["replied"] += 1
            return
        if fate is not Fate.RETURNED or not self._counts["undelivered"]:  # a client that has gone may have asked a lot
            why = "nobody is there any more" if fate is Fate.RETURNED else f"it was {fate.value}"
            self._warn(f"a reply did not reach {message.routing_key!r}: {why}; its request is acknowledged")
        self._counts["undelivered"] += 1

    def _settle(self) -> None:
        for verdict in (Verdict.ACK, Verdict.REJECT):
            requests = [request for request, given in self._done if given is verdict]
            if requests:
                self._consumer.settle(requests, verdict)
        self._done.clear()


def _failure(request: Delivery, error: Exception) -> Message:
    """Make the reply that tells of an error: of a foreign one the name alone, for its text may hold a password too."""
    return rpc_reply.failure(request, error.message if isinstance(error, HandlerError) else type(error).__name__)


def run(everything: Sequence[ServedFunction], site: ServeContext) -> ServeReport:
    """Serve, on a thread for each server if there are several, and return what was done.

    The first server that fails ends the others in good order. Raises its error.
    """
    if not everything:
        raise InputError("nothing is served: decorate a function with `connection.serve(queue)` first")
    started_s = time.monotonic()
    servers = [
        RpcServer(each, count, site)
        for each in everything
        for count in shares(each.options.count, each.options.concurrency)
    ]
    thread_group.run_all([server.run for server in servers], site.stop)
    counts = sum((server.counts for server in servers), Counter())
    return ServeReport(**counts, seconds=time.monotonic() - started_s)
