"""A scripted broker that does what a real one will not do on demand: built on pika's frame classes, on loopback."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pika import frame, spec

_PATIENCE_S = 20.0  # for the client's next byte


class Gone(Exception):
    """The client closed the connection."""


@dataclass(frozen=True)
class Published:
    """A message as it came, with its number on the channel, from 1."""

    tag: int
    exchange: str
    routing_key: str
    header: bytes  # the properties, as on the wire
    body: bytes


@dataclass
class Peer:
    """One accepted connection."""

    socket: socket.socket
    frame_max: int = 131_072
    published: list[Published] = field(default_factory=list)
    settled: list[Any] = field(default_factory=list)  # the client's acks and nacks
    _buffer: bytes = b""

    def read(self) -> Any:
        """Return the next frame; raises Gone."""
        while True:
            consumed, decoded = frame.decode_frame(self._buffer)
            if decoded is not None:
                self._buffer = self._buffer[consumed:]
                return decoded
            try:
                data = self.socket.recv(1 << 18)
            except ConnectionError:
                raise Gone from None
            if not data:
                raise Gone
            self._buffer += data

    def send(self, method: Any, channel: int = 1) -> None:
        """Send a method."""
        self.send_bytes(frame.Method(channel, method).marshal())

    def send_bytes(self, data: bytes) -> None:
        """Send anything at all."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            raise Gone from None

    def greet(self, *, frame_max: int = 131_072, heartbeat: int = 0, properties: Any = None) -> None:
        """Play the broker's part until the virtual host is open."""
        self.expect(frame.ProtocolHeader)
        server = properties if properties is not None else {"product": "a scripted broker", "capabilities": CAPABLE}
        self.send(spec.Connection.Start(0, 9, server, "PLAIN", "en_US"), 0)
        self.expect(spec.Connection.StartOk)
        self.send(spec.Connection.Tune(2047, frame_max, heartbeat), 0)
        self.expect(spec.Connection.TuneOk)
        self.expect(spec.Connection.Open)
        self.send(spec.Connection.OpenOk(), 0)

    def expect(self, kind: type[Any]) -> Any:
        """Return the next frame or method of a kind; heartbeats may come before it."""
        while isinstance(got := self.read(), frame.Heartbeat):
            pass
        what = got.method if isinstance(got, frame.Method) else got
        assert isinstance(what, kind), f"{what} instead of {kind}"
        return what

    def serve(
        self,
        on_published: Callable[[Peer, Published], None] = lambda peer, message: peer.confirm(message.tag),
        on_consume: Callable[[Peer, spec.Basic.Consume], None] = lambda _peer, _method: None,
    ) -> None:
        """Answer every method as a broker would, until the client closes the connection."""
        coming: list[Any] = []  # method, header, parts of the body
        while True:
            got = self.read()
            if isinstance(got, frame.Header | frame.Body):
                coming.append(got)
            elif isinstance(got, frame.Method):
                method = got.method
                if isinstance(method, spec.Basic.Publish):
                    coming = [method]
                elif isinstance(method, spec.Basic.Ack | spec.Basic.Nack | spec.Basic.Reject):
                    self.settled.append(method)
                elif isinstance(method, spec.Channel.Open):
                    self.published.clear()
                    self.send(spec.Channel.OpenOk(), got.channel_number)
                elif type(method) in _ANSWERS:
                    self.send(_ANSWERS[type(method)](method), got.channel_number)
                if isinstance(method, spec.Basic.Consume):
                    on_consume(self, method)
                if isinstance(method, spec.Connection.Close):
                    return
            if len(coming) > 1 and coming[1].body_size == sum(len(part.fragment) for part in coming[2:]):
                on_published(self, self._note(*coming))
                coming = []

    def _note(self, method: Any, header: Any, *parts: Any) -> Published:
        body = b"".join(part.fragment for part in parts)
        properties = header.marshal()[19:-1]
        message = Published(len(self.published) + 1, method.exchange, method.routing_key, properties, body)
        self.published.append(message)
        return message

    def confirm(self, tag: int, *, multiple: bool = False, ack: bool = True) -> None:
        """Confirm, or refuse, what the client published on channel 1."""
        self.send((spec.Basic.Ack if ack else spec.Basic.Nack)(tag, multiple))

    def deliver(
        self, tag: int, body: bytes, *, consumer_tag: str, properties: bytes = b"\0\0", body_size: int | None = None
    ) -> None:
        """Deliver a message on channel 1; `properties` are what follows the body's size in its header."""
        method = spec.Basic.Deliver(consumer_tag, tag, False, "", "key")
        size = len(body) if body_size is None else body_size
        header = b"\0\x3c\0\0" + size.to_bytes(8, "big") + properties
        data = frame.Method(1, method).marshal() + b"\x02\0\x01" + len(header).to_bytes(4, "big") + header + b"\xce"
        self.send_bytes(data + (frame.Body(1, body).marshal() if body else b""))

    def hold(self) -> None:
        """Say nothing more, and wait until the client gives up."""
        try:
            while True:
                self.read()
        except Gone:
            pass


CAPABLE = dict.fromkeys(("publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"), True)
_ANSWERS: dict[type[Any], Callable[[Any], Any]] = {
    spec.Confirm.Select: lambda _: spec.Confirm.SelectOk(),
    spec.Channel.Close: lambda _: spec.Channel.CloseOk(),
    spec.Connection.Close: lambda _: spec.Connection.CloseOk(),
    spec.Queue.Declare: lambda method: spec.Queue.DeclareOk(method.queue, 0, 0),
    spec.Basic.Qos: lambda _: spec.Basic.QosOk(),
    spec.Basic.Consume: lambda method: spec.Basic.ConsumeOk(method.consumer_tag),
}

Script = Callable[[Peer], None]


def ordinary(peer: Peer) -> None:
    """Behave, and confirm everything."""
    peer.greet()
    peer.serve()


def entry(name: bytes, value: bytes) -> bytes:
    """Make an entry of a field table."""
    return bytes((len(name),)) + name + value


def nested(depth: int) -> bytes:
    """Make tables within tables."""
    table = b""
    for _ in range(depth):
        table = entry(b"t", b"F" + struct.pack(">I", len(table)) + table)
    return table


class FakeBroker:
    """Listens at `url`, and plays one script for each connection."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.failures: list[BaseException] = []
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept, name="fake broker", daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which close does not
        self._listener.close()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
            assert not thread.is_alive(), "a script did not end"
        if self.failures and value is None:
            raise self.failures[0]

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            thread = threading.Thread(target=self._play, args=(script, accepted), name="fake broker", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, script: Script, accepted: socket.socket) -> None:
        with accepted:
            accepted.settimeout(_PATIENCE_S)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                script(Peer(accepted))
            except Gone:
                pass
            except BaseException as exc:  # noqa: BLE001 - it is raised in the test's thread
                self.failures.append(exc)
