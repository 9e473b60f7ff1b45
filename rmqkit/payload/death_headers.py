"""How a message was dead-lettered, by its headers (https://www.rabbitmq.com/docs/dlx#effects).

RabbitMQ keeps one entry for each queue and reason, with the exchange, the routing keys and the time of the first such
death; it counts later ones, and moves the entry it counted last to the front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rmqkit.message import Headers, Properties
from rmqkit.payload.field_table import Field

X_DEATH = "x-death"
DIED = "x-rmqkit-death"  # its x-death header, set aside: RabbitMQ before 4.0 would take its entries for a cycle
CC = "CC"  # more routing keys (https://www.rabbitmq.com/docs/sender-selected)
_FIRST = "x-first-death-"
SUMMARIES = (_FIRST, "x-last-death-")  # prefixes of the headers that repeat parts of x-death

_MAX_DEATHS_BYTES = 8192  # of a header: all properties have to fit in a frame
_ENTRIES = 5  # where they begin in an array: after its type and its length
_MAX_MS = 253_402_300_800_000  # the year 10000

# The headers in which a quorum queue counts the deliveries of a message, for that queue alone.
DELIVERY_COUNT = "x-delivery-count"  # those that failed
COUNTS = frozenset((DELIVERY_COUNT, "x-acquired-count"))

# The headers rmqkit adds to a message that a handler failed on.
REASON = "x-rmqkit-reason"
ATTEMPTS = "x-rmqkit-attempts"  # how often it was tried
QUEUE = "x-rmqkit-queue"  # in this queue
EXCHANGE = "x-rmqkit-exchange"  # where it was first published to,
ROUTING_KEY = "x-rmqkit-routing-key"  # and with which key
FAILURE = (REASON, ATTEMPTS, QUEUE)


@dataclass(frozen=True, slots=True)
class Death:
    """Where a message died and why: rejected, expired, maxlen, delivery_limit; `failed` if a retry parked it.

    It had been published to `exchange` with `routing_keys`. `count` is how often it died there for that reason, `time`
    when it first did, if known.
    """

    queue: str
    reason: str
    exchange: str = ""
    routing_keys: tuple[str, ...] = ()
    count: int = 1
    time: datetime | None = None


def deaths(headers: Headers | None) -> tuple[Death, ...]:
    """Return the deaths of a message, the last one first; an entry that RabbitMQ would not write is left out.

    Those set aside count where the message was only moved on: it still has the summary of its first death.
    """
    headers = headers or {}
    if isinstance(headers.get(X_DEATH), list | tuple):
        return _entries(headers, X_DEATH)
    if failure := _parked(headers):
        return (failure,)
    return _entries(headers, DIED) if f"{_FIRST}queue" in headers else ()


def set_aside(headers: list[Field], *, to_queue: bool) -> list[Field]:
    """Return the headers of a message that is sent on: they make no cycle and, to a queue, route it nowhere else.

    Its deaths are put before those set aside earlier, as far as there is room.
    """
    dropped = {*COUNTS, *([CC] if to_queue else [])}
    kept = [field for field in headers if field[0] not in dropped]
    values = dict(kept)
    if X_DEATH not in values:
        return kept
    died, earlier = values[X_DEATH], values.get(DIED, b"")
    if died[:1] == earlier[:1] == b"A" and len(died) + len(earlier) < _MAX_DEATHS_BYTES:
        entries = died[_ENTRIES:] + earlier[_ENTRIES:]
        died = b"A" + len(entries).to_bytes(_ENTRIES - 1, "big") + entries
    return [(DIED, died) if name == X_DEATH else (name, value) for name, value in kept if name != DIED]


def first_death(headers: Headers | None) -> Death | None:
    """Return the first death, whose exchange and routing keys are the original ones; None if the message never died."""
    found = deaths(headers)
    if X_DEATH in (headers or {}):
        found = _entries(headers or {}, DIED) or found  # those set aside are older
    first = tuple((headers or {}).get(_FIRST + each) for each in ("queue", "reason"))
    return next((each for each in reversed(found) if (each.queue, each.reason) == first), found[-1] if found else None)


def _parked(headers: Headers) -> Death | None:
    queue, exchange, attempts = (headers.get(name) for name in (QUEUE, EXCHANGE, ATTEMPTS))
    key = _text(headers.get(ROUTING_KEY))
    if isinstance(queue, str) and isinstance(exchange, str) and isinstance(key, str):
        return Death(queue, "failed", exchange, (key,), attempts if isinstance(attempts, int) else 1)
    return None


def _text(value: object) -> object:
    """Return a routing key that is not UTF-8, which a header holds as bytes, as it is in a delivery."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _entries(headers: Headers, name: str) -> tuple[Death, ...]:
    entries = headers.get(name)
    entries = entries if isinstance(entries, list | tuple) else ()
    return tuple(death for entry in entries if isinstance(entry, Mapping) and (death := _parse(entry)))


def _parse(entry: Mapping[str, Any]) -> Death | None:
    queue, reason, exchange = (entry.get(name, "") for name in ("queue", "reason", "exchange"))
    keys, count, time = (entry.get(name) for name in ("routing-keys", "count", "time"))
    if not (queue and all(isinstance(each, str) for each in (queue, reason, exchange))):
        return None
    keys = map(_text, keys) if isinstance(keys, list) else ()
    routing_keys = tuple(key for key in keys if isinstance(key, str))
    count, time = count if isinstance(count, int) else 1, time if isinstance(time, datetime) else None
    return Death(queue, reason, exchange, routing_keys, count, time)


def known_time(properties: Properties) -> datetime | None:
    """Return when a message first died last, or else was published; None if neither is known.

    The broker, where it adds the time of publishing, has a header for the milliseconds
    (https://www.rabbitmq.com/docs/message-interceptors); the timestamp may also be the publisher's own.
    """
    headers = properties.headers or {}
    if (died := deaths(headers)) and died[0].time:
        return died[0].time
    received_ms = headers.get("timestamp_in_ms")
    if isinstance(received_ms, int) and 0 <= received_ms < _MAX_MS:
        return datetime.fromtimestamp(received_ms / 1000, UTC)
    return properties.timestamp
