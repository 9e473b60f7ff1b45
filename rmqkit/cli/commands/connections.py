"""`rmqkit connections` and `rmqkit consumers`: who uses the broker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmqkit.cli import output, protection
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.cli.output import Style
from rmqkit.cli.report_text import age
from rmqkit.errors import InputError, NotFound
from rmqkit.payload import properties
from rmqkit.plural import plural

if TYPE_CHECKING:
    from rmqkit.http_api.activity import ClientConnection, QueueConsumer

_CONNECTIONS = ("name", "from", "user", "client", "channels", "in B/s", "out B/s", "open", "")
_CONSUMERS = ("consumer", "name", "from", "client", "prefetch", "unacked", "out/s", "ack/s", "")


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
    from rmqkit.http_api import activity  # noqa: PLC0415 - start-up time: pika

    settings = broker.settings()
    if close is not None:
        protection.confirm(settings, yes, f"close connection {close!r}")
    with connect(settings) as connection:
        api = connection.http_api()
        found = activity.connections(api, all_vhosts=all_vhosts or close is not None)
        if close is not None:
            closed = _named(found, close)
            api.close_connection(closed.name, reason)
            if json:
                output.out_json({"closed": _plain(asdict(closed)), "reason": reason})
            else:
                output.note(output.safe(f"Closed the connection {_title(closed)}."))
            return
        own = "" if activity.sees_all(api) else " Only your own are shown: your user lacks the tag monitoring."
    chosen = [each for each in found if not patterns or _matches(each, patterns)]
    if json:
        output.out_json({"connections": [_plain(asdict(each)) for each in chosen]})
        return
    output.out(_connection_table(chosen, all_vhosts=all_vhosts))
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
    from rmqkit.http_api import activity  # noqa: PLC0415 - start-up time: pika

    with broker.connect() as connection:
        found = activity.consumers(connection.http_api(), queue)
    if json:
        output.out_json({"queue": queue, "consumers": [_plain(asdict(each)) for each in found]})
        return
    output.out(_consumer_table(found))
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


def _client(found: ClientConnection) -> str:
    return " ".join(filter(None, [found.client, found.version])) or "-"


def _connection_table(found: Sequence[ClientConnection], *, all_vhosts: bool) -> str:
    rows = []
    styles: list[Style | None] = []
    for each in found:
        numbers = (f"{each.channels:,}", f"{each.received_per_s:,.0f}", f"{each.sent_per_s:,.0f}")
        state = "" if each.state == "running" else each.state
        opened = age(each.connected_at) if each.connected_at else "-"
        names = [each.client_name or "-", *[each.vhost] * all_vhosts, each.place, each.user, _client(each)]
        rows.append([*names, *numbers, opened, state])
        styles.append("yellow" if state in ("flow", "blocked", "blocking") else None)
    header = [_CONNECTIONS[0], *["vhost"] * all_vhosts, *_CONNECTIONS[1:]]
    first = 4 + all_vhosts
    return output.table(rows, header=header, styles=styles, numbers=range(first, first + 4), shortened=range(first))


def _consumer_table(found: Sequence[QueueConsumer]) -> str:
    rows = []
    styles: list[Style | None] = []
    for each in found:
        remark, style = _remark(each)
        connection = each.connection
        unacknowledged = "-" if each.unacknowledged is None else f"{each.unacknowledged:,}"
        rates = ("-" if rate is None else f"{rate:,.1f}" for rate in (each.delivered_per_s, each.acknowledged_per_s))
        names = (each.tag, connection.client_name or "-", connection.place, _client(connection))
        rows.append((*names, f"{each.prefetch:,}" if each.prefetch else "none", unacknowledged, *rates, remark))
        styles.append(style)
    return output.table(rows, header=_CONSUMERS, styles=styles, numbers=range(4, 8), shortened=range(4))


def _remark(found: QueueConsumer) -> tuple[str, Style | None]:
    """Return the remark about a consumer, and the style of its row."""
    if not found.active:
        return "waiting (single active consumer)", "dim"
    if not found.ack_required:
        return "no acknowledgements", "yellow"
    return ("full", "yellow") if found.is_full else ("exclusive" if found.exclusive else "", None)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them: times as text."""
    return {
        name: each.isoformat() if isinstance(each, datetime) else _plain(each) if isinstance(each, dict) else each
        for name, each in values.items()
    }
