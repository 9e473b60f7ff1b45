"""What RabbitMQ's HTTP API answers becomes queues, exchanges, bindings and policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rmqkit.model import Queue
from rmqkit.report import QueueStatus

QUEUE_TYPES = ("classic", "quorum", "stream")
_TEXT, _NUMBER = (str, type(None)), (int, float, type(None))
_TYPES: Mapping[str, Any] = {  # by the annotation of a noun's field
    "str": str, "bool": bool, "int": int, "Arguments": dict, "DestinationType": str, "AppliesTo": str,
    "str | None": _TEXT, "int | None": _NUMBER, "float | None": _NUMBER,
}  # fmt: skip


def fields_of(entity: Mapping[str, Any], noun: type[Any]) -> dict[str, Any]:
    """Return what of an entity of the API belongs to a noun; `apply-to` is written `apply_to` there.

    Raises TypeError for what is of another type.
    """
    given = {name.replace("-", "_"): value for name, value in entity.items()}
    found = {each.name: given[each.name] for each in fields(noun) if each.name in given}
    for each in fields(noun):
        if each.name in found and not isinstance(found[each.name], _TYPES.get(str(each.type), object)):
            raise TypeError(each.name)
    return found


def queue_of(queue: Mapping[str, Any], default_type: str) -> Queue:
    """Make a queue, with its type among its arguments if it came before the virtual host got another default."""
    found = Queue(**fields_of(queue, Queue))
    kind = queue.get("type")
    if kind == default_type or kind not in QUEUE_TYPES or "x-queue-type" in found.arguments:
        return found
    return replace(found, arguments={"x-queue-type": kind} | dict(found.arguments))


def status_of(queue: Mapping[str, Any]) -> QueueStatus:
    """Make the status of a queue. Raises what is raised for an answer that is none."""
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
