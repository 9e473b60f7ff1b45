"""Forward deliveries to another exchange, on the same broker or another one.

At least once: a delivery whose copy was confirmed, and whose acknowledgement was lost, is forwarded again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmqkit.errors import BrokerError, HandlerError, RmqkitError
from rmqkit.handlers.failure_copy import copy_error
from rmqkit.handlers.handler import HandledBatch, Source
from rmqkit.handlers.published_results import Pending, PublishedDeliveries
from rmqkit.hooks import MessageCopy
from rmqkit.message import PERSISTENT, Delivery, Origin, Properties
from rmqkit.messaging.message_rewrite import sent_on
from rmqkit.payload.death_headers import X_DEATH, deaths
from rmqkit.payload.field_table import decode_properties
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.deploy.live_router import LiveRouter

Target = Callable[[Origin], tuple[str, str, Properties]]
"""From an origin to the routing key, the exchange and the properties of the copies of its deliveries."""

_UNATTENDED = ("expired", "maxlen")  # deaths without a consumer
_log = logging.getLogger("rmqkit")
_RETURN_ADVICE = (
    "Remove the binding or name another exchange; `rmqkit move` makes one pass. The message stays in its queue."
)
_ADVICE = "Bind a queue there, or exclude these messages with `filter=`; the message stays in its queue."


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
        origin, target = None, ("", "", PERSISTENT)
        returning: Delivery | None = None
        error: RmqkitError | None = None
        published = PublishedDeliveries(self.connection.publisher(warn_of_failures=False), source.wake)
        try:
            for batch in source.batches(busy=published.is_busy):
                returning = next(filter(check.returns, batch), None) if check else None
                for delivery in batch[: batch.index(returning)] if returning else batch:
                    if delivery.origin is not origin:
                        origin, target = delivery.origin, self._target(delivery.origin)
                    published.add(delivery, (MessageCopy(delivery.body, *target),))
                ended = published.take()
                yield _confirmed(ended)
                error = _first_error(ended, stop)
                if returning or error:
                    break
            for ended in published.rest(stop, at_once=error is not None):
                yield _confirmed(ended)
                error = error or _first_error(ended, stop)
        finally:
            published.close()
        if error:
            raise error
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


def _confirmed(ended: Sequence[Pending]) -> HandledBatch:
    return HandledBatch([each.delivery for each in ended if each.error is None])


def _first_error(ended: Sequence[Pending], stop: Stop) -> RmqkitError | None:
    """Return the error of the first copy that was not confirmed; a stop may leave copies without an answer."""
    for each in ended:
        if each.error is not None and not (each.is_unknown and stop.requested):
            report = each.error.report if isinstance(each.error, BrokerError) and not each.is_unknown else None
            copied = copy_error(report, "a message cannot be forwarded", _ADVICE) if report else None
            return copied or each.error
    return None
