"""The connection to a broker, opened on first use and reopened when lost."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pika

from rmqkit.address import Address
from rmqkit.amqp import error_mapping
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.error_mapping import NotOffered
from rmqkit.amqp.transport import Transport
from rmqkit.errors import AuthenticationFailed, BrokerError, ConnectionLost, NotFound, SettingsError, Unreachable
from rmqkit.settings import Settings
from rmqkit.stop import Stop
from rmqkit.version import VERSION

FRAME_MAX = 131_072  # RabbitMQ's own default; negotiation may lower it
HEARTBEAT_S = 20  # pika detects a dead connection within 25 to 50 s: before a publisher gives up on its confirms
OPEN_TIMEOUT_S = 15.0  # TCP, TLS and AMQP handshakes together
RECOVERY_TIMEOUT_S = 60.0  # a broker restart takes seconds; a host that is down for longer needs an operator
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0

T = TypeVar("T")
_log = logging.getLogger("rmqkit.amqp")


class ReconnectingConnection:
    """A connection to the first address that answers, shared by any number of channels and threads."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._next_address = 0
        self._closed = False
        self._process = os.getpid()

    @property
    def blocked(self) -> str:
        """Return why the broker currently blocks publishers; empty if it does not."""
        transport = self._transport
        return transport.blocked if transport is not None else ""

    def verify(self) -> None:
        """Connect now. Raises Unreachable, AuthenticationFailed, NotFound for the virtual host."""
        self._connected()

    def channel(self, stop: Stop | None = None) -> Channel:
        """Open a channel, connecting first if necessary: one try for each address; a stop ends waits for an alarm.

        Raises Unreachable, AuthenticationFailed, ConnectionLost.
        """
        return self._connected().open_channel(stop)

    def server(self) -> tuple[Address, str]:
        """Return the address and the cluster name of the connected broker, connecting first if necessary.

        Raises Unreachable, AuthenticationFailed.
        """
        transport = self._connected()
        return transport.address, transport.cluster_name

    def recover(self, stop: Stop, prepare: Callable[[Channel], T], *, timeout_s: float = RECOVERY_TIMEOUT_S) -> T:
        """Open a channel, prepare it and return the result of `prepare`.

        Each address is tried in turn, with growing, jittered pauses, until both succeed. A login that every address
        refuses is not retried. Raises ConnectionLost when `timeout_s` has passed, a stop is requested or this
        connection was closed; AuthenticationFailed; and any error of `prepare` except ConnectionLost.
        """
        deadline = time.monotonic() + timeout_s
        pause, refusals = FIRST_PAUSE_S, 0
        failure: BrokerError
        while True:
            try:
                return prepare(self.channel(stop))
            except AuthenticationFailed as exc:
                refusals += 1
                if refusals > len(self.settings.addresses):
                    raise
                failure = exc
            except (Unreachable, ConnectionLost) as exc:
                if self._closed or self._forked:
                    raise
                failure = exc
            except SettingsError as exc:  # a secret that is being replaced: the first connection could read it
                failure = ConnectionLost(exc.message, advice=exc.advice)
            # Jitter keeps a thousand clients of a restarted broker from reconnecting in step.
            delay = pause * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
            _log.debug("%s: %s; next attempt after %.1f s", self._name, failure.message, delay)
            if time.monotonic() + delay > deadline or stop.wait(delay):
                message = f"lost the connection and could not reconnect: {failure.message}"
                raise ConnectionLost(message, advice=failure.advice) from failure
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def reset(self) -> None:
        """Drop the connection and all unwritten bytes; the next channel opens a new connection."""
        if self._forked:
            return
        with self._lock:
            if self._transport is not None:
                self._transport.abort()
                self._transport = None

    def close(self) -> None:
        """Close the connection, if one is open; in a forked process, leave it to the parent."""
        if self._forked:
            return
        with self._lock:
            self._closed = True
            if self._transport is not None:
                self._transport.close()
                self._transport = None

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._process

    def _connected(self) -> Transport:
        if self._forked:  # before the lock: another thread may have held it
            raise error_mapping.forked()
        with self._lock:
            if self._closed:
                raise ConnectionLost("the connection was closed by rmqkit")
            if self._transport is None or self._transport.lost is not None:
                self._next_address += self._transport is not None  # the lost address is tried last
                self._transport = self._open_any()
                self._transport.close_with_owner(self)
            return self._transport

    def _open_any(self) -> Transport:
        addresses = self.settings.addresses
        for attempt in range(len(addresses)):
            address = addresses[self._next_address % len(addresses)]
            try:
                transport = Transport.open(address, self._parameters(address), OPEN_TIMEOUT_S, self.settings)
            except (Unreachable, AuthenticationFailed, NotFound) as exc:  # the last: of the virtual host
                _log.debug("%s: %s", self._name, exc.message)
                self._next_address += 1
                if attempt == len(addresses) - 1:
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
