"""Inspection of exchanges and queues over AMQP alone.

A passive declare tells whether an entity exists; declaring an existing one changes nothing and is refused if a property
differs (AMQP 0-9-1 sections 1.6.2.1 and 1.7.2.1). A refusal names one property; repeating the declare with the broker's
value of it reveals the next. AMQP cannot show bindings.

Declaring the default exchange is always refused, but only once its type is known: so a refusal tells whether the broker
knows an exchange type, and nothing is created.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any, Self

from rmqkit.amqp import entity_methods, error_mapping
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import NotFound, PropertyMismatch, Refused, ResourceLocked
from rmqkit.model import Exchange, Queue
from rmqkit.plan import Difference, Outcome, Step
from rmqkit.stop import Stop

_STANDARD_TYPES = frozenset(("direct", "fanout", "headers", "topic"))
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


def unknown_exchange_types(connection: ReconnectingConnection, types: Iterable[str]) -> frozenset[str]:
    """Return those of some exchange types that the broker does not know.

    RabbitMQ 3 closes the connection for an unknown type: so other types than the four standard ones are asked for over
    a new connection, which nobody else uses. Raises Unreachable, AuthenticationFailed, ConnectionLost.
    """
    others = sorted(set(types) - _STANDARD_TYPES)
    if not others:
        return frozenset()
    with closing(ReconnectingConnection(connection.settings, "rmqkit exchange types")) as own:
        return frozenset(each for each in others if not _is_known(own, each))


def _is_known(connection: ReconnectingConnection, exchange_type: str) -> bool:
    with closing(connection.channel()) as channel:
        try:
            entity_methods.declare(channel, Exchange("", exchange_type))
        except Refused as exc:
            return not error_mapping.is_unknown_type(exc)
    return True


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

    def compare(self, entity: Exchange | Queue, unknown_types: Collection[str] = ()) -> Step:
        """Compare an entity with the one on the broker, which does not know these types of exchanges."""
        step = Step(entity_methods.kind(entity), entity.name, Outcome.UNCHANGED, entity=entity)
        if isinstance(self._declare(entity, passive=True), NotFound):
            return replace(step, outcome=Outcome.CREATE)
        if isinstance(entity, Exchange) and entity.type in unknown_types:
            return replace(step, outcome=Outcome.CONFLICT, differences=(self._type_difference(entity),))
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

    def _type_difference(self, exchange: Exchange) -> Difference:
        """Return the type of an exchange on the broker, which does not know that of the file.

        No exchange is declared with such an argument, should this one have been deleted meanwhile.
        """
        guarded = replace(exchange, type="direct", arguments={"alternate-exchange": 0})
        refusal = self._declare(guarded, passive=False)
        found = _INEQUIVALENT.search(refusal.reply_text) if refusal else None
        actual = _shown(found["actual"]) if found and found["name"] == "type" else guarded.type
        return Difference("type", actual, exchange.type)

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
