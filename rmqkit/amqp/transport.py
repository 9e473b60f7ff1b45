"""One TCP connection to one broker: pika's adapter, its I/O thread, and the channels on it.

pika does the handshake, the heartbeats and channel 0. User code never runs on the I/O thread: heartbeats go on while a
handler works for an hour, and Ctrl-C never lands in pika's loop. What is sent while the thread is busy goes out in one
write: the busier, the larger the writes, and a lone message leaves at once.
"""

from __future__ import annotations

import os
import ssl
import threading
import weakref
from collections import deque
from copy import copy
from functools import partial
from itertools import count
from typing import Any

import pika
from pika import spec
from pika.adapters.select_connection import IOLoop
from pika.exceptions import ConnectionClosedByClient

from rmqkit.address import Address
from rmqkit.amqp import error_mapping, pika_codec
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.decoder import Decoder
from rmqkit.amqp.frames import Event
from rmqkit.errors import BrokerError, ConnectionLost, Unreachable

READ_BYTES = 256 * 1024  # pika reads 4 KiB at a time
WRITE_BYTES = 256 * 1024  # a partial write copies the rest, so a write must not be too large
CLOSE_TIMEOUT_S = 3.0  # under an alarm the broker reads nothing, and close-ok never comes
LOOK_FOR_OWNER_S = 1.0
PURE_PIKA = "RMQKIT_PURE_PIKA"  # set in the environment: decode with pika alone, to tell our fault from pika's

_sessions = count(1)


class _Adapter(pika.SelectConnection):
    """pika's connection, with our decoder between the socket and pika's channel 0."""

    def __init__(self, parameters: pika.ConnectionParameters, owner: Transport, ioloop: IOLoop) -> None:
        self._owner = owner
        self.broken_by: BaseException | None = None  # pika keeps but the text of what broke the stream
        decoder = pika_codec.PikaDecoder if os.environ.get(PURE_PIKA) else Decoder
        self.decoder = decoder(self._process_frame, parameters.frame_max)
        super().__init__(
            parameters,
            on_open_callback=owner.on_open,
            on_open_error_callback=owner.on_not_opened,
            on_close_callback=owner.on_closed,
            custom_ioloop=ioloop,
        )
        self.add_on_connection_blocked_callback(owner.on_blocked)
        self.add_on_connection_unblocked_callback(owner.on_unblocked)

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = READ_BYTES  # noqa: SLF001 - pika has no setting for it
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        if not self.bytes_received and data_in.startswith(error_mapping.TLS_ALERT):
            self._terminate_stream(error_mapping.TlsAnswered())
            return
        self.bytes_received += len(data_in)  # pika's heartbeat checker judges by it
        try:
            events = self.decoder.feed(data_in)
        except Exception as exc:  # noqa: BLE001 - raised into pika's loop it would end the thread, not the connection
            self._terminate_stream(exc)
            return
        if events:
            self._owner.on_events(events)

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        self.broken_by = error
        super()._proto_connection_lost(error)

    def emit(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        self._adapter_emit_data(data)

    def abort(self) -> None:
        """Close without a goodbye."""
        if not self.is_closed:
            self._terminate_stream(ConnectionClosedByClient(200, "aborted"))


class Transport:
    """An open connection. It is made by `Transport.open`, and is not opened again once it is lost."""

    def __init__(self, address: Address, parameters: pika.ConnectionParameters) -> None:
        self.address = address
        self.blocked = ""  # why the broker reads nothing from us, like "low on memory"; empty: it does
        self.lost: BrokerError | None = None
        self.frame_max = 0
        self.cluster_name = ""  # as the broker says in its greeting
        self._parameters = parameters
        self._channels: dict[int, Channel] = {}
        self._channels_lock = threading.Lock()
        self._outbox: deque[bytes] = deque()
        self._idle = True
        self._settled = threading.Event()  # opened, or failed to
        self._failure: BrokerError | None = None
        self._ioloop = IOLoop()
        self._adapter: _Adapter | None = None
        self._thread = threading.Thread(target=self._run, name=f"rmqkit-io {address.host}", daemon=True)

    @classmethod
    def open(cls, address: Address, parameters: pika.ConnectionParameters, timeout_s: float) -> Transport:
        """Connect and log in.

        Raises Unreachable, AuthenticationFailed.
        """
        transport = cls(address, parameters)
        transport._thread.start()
        try:
            opened = transport._settled.wait(timeout_s)
        except BaseException:
            transport.abort()
            raise
        if not opened:
            transport.abort()
            raise Unreachable(
                f"{address}: no answer within {timeout_s:g} s", advice="Check the address and the network."
            )
        if transport._failure is not None:
            transport._thread.join()
            raise copy(transport._failure)
        return transport

    # What the user's threads call.

    def send(self, data: bytes) -> None:
        """Queue bytes for the I/O thread; what is unconfirmed or unacknowledged bounds how much that can be."""
        self._outbox.append(data)
        if self._idle:
            self._idle = False
            self._ioloop.add_callback_threadsafe(self._drain)

    def open_channel(self, timeout_s: float) -> Channel:
        """Open a channel.

        Raises ConnectionLost, Refused when there are no more channels to be had.
        """
        with self._channels_lock:
            if self.lost is not None:
                raise copy(self.lost)
            limit = self._parameters.channel_max or 65535
            number = next((free for free in range(1, limit + 1) if free not in self._channels), None)
            if number is None:
                raise error_mapping.refused(504, f"all {limit} channels are in use", f"{self.address}")
            channel = Channel(self, number, next(_sessions))
            self._channels[number] = channel
        self._decoder.sessions[number] = channel.session
        try:
            channel.call(spec.Channel.Open(), spec.Channel.OpenOk, subject="a new channel", timeout_s=timeout_s)
        except BaseException:
            self.forget(number)
            raise
        return channel

    def forget(self, number: int) -> None:
        """Free a channel number whose channel is closed on both sides."""
        with self._channels_lock:
            self._channels.pop(number, None)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Say goodbye and wait for the answer; abort when none comes in time."""
        self._ioloop.add_callback_threadsafe(self._close)
        self._thread.join(timeout_s)
        self.abort()

    def close_with(self, owner: object) -> None:
        """Close soon after `owner` is garbage, which somebody forgot to close."""
        self._ioloop.add_callback_threadsafe(partial(self._look_for, weakref.ref(owner)))

    def abort(self) -> None:
        """Close at once, and wait for the I/O thread to end."""
        if self._thread.is_alive():
            self._ioloop.add_callback_threadsafe(self._abort)
            self._thread.join()

    # What runs on the I/O thread.

    def _run(self) -> None:
        try:
            self._adapter = _Adapter(self._parameters, self, self._ioloop)
            self._ioloop.start()
        except Exception as exc:  # noqa: BLE001 - whatever ends the loop must reach who waits for it
            self._end(ConnectionLost(f"{self.address}: the I/O thread failed: {exc!r}"))
        finally:
            if self.lost is None:  # aborted: whoever shares this connection must not wait for it
                self._end(error_mapping.lost(None, self.address))
            self._ioloop.close()

    @property
    def _decoder(self) -> Any:
        assert self._adapter is not None, "the adapter exists from the thread's first step"  # noqa: S101
        return self._adapter.decoder

    def _drain(self) -> None:
        outbox, adapter = self._outbox, self._adapter
        while True:
            while outbox:
                pieces, size = [], 0
                while outbox and size < WRITE_BYTES:
                    piece = outbox.popleft()
                    pieces.append(piece)
                    size += len(piece)
                if adapter is not None and adapter.is_open:
                    adapter.emit(b"".join(pieces))
            self._idle = True
            if not outbox:  # else a sender saw us busy, just before the line above
                return
            self._idle = False

    def _look_for(self, owner: weakref.ref[object]) -> None:
        if owner() is None:  # a finalizer could not do it: it may run within any lock, on any thread
            self._close()
        else:
            self._ioloop.call_later(LOOK_FOR_OWNER_S, partial(self._look_for, owner))

    def _close(self) -> None:
        self._drain()
        if self._adapter is not None and self._adapter.is_open:
            self._adapter.close()

    def _abort(self) -> None:
        if self._adapter is not None and not self._adapter.is_closed:
            self._adapter.abort()
        self._ioloop.add_callback_threadsafe(self._ioloop.stop)

    def on_open(self, adapter: Any) -> None:
        """Take over from the handshake."""
        self.frame_max = adapter.params.frame_max
        adapter.decoder.frame_max = self.frame_max
        self.cluster_name = str(adapter.server_properties.get("cluster_name", ""))
        self._settled.set()

    def on_not_opened(self, adapter: Any, error: BaseException) -> None:
        """Report that the handshake failed."""
        if isinstance(adapter.broken_by, ssl.SSLError):  # with TLS 1.3 our certificate is refused after the handshake
            error = adapter.broken_by
        self._end(self._failure or error_mapping.not_opened(error, self.address))

    def on_closed(self, _adapter: Any, error: BaseException) -> None:
        """Report that the connection is gone."""
        self._end(self._failure or error_mapping.lost(error, self.address))

    def _end(self, error: BrokerError) -> None:
        self._failure = error
        self.blocked = ""
        with self._channels_lock:
            self.lost = error
            channels = tuple(self._channels.values())
        for channel in channels:
            channel.inbox.put(error)
        self._settled.set()
        self._ioloop.stop()

    def on_blocked(self, _adapter: Any, blocked: Any) -> None:
        """Note that the broker stopped reading from publishers (https://www.rabbitmq.com/docs/connection-blocked)."""
        self.blocked = blocked.method.reason or "an alarm"
        self._wake_all()

    def on_unblocked(self, _adapter: Any, _unblocked: Any) -> None:
        """Note that it reads again."""
        self.blocked = ""
        self._wake_all()

    def _wake_all(self) -> None:
        for channel in tuple(self._channels.values()):
            channel.inbox.put(None)

    def on_events(self, events: list[tuple[int, Event]]) -> None:
        """Hand events to their channels: one put per channel and read."""
        by_channel: dict[int, list[Event]] = {}
        for number, event in events:
            by_channel.setdefault(number, []).append(event)
        for number, batch in by_channel.items():
            channel = self._channels.get(number)
            if channel is None:
                continue  # closed on this side; what the broker sent before it knew is void
            channel.inbox.put(batch)
