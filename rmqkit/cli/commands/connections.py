"""`rmqkit connections` and `rmqkit consumers`: who uses the broker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit.cli import output, protection
from rmqkit.cli.broker_tables import CONNECTIONS, CONSUMERS
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.errors import InputError, NotFound
from rmqkit.payload import properties
from rmqkit.plural import plural

if TYPE_CHECKING:
    from rmqkit.http_api.connections import ClientConnection


@grouped
def connections(
    broker: ConnectionOptions,
    *,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATTERN]", help="Show only connections with this name, host or user; * and ? are wildcards."
        ),
    ] = None,
    all_vhosts: Annotated[bool, option("--all-vhosts", "Show the connections to all virtual hosts.")] = False,
    close: Annotated[
        str | None, option("--close NAME", "Close the connection with this name, or from this HOST:PORT.")
    ] = None,
    reason: Annotated[
        str, option("--reason TEXT", "With --close: the reason to send to the client.", show_default=False)
    ] = "closed by an operator with rmqkit",
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Show client connections: name, address, user, client library and traffic.

    The name is chosen by the client; "-" means that it chose none. Closing a connection requeues its unacknowledged
    messages; most clients reconnect. The command needs RabbitMQ's HTTP API, and the tag `monitoring` to show the
    connections of other users. Statistics may be up to five seconds old.
    """
    if not reason.isascii() or not reason.isprintable():
        raise typer.BadParameter("--reason must be printable ASCII text")
    from rmqkit.http_api import connections as client_connections  # noqa: PLC0415 - start-up time: pika

    settings = broker.settings()
    if close is not None:
        protection.confirm(settings, yes, f"close connection {close!r}")
    with connect(settings) as connection:
        api = connection.http_api()
        found = client_connections.connections(api, all_vhosts=all_vhosts or close is not None)
        if close is not None:
            closed = _named(found, close)
            api.close_connection(closed.name, reason)
            if json:
                output.out_json({"closed": output.plain(asdict(closed)), "reason": reason})
            else:
                output.note(output.safe(f"Closed the connection {_title(closed)}."))
            return
        sees_all = client_connections.sees_all(api)
    chosen = [each for each in found if not patterns or _matches(each, patterns)]
    if json:
        output.out_json({"connections": [output.plain(asdict(each)) for each in chosen]})
        return
    output.out(CONNECTIONS.text(chosen, vhosts=all_vhosts))
    own = "" if sees_all else " Only your own are shown: your user lacks the tag monitoring."
    output.note(f"{plural(len(chosen), 'connection')}.{own} Statistics may be up to 5 s old.")


@grouped
def consumers(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")],
    broker: ConnectionOptions,
    *,
    json: Json = False,
) -> None:
    """Show the consumers of a queue: address, client library, prefetch, unacknowledged messages and rates.

    Unacknowledged messages and rates are those of the consumer's channel. A consumer is `full` if it holds as many
    unacknowledged messages as its prefetch allows: it receives no more until it acknowledges one. The command needs
    RabbitMQ's HTTP API. Statistics may be up to five seconds old.
    """
    properties.check_names({"queue": queue})
    from rmqkit.http_api import connections as client_connections  # noqa: PLC0415 - start-up time: pika

    with broker.connect() as connection:
        found = client_connections.consumers(connection.http_api(), queue)
    if json:
        output.out_json({"queue": queue, "consumers": [output.plain(asdict(each)) for each in found]})
        return
    output.out(CONSUMERS.text(found))
    output.note(output.safe(f"{plural(len(found), 'consumer')} of queue {queue!r}. Statistics may be up to 5 s old."))


def _named(found: Sequence[ClientConnection], name: str) -> ClientConnection:
    """Return the connection with a name or place. Raises NotFound, and InputError if there are several."""
    named = [each for each in found if name in (each.name, each.client_name, each.place)]
    if not named:
        subject = f"connection {name!r}"
        advice = "`rmqkit connections --all-vhosts` lists all connections."
        raise NotFound(404, "NOT_FOUND", subject, message=f"{subject} does not exist", advice=advice)
    if len(named) > 1:
        places = ", ".join(each.place for each in named)
        raise InputError(
            f"{len(named)} connections have the name {name!r}; none was closed",
            advice=f"Choose one by its address: {places}",
        )
    return named[0]


def _matches(found: ClientConnection, patterns: Iterable[str]) -> bool:
    texts = (found.client_name, found.host, found.place, found.user)
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in texts)


def _title(found: ClientConnection) -> str:
    name = f"{found.client_name!r} " if found.client_name else ""
    return f"{name}of user {found.user!r} from {found.place}"
