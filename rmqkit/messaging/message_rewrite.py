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

from rmqkit.message import Origin
from rmqkit.model import Exchange, Target
from rmqkit.options import Replay
from rmqkit.payload.death_headers import CC, COUNTS, FAILURE, SUMMARIES, Death, deaths, first_death, set_aside
from rmqkit.payload.field_table import Field, MalformedField, encode_table, join_header, split_header, split_table

EXPIRATION = "x-rmqkit-expiration"
USER_ID = "x-rmqkit-user-id"
KEPT_USER_ID = f"published by another user, whose user_id is now in the header {USER_ID}"
_HEADERS = {"expiration": EXPIRATION, "user_id": USER_ID}
_LENGTH_BYTES = 4
_NO_DEATH = "no x-death header names its origin"


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


DestinationFor = Callable[[Origin, str], Destination | str]
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
        parts, fields = split_header(header)
    except MalformedField:
        return header
    stashed = rename_properties(parts, username)
    kept = [field for field in fields if field[0] not in {*COUNTS, *dict(stashed)}]
    return join_header(parts, [*stashed, *kept]) if stashed or len(kept) != len(fields) else header


def rename_properties(parts: dict[str, bytes], username: str | None, names: Iterable[str] = _HEADERS) -> list[Field]:
    """Remove an expiration, and a user_id other than the user name, from properties; return headers with them."""
    renamed = []
    for name in names:
        if name in parts and not (name == "user_id" and username is not None and parts[name][1:] == username.encode()):
            value = parts.pop(name)[1:]  # behind its length
            renamed.append((_HEADERS[name], b"S" + len(value).to_bytes(_LENGTH_BYTES, "big") + value))
    return renamed


def restore_properties(header: bytes, username: str) -> tuple[bytes, str]:
    """Undo `stash_properties`; the note names a property that has to stay in a header."""
    try:
        parts, fields = split_header(header)
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
    return (header if len(kept) == len(values) else join_header(parts, kept)), note


def with_keys(destination: Destination, keys: Iterable[str]) -> Destination:
    """Return a destination with more routing keys in the CC header of the message."""
    try:
        parts, fields = split_header(destination.header)
    except MalformedField:
        return destination
    return destination._replace(header=join_header(parts, [*fields, *split_table(encode_table({CC: list(keys)}))]))


def _to_target(to: Target, origin: Origin, username: str) -> Destination:
    destination = _destination(to.exchange, to.routing_key, origin, username)
    died = () if to.exchange else deaths(origin.properties.headers)
    return next((_keeping_keys(destination, each) for each in died if each.queue == to.routing_key), destination)


def _queue_of_death(origin: Origin, username: str) -> Destination | str:
    died = deaths(origin.properties.headers)
    if not died:
        return _NO_DEATH
    return _keeping_keys(_destination("", died[0].queue, origin, username, _returned), died[0])


def _keeping_keys(destination: Destination, death: Death) -> Destination:
    return destination._replace(keys=tuple(key for key in death.routing_keys if key != death.queue))


def _first_exchange(origin: Origin, username: str) -> Destination | str:
    death = first_death(origin.properties.headers)
    if death is None:
        return _NO_DEATH
    key, *others = death.routing_keys or ("",)

    def change(fields: list[Field]) -> list[Field]:
        return [field for field in _returned(fields) if field[0] != CC]

    destination = _destination(death.exchange, key, origin, username, change)
    return with_keys(destination, others) if others else destination


def _returned(fields: list[Field]) -> list[Field]:
    """Drop the headers of failures, so that a retry has all of its tries again."""
    return [field for field in fields if field[0] not in FAILURE and not field[0].startswith(SUMMARIES)]


def _destination(
    exchange: str,
    key: str,
    origin: Origin,
    username: str,
    change: Callable[[list[Field]], list[Field]] = list,
) -> Destination:
    return Destination(exchange, key, sent_on(origin.header, username, to_queue=not exchange, change=change))


def sent_on(
    header: bytes, username: str | None, *, to_queue: bool, change: Callable[[list[Field]], list[Field]] = list
) -> bytes:
    """Return the properties of a message that is sent on; bytes that no RabbitMQ sends are left unchanged."""
    try:
        parts, fields = split_header(header)
    except MalformedField:
        return header
    kept = set_aside(change(fields), to_queue=to_queue)
    renamed = rename_properties(parts, username, ("user_id",))
    return header if kept == fields and not renamed else join_header(parts, kept + renamed)
