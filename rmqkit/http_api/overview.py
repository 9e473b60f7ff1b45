"""A broker at a glance, from RabbitMQ's HTTP API: its totals, its nodes, and its queues page by page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from rmqkit.errors import Refused
from rmqkit.http_api.client import QUEUE_FIELDS, HttpApiClient
from rmqkit.http_api.mapping import ALARMS, rates_of, read, status_of
from rmqkit.report import QueueStatus

_NODE = {  # RabbitMQ's names of the numbers
    "memory_bytes": "mem_used",
    "memory_limit_bytes": "mem_limit",
    "disk_free_bytes": "disk_free",
    "disk_limit_bytes": "disk_free_limit",
    "files": "fd_used",
    "processes": "proc_used",
    "uptime_ms": "uptime",
}


@dataclass(frozen=True, slots=True)
class Overview:
    """The totals of all virtual hosts that the user may see; rates are in messages a second."""

    version: str
    cluster_name: str
    queues: int = 0
    connections: int = 0
    channels: int = 0
    consumers: int = 0
    ready: int = 0
    unacknowledged: int = 0
    published_per_s: float = 0.0
    delivered_per_s: float = 0.0
    acknowledged_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node of the cluster; a number that RabbitMQ does not report is None, as are all of a node that is down."""

    name: str
    running: bool
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    disk_free_bytes: int | None = None
    disk_limit_bytes: int | None = None
    files: int | None = None
    processes: int | None = None
    uptime_ms: int | None = None
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueuePage:
    """A page of matching queues, in the requested order; `matching` is their number on all pages."""

    queues: tuple[QueueStatus, ...]
    matching: int


def overview(api: HttpApiClient) -> Overview:
    """Return the totals. Raises the errors of `HttpApiClient.live`."""

    def convert(found: Mapping[str, Any]) -> Overview:
        objects, totals = found.get("object_totals") or {}, found.get("queue_totals") or {}
        numbers = {name: objects.get(name, 0) for name in ("queues", "connections", "channels", "consumers")}
        numbers |= {name: totals.get(f"messages_{name}", 0) for name in ("ready", "unacknowledged")}
        names = {"version": found["rabbitmq_version"], "cluster_name": found["cluster_name"]}
        return read(Overview, names | numbers | rates_of(found.get("message_stats") or {}))

    return api.fetch("overview", convert)


def nodes(api: HttpApiClient) -> tuple[ClusterNode, ...]:
    """Return the nodes, sorted by name. Raises AccessRefused for a user without the tag monitoring; Unreachable."""

    def convert(found: Mapping[str, Any]) -> ClusterNode:
        alarms = tuple(kind for key, kind in ALARMS.items() if found.get(key))
        numbers = {field: value if isinstance(value := found.get(name), int) else None for field, name in _NODE.items()}
        return read(ClusterNode, {"name": found["name"], "running": found["running"], "alarms": alarms} | numbers)

    return api.fetch(
        f"nodes?columns=name,running,mem_alarm,disk_free_alarm,{','.join(_NODE.values())}",
        lambda found: tuple(sorted(map(convert, found), key=lambda each: each.name)),
    )


def queue_page(
    api: HttpApiClient,
    *,
    number: int = 1,
    size: int = 100,
    sort: str = "messages",
    descending: bool = True,
    pattern: str = "",
    all_vhosts: bool = False,
) -> QueuePage:
    """Return a page of queues that RabbitMQ has sorted and filtered: the answer stays small with thousands of queues.

    `number` counts from 1; a page after the last one is empty. `size` is at most 500; `sort` is the path of a field,
    such as `message_stats.ack_details.rate`; `pattern` is a regular expression of PCRE. Numbers may be five
    seconds old (https://www.rabbitmq.com/docs/http-api-reference#pagination). Raises the errors of
    `HttpApiClient.live`.
    """
    path = f"queues{'' if all_vhosts else '/{vhost}'}?columns={QUEUE_FIELDS}&page={number}&page_size={size}&sort={sort}"
    path += f"&sort_reverse={str(descending).lower()}"
    if pattern:
        path += f"&use_regex=true&name={quote(pattern, safe='')}"

    def convert(found: Mapping[str, Any]) -> QueuePage:
        return QueuePage(tuple(map(status_of, found["items"])), int(found["filtered_count"]))

    try:
        return api.fetch(path, convert)
    except Refused as error:
        if error.reply_code == HTTPStatus.BAD_REQUEST and number > 1:
            return QueuePage((), 0)
        raise
