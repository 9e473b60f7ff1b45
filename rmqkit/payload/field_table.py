"""Encoding and decoding of AMQP field tables and message properties; malformed ones are decoded as far as possible.

Short strings that are not UTF-8 are decoded and encoded with `surrogateescape` (PEP 383), so they keep their bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rmqkit.message import Properties

MAX_DEPTH = 100  # RabbitMQ sets no limit; a deeper table is an attack, not a message

_FIXED: dict[int, struct.Struct] = {
    ord(tag): struct.Struct(f">{code}")
    for tag, code in {
        "b": "b", "B": "B", "s": "h", "U": "h", "u": "H", "I": "i", "i": "I", "l": "q", "L": "q", "f": "f", "d": "d",
    }.items()
}  # fmt: skip
_LENGTH = struct.Struct(">I")
_DECIMAL = struct.Struct(">Bi")
_MOMENT = struct.Struct(">Q")
_FLAGS = struct.Struct(">H")
_SIZES = {tag: kind.size for tag, kind in _FIXED.items()}
_SIZES |= {ord("t"): 1, ord("T"): _MOMENT.size, ord("D"): _DECIMAL.size, ord("V"): 0}


Field = tuple[str, bytes]
"""The name of a header, and the bytes of its type and value."""


class MalformedField(ValueError):
    """A field that is truncated or of an unknown type."""


def decode_table(data: bytes, start: int = 0, depth: int = 0) -> tuple[dict[str, Any], int]:
    """Decode the table at `start`; return it in wire order, and its end. Raises MalformedField."""
    position, end = _extent(data, start, depth)
    table: dict[str, Any] = {}
    while position < end:
        name, position = _short_string(data, position)
        table[name], position = _decode_value(data, position, depth)
    if position != end:
        raise MalformedField("a table is longer than its size")
    return table, end


def _extent(data: bytes, start: int, depth: int) -> tuple[int, int]:
    if depth > MAX_DEPTH:
        raise MalformedField(f"tables nested more than {MAX_DEPTH} deep")
    begin = start + _LENGTH.size
    end = begin + int.from_bytes(data[start:begin], "big")
    if end > len(data):
        raise MalformedField("a truncated field")
    return begin, end


def _short_string(data: bytes, position: int) -> tuple[str, int]:
    end = position + 1 + (data[position] if position < len(data) else 0)
    if end > len(data):
        raise MalformedField("a truncated name")
    return data[position + 1 : end].decode("utf-8", "surrogateescape"), end


def _moment(seconds: int) -> datetime | int:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return seconds  # probably milliseconds: better a number than no message


def _decode_value(data: bytes, position: int, depth: int) -> tuple[Any, int]:
    if position >= len(data):
        raise MalformedField("a truncated value")
    tag, position = data[position], position + 1
    fixed = _FIXED.get(tag)
    try:
        if fixed is not None:
            return fixed.unpack_from(data, position)[0], position + fixed.size
        return _VARIABLE[tag](data, position, depth)
    except struct.error as exc:
        raise MalformedField("a truncated value") from exc
    except KeyError as exc:
        raise MalformedField(f"a value of the unknown type {chr(tag)!r}") from exc


def _bytes(data: bytes, position: int, depth: int) -> tuple[bytes, int]:
    begin, end = _extent(data, position, depth)
    return data[begin:end], end


def _long_string(data: bytes, position: int, depth: int) -> tuple[str | bytes, int]:
    value, end = _bytes(data, position, depth)
    try:
        return value.decode(), end
    except UnicodeDecodeError:
        return value, end


def _array(data: bytes, position: int, depth: int) -> tuple[list[Any], int]:
    position, end = _extent(data, position, depth)
    values = []
    while position < end:
        value, position = _decode_value(data, position, depth + 1)
        values.append(value)
    if position != end:
        raise MalformedField("an array is longer than its size")
    return values, end


def _decimal(data: bytes, position: int, _depth: int) -> tuple[Decimal, int]:
    scale, unscaled = _DECIMAL.unpack_from(data, position)
    return Decimal(unscaled).scaleb(-scale), position + _DECIMAL.size


_VARIABLE: dict[int, Callable[[bytes, int, int], tuple[Any, int]]] = {
    ord("t"): lambda data, position, _: (data[position : position + 1] != b"\0", position + 1),
    ord("S"): _long_string,
    ord("x"): _bytes,
    ord("A"): _array,
    ord("F"): lambda data, position, depth: decode_table(data, position, depth + 1),
    ord("T"): lambda data, position, _: (_moment(_MOMENT.unpack_from(data, position)[0]), position + 8),
    ord("D"): _decimal,
    ord("V"): lambda _data, position, _depth: (None, position),
}

_STRING, _TABLE, _OCTET, _TIMESTAMP = range(4)
# In the order on the wire, from bit 15 of the flags down (AMQP 0-9-1 section 4.2.6.1).
_PROPERTIES: tuple[tuple[str, int], ...] = (
    ("content_type", _STRING), ("content_encoding", _STRING), ("headers", _TABLE), ("delivery_mode", _OCTET),
    ("priority", _OCTET), ("correlation_id", _STRING), ("reply_to", _STRING), ("expiration", _STRING),
    ("message_id", _STRING), ("timestamp", _TIMESTAMP), ("type", _STRING), ("user_id", _STRING), ("app_id", _STRING),
    ("cluster_id", _STRING),
)  # fmt: skip


def decode_properties(data: bytes) -> tuple[Properties, str]:
    """Decode properties as far as possible; return them and the fault, empty if there is none. Never raises.

    They keep these bytes: see `encode_properties`.
    """
    found: dict[str, Any] = {"delivery_mode": None}
    fault = ""
    try:
        (flags,) = _FLAGS.unpack_from(data)
        position = 2
        for number, (name, kind) in enumerate(_PROPERTIES):
            if not flags & (1 << (15 - number)):
                continue
            if kind == _TABLE:
                found[name], position, fault = _headers(data, position)
            elif kind == _TIMESTAMP:
                value = _moment(_MOMENT.unpack_from(data, position)[0])
                position += _MOMENT.size
                if isinstance(value, datetime):
                    found[name] = value
                else:
                    fault = f"the timestamp {value} is out of range (it has to be in seconds)"
            elif kind == _OCTET:
                found[name], position = data[position], position + 1
            else:
                found[name], position = _short_string(data, position)
    except (MalformedField, struct.error, IndexError) as exc:
        fault = str(exc)
    properties = Properties(**found)
    object.__setattr__(properties, "encoded", data)
    return properties, fault


def _headers(data: bytes, position: int) -> tuple[dict[str, Any], int, str]:
    """Decode the headers that are not malformed; the table's length tells where the next property begins."""
    _, end = _extent(data, position, 0)
    try:
        return decode_table(data, position)[0], end, ""
    except MalformedField as exc:
        fault = f"headers: {exc}"
    readable = {}
    with suppress(MalformedField):
        for name, value in split_table(data[position:end]):
            with suppress(MalformedField):
                readable[name] = _decode_value(value, 0, 0)[0]
    return readable, end, fault


def split_properties(data: bytes) -> dict[str, bytes]:
    """Return the properties that are set, as bytes of the wire: for changing one and no byte of the others.

    Raises MalformedField.
    """
    found: dict[str, bytes] = {}
    try:
        (flags,) = _FLAGS.unpack_from(data)
        position = _FLAGS.size
        for number, (name, kind) in enumerate(_PROPERTIES):
            if flags & (1 << (15 - number)):
                end = _property_end(data, position, kind)
                found[name], position = data[position:end], end
    except (struct.error, IndexError) as exc:
        raise MalformedField("a truncated property") from exc
    if position > len(data):
        raise MalformedField("a truncated property")
    return found


def _property_end(data: bytes, position: int, kind: int) -> int:
    if kind == _STRING:
        return position + 1 + data[position]
    if kind == _TABLE:
        return _extent(data, position, 0)[1]
    return position + (1 if kind == _OCTET else _MOMENT.size)


def join_properties(parts: Mapping[str, bytes]) -> bytes:
    """Join properties that `split_properties` split."""
    names = [name for name, _ in _PROPERTIES]
    flags = sum(1 << (15 - names.index(name)) for name in parts)
    return _FLAGS.pack(flags) + b"".join(parts[name] for name in names if name in parts)


def split_table(data: bytes) -> list[Field]:
    """Return the names of a table's fields with the bytes of their types and values. Raises MalformedField."""
    position, end = _extent(data, 0, 0)
    fields = []
    while position < end:
        name, start = _short_string(data, position)
        position = _value_end(data, start)
        fields.append((name, data[start:position]))
    return fields


def _value_end(data: bytes, start: int) -> int:
    if start >= len(data):
        raise MalformedField("a truncated value")
    tag, position = data[start], start + 1
    if tag in b"SxAF":
        return _extent(data, position, 0)[1]
    if tag not in _SIZES:
        raise MalformedField(f"a value of the unknown type {chr(tag)!r}")
    return position + _SIZES[tag]


def join_table(fields: Iterable[Field]) -> bytes:
    """Join fields that `split_table` split."""
    return _sized(b"".join(_encode_short_string(name) + value for name, value in fields))


def received_bytes(properties: Properties) -> bytes:
    """Return the bytes that properties were decoded from; empty if there are none, or if the headers were changed."""
    encoded: bytes = getattr(properties, "encoded", b"")
    return encoded if encoded and decode_properties(encoded)[0] == properties else b""


def encode_properties(properties: Properties) -> bytes:
    """Encode properties that passed `payload.properties.check`, as they follow the body size in a header.

    Those of a delivery are the bytes that arrived, so that nothing is lost.
    """
    return received_bytes(properties) or _encode_each(properties)


def keep_all(properties: Properties) -> bool:
    """Tell whether the values of properties stand for every byte that they were decoded from."""
    encoded: bytes = getattr(properties, "encoded", b"")
    try:
        return not encoded or _encode_each(properties) == encoded
    except (ArithmeticError, ValueError, struct.error):  # a value that AMQP can carry, but this encoder cannot
        return False


def _encode_each(properties: Properties) -> bytes:
    flags, pieces = 0, []
    for number, (name, kind) in enumerate(_PROPERTIES):
        value = getattr(properties, name)
        if value is not None:
            flags |= 1 << (15 - number)
            pieces.append(_ENCODERS[kind](value))
    return _FLAGS.pack(flags) + b"".join(pieces)


def _encode_short_string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return bytes((len(data),)) + data


def _encode_moment(moment: datetime) -> bytes:
    return _MOMENT.pack(int(moment.timestamp()))


def split_header(header: bytes) -> tuple[dict[str, bytes], list[Field]]:
    """Return the properties without the headers, and the headers, as bytes of the wire. Raises MalformedField."""
    parts = split_properties(header)
    return parts, split_table(parts.pop("headers")) if "headers" in parts else []


def join_header(parts: Mapping[str, bytes], headers: Iterable[Field]) -> bytes:
    """Join properties and headers that `split_header` separated."""
    fields = list(headers)
    return join_properties({**parts, "headers": join_table(fields)} if fields else parts)


def encode_table(table: Mapping[str, Any]) -> bytes:
    """Encode a table that passed `payload.properties.check` or `check_arguments`."""
    return _sized(b"".join(_encode_short_string(name) + _encode_value(value) for name, value in table.items()))


def _sized(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _encode_value(value: Any) -> bytes:  # noqa: PLR0911 - a line per field type
    match value:
        case None:
            return b"V"
        case bool():
            return b"t\1" if value else b"t\0"
        case int():
            narrow = -(2**31) <= value < 2**31
            return b"I" + _FIXED[ord("I")].pack(value) if narrow else b"l" + _FIXED[ord("l")].pack(value)
        case float():
            return b"d" + _FIXED[ord("d")].pack(value)
        case str():
            return b"S" + _sized(value.encode("utf-8", "surrogateescape"))
        case bytes():
            return b"x" + _sized(value)
        case datetime():
            return b"T" + _encode_moment(value)
        case Decimal():
            exponent = int(value.normalize().as_tuple().exponent)
            return b"D" + _DECIMAL.pack(max(-exponent, 0), int(value.scaleb(max(-exponent, 0))))
        case Mapping():
            return b"F" + encode_table(value)
        case _:
            return b"A" + _sized(b"".join(map(_encode_value, value)))


_ENCODERS: dict[int, Callable[[Any], bytes]] = {
    _STRING: _encode_short_string,
    _TABLE: encode_table,
    _OCTET: lambda number: bytes((number,)),
    _TIMESTAMP: _encode_moment,
}
