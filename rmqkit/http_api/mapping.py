"""Read the JSON of RabbitMQ's HTTP API as entities and numbers of queues.

The functions raise AttributeError, KeyError, TypeError or ValueError for an unexpected format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from rmqkit.http_api.binding_arguments import read_arguments
from rmqkit.model import QUEUE_TYPES, Binding, Queue, Topology
from rmqkit.report import QueueStatus

ALARMS = {"mem_alarm": "memory", "disk_free_alarm": "disk space"}  # what a node lacks, by its field
_TEXT, _NUMBER = (str, type(None)), (int, float, type(None))
_TYPES: Mapping[str, Any] = {  # by the annotation of the field
    "str": str, "bool": bool, "int": int, "Arguments": dict, "DestinationType": str, "AppliesTo": str,
    "str | None": _TEXT, "int | None": _NUMBER, "float | None": _NUMBER,
}  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LiveTopology:
    """The entities of a virtual host; `unseen` lists, in sentences, the parts that the user has no permission to see.

    `parameters` are its runtime parameters (https://www.rabbitmq.com/docs/parameters), each with its component and
    name; None if the user has no permission to see them.
    """

    topology: Topology
    default_queue_type: str = "classic"
    unseen: tuple[str, ...] = ()
    parameters: tuple[Mapping[str, str], ...] | None = ()


@dataclass(frozen=True, slots=True)
class QueueTotal:
    """The messages of a queue that AMQP does not count; those `waiting` are delayed, or dead letters without a target.

    Numbers that are not `current` may be five seconds old.
    """

    name: str
    unacknowledged: int = 0
    waiting: int = 0
    current: bool = True

    @property
    def hidden(self) -> int:
        """Return the number of messages that AMQP does not count."""
        return self.unacknowledged + self.waiting


def read(data_class: type[T], values: Mapping[str, Any]) -> T:
    """Read the fields of a data class, with `-` for `_` in their names; raise TypeError for an unexpected type."""
    given = {name.replace("-", "_"): value for name, value in values.items()}
    found = [each for each in fields(data_class) if each.name in given]  # type: ignore[arg-type]
    for each in found:
        if not isinstance(given[each.name], _TYPES.get(str(each.type), object)):
            raise TypeError(each.name)
    return data_class(**{each.name: given[each.name] for each in found})


def binding_of(binding: Mapping[str, Any]) -> Binding:
    """Return a binding, with None for each void among its arguments."""
    found = read(Binding, binding)
    return replace(found, arguments=read_arguments(found.arguments, binding.get("properties_key", "")))


def queue_of(queue: Mapping[str, Any], default_type: str) -> Queue:
    """Return a queue, with its type among its arguments if it differs from the virtual host's default."""
    found = read(Queue, queue)
    kind = queue.get("type")
    if kind == default_type or kind not in QUEUE_TYPES or "x-queue-type" in found.arguments:
        return found
    return replace(found, arguments={"x-queue-type": kind} | dict(found.arguments))


def total_of(queue: Mapping[str, Any]) -> QueueTotal:
    """Return the numbers of a queue. Raises AttributeError or TypeError for a malformed answer."""
    messages, ready, unacknowledged = (queue.get(f"messages{part}") or 0 for part in ("", "_ready", "_unacknowledged"))
    hidden = max(0, messages - ready)
    current = queue.get("type") == "classic" and "messages_details" not in queue
    return read(
        QueueTotal,
        {
            "name": queue["name"],
            "unacknowledged": min(unacknowledged, hidden),
            "waiting": max(0, hidden - unacknowledged),
            "current": current,
        },
    )


def status_of(queue: Mapping[str, Any]) -> QueueStatus:
    """Return the status of a queue. Raises AttributeError or TypeError for a malformed answer."""
    ready, unacknowledged = queue.get("messages_ready", 0), queue.get("messages_unacknowledged", 0)
    counts = {"ready": ready, "unacknowledged": unacknowledged, "waiting": total_of(queue).waiting}
    return read(QueueStatus, {"consumers": 0, **queue} | counts | rates_of(queue.get("message_stats", {})))


def rates_of(stats: Mapping[str, Any]) -> dict[str, float]:
    """Return the rates of a queue, a channel or the broker, by the names of the fields that hold them."""
    names = {"published_per_s": "publish", "delivered_per_s": "deliver_get", "acknowledged_per_s": "ack"}
    return {field: rate_of(stats, name) for field, name in names.items()}


def rate_of(stats: Mapping[str, Any], name: str) -> float:
    """Return a rate; 0 if RabbitMQ reports none."""
    return float((stats.get(f"{name}_details") or {}).get("rate", 0))
