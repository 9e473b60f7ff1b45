"""Read a large body from a connection's socket into its place: it is never copied.

pika reads all bytes into new objects, from which the decoder copies the bodies. Over TLS it still does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

READ_BYTES = 256 * 1024  # pika reads 4 KiB at a time
BEYOND_BYTES = 4096  # that may be read beyond a large frame
READS = 16  # of one large body in a row; then it is the turn of writing


class Rooms(Protocol):
    """A decoder, which tells the place of the bytes that arrive next."""

    @property
    def room(self) -> memoryview:
        """Return where the rest of a large frame belongs; empty if there is none."""

    def advance(self, received: int) -> None:
        """Note how many bytes were received into `room`."""


class DirectReader:
    """Reads one of pika's stream transports; `on_read` is called with new bytes, and the number already in place."""

    def __init__(self, rooms: Rooms, on_read: Callable[[bytes, int], None]) -> None:
        self._rooms = rooms
        self._on_read = on_read
        self._beyond = memoryview(bytearray(BEYOND_BYTES))  # the beginning of the next frame

    def attach(self, stream: Any) -> None:
        """Take over a stream that was opened just now, unless it uses TLS."""
        stream._MAX_RECV_BYTES = READ_BYTES  # noqa: SLF001 - pika has no setting for it
        if isinstance(stream, _AsyncPlaintextTransport):
            stream._consume = partial(self._read, stream)  # type: ignore[method-assign] # noqa: SLF001

    def _read(self, stream: Any) -> None:
        """Read once, not until nothing is left, which poll tells; but all frames of a large body that have arrived."""
        for _ in range(READS):
            data, in_place = self._receive(stream._sock)  # noqa: SLF001
            if not data and not in_place:
                raise stream.RxEndOfFile
            self._on_read(data, in_place)
            if not self._rooms.room or stream._state != stream._STATE_ACTIVE:  # noqa: SLF001
                return

    def _receive(self, socket: Any) -> tuple[bytes, int]:
        room = self._rooms.room  # until it is gone, its body cannot be used without a copy
        if not room:
            return socket.recv(READ_BYTES), 0
        received = socket.recvmsg_into((room, self._beyond))[0]
        in_place = min(received, len(room))
        self._rooms.advance(in_place)
        return bytes(self._beyond[: received - in_place]), in_place
