"""The connection to a broker, opened on first use and reopened when lost."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, TypeVar

import pika

from rmqkit.address import Address
from rmqkit.amqp import error_mapping
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.error_mapping import NotOffered
from rmqkit.amqp.transport import Transport
from rmqkit.errors import (
    AuthenticationFailed,
    ConnectionLost,
    NotFound,
    RmqkitError,
    SettingsError,
    Unreachable,
)
from rmqkit.hooks import ConnectionEvent, EventKind, GuardedHooks
from rmqkit.settings import Settings
from rmqkit.stop import Stop
from rmqkit.version import VERSION

FRAME_MAX = 131_072  # RabbitMQ's own default; negotiation may lower it
HEARTBEAT_S = 20  # pika detects a dead connection within 25 to 50 s: before a publisher gives up on its confirms
OPEN_TIMEOUT_S = 15.0  # TCP, TLS and AMQP handshakes together
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0

T = TypeVar("T")
_log = logging.getLogger("rmqkit.amqp")


class _Attempt:
    """One thread's attempt to connect, and the error of it."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: RmqkitError | None = None


class _TimeIsUp(Exception):
    """Connecting was tried for as long as was allowed; the last failure."""

    def __init__(self, failure: RmqkitError) -> None:
        self.failure = failure


class ReconnectingConnection:
    """A connection to the first address that answers, shared by any number of channels and threads."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._attempt: _Attempt | None = None  # of the thread that connects now
        self._next_address = 0
        self._closed = False
        self._process = os.getpid()

    @property
    def blocked(self) -> str:
        """Return why the broker currently blocks publishers; empty if it does not."""
        transport = self._transport
        return transport.blocked if transport is not None else ""

    @property
    def is_connected(self) -> bool:
        """Tell whether the connection is open, as far as is known."""
        return self._transport is not None and self._transport.lost is None

    def verify(self, wait_s: float = 0.0, stop: Stop | None = None) -> None:
        """Connect now, or within `wait_s`; a stop ends the wait.

        Raises Unreachable, AuthenticationFailed, NotFound for the virtual host.
        """
        try:
            self._retry(self._connected, stop or Stop(), time.monotonic() + wait_s)
        except _TimeIsUp as exc:
            raise exc.failure from None

    def channel(self, stop: Stop | None = None, deadline_s: float = math.inf) -> Channel:
        """Open a channel, connecting first if necessary: one try for each address.

        A stop ends waits for an alarm; a deadline, on the monotonic clock, ends all waits, and later calls on the
        channel. Raises Unreachable, AuthenticationFailed, ConnectionLost.
        """
        return self._connected(deadline_s).open_channel(stop, deadline_s)

    def server(self) -> tuple[Address, str]:
        """Return the address and the cluster name of the connected broker, connecting first if necessary.

        Raises Unreachable, AuthenticationFailed.
        """
        transport = self._connected()
        return transport.address, transport.cluster_name

    def recover(self, stop: Stop, prepare: Callable[[Channel], T], *, deadline_s: float = math.inf) -> T:
        """Open a channel, prepare it and return the result of `prepare`.

        Each address is tried in turn, with growing, jittered pauses, until both succeed. A login that every address
        refuses is not retried. Raises ConnectionLost at the deadline, when `recover_s` of the settings have passed
        before a try, when a stop is requested or this connection was closed; and AuthenticationFailed, and any error of
        `prepare` but ConnectionLost.
        """

        def attempt() -> T:
            channel = self.channel(stop, deadline_s)
            prepared = prepare(channel)
            channel.deadline_s = math.inf
            return prepared

        recover_s = self.settings.recover_s
        end_s = deadline_s if recover_s is None else min(time.monotonic() + recover_s, deadline_s)
        try:
            return self._retry(attempt, stop, end_s)
        except _TimeIsUp as exc:
            failure = exc.failure
            lost = "" if self.is_connected else "lost the connection and could not reconnect: "
            raise ConnectionLost(f"{lost}{failure.message}", advice=failure.advice) from failure

    def _retry(self, attempt: Callable[[], T], stop: Stop, end_s: float) -> T:
        """Return the result of `attempt`; raise _TimeIsUp at `end_s`, on the monotonic clock, or after a stop."""
        pause, refusals = FIRST_PAUSE_S, 0
        failure: RmqkitError
        while True:
            try:
                return attempt()
            except AuthenticationFailed as exc:
                refusals += 1
                if refusals > len(self.settings.addresses):
                    raise
                failure = exc
            except (Unreachable, ConnectionLost) as exc:
                if self.is_closed:
                    raise
                failure = exc
            except SettingsError as exc:  # a secret that is being replaced: the first connection could read it
                failure = exc
            # Jitter keeps a thousand clients of a restarted broker from reconnecting in step.
            delay = pause * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
            _log.debug("%s: %s; next attempt after %.1f s", self._name, failure.message, delay)
            if time.monotonic() + delay > end_s or stop.wait(delay):
                raise _TimeIsUp(failure)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def tell(self, kind: EventKind, reason: str = "") -> None:
        """Tell the hooks of an event of the open connection."""
        transport = self._transport
        _tell(self.settings.hooks, self._name, "" if transport is None else str(transport.address), kind, reason)

    def reset(self) -> None:
        """Drop the connection and all unwritten bytes; the next channel opens a new connection."""
        if self.forked:
            return
        with self._lock:
            if self._transport is not None:
                self._transport.closing = True
                self._transport.abort()
                self._transport = None

    def close(self) -> None:
        """Close the connection, if one is open; in a forked process, leave it to the parent."""
        if self.forked:
            return
        with self._lock:
            self._closed = True
            if self._transport is not None:
                self._transport.close()
                self._transport = None

    @property
    def forked(self) -> bool:
        """Tell whether it belongs to the parent of this process."""
        return os.getpid() != self._process

    @property
    def is_closed(self) -> bool:
        """Tell whether it will not be reopened."""
        return self._closed or self.forked

    def _connected(self, deadline_s: float = math.inf) -> Transport:
        """Return the open connection. One thread connects, without the lock; the others wait for its result."""
        if self.forked:  # before the lock: another thread may have held it
            raise error_mapping.forked()
        mine = _Attempt()
        try:
            while True:
                with self._lock:
                    if self._closed:
                        raise ConnectionLost("the connection was closed by rmqkit")
                    if self._transport is not None and self._transport.lost is None:
                        return self._transport
                    attempt = self._attempt = self._attempt or mine
                if attempt is mine:
                    return self._connect(mine, deadline_s)
                if not attempt.ended.wait(None if deadline_s == math.inf else max(deadline_s - time.monotonic(), 0)):
                    raise Unreachable(f"{self.settings.addresses[0]}: no answer in time")
                if attempt.error is not None:
                    raise copy(attempt.error)
        finally:
            if self._attempt is mine:
                self._attempt = None
                mine.ended.set()

    def _connect(self, attempt: _Attempt, deadline_s: float) -> Transport:
        was_lost = self._transport is not None
        self._next_address += was_lost  # the lost address is tried last
        try:
            transport = self._open_any(deadline_s)
        except RmqkitError as exc:
            if time.monotonic() < deadline_s:  # else the others wait for longer
                attempt.error = exc
            raise
        transport.close_with_owner(self)
        with self._lock:
            if not self._closed:
                self._transport = transport
                self.tell(EventKind.RECOVERED if was_lost else EventKind.CONNECTED)
                return transport
        transport.closing = True
        transport.abort()
        raise ConnectionLost("the connection was closed by rmqkit")

    def _open_any(self, deadline_s: float) -> Transport:
        addresses = self.settings.addresses
        for attempt in range(len(addresses)):
            address = addresses[self._next_address % len(addresses)]
            timeout_s = min(OPEN_TIMEOUT_S, max(deadline_s - time.monotonic(), 0))
            try:
                tell = partial(_tell, self.settings.hooks, self._name, str(address))
                transport = Transport.open(address, self._parameters(address), timeout_s, self.settings, tell)
            except (Unreachable, AuthenticationFailed, NotFound) as exc:  # the last: of the virtual host
                _log.debug("%s: %s", self._name, exc.message)
                self._next_address += 1
                if attempt == len(addresses) - 1 or time.monotonic() >= deadline_s:
                    raise
            else:
                version = ".".join(map(str, transport.version))
                _log.debug("%s: connected to RabbitMQ %s at %s", self._name, version, address)
                return transport
        raise Unreachable("no address to connect to")

    def _parameters(self, address: Address) -> pika.ConnectionParameters:
        """Build new parameters for each connection: pika changes them, and secrets may have changed."""
        context = self.settings.tls_context(address) if address.tls else None
        return pika.ConnectionParameters(
            host=address.host,
            port=address.port,
            virtual_host=address.vhost,
            credentials=_Credentials(address, self.settings.password(address)),
            heartbeat=HEARTBEAT_S if address.heartbeat_s is None else address.heartbeat_s,
            channel_max=address.channel_max or pika.channel.MAX_CHANNELS,
            frame_max=address.frame_max or FRAME_MAX,
            ssl_options=None if context is None else pika.SSLOptions(context, address.server_name),
            socket_timeout=address.connection_timeout_s or OPEN_TIMEOUT_S,
            stack_timeout=OPEN_TIMEOUT_S,
            client_properties={
                "product": "rmqkit",
                "version": VERSION,
                "connection_name": self._name,
                "information": "https://pypi.org/project/rmqkit",
            },
        )


def _tell(hooks: GuardedHooks | None, name: str, address: str, kind: EventKind, reason: str) -> None:
    if hooks is not None:
        hooks.event(ConnectionEvent(kind, name, address, reason))


class _Credentials(pika.PlainCredentials):
    """A login with the first mechanism of the address that the broker offers."""

    def __init__(self, address: Address, password: str) -> None:
        super().__init__(address.username, password)
        self._mechanisms = address.auth_mechanisms or ("PLAIN",)

    def response_for(self, start: Any) -> tuple[str | None, bytes | None]:
        """Answer the broker's offer; raise NotOffered."""
        mechanisms = start.mechanisms  # pika decodes it to str where it can
        offered = (mechanisms if isinstance(mechanisms, str) else mechanisms.decode(errors="replace")).split()
        for mechanism in self._mechanisms:
            if mechanism in offered:
                return super().response_for(start) if mechanism == "PLAIN" else (mechanism, b"")
        raise NotOffered(self._mechanisms, offered)
