"""Header values as JSON and back, without loss.

A type that JSON lacks becomes an object with a single name that starts with `$`: `{"$bytes": base64}`, `{"$timestamp":
"2026-01-01T00:00:00Z"}`, `{"$decimal": "1.5"}`, `{"$double": "nan"}`. A table that looks like one gets another `$`.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any


def to_json(value: Any) -> Any:  # noqa: PLR0911 - a line per field type
    """Convert a field value to a value that `json.dumps` accepts."""
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return value if math.isfinite(value) else {"$double": str(value)}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case datetime():
            return {"$timestamp": format_timestamp(value)}
        case Decimal():
            return {"$decimal": str(value)}
        case Mapping():
            return {_escape(value, name): to_json(each) for name, each in value.items()}
        case _:
            return [to_json(each) for each in value]


def from_json(value: Any) -> Any:
    """Convert a value from `json.loads` to a field value. Raises ValueError for an unknown or malformed `$` object."""
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(name, inner)] = value.items()
        if name.startswith("$$"):
            return {name[1:]: from_json(inner)}
        if name.startswith("$"):
            if name not in _PARSERS:
                raise ValueError(f"{name} is not one of {', '.join(_PARSERS)}; write a header of that name as ${name}")
            return _PARSERS[name](inner)
    return {name: from_json(inner) for name, inner in value.items()}


def format_timestamp(moment: datetime) -> str:
    """Format a moment as ISO 8601 in UTC, like 2026-01-01T00:00:00Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_timestamp(text: str | int) -> datetime:
    """Parse seconds since 1970 or ISO 8601, in UTC unless it names an offset. Raises ValueError."""
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise ValueError("a timestamp is a number of seconds or ISO 8601 text")  # noqa: TRY004 - one error for bad text
    if isinstance(text, int) or text.isdecimal():
        try:
            return datetime.fromtimestamp(int(text), UTC)
        except (OverflowError, OSError, ValueError):
            raise ValueError("a timestamp counts seconds since 1970, up to the year 9999") from None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError("a timestamp is a number of seconds or ISO 8601 text, like 2026-01-31T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_base64(text: str) -> bytes:
    """Decode base64 strictly. Raises ValueError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError("not base64") from None


def _escape(table: Mapping[str, Any], name: str) -> str:
    return f"${name}" if len(table) == 1 and name.startswith("$") else name


def _parse_decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except (InvalidOperation, TypeError, ValueError):
        raise ValueError("not a decimal number") from None


def _parse_double(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError("$double is nan, inf or -inf")
    return float(text)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "$bytes": parse_base64,
    "$timestamp": parse_timestamp,
    "$decimal": _parse_decimal,
    "$double": _parse_double,
}
