"""Inspection of exchanges and queues over AMQP alone.

A passive declare tells whether an entity exists; declaring an existing one changes nothing and is refused if a property
differs (AMQP 0-9-1 sections 1.6.2.1 and 1.7.2.1). A refusal names one property; repeating the declare with the broker's
value of it reveals the next. AMQP cannot show bindings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from rmqkit.amqp import entity_methods
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import NotFound, PropertyMismatch, Refused, ResourceLocked
from rmqkit.model import Exchange, Queue
from rmqkit.plan import Difference, Outcome, Step
from rmqkit.stop import Stop

_MAX_DECLARES = 20  # more than an entity has properties
_TYPES: dict[type, str] = {str: "longstr", bool: "bool", int: "long"}
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for .*: received (?P<expected>.+) but current is (?P<actual>.+)$"
)
_VALUE = re.compile(r"^(?:the value )?'(?P<value>.*)' of type '(?P<type>\w+)'$")
_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "longstr": str,
    "bool": lambda text: text == "true",
    **dict.fromkeys(("byte", "short", "signedint", "long", "unsignedbyte", "unsignedshort", "unsignedint"), int),
}


class EntityInspector:
    """Inspects live entities, on a channel that is reopened after each refusal."""

    def __init__(self, connection: ReconnectingConnection, stop: Stop | None = None) -> None:
        self._connection = connection
        self._stop = stop
        self._channel: Channel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._channel is not None:
            self._channel.close()

    def passive_declare(self, entity: Exchange | Queue) -> Any:
        """Return the broker's answer to a passive declare, with the counts of a queue; None if it does not exist.

        Raises ResourceLocked, AccessRefused, ConnectionLost.
        """
        try:
            return entity_methods.declare(self._open(), entity, passive=True)
        except Refused as exc:
            self._channel = None
            if isinstance(exc, NotFound):
                return None
            raise

    def is_stream(self, queue: str) -> bool:
        """Tell whether a queue is a stream: the broker refuses a consumer with an offset of any other."""
        channel = self._open()
        self._channel = None
        try:
            channel.qos(1, subject=f"queue {queue!r}")
            channel.consume(queue, arguments={"x-stream-offset": "next"})
        except Refused:
            return False
        channel.close()
        return True

    def compare(self, entity: Exchange | Queue) -> Step:
        """Compare an entity with the one on the broker."""
        step = Step(entity_methods.kind(entity), entity.name, Outcome.UNCHANGED, entity=entity)
        if isinstance(self._declare(entity, passive=True), NotFound):
            return replace(step, outcome=Outcome.CREATE)
        differences, note = self._differences(entity)
        if differences or note:
            return replace(step, outcome=Outcome.CONFLICT, differences=tuple(differences), note=note)
        return step

    def _open(self) -> Channel:
        if self._channel is None:
            self._channel = self._connection.channel(self._stop)
        return self._channel

    def _declare(self, entity: Exchange | Queue, *, passive: bool) -> Refused | None:
        try:
            entity_methods.declare(self._open(), entity, passive=passive)
        except (NotFound, PropertyMismatch, ResourceLocked) as exc:
            self._channel = None
            return exc
        return None

    def _differences(self, entity: Exchange | Queue) -> tuple[list[Difference], str]:
        differences: list[Difference] = []
        for _ in range(_MAX_DECLARES):
            refusal = self._declare(entity, passive=False)
            if refusal is None:
                return differences, ""
            found = _INEQUIVALENT.search(refusal.reply_text)
            if found is None:
                return differences, refusal.reply_text
            differences.append(Difference(found["name"], _shown(found["actual"]), _shown(found["expected"])))
            adapted = _with_actual(entity, found["name"], found["actual"])
            if adapted is None:
                return differences, "there may be more differences, which this one hides"
            entity = adapted
        return differences, ""


def _plain(value: str) -> str:
    """Turn `the value '10' of type 'signedint'` into `10`."""
    found = _VALUE.match(value)
    return found["value"] if found else value.strip("'")


def _shown(value: str) -> str:
    return _plain(value) or '""'


def _with_actual(entity: Exchange | Queue, name: str, actual: str) -> Exchange | Queue | None:
    """Return the entity with the broker's value of a property; None if the text does not determine it."""
    changes: dict[str, Any]
    if name in ("durable", "auto_delete", "exclusive", "internal"):
        changes = {name: _plain(actual) == "true"}
    elif name == "type" and isinstance(entity, Exchange):
        changes = {"type": _plain(actual)}
    elif actual.startswith("none"):
        changes = {"arguments": {key: value for key, value in entity.arguments.items() if key != name}}
    else:
        found = _VALUE.match(actual)
        # If the text names no type, it is that of the file's value.
        kind = found["type"] if found else _TYPES.get(type(entity.arguments.get(name)), "")
        if kind not in _CONVERSIONS:
            return None
        changes = {"arguments": {**entity.arguments, name: _CONVERSIONS[kind](_plain(actual))}}
    return replace(entity, **changes)
