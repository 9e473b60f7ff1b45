"""Checks that AMQP 0-9-1 can carry the properties of a message, before an encoder fails on them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rmqkit.errors import Location, PayloadError
from rmqkit.message import Properties
from rmqkit.payload import amqp_json, formats

MAX_SHORT_STRING_BYTES = 255
MAX_EXPIRATION_MS = 2**32 - 1  # RabbitMQ refuses more (rabbit_misc:check_expiry)
MAX_DEPTH = 100  # as deep as rmqkit reads headers back
_MAX_OCTET = 255
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_MAX_UNSCALED = 2**31 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_UTF8 = "is not valid UTF-8"
_SHORT_STRINGS = (
    "content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id", "type", "user_id",
    "app_id", "cluster_id",
)  # fmt: skip


def check(properties: Properties) -> None:
    """Refuse values AMQP cannot carry, once per object. Raises PayloadError, one line per fault, without values."""
    _raise(_property_faults(properties))


def check_target(exchange: str, routing_key: str) -> None:
    """Refuse an exchange name or routing key that is not a short string. Raises PayloadError."""
    _raise([*_short_string_faults("exchange", exchange), *_short_string_faults("routing key", routing_key)])


def check_names(names: Mapping[str, object]) -> None:
    """Refuse names that are not short strings of UTF-8 (AMQP 0-9-1 section 4.2.5.3); None is no name.

    Raises PayloadError.
    """
    for noun, name in names.items():
        _raise(() if name is None else _short_string_faults(noun.replace("_", " "), name, "strict"))


def check_arguments(subject: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of an exchange, queue or binding that are not a field table. Raises PayloadError."""
    _raise(_table_faults(f"arguments of {subject}", arguments, 0))


def parse_headers(arguments: Iterable[str]) -> dict[str, Any]:
    """Parse headers of a command line: `name=text`, or `name:=JSON` for a typed value.

    Types that JSON lacks are as in an envelope: `moment:={"$timestamp": "2026-01-31T12:00:00Z"}`. Raises PayloadError.
    """
    return {name: parse_typed(name, value) if typed else value for name, value, typed in split_headers(arguments)}


def split_headers(arguments: Iterable[str]) -> list[tuple[str, str, bool]]:
    """Return the name and text of each header, and whether it is typed. Raises PayloadError."""
    headers: dict[str, tuple[str, str, bool]] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name in ("", ":"):
            advice = "Write name=text, or name:=JSON for a number, true or a list."
            raise PayloadError(f"Header {name!r} has no value", advice=advice)
        typed = name.endswith(":")
        name = name.removesuffix(":")
        if name in headers:
            raise PayloadError(f"Header {name!r} is given twice")
        headers[name] = (name, value, typed)
    return list(headers.values())


def parse_typed(name: str, text: str) -> Any:
    """Parse the JSON of a header that is written `name:=JSON`. Raises PayloadError."""
    where = Location(f"header {name!r}")
    try:
        return amqp_json.from_json(json.loads(formats.check_json(text.encode("utf-8", "surrogateescape"), where)))
    except ValueError as exc:
        raise PayloadError(f"Header {name!r}: {exc}") from exc


def _raise(faults: Iterable[str]) -> None:
    if found := "\n".join(faults):
        raise PayloadError(found)


def _property_faults(properties: Properties) -> Iterator[str]:
    for name in _SHORT_STRINGS:
        value = getattr(properties, name)
        if value is not None:
            yield from _short_string_faults(name, value)
    if properties.delivery_mode not in (None, 1, 2) or isinstance(properties.delivery_mode, bool):
        yield "delivery_mode must be 1 (transient) or 2 (persistent)"
    if properties.priority is not None and not _is_integer(properties.priority, 0, _MAX_OCTET):
        yield "priority must be a whole number from 0 to 255"
    if properties.expiration is not None and not _is_expiration(properties.expiration):
        yield f"expiration must be text: a whole number of milliseconds from 0 to {MAX_EXPIRATION_MS}"
    if properties.timestamp is not None:
        yield from _moment_faults("timestamp", properties.timestamp)
    if properties.headers is not None:
        yield from _table_faults("headers", properties.headers, 0)


def _is_integer(value: object, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def _is_expiration(value: object) -> bool:
    return (
        isinstance(value, str)
        and value.isascii()
        and value.isdecimal()
        and len(value) <= MAX_SHORT_STRING_BYTES
        and int(value) <= MAX_EXPIRATION_MS
    )


def _short_string_faults(name: str, value: object, errors: str = "surrogateescape") -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{name} must be text, not {type(value).__name__}"
        return
    size = _encoded_length(value, errors)
    if size is None:
        yield f"{name} {_NOT_UTF8}"
    elif size > MAX_SHORT_STRING_BYTES:
        yield f"{name} has {size} bytes; {MAX_SHORT_STRING_BYTES} fit"


def _encoded_length(text: str, errors: str = "strict") -> int | None:
    try:
        return len(text.encode("utf-8", errors))
    except UnicodeEncodeError:
        return None


def _moment_faults(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, datetime) or value.tzinfo is None:
        yield f"{name} must be a datetime with a time zone, like datetime.now(UTC).replace(microsecond=0)"
    elif value.microsecond:
        yield f"{name} must be in whole seconds: AMQP carries no fractions"
    elif value < _EPOCH:
        yield f"{name} is before 1970, which AMQP cannot carry"


def _table_faults(place: str, table: object, depth: int) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield f"{place} must be a mapping"
        return
    for name, value in table.items():
        yield from _short_string_faults(f"the name of a header in {place}", name)
        inner = f"{place}[{name!r}]" if len(str(name)) < MAX_SHORT_STRING_BYTES else place
        yield from _value_faults(inner, value, depth)


def _value_faults(place: str, value: object, depth: int) -> Iterator[str]:
    if depth >= MAX_DEPTH:
        yield f"headers are nested more than {MAX_DEPTH} deep"
    elif isinstance(value, dict):
        yield from _table_faults(place, value, depth + 1)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _value_faults(f"{place}[{number}]", each, depth + 1)
    elif isinstance(value, datetime):
        yield from _moment_faults(place, value)
    elif fault := _scalar_fault(value):
        yield f"{place} {fault}"


def _scalar_fault(value: object) -> str:
    match value:
        case None | bool() | bytes():
            return ""
        case str():
            return _NOT_UTF8 if _encoded_length(value) is None else ""
        case int():
            return "" if _is_integer(value, _MIN_INTEGER, _MAX_INTEGER) else "does not fit 64 bits"
        case float():
            return "" if math.isfinite(value) else "is not a finite number: RabbitMQ closes the connection on it"
        case Decimal():
            return "" if _fits_decimal(value) else "does not fit an AMQP decimal: 32 bits and 0 to 255 decimal places"
        case _:
            return f"is a {type(value).__name__}, which AMQP has no type for"


def _fits_decimal(value: Decimal) -> bool:
    if not value.is_finite():
        return False
    _, digits, exponent = value.as_tuple()
    significant = "".join(map(str, digits)).rstrip("0")
    places = int(exponent) + len(digits) - len(significant)
    if not significant:
        return True
    if max(places, len(significant)) > len(str(_MAX_UNSCALED)):
        return False
    unscaled = int(significant) * 10 ** max(places, 0)
    return -places <= _MAX_OCTET and unscaled <= _MAX_UNSCALED
