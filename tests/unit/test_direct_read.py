"""Large bodies are received into their places, and leave in pieces."""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import closing, suppress
from typing import Any

import pytest
from pika import frame, spec
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

from rmqkit.amqp.direct_read import DirectReader
from rmqkit.amqp.direct_write import DirectWriter
from rmqkit.amqp.frame_decoder import Decoder, ProtocolError
from rmqkit.amqp.frames import Encoder, encode_method
from rmqkit.message import Delivery, Message

FRAME_MAX = 128 * 1024
BODIES = [bytes([number]) * size for number, size in enumerate((1 << 20, 20, 300_000, 100_000, 0, 1 << 20))]


class _Socket:
    """A socket that counts the bytes that were copied."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.copied = 0

    def recv(self, most: int) -> bytes:
        data = self._sock.recv(most)
        self.copied += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Stream(_AsyncPlaintextTransport):
    """pika's stream without its event loop."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._state = self._STATE_ACTIVE
        self._tx_buffers = deque()
        self._tx_buffered_byte_count = 0
        self._nbio = self

    def set_writer(self, *_: Any) -> None:
        """Do nothing: the test writes."""


def _wire(bodies: list[bytes]) -> bytes:
    frames = []
    for tag, body in enumerate(bodies, 1):
        frames.append(encode_method(1, spec.Basic.Deliver("t", tag, False, "", "q")))
        frames.append(frame.Header(1, len(body), spec.BasicProperties()).marshal())
        room = FRAME_MAX - 8
        frames += [frame.Body(1, body[start : start + room]).marshal() for start in range(0, len(body), room)]
    return b"".join(frames)


def _read(wire: bytes) -> tuple[list[bytes], int]:
    """Return the bodies that arrive, and how many bytes were copied."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    decoder = Decoder(lambda _frame: None, FRAME_MAX)
    bodies: list[bytes] = []

    def on_read(data: bytes, _in_place: int) -> None:
        for _, event in decoder.feed(data):
            bodies.extend(each.body for each in event if isinstance(each, Delivery))

    stream = _Stream(_Socket(ours))
    DirectReader(decoder, on_read).attach(stream)
    sender = threading.Thread(target=lambda: (theirs.sendall(wire), theirs.close()))
    sender.start()
    with closing(ours), suppress(_Stream.RxEndOfFile):
        while True:
            stream._consume()
    sender.join()
    return bodies, stream._sock.copied


def test_large_bodies_arrive_whole_and_most_of_their_bytes_are_never_copied() -> None:
    bodies, copied = _read(_wire(BODIES))
    assert bodies == BODIES
    assert copied < sum(map(len, BODIES)) / 2


def test_a_large_frame_without_its_end_octet_is_a_protocol_error() -> None:
    wire = bytearray(_wire([BODIES[0]]))
    wire[wire.index(b"\xce\x03", FRAME_MAX)] = 0
    decoder = Decoder(lambda _frame: None, FRAME_MAX)
    half = FRAME_MAX // 2
    decoder.feed(bytes(wire[:half]))
    room = decoder.room
    room[:] = wire[half : half + len(room)]
    decoder.advance(len(room))
    with pytest.raises(ProtocolError):
        decoder.feed(bytes(wire[half + len(room) :]))


def test_pieces_are_written_in_order_however_little_the_socket_takes() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ioloop = IOLoop()
    stream, writer = _Stream(ours), DirectWriter(ioloop)
    writer.attach(stream)
    encoder = Encoder(1, FRAME_MAX)
    messages = [Message(body, "q") for body in BODIES * 5]
    wire = b"".join(map(encoder.encode, messages))
    arrived = bytearray()
    with closing(ours), closing(theirs), closing(ioloop):
        for message in messages:
            assert writer.buffer([b"", *encoder.encode_pieces(message), b""])
        assert stream.get_write_buffer_size() == len(wire)
        while stream._tx_buffers:
            try:
                stream._produce()
            except BlockingIOError:
                arrived += theirs.recv(70_000)
        assert stream.get_write_buffer_size() == 0
        while len(arrived) < len(wire):
            arrived += theirs.recv(1 << 20)
    assert arrived == wire
