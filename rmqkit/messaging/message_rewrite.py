"""The destination of a moved message, and its properties there. Pure.

Whatever is not named here keeps every byte. Straight to a queue, CC would route the message again. The broker refuses a
user_id that is not the publisher's own. RabbitMQ before 4.0 continues counting where an x-death header stops, and takes
its entries for a cycle, in which it drops a message that expires; so the history moves to another header.

A message that returns to its queue gets the queue's name as its routing key. Where the queue's dead letters keep their
keys, the next death would look for that name: so CC keeps the original keys, which RabbitMQ dead-letters with
(https://www.rabbitmq.com/docs/dlx#routing), except the names of queues, which would receive the message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from rmqkit.amqp.frames import LazyOrigin
from rmqkit.model import Exchange, Target
from rmqkit.options import Replay
from rmqkit.payload.death_headers import CC, COUNTS, DIED, FAILURE, SUMMARIES, X_DEATH, Death, deaths, first_death
from rmqkit.payload.field_table import (
    MalformedField,
    encode_table,
    join_properties,
    join_table,
    split_properties,
    split_table,
)

EXPIRATION = "x-rmqkit-expiration"
USER_ID = "x-rmqkit-user-id"
KEPT_USER_ID = f"published by another user, whose user_id is now in the header {USER_ID}"
_HEADERS = {"expiration": EXPIRATION, "user_id": USER_ID}
_LENGTH_BYTES = 4
_MAX_DEATHS_BYTES = 8192  # of a header: all properties have to fit in a frame
_NO_DEATH = "no x-death header names its origin"

Field = tuple[str, bytes]


class Destination(NamedTuple):
    """A target, the properties of the message there, as on the wire, and a note about them for the report.

    `keys` are routing keys for CC, unless there are queues with these names.
    """

    exchange: str
    routing_key: str
    header: bytes
    note: str = ""
    keys: tuple[str, ...] = ()

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
            return lambda origin, username: _to_target(to, origin, username)
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
    kept = [field for field in fields if field[0] not in COUNTS]
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
    kept = [field for field in fields if field[0] not in COUNTS]
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


def with_keys(destination: Destination, keys: Iterable[str]) -> Destination:
    """Return a destination with more routing keys in the CC header of the message."""
    try:
        parts, fields = _split(destination.header)
    except MalformedField:
        return destination
    return destination._replace(header=_join(parts, [*fields, *split_table(encode_table({CC: list(keys)}))]))


def _to_target(to: Target, origin: LazyOrigin, username: str) -> Destination:
    destination = _destination(to.exchange, to.routing_key, origin, username)
    died = () if to.exchange else deaths(origin.properties.headers)
    return next((_keeping_keys(destination, each) for each in died if each.queue == to.routing_key), destination)


def _queue_of_death(origin: LazyOrigin, username: str) -> Destination | str:
    died = deaths(origin.properties.headers)
    if not died:
        return _NO_DEATH
    return _keeping_keys(_destination("", died[0].queue, origin, username, _returned), died[0])


def _keeping_keys(destination: Destination, death: Death) -> Destination:
    return destination._replace(keys=tuple(key for key in death.routing_keys if key != death.queue))


def _first_exchange(origin: LazyOrigin, username: str) -> Destination | str:
    death = first_death(origin.properties.headers)
    if death is None:
        return _NO_DEATH
    key, *others = death.routing_keys or ("",)

    def change(fields: list[Field]) -> list[Field]:
        return [field for field in _returned(fields) if field[0] != CC]

    destination = _destination(death.exchange, key, origin, username, change)
    return with_keys(destination, others) if others else destination


def _returned(fields: list[Field]) -> list[Field]:
    """Set the deaths aside, and drop the headers of failures, so that a retry has all of its tries again."""
    return [field for field in _moved(fields) if field[0] not in FAILURE and not field[0].startswith(SUMMARIES)]


def _moved(fields: list[Field]) -> list[Field]:
    """Set the deaths aside, before earlier ones as far as there is room."""
    values = dict(fields)
    if X_DEATH not in values:
        return fields
    died, earlier = values[X_DEATH], values.get(DIED, b"")
    if died[:1] == earlier[:1] == b"A" and len(died) + len(earlier) < _MAX_DEATHS_BYTES:
        entries = died[1 + _LENGTH_BYTES :] + earlier[1 + _LENGTH_BYTES :]
        died = b"A" + len(entries).to_bytes(_LENGTH_BYTES, "big") + entries
    return [(DIED, died) if name == X_DEATH else (name, value) for name, value in fields if name != DIED]


def _destination(
    exchange: str,
    key: str,
    origin: LazyOrigin,
    username: str,
    change: Callable[[list[Field]], list[Field]] = _moved,
) -> Destination:
    try:
        header = _changed(origin.header, username, change, to_queue=not exchange)
    except MalformedField:
        header = origin.header
    return Destination(exchange, key, header)


def _changed(header: bytes, username: str, change: Callable[[list[Field]], list[Field]], *, to_queue: bool) -> bytes:
    parts, fields = _split(header)
    dropped = {*COUNTS, *([CC] if to_queue else [])}
    kept = [field for field in change(fields) if field[0] not in dropped]
    user_id = parts.get("user_id", b"")[1:]  # behind its length
    if user_id and user_id != username.encode():
        del parts["user_id"]
        kept.append((USER_ID, _long_string(user_id)))
    elif kept == fields:
        return header
    return _join(parts, kept)
