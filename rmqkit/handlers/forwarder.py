"""Forward deliveries to another exchange, on the same broker or another one.

At least once: a delivery whose copy was confirmed, and whose acknowledgement was lost, is forwarded again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from rmqkit.errors import BrokerError, HandlerError
from rmqkit.handlers.failure_copy import copy_error
from rmqkit.handlers.handler import HandledBatch, Source
from rmqkit.message import PERSISTENT, Delivery, Message, Origin, Properties
from rmqkit.messaging.message_rewrite import sent_on
from rmqkit.payload.death_headers import X_DEATH, deaths
from rmqkit.payload.field_table import decode_properties
from rmqkit.report import Fate
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.deploy.live_router import LiveRouter

Target = Callable[[Origin], tuple[str, str, Properties]]
"""From an origin to the routing key, the exchange and the properties of the copies of its deliveries."""

_UNATTENDED = ("expired", "maxlen")  # deaths without a consumer
_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it
_log = logging.getLogger("rmqkit")
_RETURN_ADVICE = (
    "Remove the binding or name another exchange; `rmqkit move` makes one pass. The message stays in its queue."
)
_ADVICE = "Bind a queue there, or exclude these messages with `filter=`; the message stays in its queue."


@dataclass(frozen=True, slots=True, kw_only=True)
class _ForwardedMessage(Message):
    """The copy of a delivery, and the delivery that is acknowledged once the copy is confirmed."""

    delivery: Delivery


@dataclass
class Forwarder:
    """Publishes each delivery with its body and properties, byte for byte, over its own connection, which it closes.

    Where `exchange` or `routing_key` is None, that of the delivery is used. `queue` is the one that is consumed, if it
    is on the same broker: a copy that would return to it at once is not sent. For one that would return later, as a
    dead letter of a queue where it expires, there is a warning: a delay may be meant.
    """

    may_fail = False  # on a message alone

    connection: Connection
    exchange: str | None
    routing_key: str | None
    queue: str | None = None
    on_warning: Callable[[str], None] = _log.warning
    _queued: int = 0  # messages that were in the queue before it was consumed

    def __post_init__(self) -> None:
        """Count the messages in the queue, which may have arrived by a binding that was removed since."""
        with suppress(BrokerError):
            if self.queue and self.exchange != "":
                self._queued = self.connection.queue_state(self.queue).ready

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Forward deliveries in order.

        Raises Unroutable when a copy reached no queue, NotConfirmed when it was not confirmed for any other reason,
        HandlerError when it would return to the queue, ConnectionLost; unconfirmed messages stay in their queue.
        """
        check = None
        if self.queue:
            check = _ReturnCheck(self.connection, self.queue, self._queued, self._target, self.on_warning)
        returning: Delivery | None = None
        publisher = _PublisherThread(self.connection, self._target, source.wake)
        try:
            for batch in source.batches(busy=publisher.is_busy):
                returning = next(filter(check.returns, batch), None) if check else None
                publisher.put(batch[: batch.index(returning)] if returning else batch)
                yield publisher.take_confirmed()
                if returning or publisher.ended:
                    break
            publisher.finish(at_once=stop.requested)
            yield publisher.take_confirmed()
        finally:
            publisher.halt()
        if publisher.error:
            raise publisher.error
        if returning:
            exchange = self._target(returning.origin)[1]
            raise HandlerError(
                f"a message would return to queue {self.queue!r} forever: exchange {exchange!r} routes it there",
                advice=_RETURN_ADVICE,
            )

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _target(self, origin: Origin) -> tuple[str, str, Properties]:
        exchange = origin.exchange if self.exchange is None else self.exchange
        key = origin.routing_key if self.routing_key is None else self.routing_key
        header = sent_on(origin.header, self.connection.username, to_queue=not exchange)
        return key, exchange, decode_properties(header)[0]


class _ReturnCheck:
    """Tells whether the copies of deliveries would return to the queue, by the live bindings.

    Without the HTTP API, it is known once a message arrives through the exchange, with the key, of its own copy; or
    once a dead letter arrives that was published there.
    """

    def __init__(
        self, connection: Connection, queue: str, queued: int, target: Target, on_warning: Callable[[str], None]
    ) -> None:
        self._connection, self._queue, self._queued, self._target = connection, queue, queued, target
        self._on_warning, self._has_warned = on_warning, False
        self._router = self._read_bindings()
        self._origin: Origin | None = None
        self._arrived_like_copy = False  # what this origin's deliveries did
        self._leads_back: bool | None = None

    def returns(self, delivery: Delivery) -> bool:
        """Tell whether the copy of a delivery would return; called for each in order."""
        self._queued -= 1
        if delivery.origin is not self._origin:
            self._find_route(delivery.origin)
        arrived_now = self._arrived_like_copy and self._queued < 0 and not delivery.redelivered
        if arrived_now and self._leads_back is False:  # a new binding
            self._router = self._read_bindings()
            self._find_route(delivery.origin)
        return arrived_now if self._leads_back is None else self._leads_back

    def _read_bindings(self) -> LiveRouter:
        from rmqkit.deploy.live_router import LiveRouter  # noqa: PLC0415 - start-up time

        return LiveRouter(self._connection)

    def _find_route(self, origin: Origin) -> None:
        self._origin = origin
        key, exchange, properties = self._target(origin)
        headers = properties.headers or {}
        self._arrived_like_copy = bool(exchange) and (exchange, key) == (origin.exchange, origin.routing_key)
        self._leads_back = (
            self._router.leads_to(self._queue, exchange, key, headers) if exchange else key == self._queue
        )
        if not self._leads_back and not self._has_warned:
            path = self._router.return_path(self._queue, exchange, key, headers)
            self._warn_of(path or _path_taken(origin, exchange, key))

    def _warn_of(self, path: Sequence[str]) -> None:
        if path:
            self._has_warned = True
            queues = " and ".join(map(repr, path))
            self._on_warning(
                f"messages return to queue {self._queue!r} as dead letters of {queues}, and are forwarded again."
                " End the run with Ctrl-C, or limit it with `count=`."
            )


def _path_taken(origin: Origin, exchange: str, key: str) -> list[str]:
    """Return the queue that a message returned from by itself after it was published as its copy will be."""
    headers = origin.properties.headers or {}
    last = next(iter(deaths(headers)), None) if X_DEATH in headers else None
    if last and last.reason in _UNATTENDED and last.exchange == exchange and key in last.routing_keys:
        return [last.queue]
    return []


class _PublisherThread:
    """A thread that publishes copies of deliveries, in one endless call, and collects those that were confirmed.

    `error` is what ended it early. When there is nothing to publish it waits for the confirms; the deliveries that
    arrive meanwhile are published together.
    """

    def __init__(self, connection: Connection, target: Target, wake: Callable[[], None]) -> None:
        self.ended = False  # nothing more will be published
        self.error: BaseException | None = None
        self._target = target
        self._wake = wake
        self._stop = Stop()
        self._deliveries: SimpleQueue[Delivery | None] = SimpleQueue()
        self._confirmed: SimpleQueue[Delivery] = SimpleQueue()
        self._in_flight = 0  # put and not taken
        self._thread = threading.Thread(target=self._run, args=(connection,), name="rmqkit-forward", daemon=True)
        self._thread.start()

    def is_busy(self) -> bool:
        """Tell whether a confirm is expected."""
        return self._in_flight > 0 and not self.ended

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Publish copies of deliveries, in this order."""
        self._in_flight += len(deliveries)
        for delivery in deliveries:
            self._deliveries.put(delivery)

    def take_confirmed(self) -> HandledBatch:
        """Return the deliveries whose copies were confirmed since the last call."""
        confirmed: list[Delivery] = []
        with suppress(Empty):
            while True:
                confirmed.append(self._confirmed.get_nowait())
        self._in_flight -= len(confirmed)
        return HandledBatch(confirmed)

    def finish(self, *, at_once: bool) -> None:
        """Wait until all copies are confirmed; `at_once`, only those that were sent already."""
        if at_once:
            self._stop.request()
        self._deliveries.put(None)
        while not self.ended:
            self._thread.join(_WAIT_S)

    def halt(self) -> None:
        """Publish nothing more."""
        self._stop.request()
        self._deliveries.put(None)

    def _run(self, connection: Connection) -> None:
        try:
            report = connection.publish(self._copies(), check=False, stop=self._stop, on_settled=self._on_settled)
            self.error = copy_error(report, "a message cannot be forwarded", _ADVICE)
        except BaseException as exc:  # noqa: BLE001 - raised again by the handler
            self.error = exc
        self.ended = True
        self._wake()

    def _copies(self) -> Iterator[Message | None]:
        origin, target = None, ("", "", PERSISTENT)
        while True:
            try:
                delivery = self._deliveries.get_nowait()
            except Empty:
                yield None  # waits for the confirms
                delivery = self._deliveries.get()
            if delivery is None:
                return
            if delivery.origin is not origin:
                origin, target = delivery.origin, self._target(delivery.origin)
            yield _ForwardedMessage(delivery.body, *target, delivery=delivery)

    def _on_settled(self, _index: int, message: Message, fate: Fate) -> None:
        if fate is not Fate.CONFIRMED:
            self.halt()  # the report has the reason
            return
        assert isinstance(message, _ForwardedMessage)  # noqa: S101 - no other is published
        self._confirmed.put(message.delivery)
        if self._confirmed.qsize() == 1:  # else the source has been woken already
            self._wake()
