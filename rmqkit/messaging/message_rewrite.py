"""The destination of a moved message, and its properties there. Pure.

Whatever is not named here keeps every byte. Straight to a queue, CC would route the message again. The broker refuses a
user_id that is not the publisher's own. A message that returns to its origin starts anew: RabbitMQ before 4.0 continues
counting where an x-death header stops, and takes its entries for a cycle; so the history moves to another header.
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
DELIVERY_COUNT = "x-delivery-count"  # set by a quorum queue, for earlier tries
DIED = "x-rmqkit-death"  # the x-death header before the message returned to its origin
KEPT_USER_ID = f"published by another user, whose user_id is now in the header {USER_ID}"
_HEADERS = {"expiration": EXPIRATION, "user_id": USER_ID}
_LENGTH_BYTES = 4
_CC = "CC"
_NO_DEATH = "no x-death header names its origin"

Field = tuple[str, bytes]


class Destination(NamedTuple):
    """A target, the properties of the message there, as on the wire, and a note about them for the report."""

    exchange: str
    routing_key: str
    header: bytes
    note: str = ""

    @property
    def target(self) -> Target:
        """Return the exchange and the routing key."""
        return Target(self.exchange, self.routing_key)


DestinationFor = Callable[[LazyOrigin, str], Destination | str]
"""From a message's origin and the login's user name to its destination, or to the reason that it has none."""


def destination_for(to: Target | Exchange | Replay) -> DestinationFor:
    """Return the function that finds the destination of each message."""
    match to:
        case Target():
            return lambda origin, username: _destination(to.exchange, to.routing_key, origin, username)
        case Exchange():
            return lambda origin, username: _destination(to.name, origin.routing_key, origin, username)
        case Replay.QUEUE:
            return _queue_of_death
        case Replay.EXCHANGE:
            return _first_exchange


def stashed_in(exchange: str) -> DestinationFor:
    """Return the function that sends each message to an exchange, with its properties stashed."""
    return lambda origin, username: Destination(exchange, origin.routing_key, stash_properties(origin.header, username))


def restored_in(exchange: str) -> DestinationFor:
    """Return the function that sends each message to an exchange, with its stashed properties restored."""
    return lambda origin, username: Destination(
        exchange, origin.routing_key, *restore_properties(origin.header, username)
    )


def stash_properties(header: bytes, username: str) -> bytes:
    """Move an expiration, and a user_id that the broker would refuse, into headers."""
    try:
        parts, fields = _split(header)
    except MalformedField:
        return header
    stashed = []
    for name, header_name in _HEADERS.items():
        value = parts.get(name, b"")[1:]  # behind its length
        if name in parts and not (name == "user_id" and value == username.encode()):
            stashed.append((header_name, _long_string(value)))
            del parts[name]
    kept = [field for field in fields if field[0] != DELIVERY_COUNT]
    return _join(parts, [*stashed, *kept]) if stashed or len(kept) != len(fields) else header


def restore_properties(header: bytes, username: str) -> tuple[bytes, str]:
    """Undo `stash_properties`; the note says what has to stay in a header."""
    try:
        parts, fields = _split(header)
    except MalformedField:
        return header, ""
    values, note = dict(fields), ""
    for name, header_name in _HEADERS.items():
        value = values.get(header_name, b"")[1 + _LENGTH_BYTES :]
        if header_name not in values or name in parts:
            continue
        if name == "user_id" and value != username.encode():
            note = KEPT_USER_ID
            continue
        parts[name] = bytes((len(value),)) + value
        fields = [field for field in fields if field[0] != header_name]
    kept = [field for field in fields if field[0] != DELIVERY_COUNT]
    return (header if len(kept) == len(values) else _join(parts, kept)), note


def _long_string(value: bytes) -> bytes:
    return b"S" + len(value).to_bytes(_LENGTH_BYTES, "big") + value


def _join(parts: dict[str, bytes], headers: list[Field]) -> bytes:
    return join_properties({**parts, "headers": join_table(headers)} if headers else parts)


def _split(header: bytes) -> tuple[dict[str, bytes], list[Field]]:
    """Return the properties without the headers, and the headers.

    Raises MalformedField for bytes that no RabbitMQ sends: better moved unchanged than not at all.
    """
    parts = split_properties(header)
    return parts, split_table(parts.pop("headers")) if "headers" in parts else []


def _queue_of_death(origin: LazyOrigin, username: str) -> Destination | str:
    died = deaths(origin.properties.headers)
    return _destination("", died[0].queue, origin, username, _without_death) if died else _NO_DEATH


def _first_exchange(origin: LazyOrigin, username: str) -> Destination | str:
    death = first_death(origin.properties.headers)
    if death is None:
        return _NO_DEATH
    key, *others = death.routing_keys or ("",)

    def change(field: Field) -> Field | None:
        return None if field[0] == _CC else _without_death(field)

    destination = _destination(death.exchange, key, origin, username, change)
    if not others:
        return destination
    parts, fields = _split(destination.header)
    return destination._replace(header=_join(parts, [*fields, *split_table(encode_table({_CC: others}))]))


def _without_death(field: Field) -> Field | None:
    """Rename or drop the headers of a death, and of failures, so that a retry has all of its tries again."""
    name, value = field
    if name == X_DEATH:
        return DIED, value
    return None if name in (DIED, *FAILURE) or name.startswith(SUMMARIES) else field


def _destination(
    exchange: str,
    key: str,
    origin: LazyOrigin,
    username: str,
    change: Callable[[Field], Field | None] = lambda field: field,
) -> Destination:
    try:
        header = _changed(origin.header, username, change, to_queue=not exchange)
    except MalformedField:
        header = origin.header
    return Destination(exchange, key, header)


def _changed(header: bytes, username: str, change: Callable[[Field], Field | None], *, to_queue: bool) -> bytes:
    parts, fields = _split(header)
    dropped = {DELIVERY_COUNT, *([_CC] if to_queue else [])}
    kept = [field for each in fields if each[0] not in dropped and (field := change(each))]
    user_id = parts.get("user_id", b"")[1:]  # behind its length
    if user_id and user_id != username.encode():
        del parts["user_id"]
        kept.append((USER_ID, _long_string(user_id)))
    elif kept == fields:
        return header
    return _join(parts, kept)
