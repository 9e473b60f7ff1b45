"""Writes on the caller's thread while the I/O thread closes the socket."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

from rmqkit.amqp.direct_write import DirectWriter


class _Closing(_AsyncPlaintextTransport):
    """A stream that the I/O thread closes between a writer's check of its state and the write."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._tx_buffers = deque()

    def __getattribute__(self, name: str) -> Any:
        if name != "_state":
            return super().__getattribute__(name)
        if self._sock is not None:
            self._sock.close()
            self._sock = None  # type: ignore[assignment]
        return self._STATE_ACTIVE


def test_a_write_to_a_socket_that_is_closed_meanwhile_writes_nothing_and_raises_nothing() -> None:
    ours, theirs = socket.socketpair()
    ioloop = IOLoop()
    with theirs:
        writer = DirectWriter(ioloop)
        writer.attach(_Closing(ours))
        assert not writer.write(b"frame")
        assert theirs.recv(10) == b""
    ioloop.close()
