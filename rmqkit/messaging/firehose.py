"""The firehose: copies of the messages that a virtual host receives and delivers (https://www.rabbitmq.com/docs/firehose).

RabbitMQ publishes them to an exchange, with the routing key `publish.EXCHANGE` or `deliver.QUEUE`; the headers describe
the original message.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Self

from rmqkit.amqp import entity_methods
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import LazyOrigin
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import BrokerError, ConnectionLost, Unreachable
from rmqkit.message import Delivery, Properties, Verdict
from rmqkit.messaging.consumer import Consumer
from rmqkit.model import Binding, Queue
from rmqkit.options import ConsumeOptions
from rmqkit.payload.death_headers import CC
from rmqkit.payload.field_table import encode_properties
from rmqkit.stop import Stop

EXCHANGE = "amq.rabbitmq.trace"
_NAMES = tuple(each.name for each in fields(Properties))
_COUNT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """A message that was published, or delivered from the queue `delivered_from`.

    `queues` are those that a published message was routed to, or the one it was delivered from. `routing_keys` are the
    message's own, and those of its CC and BCC headers. `connection` has the addresses of the client and the broker.
    """

    message: Delivery
    routing_keys: tuple[str, ...]
    queues: tuple[str, ...]
    delivered_from: str | None
    user: str
    node: str
    connection: str
    channel: int

    @property
    def event(self) -> str:
        """Return `published` or `delivered`."""
        return "published" if self.delivered_from is None else "delivered"


class Firehose:
    """The traced messages of a virtual host, from an exclusive queue that drops the oldest beyond `max_length`.

    Dropped messages go to a second queue, where they are counted by purging it: `dropped` is exact up to `max_length`
    messages a second, and at least what was dropped beyond. `on_open` is called for each connection once the queues are
    bound; if it raises Unreachable after a lost connection, that is tried again. Use it in a `with` block.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        keys: tuple[str, ...],
        options: ConsumeOptions,
        max_length: int,
        *,
        on_open: Callable[[], None],
        stop: Stop,
        on_warning: Callable[[str], None],
    ) -> None:
        self.dropped = 0
        self._connection = connection
        self._keys = keys
        self._max_length = max_length
        self._on_open = on_open
        self._drops = ""  # the queue of dropped messages
        self._counted_s = 0.0
        self._consumer = Consumer(
            connection, EXCHANGE, options, stop=stop, on_warning=on_warning, open_queue=self._open
        )

    def __enter__(self) -> Self:
        self._consumer.__enter__()
        self._consumer.subscribe()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._consumer.__exit__(kind, *error)

    def batches(self) -> Iterator[list[TracedMessage]]:
        """Yield messages in the batches they arrive in. Raises AccessRefused, ConnectionLost, ConsumerCancelled."""
        for batch in self._consumer.batches():
            yield list(map(decode, batch))
            self._consumer.settle(batch, Verdict.ACK)
            if time.monotonic() - self._counted_s > _COUNT_EVERY_S:
                self.count_dropped()

    def count_dropped(self) -> None:
        """Add the messages that were dropped since the last count; without a connection there is nothing to count."""
        with suppress(BrokerError), closing(self._connection.channel()) as channel:
            self.dropped += channel.purge(self._drops)
        self._counted_s = time.monotonic()

    def _open(self, channel: Channel) -> str:
        """Declare and bind the queues, and return the name of the first."""
        is_first, name = not self._drops, f"rmqkit.trace.{uuid.uuid4().hex}"
        self._drops = f"{name}.dropped"
        bounded = {"x-queue-type": "classic", "x-max-length": self._max_length, "x-overflow": "drop-head"}
        counted = bounded | {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self._drops}
        for queue, arguments in ((self._drops, bounded), (name, counted)):
            entity_methods.declare(channel, Queue(queue, durable=False, exclusive=True, arguments=arguments))
        for key in self._keys:
            entity_methods.declare(channel, Binding(EXCHANGE, name, routing_key=key))
        try:
            self._on_open()
        except Unreachable as error:
            if is_first:
                raise
            raise ConnectionLost(error.message) from error
        return name


def decode(delivery: Delivery) -> TracedMessage:
    """Return the message that a delivery of the firehose describes."""
    headers = delivery.properties.headers or {}
    kind, _, name = delivery.routing_key.partition(".")
    delivered_from = name if kind == "deliver" else None
    keys = tuple(map(_text, headers.get("routing_keys") or ()))
    given = _properties(headers.get("properties") or {}, keys[1:] if delivered_from is None else ())
    origin = LazyOrigin("", _text(headers.get("exchange_name", "")), keys[0] if keys else "", encode_properties(given))
    return TracedMessage(
        Delivery(delivery.body, delivery.delivery_tag, bool(headers.get("redelivered")), origin, delivery.session),
        keys,
        tuple(sorted(map(_text, headers.get("routed_queues") or ()))) if delivered_from is None else (name,),
        delivered_from,
        _text(headers.get("user", "")),
        _text(headers.get("node", "")),
        _text(headers.get("connection", "")),
        int(headers.get("channel") or 0),
    )


def _properties(table: Mapping[str, Any], extra_keys: tuple[str, ...]) -> Properties:
    """Return properties from a table; RabbitMQ writes the timestamp as a number, and leaves out the BCC header."""
    values: dict[str, Any] = dict.fromkeys(_NAMES) | {name: table[name] for name in _NAMES if name in table}
    if isinstance(values["timestamp"], int):
        values["timestamp"] = datetime.fromtimestamp(values["timestamp"], UTC)
    headers = values["headers"] or {}
    if hidden := [key for key in extra_keys if key not in headers.get(CC, ())]:
        values["headers"] = {**headers, "BCC": hidden}
    texts = {name: _text(value) for name, value in values.items() if isinstance(value, bytes)}
    return Properties(**values | texts)


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
