"""Bytes to deliveries, confirms and returns: pure, and half of the reason rmqkit is fast.

A delivery costs one `unpack_from` as long as it looks like the one before it on its channel. Whatever is not
basic.deliver, basic.return, basic.ack or basic.nack is left to pika's decoder (AMQP 0-9-1 section 4.2.3).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pika import frame, spec

from rmqkit.amqp.frames import (
    ACK_INDEX,
    FRAME_END,
    FRAME_HEAD,
    FRAME_OVERHEAD,
    NACK_INDEX,
    SETTLE_PAYLOAD,
    Confirm,
    Event,
    LazyOrigin,
    Returned,
)
from rmqkit.message import Delivery

MAX_HEADER_BYTES = 1024 * 1024  # RabbitMQ sends headers whole: they may be larger than the frames agreed on with us
MAX_BODY_BYTES = 512 * 1024 * 1024  # RabbitMQ takes no larger message, so none can come

_INDEX = struct.Struct(">I")
_TAG_AND_BITS = struct.Struct(">QB")
_CONTENT_HEADER = struct.Struct(">HHQ")
_DELIVER: int = spec.Basic.Deliver.INDEX
_RETURN: int = spec.Basic.Return.INDEX
_BASIC_CLASS: int = spec.BasicProperties.INDEX


class ProtocolError(Exception):
    """The peer sent what no RabbitMQ sends; the connection is of no more use."""


class _Shape:
    """The constant bytes of a delivery: a next one that has them differs in tag, redelivered, size and body only."""

    __slots__ = ("after", "before", "between", "fixed", "origin", "unpack_from")

    def __init__(self, channel: int, method: bytes, header: bytes, origin: LazyOrigin) -> None:
        tag_at = 5 + method[4]  # behind the index and the consumer tag
        self.before = FRAME_HEAD.pack(spec.FRAME_METHOD, channel, len(method)) + method[:tag_at]
        self.between = (
            method[tag_at + 9 :] + FRAME_END + FRAME_HEAD.pack(spec.FRAME_HEADER, channel, len(header)) + header[:4]
        )
        self.after = header[12:] + FRAME_END + FRAME_HEAD.pack(spec.FRAME_BODY, channel, 0)[:3]
        layout = struct.Struct(f">{len(self.before)}sQB{len(self.between)}sQ{len(self.after)}sI")
        self.fixed = layout.size
        self.unpack_from = layout.unpack_from
        self.origin = origin


class _Content:
    """A delivery or a return whose header and body are still arriving."""

    __slots__ = ("header", "method", "missing", "parts")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""
        self.missing = -1  # body bytes to come; -1: the header has not come
        self.parts: list[bytes] = []


class Decoder:
    """Bytes to events, whatever way the bytes were cut into reads.

    `on_frame` gets what pika is to decide about: every frame of channel 0. `sessions` tells by channel number which
    session its deliveries belong to.
    """

    def __init__(self, on_frame: Callable[[Any], None], frame_max: int) -> None:
        self.frame_max = frame_max
        self.sessions: dict[int, int] = {}
        self._on_frame = on_frame
        self._rest = b""
        self._contents: dict[int, _Content] = {}
        self._shapes: dict[int, _Shape] = {}

    def feed(self, data: bytes) -> list[tuple[int, Event]]:
        """Decode all whole frames; return events with their channel, in the order of the wire.

        Raises ProtocolError, after which the decoder is of no more use.
        """
        if self._rest:
            data = self._rest + data
        events: list[tuple[int, Event]] = []
        position, end = 0, len(data)
        while end - position >= FRAME_OVERHEAD:
            kind, channel, size = FRAME_HEAD.unpack_from(data, position)
            shape = self._shapes.get(channel)
            if shape is not None and kind == spec.FRAME_METHOD:
                reached = self._run(shape, channel, data, position, events)
                if reached != position:
                    position = reached
                    continue
            most = self.frame_max - FRAME_OVERHEAD
            if size > most and (kind != spec.FRAME_HEADER or size > MAX_HEADER_BYTES):
                raise ProtocolError(f"a frame of {size} bytes, more than the {self.frame_max} agreed on")
            stop = position + FRAME_HEAD.size + size
            if stop >= end:
                break
            if data[stop] != FRAME_END[0]:
                raise ProtocolError("a frame without its end octet")
            self._frame(kind, channel, data[position : stop + 1], events)
            position = stop + 1
        self._rest = data[position:]
        return events

    def _run(self, shape: _Shape, channel: int, data: bytes, position: int, events: list[tuple[int, Event]]) -> int:
        """Decode the deliveries of a known shape, as many as follow each other; return where they end."""
        before, between, after, fixed = shape.before, shape.between, shape.after, shape.fixed
        unpack_from, origin = shape.unpack_from, shape.origin
        session = self.sessions.get(channel, 0)
        end = len(data)
        run: list[Delivery] = []
        while position + fixed < end:
            a, tag, bits, b, size, c, in_frame = unpack_from(data, position)
            if size != in_frame or a != before or b != between or c != after:
                break
            start = position + fixed
            stop = start + size
            if stop >= end:
                break
            if data[stop] != FRAME_END[0]:
                raise ProtocolError("a frame without its end octet")
            run.append(Delivery(data[start:stop], tag, bits == 1, origin, session))
            position = stop + 1
        if run:
            events.append((channel, run))
        return position

    def _frame(self, kind: int, channel: int, raw: bytes, events: list[tuple[int, Event]]) -> None:
        payload = raw[FRAME_HEAD.size : -1]
        content = self._contents.get(channel)
        if kind == spec.FRAME_METHOD and channel and len(payload) >= _INDEX.size:
            (index,) = _INDEX.unpack_from(payload)
            if index in (ACK_INDEX, NACK_INDEX) and len(payload) == SETTLE_PAYLOAD:
                tag, bits = _TAG_AND_BITS.unpack_from(payload, 4)
                events.append((channel, Confirm(tag, bool(bits & 1), index == ACK_INDEX)))
                return
            if index in (_DELIVER, _RETURN):
                self._contents[channel] = _Content(payload)
                return
        elif content is not None and kind in (spec.FRAME_HEADER, spec.FRAME_BODY):
            if self._extend(content, kind, payload):
                del self._contents[channel]
                self._complete(channel, content, events)
            return
        self._leave_to_pika(channel, raw, events)

    @staticmethod
    def _extend(content: _Content, kind: int, payload: bytes) -> bool:
        """Add a header or body frame to a content; tell whether it is whole."""
        if kind == spec.FRAME_HEADER:
            if content.missing >= 0 or len(payload) < _CONTENT_HEADER.size:
                raise ProtocolError("a content header out of place")
            class_id, _, size = _CONTENT_HEADER.unpack_from(payload)
            if class_id != _BASIC_CLASS or size > MAX_BODY_BYTES:
                raise ProtocolError(f"a content header of class {class_id} for a body of {size} bytes")
            content.header, content.missing = payload, size
        else:
            if not payload or len(payload) > content.missing:
                raise ProtocolError("a body that is not as long as its header says")
            content.parts.append(payload)
            content.missing -= len(payload)
        return content.missing == 0

    def _complete(self, channel: int, content: _Content, events: list[tuple[int, Event]]) -> None:
        method, header = content.method, content.header
        body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
        try:
            if _INDEX.unpack_from(method)[0] == _RETURN:
                events.append((channel, _returned(method, header[12:], body)))
                return
            consumer_tag, position = _short_string(method, 4)
            tag, bits = _TAG_AND_BITS.unpack_from(method, position)
            exchange, position = _short_string(method, position + 9)
            routing_key, _ = _short_string(method, position)
        except (IndexError, struct.error) as exc:
            raise ProtocolError("a basic.deliver or basic.return that ends too early") from exc
        origin = LazyOrigin(consumer_tag, exchange, routing_key, header[12:])
        delivery = Delivery(body, tag, bool(bits & 1), origin, self.sessions.get(channel, 0))
        events.append((channel, [delivery]))
        self._shapes[channel] = _Shape(channel, method, header, origin)

    def _leave_to_pika(self, channel: int, raw: bytes, events: list[tuple[int, Event]]) -> None:
        try:
            _, decoded = frame.decode_frame(raw)
        except Exception as exc:  # whatever pika trips over, the peer sent nonsense
            raise ProtocolError(f"a frame that cannot be decoded: {type(exc).__name__}") from exc
        if channel == 0:
            self._on_frame(decoded)
        elif isinstance(decoded, frame.Method):
            events.append((channel, decoded.method))
        else:
            raise ProtocolError("a content frame that belongs to nothing")


def _short_string(data: bytes, position: int) -> tuple[str, int]:
    end = position + 1 + data[position]
    return data[position + 1 : end].decode("utf-8", "surrogateescape"), end


def _returned(method: bytes, header: bytes, body: bytes) -> Returned:
    code = int.from_bytes(method[4:6], "big")
    text, position = _short_string(method, 6)
    exchange, position = _short_string(method, position)
    routing_key, _ = _short_string(method, position)
    return Returned(code, text, exchange, routing_key, header, body)
