"""Advice on a missing permission, with a command that keeps the others; the HTTP API shows them to administrators."""

from __future__ import annotations

import shlex
from contextlib import suppress

from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import AccessRefused, BrokerError
from rmqkit.http_api import client

_TIMEOUT_S = 2.0
_NOTHING = ("", "^$")  # https://www.rabbitmq.com/docs/access-control#authorisation


def complete(error: AccessRefused, connection: ReconnectingConnection) -> None:
    """Name the command that adds the missing permission to the present ones; without the HTTP API nothing changes."""
    if (missing := error.missing) is None:
        return
    with suppress(BrokerError):
        api = client.connect(connection, _TIMEOUT_S)
        patterns = dict(api.permissions(missing.user, missing.vhost, missing.exchange))
        present = ", ".join(f"{kind} {pattern!r}" for kind, pattern in patterns.items())
        old = patterns[missing.kind]
        patterns[missing.kind] = missing.pattern if old in _NOTHING else f"{old}|{missing.pattern}"
        topics, of = ("", []) if missing.exchange is None else ("topic_", [missing.exchange])
        command = shlex.join(
            ["rabbitmqctl", f"set_{topics}permissions", "-p", missing.vhost, missing.user, *of, *patterns.values()]
        )
        error.advice = f"{missing.text} Its patterns are {present}. Extend them: `{command}`."
