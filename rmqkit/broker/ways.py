"""Where a message that is moved goes, and what is changed in it on the way. Pure.

Comes in: what a delivery says of itself, and where it is to go. Goes out: a Way, or why there is none. Room: broker.

What is not named here keeps every byte. Straight to a queue, CC would route the message again. The broker refuses a
user_id that is not the publisher's own. A message that goes back begins anew: RabbitMQ before 4.0 goes on counting
where an x-death header stops, and takes its entries for a cycle; so the history stays under another name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rmqkit.broker.aside import DELIVERY_COUNT, USER_ID, long_string, with_headers
from rmqkit.broker.fields import MalformedField, encode_table, split_properties, split_table
from rmqkit.broker.frames import LazyOrigin
from rmqkit.broker.options import Replay
from rmqkit.model import Exchange, Target
from rmqkit.payload.deaths import FAILURE, SUMMARIES, X_DEATH, deaths, first_death

DIED = "x-rmqkit-death"  # what was x-death before the message went back
_CC = "CC"
_NO_DEATH = "no x-death header tells where it came from"

Field = tuple[str, bytes]


class Way(NamedTuple):
    """A target, and the properties as they go there, on the wire."""

    exchange: str
    routing_key: str
    header: bytes

    @property
    def target(self) -> Target:
        """Return where it leads."""
        return Target(self.exchange, self.routing_key)


Finder = Callable[[LazyOrigin, str], Way | str]
"""From a message and our user's name to its way, or to why it has none."""


def finder(to: Target | Exchange | Replay) -> Finder:
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


def _to_queue(origin: LazyOrigin, username: str) -> Way | str:
    died = deaths(origin.properties.headers)
    return _way("", died[0].queue, origin, username, _forget) if died else _NO_DEATH


def _to_exchange(origin: LazyOrigin, username: str) -> Way | str:
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
) -> Way:
    try:
        header = _changed(origin.header, username, change, straight=not exchange)
    except MalformedField:  # no RabbitMQ sends it: better moved as it is than not at all
        header = origin.header
    return Way(exchange, key, header)


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
