"""What a broker has, as far as AMQP alone can tell.

An entity is looked at in two steps: a passive declare tells whether it is there, and a declare of what is there changes
nothing but is refused when it differs (AMQP 0-9-1 sections 1.6.2.1 and 1.7.2.1). A refusal names one property; putting
the broker's value in its place and asking again brings out the next. Bindings cannot be seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from rmqkit.amqp import declare_methods
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.errors import NotFound, PropertyMismatch, Refused, ResourceLocked
from rmqkit.model import Exchange, Queue
from rmqkit.plan import Difference, Outcome, Step

_PROBES = 20  # an entity has no more properties than that
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
    """Looks at live entities, on a channel that is opened anew after each refusal."""

    def __init__(self, link: ReconnectingConnection) -> None:
        self._link = link
        self._channel: Channel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._channel is not None:
            self._channel.close()

    def answer(self, entity: Exchange | Queue) -> Any:
        """Return the broker's answer about an entity, with a queue's counts, or None if it is not there.

        Raises ResourceLocked, AccessRefused, ConnectionLost.
        """
        try:
            return declare_methods.declare(self._open(), entity, passive=True)
        except Refused as exc:
            self._channel = None
            if isinstance(exc, NotFound):
                return None
            raise

    def look(self, entity: Exchange | Queue) -> Step:
        """Compare one entity with the broker's."""
        step = Step(declare_methods.kind(entity), entity.name, Outcome.UNCHANGED, entity=entity)
        if isinstance(self._try(entity, passive=True), NotFound):
            return replace(step, outcome=Outcome.CREATE)
        differences, note = self._compare(entity)
        if differences or note:
            return replace(step, outcome=Outcome.CONFLICT, differences=tuple(differences), note=note)
        return step

    def _open(self) -> Channel:
        if self._channel is None:
            self._channel = self._link.channel()
        return self._channel

    def _try(self, entity: Exchange | Queue, *, passive: bool) -> Refused | None:
        try:
            declare_methods.declare(self._open(), entity, passive=passive)
        except (NotFound, PropertyMismatch, ResourceLocked) as exc:
            self._channel = None
            return exc
        return None

    def _compare(self, entity: Exchange | Queue) -> tuple[list[Difference], str]:
        differences: list[Difference] = []
        for _ in range(_PROBES):
            refusal = self._try(entity, passive=False)
            if refusal is None:
                return differences, ""
            found = _INEQUIVALENT.search(refusal.reply_text)
            if found is None:
                return differences, refusal.reply_text
            differences.append(Difference(found["name"], _shown(found["actual"]), _shown(found["expected"])))
            probe = _with_actual(entity, found["name"], found["actual"])
            if probe is None:
                return differences, "there may be more differences, which cannot be seen behind this one"
            entity = probe
        return differences, ""


def _plain(value: str) -> str:
    """Turn `the value '10' of type 'signedint'` into `10`."""
    found = _VALUE.match(value)
    return found["value"] if found else value.strip("'")


def _shown(value: str) -> str:
    return _plain(value) or '""'


def _with_actual(entity: Exchange | Queue, name: str, actual: str) -> Exchange | Queue | None:
    """Put the broker's value in place of the file's; None if it cannot be told from the text."""
    changes: dict[str, Any]
    if name in ("durable", "auto_delete", "exclusive", "internal"):
        changes = {name: _plain(actual) == "true"}
    elif name == "type" and isinstance(entity, Exchange):
        changes = {"type": _plain(actual)}
    elif actual.startswith("none"):
        changes = {"arguments": {key: value for key, value in entity.arguments.items() if key != name}}
    else:
        found = _VALUE.match(actual)
        # Without a type in the text, it is that of the file's value.
        kind = found["type"] if found else _TYPES.get(type(entity.arguments.get(name)), "")
        if kind not in _CONVERSIONS:
            return None
        changes = {"arguments": {**entity.arguments, name: _CONVERSIONS[kind](_plain(actual))}}
    return replace(entity, **changes)
