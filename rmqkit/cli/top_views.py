"""The views of `rmqkit top`: the requests that fetch them, sorting and filtering, and the details of a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from rmqkit.administration import Administration
from rmqkit.cli import output, why_text
from rmqkit.cli.broker_tables import (
    ALL_CONSUMERS,
    CHANNELS,
    CONNECTIONS,
    CONSUMERS,
    NODES,
    QUEUES,
    Column,
    Table,
    count,
    rate,
)
from rmqkit.errors import InputError
from rmqkit.http_api import connections
from rmqkit.http_api.client import HttpApiClient
from rmqkit.http_api.connections import ClientConnection
from rmqkit.http_api.overview import Overview, nodes, overview, queue_page
from rmqkit.plural import plural

PAGE_ROWS = 100


@dataclass(frozen=True, slots=True)
class Query:
    """Which rows of a view to show: `sort` is the title of a column, or empty for the view's own order.

    `text` is part of a name, with * and ? as wildcards; `page` counts from 1.
    """

    sort: str = ""
    reverse: bool = False
    text: str = ""
    page: int = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The items of a page of a view, in order, and how many match on all pages; `alarms` block publishers.

    With `only_own`, the user may not see the clients of other users.
    """

    overview: Overview
    alarms: tuple[str, ...]
    items: tuple[Any, ...]
    matching: int
    only_own: bool = False


Fetch = Callable[[HttpApiClient, Query, bool], tuple[Sequence[Any], int]]


class View(NamedTuple):
    """A view: its table, the function that fetches a page and the number of matching items, and the identity of one."""

    name: str
    table: Table[Any]
    fetch: Fetch
    identity: Callable[[Any], str]

    def column(self, title: str) -> Column[Any]:
        """Return the column with a title. Raises InputError."""
        columns = self.table.columns(vhosts=True)[:-1]
        found = next((each for each in columns if each.title == title), None)
        if found is None:
            titles = ", ".join(each.title for each in columns)
            raise InputError(f"--sort: {self.name} have no column {title!r}", advice=f"The columns are {titles}.")
        return found


def snapshot(api: HttpApiClient, view: View, query: Query, *, all_vhosts: bool) -> Snapshot:
    """Fetch a view. Raises the errors of `HttpApiClient.live`."""
    items, matching = view.fetch(api, query, all_vhosts)
    only_own = view.name in ("connections", "channels", "consumers") and not connections.sees_all(api)
    return Snapshot(overview(api), api.alarms(), tuple(items), matching, only_own)


def totals(found: Overview) -> tuple[str, str]:
    """Return two lines about the whole broker."""
    objects = (plural(getattr(found, f"{name}s"), name) for name in ("queue", "connection", "channel", "consumer"))
    rates = (("in", found.published_per_s), ("out", found.delivered_per_s), ("ack", found.acknowledged_per_s))
    messages = f"{count(found.ready)} ready, {count(found.unacknowledged)} unacked"
    return ", ".join(objects), f"{messages}; {', '.join(f'{name} {rate(value)}/s' for name, value in rates)}"


def shown(view: View, found: Snapshot, query: Query) -> str:
    """Tell which of the matching rows are shown."""
    noun = "node" if view.name == "overview" else view.name.removesuffix("s")
    first = (query.page - 1) * PAGE_ROWS + 1
    some = "" if len(found.items) == found.matching else f"{first:,} to {first - 1 + len(found.items):,} of "
    some += plural(found.matching, noun) + (f" that match {query.text!r}" if query.text else "")
    return f"{some}; only your own: your user lacks the tag monitoring" if found.only_own else some


def as_json(view: View, found: Snapshot) -> dict[str, Any]:
    """Return a snapshot as JSON has it."""
    return {
        "view": view.name,
        "overview": asdict(found.overview),
        "alarms": list(found.alarms),
        "matching": found.matching,
        "nodes" if view.name == "overview" else view.name: [output.plain(asdict(each)) for each in found.items],
    }


def details(api: HttpApiClient, view: View, connection: Administration, item: Any, columns: int) -> str:
    """Return the details of a row, in lines of `columns` characters: of a queue, what `rmqkit why` says.

    For a consumer they are those of its queue, for a channel those of its connection. Raises the errors of
    `HttpApiClient.live`.
    """
    if view.name in ("queues", "consumers"):
        name, vhost = (item.name if view.name == "queues" else item.queue), item.vhost or api.vhost
        own = api if vhost == api.vhost else api.for_vhost(vhost)
        facts, causes = why_text.explain(connection if own is api else None, own, name)
        text = why_text.as_text(facts, causes, columns)
        return f"{text}\n\n{_lines(CONSUMERS, facts.consumers, columns)}" if facts.consumers else text
    return _connection(api, item.connection if view.name == "channels" else item, columns)


def _connection(api: HttpApiClient, found: ClientConnection, columns: int) -> str:
    fields = {name: str(value) for name, value in output.plain(asdict(found)).items() if value not in ("", None)}
    lines = [
        f"{name.replace('_', ' '):16}{output.shorten(output.safe(value), columns - 16)}"
        for name, value in fields.items()
    ]
    own = api.for_vhost(found.vhost) if found.vhost else api
    parts = [
        _lines(table, [each for each in find(own) if each.connection.name == found.name], columns)
        for table, find in ((CHANNELS, connections.channels), (ALL_CONSUMERS, connections.consumers))
    ]
    return "\n\n".join(["\n".join(lines), *parts])


def _lines(table: Table[Any], items: Iterable[Any], columns: int) -> str:
    listed = list(items)
    gaps = 2 * (len(table.columns(vhosts=False)) - 1)
    rows = table.aligned(listed, vhosts=False, columns=columns - gaps)
    return "\n".join("  ".join(row).rstrip() for row in rows)


def _pattern(text: str) -> str:
    """Return a regular expression, of Python and of PCRE, that finds a text with wildcards in any case."""
    return "(?i)" + re.escape(text).replace(r"\*", ".*").replace(r"\?", ".") if text else ""


def _queues(api: HttpApiClient, query: Query, all_vhosts: bool) -> tuple[Sequence[Any], int]:  # noqa: FBT001 - Fetch
    column = VIEWS["queues"].column(query.sort) if query.sort else None
    found = queue_page(
        api,
        number=query.page,
        size=PAGE_ROWS,
        sort=column.field if column else "messages",
        descending=(column is None or column.number) != query.reverse,
        pattern=_pattern(query.text),
        all_vhosts=all_vhosts,
    )
    return found.queues, found.matching


def _listed(
    name: str,
    find: Callable[..., Iterable[Any]],
    api: HttpApiClient,
    query: Query,
    all_vhosts: bool,  # noqa: FBT001
) -> tuple[Sequence[Any], int]:
    """Sort and filter clients and nodes, which RabbitMQ returns without pages; there are fewer of them than queues."""
    view = VIEWS[name]
    texts = [each.cell for each in view.table.columns(vhosts=True)[:-1] if not each.number]
    found = list(find(api, all_vhosts=all_vhosts))
    if pattern := re.compile(_pattern(query.text)) if query.text else None:
        found = [each for each in found if any(pattern.search(text(each)) for text in texts)]
    if query.sort:
        column = view.column(query.sort)
        found.sort(key=column.key, reverse=column.number != query.reverse)
    elif query.reverse:
        found.reverse()
    first = (query.page - 1) * PAGE_ROWS
    return found[first : first + PAGE_ROWS], len(found)


VIEWS = {
    each.name: each
    for each in (
        View("overview", NODES, partial(_listed, "overview", lambda api, **_: nodes(api)), lambda node: node.name),
        View("queues", QUEUES, _queues, lambda queue: f"{queue.vhost}/{queue.name}"),
        View(
            "connections", CONNECTIONS, partial(_listed, "connections", connections.connections), lambda row: row.name
        ),
        View("channels", CHANNELS, partial(_listed, "channels", connections.channels), lambda row: row.name),
        View(
            "consumers",
            ALL_CONSUMERS,
            partial(_listed, "consumers", connections.consumers),
            lambda row: f"{row.connection.name} {row.channel} {row.tag}",
        ),
    )
}
