"""The mapping from JSON of RabbitMQ's HTTP API to queues, exchanges, bindings and policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rmqkit.model import Queue
from rmqkit.report import QueueStatus

QUEUE_TYPES = ("classic", "quorum", "stream")
_TEXT, _NUMBER = (str, type(None)), (int, float, type(None))
_TYPES: Mapping[str, Any] = {  # by the annotation of the field
    "str": str, "bool": bool, "int": int, "Arguments": dict, "DestinationType": str, "AppliesTo": str,
    "str | None": _TEXT, "int | None": _NUMBER, "float | None": _NUMBER,
}  # fmt: skip


def fields_of(entity: Mapping[str, Any], data_class: type[Any]) -> dict[str, Any]:
    """Return the values of an entity that are fields of a data class, with `_` for `-` in their names.

    Raises TypeError for a value of an unexpected type.
    """
    given = {name.replace("-", "_"): value for name, value in entity.items()}
    found = {each.name: (given[each.name], each.type) for each in fields(data_class) if each.name in given}
    for name, (value, annotation) in found.items():
        if not isinstance(value, _TYPES.get(str(annotation), object)):
            raise TypeError(name)
    return {name: value for name, (value, _) in found.items()}


def queue_of(queue: Mapping[str, Any], default_type: str) -> Queue:
    """Return a queue, with its type among its arguments if it differs from the virtual host's default."""
    found = Queue(**fields_of(queue, Queue))
    kind = queue.get("type")
    if kind == default_type or kind not in QUEUE_TYPES or "x-queue-type" in found.arguments:
        return found
    return replace(found, arguments={"x-queue-type": kind} | dict(found.arguments))


def status_of(queue: Mapping[str, Any]) -> QueueStatus:
    """Return the status of a queue. Raises AttributeError, KeyError or TypeError for a malformed answer."""
    stats = queue.get("message_stats", {})

    def rate(*names: str) -> float:
        return float(sum(stats.get(f"{name}_details", {}).get("rate", 0.0) for name in names))

    found = {
        "name": queue["name"],
        "ready": queue.get("messages_ready", 0),
        "consumers": queue.get("consumers", 0),
        "type": queue.get("type"),
        "state": queue.get("state"),
        "unacknowledged": queue.get("messages_unacknowledged", 0),
        "published_per_s": rate("publish"),
        "delivered_per_s": rate("deliver_get"),
        "acknowledged_per_s": rate("ack"),
    }
    return QueueStatus(**fields_of(found, QueueStatus))
