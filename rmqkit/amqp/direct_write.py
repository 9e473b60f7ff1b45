"""Write to a connection's socket on the caller's thread: a single message leaves without two switches of threads.

pika buffers all that it writes, and writes it on the I/O thread. Both hold one lock, and nothing is written here while
pika's buffer holds anything: frames never mix, and bytes keep their order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport


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
            stream._produce = self._locked(stream._produce)  # type: ignore[method-assign] # noqa: SLF001
            stream._MAX_CONSUME_BYTES = 1  # noqa: SLF001 - read once, not until nothing is left: poll tells that
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
