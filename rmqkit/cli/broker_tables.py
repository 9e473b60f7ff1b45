"""Queues, connections, channels, consumers and nodes as the tables of `status`, `connections`, `consumers` and `top`.

A table says how each column is shown and sorted; it prints rows, or hands them to a screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rmqkit.cli import output
from rmqkit.cli.output import Style
from rmqkit.cli.report_text import age
from rmqkit.plural import span
from rmqkit.report import QueueStatus

if TYPE_CHECKING:
    from rmqkit.http_api.connections import ClientChannel, ClientConnection, QueueConsumer
    from rmqkit.http_api.overview import ClusterNode

MISSING = "missing"  # the state of a queue that a file declares and the broker does not have
HEALTHY = ("running", "idle", None)
_BROKEN = (MISSING, "down", "crashed", "stopped", "minority")
_GROWING = 1.1  # rate in by rate out, above which a backlog grows
_SLOWED = ("flow", "blocked", "blocking")
_FEW = 10  # messages a second, below which a rate has a decimal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column: its title, its cell of an item, and the key that sorts items by it.

    Numbers are aligned to the right, and sorted with the greatest first; `field` is the path by which RabbitMQ's HTTP
    API sorts, if it can. Other columns are shortened on a narrow terminal, unless they are `fixed`.
    """

    title: str
    cell: Callable[[T], str]
    key: Callable[[T], Any]
    field: str = ""
    number: bool = False
    fixed: bool = False


def _text(title: str, cell: Callable[[T], str], field: str = "", *, fixed: bool = False) -> Column[T]:
    return Column(title, lambda item: cell(item) or "-", cell, field, fixed=fixed)


def _number(
    title: str, value: Callable[[T], float | None], show: Callable[[float | None], str], field: str = ""
) -> Column[T]:
    return Column(title, lambda item: show(value(item)), lambda item: value(item) or 0, field, number=True)


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """The columns of one kind of item, and the remark about an item that needs attention with the style of its row.

    With several virtual hosts, that of the item is the second column, unless items belong to none.
    """

    all_columns: tuple[Column[T], ...]
    remark: Callable[[T], tuple[str, Style | None]]
    vhost: Callable[[T], str | None] | None = None

    def columns(self, *, vhosts: bool) -> tuple[Column[T], ...]:
        """Return the columns; the last one has the remarks."""
        find = self.vhost
        own: list[Column[T]] = [_text("vhost", lambda item: find(item) or "", "vhost")] if find and vhosts else []
        first, *rest = self.all_columns
        return (first, *own, *rest, Column("", lambda item: self.remark(item)[0], lambda item: self.remark(item)[0]))

    def aligned(self, items: Iterable[T], *, vhosts: bool, columns: int | None) -> list[list[str]]:
        """Return the titles and the rows, each cell as wide as its column, all within `columns` if they are given."""
        listed = self.columns(vhosts=vhosts)
        rows = [[each.title for each in listed], *([each.cell(item) for each in listed] for item in items)]
        numbers = [place for place, each in enumerate(listed) if each.number]
        return output.align(rows, numbers=numbers, shortened=_shortened(listed), columns=columns)

    def text(self, items: Sequence[T], *, vhosts: bool = False) -> str:
        """Return the table as text for standard output."""
        listed = self.columns(vhosts=vhosts)
        return output.table(
            [[each.cell(item) for each in listed] for item in items],
            header=[each.title for each in listed],
            styles=[self.remark(item)[1] for item in items],
            numbers=[place for place, each in enumerate(listed) if each.number],
            shortened=_shortened(listed),
        )


def _shortened(columns: Sequence[Column[Any]]) -> list[int]:
    return [place for place, each in enumerate(columns[:-1]) if not each.number and not each.fixed]


def count(number: float | None) -> str:
    """Return a count for people; `-` if it is unknown."""
    return "-" if number is None else f"{number:,.0f}"


def rate(number: float | None) -> str:
    """Return a rate for people; `-` if it is unknown."""
    return "-" if number is None else f"{number:,.1f}" if 0 < number < _FEW else f"{number:,.0f}"


def size(number: float | None) -> str:
    """Return a number of bytes for people; `-` if it is unknown."""
    if number is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:  # noqa: PLR2004
            return f"{number:,.0f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"


def queue_remark(queue: QueueStatus) -> tuple[str, Style | None]:
    """Return the remark about a queue that needs attention, and the style of its row."""
    if queue.state not in HEALTHY:
        return queue.state, "red" if queue.state in _BROKEN else "yellow"
    published, delivered = queue.published_per_s or 0, queue.delivered_per_s or 0
    growing = queue.ready and published > _GROWING * delivered
    if queue.waiting:
        return f"{queue.waiting:,} waiting", "red" if growing else "yellow"
    if queue.ready and not queue.consumers:
        return "no consumers", "red" if growing else "yellow"
    return ("growing", "red") if growing else ("", None)


def consumer_remark(found: QueueConsumer) -> tuple[str, Style | None]:
    """Return the remark about a consumer, and the style of its row."""
    if not found.active:
        return "waiting (single active consumer)", "dim"
    if not found.ack_required:
        return "no acknowledgements", "yellow"
    return ("full", "yellow") if found.is_full else ("exclusive" if found.exclusive else "", None)


def _state(state: str) -> tuple[str, Style | None]:
    return "" if state == "running" else state, "yellow" if state in _SLOWED else None


def _node_remark(node: ClusterNode) -> tuple[str, Style | None]:
    if not node.running:
        return "down", "red"
    return (f"ALARM: {', '.join(node.alarms)}", "red") if node.alarms else ("", None)


def _of_queue(
    title: str, value: Callable[[QueueStatus], float | None], field: str, show: Callable[[float | None], str] = count
) -> Column[QueueStatus]:
    def cell(queue: QueueStatus) -> str:
        return "" if queue.state == MISSING else show(value(queue))

    return Column(title, cell, lambda queue: value(queue) or 0, field, number=True)


def _client(found: ClientConnection) -> str:
    return " ".join(filter(None, [found.client, found.version]))


QUEUES: Table[QueueStatus] = Table(
    (
        _text("queue", lambda queue: queue.name, "name"),
        _text("type", lambda queue: queue.type or "", "type", fixed=True),
        _of_queue("ready", lambda queue: queue.ready, "messages_ready"),
        _of_queue("unacked", lambda queue: queue.unacknowledged, "messages_unacknowledged"),
        _of_queue("consumers", lambda queue: queue.consumers, "consumers"),
        _of_queue("in/s", lambda queue: queue.published_per_s, "message_stats.publish_details.rate", rate),
        _of_queue("out/s", lambda queue: queue.delivered_per_s, "message_stats.deliver_get_details.rate", rate),
    ),
    queue_remark,
    lambda queue: queue.vhost,
)
CONNECTIONS: Table[ClientConnection] = Table(
    (
        _text("name", lambda found: found.client_name),
        _text("from", lambda found: found.place),
        _text("user", lambda found: found.user),
        _text("client", _client),
        _number("channels", lambda found: found.channels, count),
        _number("in B/s", lambda found: found.received_per_s, count),
        _number("out B/s", lambda found: found.sent_per_s, count),
        Column(
            "open",
            lambda found: age(found.connected_at) if found.connected_at else "-",
            lambda found: -(found.connected_at.timestamp() if found.connected_at else 0),
            number=True,
        ),
    ),
    lambda found: _state(found.state),
    lambda found: found.vhost,
)
CHANNELS: Table[ClientChannel] = Table(
    (
        _text("name", lambda found: found.connection.client_name),
        _text("from", lambda found: found.connection.place),
        _number("channel", lambda found: found.number, count),
        _number("consumers", lambda found: found.consumers, count),
        _number("prefetch", lambda found: found.prefetch, lambda number: count(number) if number else "none"),
        _number("unacked", lambda found: found.unacknowledged, count),
        _number("in/s", lambda found: found.published_per_s, rate),
        _number("out/s", lambda found: found.delivered_per_s, rate),
        _number("ack/s", lambda found: found.acknowledged_per_s, rate),
    ),
    lambda found: _state(found.state),
    lambda found: found.vhost,
)
_CONSUMERS: tuple[Column[QueueConsumer], ...] = (
    _text("consumer", lambda found: found.tag),
    _text("name", lambda found: found.connection.client_name),
    _text("from", lambda found: found.connection.place),
    _text("client", lambda found: _client(found.connection)),
    _number("prefetch", lambda found: found.prefetch, lambda number: count(number) if number else "none"),
    _number("unacked", lambda found: found.unacknowledged, count),
    _number("out/s", lambda found: found.delivered_per_s, rate),
    _number("ack/s", lambda found: found.acknowledged_per_s, rate),
)
CONSUMERS: Table[QueueConsumer] = Table(_CONSUMERS, consumer_remark)
ALL_CONSUMERS: Table[QueueConsumer] = Table(
    (_text("queue", lambda found: found.queue), *_CONSUMERS[1:3], *_CONSUMERS[4:]),
    consumer_remark,
    lambda found: found.vhost,
)
NODES: Table[ClusterNode] = Table(
    (
        _text("node", lambda node: node.name),
        _number("memory", lambda node: node.memory_bytes, size),
        _number("limit", lambda node: node.memory_limit_bytes, size),
        _number("disk free", lambda node: node.disk_free_bytes, size),
        _number("files", lambda node: node.files, count),
        _number("processes", lambda node: node.processes, count),
        _number("up", lambda node: node.uptime_ms, lambda ms: "-" if ms is None else span(ms / 1000)),
    ),
    _node_remark,
)
