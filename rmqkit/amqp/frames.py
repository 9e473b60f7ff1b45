"""Encoding of messages and methods into frames, and the events that frames decode to.

Publishing with pika costs about 94 calls a message; here the method frame and the properties are marshalled once, and
each message only adds its size and its body (AMQP 0-9-1 section 4.2.3).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from pika import frame, spec
from pika.exceptions import ShortStringTooLong

from rmqkit.errors import PayloadError
from rmqkit.message import Delivery, Message, Origin, Properties
from rmqkit.payload import properties
from rmqkit.payload.field_table import decode_properties, encode_properties, encode_table, received_bytes

FRAME_END = b"\xce"
FRAME_OVERHEAD = 8  # type, channel, size, and the end octet

# The queue to consume replies from; followed by a suffix, the address of one channel that does.
DIRECT_REPLY = "amq.rabbitmq.reply-to"

FRAME_HEAD = struct.Struct(">BHI")
_TAG = struct.Struct(">Q")
_SETTLE = struct.Struct(">BHIIQBB")
_CONTENT = struct.Struct(">HH")  # the class and the weight, before the body size
_EMPTY_TABLE = bytes(4)
_REMEMBERED_HEADS = 1024
LARGE_BODY_BYTES = 8 * 1024  # copying a smaller one costs less than sending it in pieces
_NAMES = ("queue", "exchange", "source", "destination", "routing_key", "consumer_tag", "type")  # in methods

ACK_INDEX: int = spec.Basic.Ack.INDEX
NACK_INDEX: int = spec.Basic.Nack.INDEX
SETTLE_PAYLOAD = 13  # bytes in an ack or a nack: the index, the tag, and one octet of bits


class Confirm(NamedTuple):
    """The broker's answer to publishes: for `tag` alone, or with `multiple` for all up to it (0: for all)."""

    tag: int
    multiple: bool
    ack: bool


class Returned(NamedTuple):
    """A mandatory message that reached no queue; `header` holds its encoded properties."""

    reply_code: int
    reply_text: str
    exchange: str
    routing_key: str
    header: bytes
    body: bytes


class LazyOrigin:
    """The values that deliveries of one shape have in common; the properties are decoded on first use."""

    __slots__ = ("_decoded", "consumer_tag", "exchange", "header", "routing_key")

    def __init__(self, consumer_tag: str, exchange: str, routing_key: str, header: bytes) -> None:
        self.consumer_tag = consumer_tag
        self.exchange = exchange
        self.routing_key = routing_key
        self.header = header
        self._decoded: tuple[Properties, str] | None = None

    @property
    def properties(self) -> Properties:
        """Return the properties, as far as they can be decoded."""
        return self._decode()[0]

    @property
    def malformed(self) -> str:
        """Return why the properties could not be decoded completely; empty if they could."""
        return self._decode()[1]

    def _decode(self) -> tuple[Properties, str]:
        if self._decoded is None:
            self._decoded = decode_properties(self.header)
        return self._decoded


Piece = bytes | memoryview
ConsumerCancel = spec.Basic.Cancel  # the broker ends a consumer (https://www.rabbitmq.com/docs/consumer-cancel)
QosOk = spec.Basic.QosOk

# A run of deliveries, a confirm, a return, or a method object of pika.
Event = list[Delivery] | Confirm | Returned | Any


def encode_method(channel: int, method: Any, arguments: Mapping[str, Any] | None = None) -> bytes:
    """Marshal one of pika's method objects for a channel.

    `arguments` replaces the empty table at the end of a method: pika's own encoder does not support floats. Raises
    PayloadError for names that AMQP cannot carry.
    """
    try:
        marshalled: bytes = frame.Method(channel, method).marshal()
    except (AssertionError, ShortStringTooLong, UnicodeEncodeError):
        properties.check_names({name: value for name, value in vars(method).items() if name in _NAMES})
        raise
    if not arguments:
        return marshalled
    payload = marshalled[FRAME_HEAD.size : -len(_EMPTY_TABLE + FRAME_END)] + encode_table(arguments)
    return FRAME_HEAD.pack(spec.FRAME_METHOD, channel, len(payload)) + payload + FRAME_END


def encode_ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Encode basic.ack."""
    return _SETTLE.pack(spec.FRAME_METHOD, channel, SETTLE_PAYLOAD, ACK_INDEX, tag, multiple, 0xCE)


def encode_nack(channel: int, tag: int, *, requeue: bool, multiple: bool = False) -> bytes:
    """Encode basic.nack for one delivery or all up to it; without `requeue` RabbitMQ dead-letters or drops them."""
    return _SETTLE.pack(spec.FRAME_METHOD, channel, SETTLE_PAYLOAD, NACK_INDEX, tag, 2 * requeue + multiple, 0xCE)


def encode_reject(channel: int, tag: int, *, requeue: bool) -> bytes:
    """Encode basic.reject, which quorum queues count as a failed delivery (https://www.rabbitmq.com/docs/nack)."""
    return encode_method(channel, spec.Basic.Reject(tag, requeue))


def encode_qos(channel: int) -> bytes:
    """Encode basic.qos without a limit, which the broker answers after everything sent before it."""
    return encode_method(channel, spec.Basic.Qos())


class Encoder:
    """Encodes messages for one channel; direct replies are never mandatory.

    A mandatory direct reply would be delivered and also returned as unroutable
    (https://www.rabbitmq.com/docs/direct-reply-to).
    """

    def __init__(self, channel: int, frame_max: int, *, mandatory: bool = True) -> None:
        self._channel = channel
        self._mandatory = mandatory
        self._room = frame_max - FRAME_OVERHEAD  # body bytes in a frame
        self._exchange: str | None = None
        self._routing_key = ""
        self._properties: Properties | None = None
        self._method = b""
        self._header = (b"", b"")  # the content header around its body size
        self._heads: dict[int, bytes] = {}  # body size -> all frames before the body
        self._origin: Origin | None = None

    def forward(self, delivery: Delivery, exchange: str, header: bytes, routing_key: str | None = None) -> bytes:
        """Encode a delivery for another exchange, with its own routing key unless one is given.

        `header` holds its encoded properties. All arguments must be the same for each delivery of an origin. Raises
        PayloadError for properties that do not fit in a frame.
        """
        if delivery.origin is not self._origin:
            key = delivery.routing_key if routing_key is None else routing_key
            self._method = self._publish(exchange, key, mandatory=True)
            self._header = self._frame_header(header)
            self._origin, self._properties, self._heads = delivery.origin, None, {}
        head = self._heads.get(len(delivery.body))
        return self._encode_new_size(delivery.body) if head is None else head + delivery.body + FRAME_END

    def encode(self, message: Message) -> bytes:
        """Encode a message: its method, its header, and its body in as many frames as it needs.

        Raises PayloadError for names and properties that AMQP cannot carry.
        """
        if (
            message.properties is not self._properties
            or message.routing_key != self._routing_key
            or message.exchange != self._exchange
        ):
            self._prepare(message)
        body = message.body
        head = self._heads.get(len(body))
        if head is not None:
            return head + body + FRAME_END
        return self._encode_new_size(body)

    def encode_pieces(self, message: Message) -> list[Piece]:
        """Encode a message as `encode` does, but do not copy its body: it is sent from where it is."""
        self._prepare(message)
        return self._pieces(message.body)

    def _prepare(self, message: Message) -> None:
        if message.exchange != self._exchange or message.routing_key != self._routing_key:
            self._heads = {}
            properties.check_target(message.exchange, message.routing_key)
            direct_reply = not message.exchange and message.routing_key.startswith(DIRECT_REPLY)
            mandatory = self._mandatory and not direct_reply
            self._method = self._publish(message.exchange, message.routing_key, mandatory=mandatory)
            self._exchange, self._routing_key = message.exchange, message.routing_key
        if message.properties is not self._properties:
            self._heads = {}
            encoded = received_bytes(message.properties)
            if not encoded:
                properties.check(message.properties)
                encoded = encode_properties(message.properties)
            self._header = self._frame_header(encoded)
            self._properties = message.properties

    def _publish(self, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
        key = routing_key.encode("utf-8", "surrogateescape")  # the only name for which RabbitMQ accepts any bytes
        return encode_method(self._channel, spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory))

    def _frame_header(self, encoded: bytes) -> tuple[bytes, bytes]:
        """Return the content header frame around its body size; it cannot be split (AMQP 0-9-1 section 4.2.6)."""
        size = _CONTENT.size + _TAG.size + len(encoded)
        if size > self._room:
            message = f"headers and properties take {size} bytes, but a frame to this broker holds {self._room}"
            raise PayloadError(message)
        head = FRAME_HEAD.pack(spec.FRAME_HEADER, self._channel, size) + _CONTENT.pack(spec.BasicProperties.INDEX, 0)
        return head, encoded + FRAME_END

    def _encode_new_size(self, body: bytes) -> bytes:
        size = len(body)
        if not 0 < size <= self._room:
            return b"".join(self._pieces(body))
        head = self._head(size) + FRAME_HEAD.pack(spec.FRAME_BODY, self._channel, size)
        if len(self._heads) < _REMEMBERED_HEADS:
            self._heads[size] = head
        return head + body + FRAME_END

    def _head(self, size: int) -> bytes:
        before, after = self._header
        return self._method + before + _TAG.pack(size) + after

    def _pieces(self, body: bytes) -> list[Piece]:
        """Return all frames of a message in pieces; an empty body has no body frame."""
        pieces: list[Piece] = [self._head(len(body))]
        view = memoryview(body)  # its slices are no copies
        for start in range(0, len(body), self._room):
            part = view[start : start + self._room]
            pieces += (FRAME_HEAD.pack(spec.FRAME_BODY, self._channel, len(part)), part, FRAME_END)
        return pieces


def fits(message: Message, frame_max: int) -> bool:
    """Tell whether AMQP can carry a message's names and properties, and a frame of `frame_max` bytes holds them."""
    try:
        Encoder(1, frame_max).encode(replace(message, body=b""))
    except PayloadError:
        return False
    return True
