"""Where a message that is moved goes, and what is changed in it on the way. Pure.

What is not named here keeps every byte. Straight to a queue, CC would route the message again. The broker refuses a
user_id that is not the publisher's own. A message that goes back begins anew: RabbitMQ before 4.0 goes on counting
where an x-death header stops, and takes its entries for a cycle; so the history stays under another name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rmqkit.amqp.field_table import (
    MalformedField,
    encode_table,
    join_properties,
    join_table,
    split_properties,
    split_table,
)
from rmqkit.amqp.frames import LazyOrigin
from rmqkit.model import Exchange, Target
from rmqkit.options import Replay
from rmqkit.payload.death_headers import FAILURE, SUMMARIES, X_DEATH, deaths, first_death

EXPIRATION = "x-rmqkit-expiration"
USER_ID = "x-rmqkit-user-id"
DELIVERY_COUNT = "x-delivery-count"  # a quorum queue's own, of tries that are over
KEPT_USER_ID = f"keep their user_id in the header {USER_ID}, because it is not that of this login"
_HEADERS = {"expiration": EXPIRATION, "user_id": USER_ID}
_LENGTH_BYTES = 4


def set_aside(header: bytes, username: str) -> tuple[bytes, str]:
    """Move what would act, or be refused, into headers; the note is always empty."""
    parts = _split(header)
    if parts is None or not ("expiration" in parts or "user_id" in parts or "headers" in parts):
        return header, ""
    fields = split_table(parts["headers"]) if "headers" in parts else []
    waiting = []
    for name, waits_as in _HEADERS.items():
        value = parts.get(name, b"")[1:]  # behind its length
        if name in parts and not (name == "user_id" and value == username.encode()):
            waiting.append((waits_as, long_string(value)))
            del parts[name]
    kept = [field for field in fields if field[0] != DELIVERY_COUNT]
    if waiting or len(kept) != len(fields):
        return with_headers(parts, [*waiting, *kept]), ""
    return header, ""


def take_back(header: bytes, username: str) -> tuple[bytes, str]:
    """Undo `set_aside`; the note says what had to stay in a header."""
    parts = _split(header)
    if parts is None or "headers" not in parts:
        return header, ""
    fields, note = split_table(parts["headers"]), ""
    waiting = dict(fields)
    for name, waits_as in _HEADERS.items():
        value = waiting.get(waits_as, b"")[1 + _LENGTH_BYTES :]
        if waits_as not in waiting or name in parts:
            continue
        if name == "user_id" and value != username.encode():
            note = KEPT_USER_ID
            continue
        parts[name] = bytes((len(value),)) + value
        fields = [field for field in fields if field[0] != waits_as]
    kept = [field for field in fields if field[0] != DELIVERY_COUNT]
    return (header if len(kept) == len(waiting) else with_headers(parts, kept)), note


def long_string(value: bytes) -> bytes:
    """Return the value of a header that is a text, its type before it."""
    return b"S" + len(value).to_bytes(_LENGTH_BYTES, "big") + value


def _split(header: bytes) -> dict[str, bytes] | None:
    """Return the properties, or None for what no RabbitMQ sends: better moved as it is than not at all."""
    try:
        parts = split_properties(header)
        split_table(parts.get("headers", bytes(_LENGTH_BYTES)))
    except MalformedField:
        return None
    return parts


def with_headers(parts: dict[str, bytes], fields: list[tuple[str, bytes]]) -> bytes:
    """Put properties together, with these fields in place of their headers."""
    parts.pop("headers", None)
    return join_properties({**parts, "headers": join_table(fields)} if fields else parts)


DIED = "x-rmqkit-death"  # what was x-death before the message went back
_CC = "CC"
_NO_DEATH = "no x-death header tells where it came from"

Field = tuple[str, bytes]


class Destination(NamedTuple):
    """A target, and the properties as they go there, on the wire."""

    exchange: str
    routing_key: str
    header: bytes

    @property
    def target(self) -> Target:
        """Return where it leads."""
        return Target(self.exchange, self.routing_key)


DestinationFor = Callable[[LazyOrigin, str], Destination | str]
"""From a message and our user's name to its way, or to why it has none."""


def destination_for(to: Target | Exchange | Replay) -> DestinationFor:
    """Return what finds the way of each message."""
    match to:
        case Target():
            return lambda origin, username: _way(to.exchange, to.routing_key, origin, username)
        case Exchange():
            return lambda origin, username: _way(to.name, origin.routing_key, origin, username)
        case Replay.QUEUE:
            return _to_queue
        case Replay.EXCHANGE:
            return _to_exchange


def _to_queue(origin: LazyOrigin, username: str) -> Destination | str:
    died = deaths(origin.properties.headers)
    return _way("", died[0].queue, origin, username, _forget) if died else _NO_DEATH


def _to_exchange(origin: LazyOrigin, username: str) -> Destination | str:
    death = first_death(origin.properties.headers)
    if death is None:
        return _NO_DEATH
    key, *others = death.routing_keys or ("",)

    def change(field: Field) -> Field | None:
        return None if field[0] == _CC else _forget(field)

    way = _way(death.exchange, key, origin, username, change)
    if not others:
        return way
    parts = split_properties(way.header)
    copies = split_table(encode_table({_CC: others}))
    fields = split_table(parts["headers"]) if "headers" in parts else []
    return way._replace(header=with_headers(parts, [*fields, *copies]))


def _forget(field: Field) -> Field | None:
    """Take the marks of death away; of failures too, so that all tries of a retry are there again."""
    name, value = field
    if name == X_DEATH:
        return DIED, value
    return None if name in (DIED, *FAILURE) or name.startswith(SUMMARIES) else field


def _way(
    exchange: str,
    key: str,
    origin: LazyOrigin,
    username: str,
    change: Callable[[Field], Field | None] = lambda field: field,
) -> Destination:
    try:
        header = _changed(origin.header, username, change, straight=not exchange)
    except MalformedField:  # no RabbitMQ sends it: better moved as it is than not at all
        header = origin.header
    return Destination(exchange, key, header)


def _changed(header: bytes, username: str, change: Callable[[Field], Field | None], *, straight: bool) -> bytes:
    parts = split_properties(header)
    fields = split_table(parts["headers"]) if "headers" in parts else []
    left_out = {DELIVERY_COUNT, *([_CC] if straight else [])}
    kept = [field for each in fields if each[0] not in left_out and (field := change(each))]
    user_id = parts.get("user_id", b"")[1:]  # behind its length
    if user_id and user_id != username.encode():
        del parts["user_id"]
        kept.append((USER_ID, long_string(user_id)))
    elif kept == fields:
        return header
    return with_headers(parts, kept)
