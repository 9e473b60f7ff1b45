"""The health of a broker, as RabbitMQ's HTTP API shows it (https://www.rabbitmq.com/docs/monitoring#health-checks)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from rmqkit.errors import Refused
from rmqkit.http_api.client import HttpApiClient, path_part


@dataclass(frozen=True, slots=True)
class ClusterHealth:
    """The nodes of a cluster: those that are `down`, and those that listen, by protocol; `version` is RabbitMQ's."""

    version: tuple[int, ...]
    nodes: tuple[str, ...]
    down: tuple[str, ...]
    listening: Mapping[str, frozenset[str]]


def failure(api: HttpApiClient, check: str) -> str:
    """Return why a health check fails, in RabbitMQ's words; empty if it does not.

    `check` is its path, such as `alarms`. Raises AccessRefused, Unreachable.
    """
    try:
        api.fetch(f"health/checks/{check}", dict)
    except Refused as exc:
        if exc.reply_code != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        return exc.reply_text or "failed"
    return ""


def cluster(api: HttpApiClient) -> ClusterHealth:
    """Return the nodes of the cluster. Raises AccessRefused, Unreachable."""
    nodes: Mapping[str, bool] = api.fetch(
        "nodes?columns=name,running", lambda found: {str(each["name"]): bool(each["running"]) for each in found}
    )

    def convert(found: Mapping[str, Any]) -> ClusterHealth:
        listening: dict[str, set[str]] = {}
        for each in found["listeners"]:
            listening.setdefault(str(each["protocol"]), set()).add(str(each["node"]))
        return ClusterHealth(
            tuple(int(part) for part in str(found["rabbitmq_version"]).split(".") if part.isdecimal()),
            tuple(sorted(nodes)),
            tuple(sorted(name for name, running in nodes.items() if not running)),
            {protocol: frozenset(names) for protocol, names in listening.items()},
        )

    return api.fetch("overview", convert)


def head_timestamp(api: HttpApiClient, queue: str) -> float | None:
    """Return the timestamp of the first message of a classic queue, in seconds since 1970; None if it has none."""
    value: object = api.fetch(f"queues/{{vhost}}/{path_part(queue)}", lambda found: found.get("head_message_timestamp"))
    return float(value) if isinstance(value, int) else None
