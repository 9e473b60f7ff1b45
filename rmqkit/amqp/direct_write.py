"""Write to a connection's socket on the caller's thread: a single message leaves without two switches of threads.

pika buffers all that it writes, and writes it on the I/O thread. Both hold one lock, and nothing is written here while
pika's buffer holds anything: frames never mix, and bytes keep their order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from itertools import islice
from typing import Any

from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

from rmqkit.amqp.frames import Piece

PIECES = 64  # in one call of the system


class DirectWriter:
    """Writes to the socket of one of pika's stream transports; `lock` is held while bytes are on their way to it."""

    def __init__(self, ioloop: IOLoop) -> None:
        self.lock = threading.RLock()
        self._ioloop = ioloop
        self._stream: Any = None

    def attach(self, stream: Any) -> None:
        """Take over a stream that was opened just now; TLS is left to the I/O thread."""
        if isinstance(stream, _AsyncPlaintextTransport):
            stream._buffer_tx_data = self._locked(stream._buffer_tx_data)  # type: ignore[method-assign] # noqa: SLF001
            stream._produce = self._locked(self._produce)  # type: ignore[method-assign] # noqa: SLF001
            self._stream = stream

    def write(self, data: bytes) -> bool:
        """Write what fits into the socket's buffer, and leave the rest to pika; return False if nothing was written.

        The caller holds the lock. When a signal handler raises, what was written is not known: the connection ends.
        """
        stream = self._stream
        socket = None if stream is None else stream._sock  # noqa: SLF001 - the I/O thread sets it to None when it closes it
        if socket is None or stream._tx_buffers or stream._state != stream._STATE_ACTIVE:  # noqa: SLF001
            return False
        known = False
        try:
            try:
                sent = socket.send(data)
            except OSError:  # it is full, or broken: the I/O thread finds out
                sent = 0
            if 0 < sent < len(data):
                stream._buffer_tx_data(data[sent:])  # noqa: SLF001
                self._ioloop.add_callback_threadsafe(self._watch)
            known = True
        finally:
            if not known:
                self._ioloop.add_callback_threadsafe(stream.abort)
        return bool(sent)

    def buffer(self, pieces: list[Piece]) -> bool:
        """Have pika write pieces, which are not copied; return False if it cannot, as over TLS.

        On the I/O thread, with the lock held.
        """
        stream = self._stream
        if stream is None or stream._state != stream._STATE_ACTIVE:  # noqa: SLF001
            return False
        first, *others = filter(None, pieces)  # a function may have had nothing to send
        stream.write(first)
        stream._tx_buffers.extend(others)  # noqa: SLF001
        stream._tx_buffered_byte_count += sum(map(len, others))  # noqa: SLF001
        return True

    def _produce(self) -> None:
        """Write what pika has buffered; pika would call the system for each piece."""
        stream = self._stream
        buffers = stream._tx_buffers  # noqa: SLF001
        while buffers:
            sent = stream._sock.sendmsg(list(islice(buffers, PIECES)))  # noqa: SLF001
            stream._tx_buffered_byte_count -= sent  # noqa: SLF001
            while sent:
                first = buffers.popleft()
                if sent < len(first):
                    buffers.appendleft(memoryview(first)[sent:])
                sent -= min(sent, len(first))

    def _watch(self) -> None:
        """Have pika write the rest, on the I/O thread."""
        stream = self._stream
        if stream._tx_buffers and stream._state == stream._STATE_ACTIVE:  # noqa: SLF001
            stream._nbio.set_writer(stream._sock.fileno(), stream._on_socket_writable)  # noqa: SLF001

    def _locked(self, method: Callable[..., None]) -> Callable[..., None]:
        @wraps(method)
        def locked(*args: Any) -> None:
            with self.lock:
                method(*args)

        return locked
