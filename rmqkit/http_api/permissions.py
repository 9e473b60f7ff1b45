"""The permissions of users: read and set them as an administrator, and advise on a missing one."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus

from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import AccessRefused, BrokerError, NotFound, Refused
from rmqkit.http_api import client
from rmqkit.http_api.client import HttpApiClient, path_part
from rmqkit.topology.permissions import Permissions, TopicPermission

_TIMEOUT_S = 2.0
_KINDS = ("configure", "write", "read")
_NOTHING = ("", "^$")  # https://www.rabbitmq.com/docs/access-control#authorisation


def complete(error: AccessRefused, connection: ReconnectingConnection) -> None:
    """Name the command that adds the missing permission to the present ones; without the HTTP API nothing changes."""
    if (missing := error.missing) is None:
        return
    with suppress(BrokerError):
        found = read(client.connect(connection, _TIMEOUT_S), missing.user, missing.vhost)
        names = _KINDS if missing.exchange is None else _KINDS[1:]
        topics = {each.exchange: each for each in found.topics} if found else {}
        holder = found if missing.exchange is None else topics.get(missing.exchange)
        if holder is None:
            return
        patterns = {name: str(getattr(holder, name)) for name in names}
        present = ", ".join(f"{kind} {pattern!r}" for kind, pattern in patterns.items())
        old = patterns[missing.kind]
        patterns[missing.kind] = missing.pattern if old in _NOTHING else f"{old}|{missing.pattern}"
        command = _command(missing.vhost, missing.user, patterns.values(), missing.exchange)
        error.advice = f"{missing.text} Its patterns are {present}. Extend them: `{command}`."


def read(api: HttpApiClient, user: str, vhost: str) -> Permissions | None:
    """Return the permissions of a user in a virtual host; None if it has none.

    Raises NotFound if there is no such user, and the errors of `HttpApiClient.live`.
    """
    place = f"{path_part(vhost)}/{path_part(user)}"
    try:
        patterns = api.fetch(f"permissions/{place}", lambda found: {kind: str(found[kind]) for kind in _KINDS})
    except NotFound as error:
        with suppress(NotFound):
            api.fetch(f"users/{path_part(user)}", dict)
            return None
        advice = f"Create it: `rabbitmqctl add_user {shlex.quote(user)}`."
        message = f"user {user!r} does not exist"
        raise NotFound(404, error.reply_text, f"user {user!r}", message=message, advice=advice) from None
    topics: list[TopicPermission] = []
    with suppress(NotFound):
        topics = api.fetch(
            f"topic-permissions/{place}",
            lambda found: [TopicPermission(each["exchange"], each["write"], each["read"]) for each in found],
        )
    return Permissions(patterns["configure"], patterns["write"], patterns["read"], tuple(topics))


def put(api: HttpApiClient, user: str, vhost: str, permissions: Permissions) -> None:
    """Set the permissions of a user, topic permissions first; those on other exchanges stay.

    Raises Refused and AccessRefused; RabbitMQ 4 refuses a topic permission on an exchange that does not exist.
    """
    place = f"{path_part(vhost)}/{path_part(user)}"
    for topic in permissions.topics:
        try:
            api.put(f"topic-permissions/{place}", asdict(topic))
        except Refused as error:
            if error.reply_code == HTTPStatus.BAD_REQUEST:
                error.advice = f"Exchange {topic.exchange!r} must exist: declare it first, with `rmqkit apply`."
            raise
    api.put(f"permissions/{place}", {kind: getattr(permissions, kind) for kind in _KINDS})


def commands(vhost: str, user: str, permissions: Permissions) -> Iterator[str]:
    """Yield the commands of rabbitmqctl that set permissions, topic permissions last."""
    yield _command(vhost, user, (permissions.configure, permissions.write, permissions.read))
    for topic in permissions.topics:
        yield _command(vhost, user, (topic.write, topic.read), topic.exchange)


def _command(vhost: str, user: str, patterns: Iterable[str], exchange: str | None = None) -> str:
    topics, of = ("", []) if exchange is None else ("topic_", [exchange])
    return shlex.join(["rabbitmqctl", f"set_{topics}permissions", "-p", vhost, user, *of, *patterns])
