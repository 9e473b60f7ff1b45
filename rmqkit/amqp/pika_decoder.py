"""A slow decoder made of pika's own classes: the reference for the fast one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pika import frame, spec
from pika.exceptions import InvalidFrameError

from rmqkit.amqp.frame_decoder import ProtocolError
from rmqkit.amqp.frames import Confirm, Event, LazyOrigin, Returned
from rmqkit.message import Delivery


class PikaDecoder:
    """A decoder like `frame_decoder.Decoder` that uses `pika.frame.decode_frame` alone."""

    room = memoryview(b"")  # it has to be fed everything

    def __init__(self, on_frame: Callable[[Any], None], frame_max: int) -> None:
        self.frame_max = frame_max
        self.sessions: dict[int, int] = {}
        self._on_frame = on_frame
        self._rest = b""
        self._open: dict[int, list[Any]] = {}  # method, header, parts of the body

    def advance(self, received: int) -> None:
        """Do nothing: there is no room."""

    def feed(self, data: bytes) -> list[tuple[int, Event]]:
        """Decode all complete frames; return events with their channel, in the order of the wire."""
        self._rest += data
        events: list[tuple[int, Event]] = []
        while self._rest:
            try:
                consumed, decoded = frame.decode_frame(self._rest)
            except InvalidFrameError as exc:
                raise ProtocolError(str(exc)) from exc
            if decoded is None:
                break
            raw, self._rest = self._rest[:consumed], self._rest[consumed:]
            self._frame(decoded, raw, events)
        return events

    def _frame(self, decoded: Any, raw: bytes, events: list[tuple[int, Event]]) -> None:
        channel = decoded.channel_number if isinstance(decoded, frame.Frame) else 0
        if channel == 0:
            self._on_frame(decoded)
        elif isinstance(decoded, frame.Header):
            self._open[channel] += [decoded.body_size, raw[19:-1]]
            self._finish(channel, events)
        elif isinstance(decoded, frame.Body):
            self._open[channel].append(decoded.fragment)
            self._finish(channel, events)
        elif isinstance(decoded.method, spec.Basic.Deliver | spec.Basic.Return):
            self._open[channel] = [decoded.method]
        elif isinstance(decoded.method, spec.Basic.Ack | spec.Basic.Nack):
            method = decoded.method
            ack = isinstance(method, spec.Basic.Ack)
            events.append((channel, Confirm(method.delivery_tag, bool(method.multiple), ack)))
        else:
            events.append((channel, decoded.method))

    def _finish(self, channel: int, events: list[tuple[int, Event]]) -> None:
        method, size, header, *parts = self._open[channel]
        body = b"".join(parts)
        if len(body) < size:
            return
        del self._open[channel]
        if isinstance(method, spec.Basic.Return):
            returned = Returned(method.reply_code, method.reply_text, method.exchange, method.routing_key, header, body)
            events.append((channel, returned))
            return
        origin = LazyOrigin(method.consumer_tag, method.exchange, method.routing_key, header)
        session = self.sessions.get(channel, 0)
        events.append((channel, [Delivery(body, method.delivery_tag, bool(method.redelivered), origin, session)]))
