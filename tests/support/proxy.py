"""A TCP proxy that fails on demand, on its own thread and on loopback only."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_READ = 65536
_FULL = 1 << 20  # bytes waiting for a slow sink, from which on the source is not read


@dataclass
class Direction:
    """One direction; the fields are read at every byte."""

    cut_after: int | None = None  # pass so many bytes from now on, over all connections, then cut; and forget it
    cut_by_reset: bool = True  # RST, else FIN
    blackhole: bool = False  # take the bytes, and drop them: every send succeeds
    delay_s: float = 0.0
    slice_bytes: int = 0  # 0: as they come
    bytes_per_s: float = 0.0  # 0: no limit
    passed: int = 0


class _Flow:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        self.source, self.sink, self.direction = source, sink, direction
        self.peer: _Flow
        self.waiting: deque[tuple[float, bytes]] = deque()  # when to pass what
        self.waiting_bytes = 0
        self.ended = False

    def receive(self) -> None:
        """Receive the bytes that arrived; raises ConnectionError at a cut."""
        data = self.source.recv(_READ)
        if not data:
            self.ended = True
            return
        if self.direction.blackhole:
            return
        for piece in self._sliced(data):
            self.waiting.append((time.monotonic() + self.direction.delay_s, piece))
        self.waiting_bytes += len(data)

    def _sliced(self, data: bytes) -> list[bytes]:
        step = self.direction.slice_bytes or len(data)
        return [data[start : start + step] for start in range(0, len(data), step)]

    def forward(self) -> None:
        """Forward the bytes that are due; raises ConnectionError at a cut."""
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            due, data = self.waiting.popleft()
            direction = self.direction
            if direction.blackhole:
                self.waiting_bytes -= len(data)
                continue
            allowed = data if direction.cut_after is None else data[: direction.cut_after]
            try:
                sent = self.sink.send(allowed) if allowed else 0
            except BlockingIOError:
                sent = 0
            direction.passed += sent
            self.waiting_bytes -= sent
            if direction.cut_after is not None:
                direction.cut_after -= sent
                if direction.cut_after <= 0:
                    direction.cut_after = None
                    raise ConnectionAbortedError
            if sent < len(data):
                self.waiting.appendleft((due, data[sent:]))
                return
            if direction.bytes_per_s and self.waiting:
                self.waiting[0] = (time.monotonic() + sent / direction.bytes_per_s, self.waiting[0][1])


class Proxy:
    """A proxy in front of a broker; its `url` leads through it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._broker = self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
        self.up, self.down = Direction(), Direction()
        self.accepted = 0  # connections so far
        self._flows: list[_Flow] = []
        self._reset_all = self._ended = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self._thread.join(90)
        assert not self._thread.is_alive()

    def reset(self) -> None:
        """Reset every connection, as a restarted router does; new connections are accepted."""
        self._reset_all = True

    def refuse(self) -> None:
        """Reset every connection, and close new ones at once, as if nobody listened."""
        self._target = ("127.0.0.1", 1)
        self.reset()

    def heal(self) -> None:
        """Let new connections pass as they are; those that lost bytes are reset."""
        self.up.__init__()  # type: ignore[misc]
        self.down.__init__()  # type: ignore[misc]
        self._target = self._broker
        self.reset()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._ended:
                busy = any(flow.waiting for flow in self._flows)
                for key, _ in selector.select(0.001 if busy else 0.02):
                    if key.data is None:
                        self._accept(selector)
                    elif key.data.waiting_bytes < _FULL:
                        self._guard(selector, key.data, key.data.receive)
                for flow in tuple(self._flows):
                    self._guard(selector, flow, flow.forward)
                if self._reset_all:
                    self._reset_all = False
                    for flow in tuple(self._flows):
                        self._close(selector, flow, reset=True)
            for flow in tuple(self._flows):
                self._close(selector, flow, reset=False)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._listener.accept()
        try:
            broker = socket.create_connection(self._target, 5)
        except OSError:
            client.close()  # as if nobody listened, as far as a proxy can
            return
        self.accepted += 1
        there, back = _Flow(client, broker, self.up), _Flow(broker, client, self.down)
        there.peer, back.peer = back, there
        for flow in (there, back):
            flow.source.setblocking(False)
            flow.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(flow.source, selectors.EVENT_READ, flow)
            self._flows.append(flow)

    def _guard(self, selector: selectors.BaseSelector, flow: _Flow, step: object) -> None:
        """Take one step of a flow that may have ended in the meantime, or ends by it."""
        if flow not in self._flows:
            return
        try:
            step()  # type: ignore[operator]
        except BlockingIOError:
            return
        except ConnectionAbortedError:
            self._close(selector, flow, reset=flow.direction.cut_by_reset)
        except OSError:
            self._close(selector, flow, reset=True)
        else:
            if flow.ended and not flow.waiting:
                self._close(selector, flow, reset=False)

    def _close(self, selector: selectors.BaseSelector, flow: _Flow, *, reset: bool) -> None:
        """Close both ends of a connection."""
        for each in (flow, flow.peer):
            if each not in self._flows:
                continue
            self._flows.remove(each)
            selector.unregister(each.source)
            with suppress(OSError):
                if reset:
                    each.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.source.close()
