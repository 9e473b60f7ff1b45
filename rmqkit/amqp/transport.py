"""One TCP connection to one broker: pika's adapter, its I/O thread, and the channels on it.

pika handles the handshake, the heartbeats and channel 0. User code never runs on the I/O thread: heartbeats continue
while a handler works for an hour, and Ctrl-C never interrupts pika's loop. Bytes sent while the thread is busy leave in
one write: the busier it is, the larger the writes, and a single message leaves at once.
"""

from __future__ import annotations

import logging
import math
import os
import re
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from copy import copy
from functools import partial
from itertools import count
from typing import Any

import pika
from pika import spec
from pika.adapters.select_connection import IOLoop
from pika.exceptions import ConnectionClosedByClient

from rmqkit.address import Address
from rmqkit.amqp import error_mapping, pika_decoder
from rmqkit.amqp.channel import Channel, Data
from rmqkit.amqp.direct_read import DirectReader
from rmqkit.amqp.direct_write import DirectWriter
from rmqkit.amqp.frame_decoder import Decoder
from rmqkit.amqp.frames import ConsumerCancel, Event, Piece
from rmqkit.errors import BrokerError, ConnectionLost, Unreachable
from rmqkit.hooks import EventKind
from rmqkit.settings import Settings
from rmqkit.stop import Stop

WRITE_BYTES = 256 * 1024
CLOSE_TIMEOUT_S = 3.0  # under an alarm the broker reads nothing, so close-ok never arrives
OWNER_CHECK_S = 1.0
# Environment variable: decode with pika alone, to tell a fault of rmqkit from one of pika.
PURE_PIKA = "RMQKIT_PURE_PIKA"

Tell = Callable[[EventKind, str], None]  # an event of the connection, and the reason
_sessions = count(1)
_open_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _lose_all() -> None:
    """In a forked process, lose the connections: their I/O threads and their side of the sockets are the parent's."""
    for transport in tuple(_open_transports):
        transport.lose_to_parent()


os.register_at_fork(after_in_child=_lose_all)

_pika_log = logging.getLogger("pika")
if _pika_log.level == logging.NOTSET:  # each failure reaches the caller once, as an error or a warning of rmqkit
    _pika_log.setLevel(logging.CRITICAL)


class _Adapter(pika.SelectConnection):
    """pika's connection, with rmqkit's decoder between the socket and pika's channel 0."""

    def __init__(self, parameters: pika.ConnectionParameters, owner: Transport, ioloop: IOLoop) -> None:
        self._owner = owner
        self.broken_by: BaseException | None = None  # pika keeps only the text of the error that broke the stream
        decoder = pika_decoder.PikaDecoder if os.environ.get(PURE_PIKA) else Decoder
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
        DirectReader(self.decoder, self._on_data_available).attach(transport)
        self._owner.writer.attach(transport)
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes, in_place: int = 0) -> None:
        if not self.bytes_received and data_in.startswith(error_mapping.TLS_ALERT):
            self._terminate_stream(error_mapping.TlsAnswered())
            return
        self.bytes_received += in_place + len(data_in)  # pika's heartbeat checker reads it
        try:
            events = self.decoder.feed(data_in)
        except Exception as exc:  # noqa: BLE001 - in pika's loop it would end the thread, not the connection
            self._terminate_stream(exc)
            return
        if events:
            self._owner.on_events(events)

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        self.broken_by = error
        super()._proto_connection_lost(error)

    def emit(self, data: bytes) -> None:
        self._adapter_emit_data(memoryview(data))  # type: ignore[arg-type] # after a partial write, the rest is no copy

    def abort(self) -> None:
        """Close without the closing handshake."""
        if not self.is_closed:
            self._terminate_stream(ConnectionClosedByClient(200, "aborted"))


class Transport:
    """An open connection, made by `Transport.open`; once it is lost, it is not reopened."""

    def __init__(self, address: Address, parameters: pika.ConnectionParameters, settings: Settings, tell: Tell) -> None:
        self._tell = tell
        self.address = address
        self.blocked_until_s = 0.0  # when waiting for an alarm to clear ends; 0: there is no alarm
        self.blocked = ""  # why the broker does not read, like "low on memory"; empty if it reads
        self.lost: BrokerError | None = None
        self.frame_max = 0
        self.closing = False  # by this side: that is no loss
        self.cluster_name = ""  # from the properties of the broker, as is its version
        self.version: tuple[int, ...] = ()
        self._settings = settings
        self._parameters = parameters
        self._channels: dict[int, Channel] = {}
        self._channels_lock = threading.Lock()
        self._outbox: deque[Data] = deque()
        self._idle = True
        self._ready = threading.Event()  # the connection is open, or opening failed
        self._failure: BrokerError | None = None
        self._ioloop = IOLoop()
        self.writer = DirectWriter(self._ioloop)
        self._adapter: _Adapter | None = None
        self._thread = threading.Thread(target=self._run, name=f"rmqkit-io {address.host}", daemon=True)

    @classmethod
    def open(
        cls,
        address: Address,
        parameters: pika.ConnectionParameters,
        timeout_s: float,
        settings: Settings = Settings(),  # noqa: B008
        tell: Tell = lambda _kind, _reason: None,
    ) -> Transport:
        """Connect and log in; `tell` is called on the I/O thread. Raises Unreachable, AuthenticationFailed."""
        transport = cls(address, parameters, settings, tell)
        _open_transports.add(transport)
        transport._thread.start()
        try:
            opened = transport._ready.wait(timeout_s)
        except BaseException:
            transport.abort()
            raise
        if not opened:
            transport.abort()
            message = f"{address}: no answer within {timeout_s:.3g} s"
            raise Unreachable(message, advice="Check the address and the network.")
        if transport._failure is not None:
            transport._thread.join()
            raise copy(transport._failure)
        return transport

    # Called on the user's threads.

    def send(self, data: Data) -> None:
        """Queue bytes for the I/O thread; the bounds on unconfirmed and unacknowledged messages bound the queue."""
        self._outbox.append(data)
        self._wake_up()

    def _wake_up(self) -> None:
        if self._idle:
            self._idle = False
            try:
                self._ioloop.add_callback_threadsafe(self._drain)
            except BaseException:  # of a signal handler: other threads rely on this wake-up
                self._ioloop.add_callback_threadsafe(self._drain)
                raise

    def send_now(self, data: bytes) -> None:
        """Write bytes on this thread if nothing else waits to be written: faster for a single message."""
        if not self.write_now(lambda: data):
            self.send(data)

    def write_now(self, make: Callable[[], bytes]) -> bool:
        """Write what a function returns; or return False, and do not call it, while others write, or wait for it."""
        lock = self.writer.lock
        try:
            if not lock.acquire(blocking=False) or self._outbox or self._adapter is None or not self._adapter.is_open:
                return False
            data = make()
            if data and not self.writer.write(data):
                self._outbox.appendleft(data)  # before all that was queued since: that may be of the same channel
                self._wake_up()
            return True
        finally:  # also when a signal handler raises as soon as the lock is held
            try:  # noqa: SIM105 - it may raise in any other call before this one
                lock.release()
            except RuntimeError:  # another thread holds it
                pass

    def open_channel(self, stop: Stop | None = None, deadline_s: float = math.inf) -> Channel:
        """Open a channel; a stop ends calls that wait for an alarm, a deadline on the monotonic clock all calls.

        Raises ConnectionLost, Refused when all channel numbers are in use.
        """
        with self._channels_lock:
            if self.lost is not None:
                raise copy(self.lost)
            limit = self._parameters.channel_max or 65535
            number = next((free for free in range(1, limit + 1) if free not in self._channels), None)
            if number is None:
                raise error_mapping.refused(504, f"all {limit} channels are in use", f"{self.address}")
            channel = Channel(self, number, next(_sessions), stop, deadline_s)
            self._channels[number] = channel
        assert self._adapter is not None, "the adapter exists from the thread's first step"  # noqa: S101
        self._adapter.decoder.sessions[number] = channel.session
        try:
            channel.call(spec.Channel.Open(), spec.Channel.OpenOk, subject="a new channel")
        except BaseException:
            channel.abandon()
            raise
        return channel

    def forget(self, number: int) -> None:
        """Free the number of a channel that is closed on both sides."""
        with self._channels_lock:
            self._channels.pop(number, None)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close the connection and wait for close-ok; abort if it does not arrive in time, as under an alarm."""
        self.closing = True
        if not self.blocked:
            self._ioloop.add_callback_threadsafe(self._close)
            self._thread.join(timeout_s)
        self.abort()

    def close_with_owner(self, owner: object) -> None:
        """Close soon after `owner` was garbage-collected without being closed."""
        self._ioloop.add_callback_threadsafe(partial(self._check_owner, weakref.ref(owner)))

    def abort(self) -> None:
        """Close at once, and wait for the I/O thread to end."""
        if self._thread.is_alive():
            self._ioloop.add_callback_threadsafe(self._abort)
            self._thread.join()

    def lose_to_parent(self) -> None:
        """Wake everything that waits for this connection, with an error; the parent's connection is unaffected."""
        self._channels_lock = threading.Lock()  # another thread may have held it
        self.lost = error_mapping.forked()
        for channel in self._channels.values():
            channel.ended = True
            channel.receive(self.lost)

    # Called on the I/O thread.

    def _run(self) -> None:
        try:
            self._adapter = _Adapter(self._parameters, self, self._ioloop)
            self._ioloop.start()
        except Exception as exc:  # noqa: BLE001 - any error that ends the loop must reach the waiting threads
            self._fail(ConnectionLost(f"{self.address}: the I/O thread failed: {exc!r}"))
        finally:
            if self.lost is None:  # aborted: other users of this connection must not wait for it
                self._fail(error_mapping.lost(None, self.address))
            self._ioloop.close()

    def _drain(self) -> None:
        outbox, adapter = self._outbox, self._adapter
        while True:
            while outbox:
                with self.writer.lock:
                    pieces: list[Piece] = []
                    size, large = 0, False
                    while outbox and size < WRITE_BYTES:
                        data = outbox.popleft()
                        if isinstance(data, list):
                            large = True
                            pieces += data
                            size += sum(map(len, data))
                        else:
                            pieces.append(data if isinstance(data, bytes) else data())
                            size += len(pieces[-1])
                    if size and adapter is not None and adapter.is_open:
                        adapter.bytes_sent += size
                        if not (large and self.writer.buffer(pieces)):
                            adapter.emit(b"".join(pieces))
            self._idle = True
            if not outbox:  # else a sender saw the busy flag just before the line above
                return
            self._idle = False

    def _check_owner(self, owner: weakref.ref[object]) -> None:
        if owner() is None:  # not in a finalizer: it may run while any lock is held, on any thread
            self.closing = True
            self._close()
        else:
            self._ioloop.call_later(OWNER_CHECK_S, partial(self._check_owner, owner))

    def _close(self) -> None:
        self._drain()
        if self._adapter is not None and self._adapter.is_open:
            self._adapter.close()

    def _abort(self) -> None:
        if self._adapter is not None and not self._adapter.is_closed:
            self._adapter.abort()
        self._ioloop.add_callback_threadsafe(self._ioloop.stop)

    def on_open(self, adapter: Any) -> None:
        """Take the negotiated values from the handshake."""
        self.frame_max = adapter.params.frame_max
        adapter.decoder.frame_max = self.frame_max
        self.cluster_name = str(adapter.server_properties.get("cluster_name", ""))
        self.version = tuple(map(int, re.findall(r"\d+", str(adapter.server_properties.get("version", "")))[:3]))
        self._ready.set()

    def on_not_opened(self, adapter: Any, error: BaseException) -> None:
        """Fail because the handshake failed."""
        # With TLS 1.3 the client certificate is refused after the handshake.
        cause = adapter.broken_by if isinstance(adapter.broken_by, ssl.SSLError) else error
        self._fail(self._failure or error_mapping.not_opened(cause, self.address))

    def on_closed(self, _adapter: Any, error: BaseException) -> None:
        """Fail because the connection was closed."""
        self._fail(self._failure or error_mapping.lost(error, self.address))

    def _fail(self, error: BrokerError) -> None:
        self._failure = error
        if self._ready.is_set() and not self.closing:
            self._tell(EventKind.LOST, error.message)  # before any thread can reconnect
        self.blocked, self.blocked_until_s = "", 0.0
        with self._channels_lock:
            self.lost = error
            channels = tuple(self._channels.values())
        for channel in channels:
            channel.ended = True
            channel.receive(error)
        self._ready.set()
        self._ioloop.stop()

    def on_blocked(self, _adapter: Any, blocked: Any) -> None:
        """Record that the broker stopped reading from publishers (https://www.rabbitmq.com/docs/connection-blocked)."""
        self.blocked_until_s = time.monotonic() + self._settings.blocked_timeout_s
        self.blocked = blocked.method.reason or "an alarm"
        self._tell(EventKind.BLOCKED, self.blocked)
        if self._settings.on_blocked:  # on another thread: it may be slow
            threading.Thread(target=self._settings.on_blocked, args=(self.blocked,), daemon=True).start()
        self._wake_all()

    def on_unblocked(self, _adapter: Any, _unblocked: Any) -> None:
        """Record that the broker reads from publishers again."""
        self.blocked, self.blocked_until_s = "", 0.0
        self._tell(EventKind.UNBLOCKED, "")
        self._wake_all()

    def _wake_all(self) -> None:
        for channel in tuple(self._channels.values()):
            channel.receive(None)

    def on_events(self, events: list[tuple[int, Event]]) -> None:
        """Pass events to their channels, with one put per channel and read."""
        by_channel: dict[int, list[Event]] = {}
        for number, event in events:
            by_channel.setdefault(number, []).append(event)
        for number, batch in by_channel.items():
            channel = self._channels.get(number)
            if channel is None:
                continue  # closed here; events that the broker sent before it knew are void
            if isinstance(batch[-1], ConsumerCancel | spec.Channel.Close):
                channel.ended = True
            channel.receive(batch)
            if channel.abandoned:
                channel.finish()
