"""Decoding of bytes into deliveries, confirms and returns: pure functions of the input, and fast.

A delivery costs one `unpack_from` if it has the same shape as the previous one on its channel. All frames except
basic.deliver, basic.return, basic.ack and basic.nack are left to pika's decoder (AMQP 0-9-1 section 4.2.3).

A body is copied once, from the bytes read to its place; `room` is where the rest of a large frame belongs, so that it
can be received there, and is not copied at all.
"""

from __future__ import annotations

import io
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

MAX_HEADER_BYTES = 1024 * 1024  # RabbitMQ does not split headers: they may exceed the negotiated frame size
MAX_BODY_BYTES = 512 * 1024 * 1024  # RabbitMQ accepts no larger message

_LARGE_FRAME_BYTES = 2048  # an incomplete body frame of this size is not kept to be decoded again with the next read
_LARGE_BODY_BYTES = 64 * 1024  # smaller ones are read several at a time

_INDEX = struct.Struct(">I")
_TAG_AND_BITS = struct.Struct(">QB")
_CONTENT_HEADER = struct.Struct(">HHQ")
_DELIVER: int = spec.Basic.Deliver.INDEX
_RETURN: int = spec.Basic.Return.INDEX
_BASIC_CLASS: int = spec.BasicProperties.INDEX


class ProtocolError(Exception):
    """The peer sent bytes that no RabbitMQ sends; the connection is unusable."""


class _Shape:
    """The constant bytes of a delivery: deliveries that share them differ in tag, redelivered, size and body only."""

    __slots__ = ("after", "before", "between", "fixed", "origin", "unpack_from")

    def __init__(self, channel: int, method: bytes, header: bytes, origin: LazyOrigin) -> None:
        tag_at = 5 + method[4]  # after the index and the consumer tag
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

    __slots__ = ("_whole", "body", "filled", "frame_end", "header", "method")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""  # empty before it arrives
        self.body = memoryview(b"")
        self.filled = self.frame_end = 0  # positions in the body: what has arrived, and the end of its current frame

    def begin(self, header: bytes, size: int) -> None:
        """Add the header."""
        self.header = header
        self._whole = io.BytesIO(bytes(size))  # no copy, and its value at the end is none either
        self.body = self._whole.getbuffer()

    def add(self, part: memoryview) -> None:
        """Add a part of the body, which has to fit."""
        end = self.filled + len(part)
        self.body[self.filled : end] = part
        self.filled = end

    def end(self) -> bytes:
        """Return the complete body."""
        self.body.release()
        return self._whole.getvalue()


class Decoder:
    """Decodes bytes into events, however the bytes are split into reads.

    `on_frame` receives every frame of channel 0, for pika. `sessions` maps a channel number to the session of its
    deliveries.
    """

    def __init__(self, on_frame: Callable[[Any], None], frame_max: int) -> None:
        self.frame_max = frame_max
        self.sessions: dict[int, int] = {}
        self._on_frame = on_frame
        self._rest = b""
        self._contents: dict[int, _Content] = {}
        self._shapes: dict[int, _Shape] = {}
        self._unfinished: tuple[int, _Content] | None = None  # the channel and content of a large frame

    @property
    def room(self) -> memoryview:
        """Return where the rest of an unfinished frame of a large body belongs; empty if there is none."""
        if self._unfinished is None or len(self._unfinished[1].body) < _LARGE_BODY_BYTES:
            return memoryview(b"")
        content = self._unfinished[1]
        return content.body[content.filled : content.frame_end]

    def advance(self, received: int) -> None:
        """Note how many bytes were received into `room`."""
        if self._unfinished is not None:
            self._unfinished[1].filled += received

    def feed(self, data: bytes) -> list[tuple[int, Event]]:
        """Decode all complete frames; return events with their channel, in the order of the wire.

        Raises ProtocolError, after which the decoder is unusable.
        """
        if self._rest:
            data = self._rest + data
        events: list[tuple[int, Event]] = []
        position, end = self._finish_frame(data, 0, events), len(data)
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
                raise ProtocolError(f"a frame of {size} bytes exceeds the negotiated {self.frame_max}")
            stop = position + FRAME_HEAD.size + size
            if stop >= end:
                if kind == spec.FRAME_BODY and size >= _LARGE_FRAME_BYTES:
                    position = self._begin_frame(channel, size, data, position, events)
                break
            if data[stop] != FRAME_END[0]:
                raise ProtocolError("a frame without an end octet")
            self._frame(kind, channel, memoryview(data)[position : stop + 1], events)
            position = stop + 1
        self._rest = data[position:]
        return events

    def _begin_frame(self, channel: int, size: int, data: bytes, start: int, events: list[tuple[int, Event]]) -> int:
        """Take the part of a body frame that has arrived; return where the taken bytes end."""
        content = self._contents.get(channel)
        if content is None or content.filled + size > len(content.body):
            return start  # an error, which is found when the frame is complete
        content.frame_end = content.filled + size
        self._unfinished = channel, content
        return self._finish_frame(data, start + FRAME_HEAD.size, events)

    def _finish_frame(self, data: bytes, start: int, events: list[tuple[int, Event]]) -> int:
        """Take the next part of an unfinished body frame, if there is one; return where the taken bytes end."""
        if self._unfinished is None:
            return start
        channel, content = self._unfinished
        stop = start + content.frame_end - content.filled
        content.add(memoryview(data)[start:stop])
        if stop >= len(data):
            return len(data)
        if data[stop] != FRAME_END[0]:
            raise ProtocolError("a frame without an end octet")
        self._unfinished = None
        if content.filled == len(content.body):
            del self._contents[channel]
            self._complete(channel, content, events)
        return stop + 1

    def _run(self, shape: _Shape, channel: int, data: bytes, position: int, events: list[tuple[int, Event]]) -> int:
        """Decode consecutive deliveries of a known shape; return where they end."""
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
                raise ProtocolError("a frame without an end octet")
            run.append(Delivery(data[start:stop], tag, bits == 1, origin, session))
            position = stop + 1
        if run:
            events.append((channel, run))
        return position

    def _frame(self, kind: int, channel: int, raw: memoryview, events: list[tuple[int, Event]]) -> None:
        payload = raw[FRAME_HEAD.size : -1]
        content = self._contents.get(channel)
        if kind == spec.FRAME_METHOD and channel and len(payload) >= _INDEX.size:
            (index,) = _INDEX.unpack_from(payload)
            if index in (ACK_INDEX, NACK_INDEX) and len(payload) == SETTLE_PAYLOAD:
                tag, bits = _TAG_AND_BITS.unpack_from(payload, 4)
                events.append((channel, Confirm(tag, bool(bits & 1), index == ACK_INDEX)))
                return
            if index in (_DELIVER, _RETURN):
                self._contents[channel] = _Content(bytes(payload))
                return
        elif content is not None and kind in (spec.FRAME_HEADER, spec.FRAME_BODY):
            if self._extend(content, kind, payload):
                del self._contents[channel]
                self._complete(channel, content, events)
            return
        self._leave_to_pika(channel, bytes(raw), events)

    @staticmethod
    def _extend(content: _Content, kind: int, payload: memoryview) -> bool:
        """Add a header or body frame to a content; return whether it is complete."""
        if kind == spec.FRAME_HEADER:
            if content.header or len(payload) < _CONTENT_HEADER.size:
                raise ProtocolError("an unexpected content header")
            class_id, _, size = _CONTENT_HEADER.unpack_from(payload)
            if class_id != _BASIC_CLASS or size > MAX_BODY_BYTES:
                raise ProtocolError(f"a content header of class {class_id} for a body of {size} bytes")
            content.begin(bytes(payload), size)
        else:
            if not payload or content.filled + len(payload) > len(content.body):
                raise ProtocolError("a body whose length differs from its header")
            content.add(payload)
        return content.filled == len(content.body)

    def _complete(self, channel: int, content: _Content, events: list[tuple[int, Event]]) -> None:
        method, header = content.method, content.header
        body = content.end()
        try:
            if _INDEX.unpack_from(method)[0] == _RETURN:
                events.append((channel, _returned(method, header[12:], body)))
                return
            consumer_tag, position = _short_string(method, 4)
            tag, bits = _TAG_AND_BITS.unpack_from(method, position)
            exchange, position = _short_string(method, position + 9)
            routing_key, _ = _short_string(method, position)
        except (IndexError, struct.error) as exc:
            raise ProtocolError("a truncated basic.deliver or basic.return") from exc
        origin = LazyOrigin(consumer_tag, exchange, routing_key, header[12:])
        delivery = Delivery(body, tag, bool(bits & 1), origin, self.sessions.get(channel, 0))
        events.append((channel, [delivery]))
        self._shapes[channel] = _Shape(channel, method, header, origin)

    def _leave_to_pika(self, channel: int, raw: bytes, events: list[tuple[int, Event]]) -> None:
        try:
            _, decoded = frame.decode_frame(raw)
        except Exception as exc:  # any error of pika means invalid bytes
            raise ProtocolError(f"an undecodable frame: {type(exc).__name__}") from exc
        if channel == 0:
            self._on_frame(decoded)
        elif isinstance(decoded, frame.Method):
            events.append((channel, decoded.method))
        else:
            raise ProtocolError("a content frame without a method")


def _short_string(data: bytes, position: int) -> tuple[str, int]:
    end = position + 1 + data[position]
    return data[position + 1 : end].decode("utf-8", "surrogateescape"), end


def _returned(method: bytes, header: bytes, body: bytes) -> Returned:
    code = int.from_bytes(method[4:6], "big")
    text, position = _short_string(method, 6)
    exchange, position = _short_string(method, position)
    routing_key, _ = _short_string(method, position)
    return Returned(code, text, exchange, routing_key, header, body)
