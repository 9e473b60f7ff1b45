"""Whether a binding takes a message, by the type of its exchange (https://www.rabbitmq.com/tutorials/amqp-concepts).

Comes in: a binding, routing keys and headers. Goes out: yes, no, or None where it cannot be told. Room: topology, pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from rmqkit.model import Binding

KINDS = ("direct", "fanout", "topic", "headers")
_NARROW = 2**31  # an integer below goes as 32 bits, others as 64: in a list or table the two are not equal
_NUMBERS = {"int", "long", "float", "time"}
_ALIKE = ({"text", "bytes"}, {"list", "table"})  # equal in Erlang: the same bytes, and what is empty

PERHAPS = object()
"""The value of a header that a message has by some versions of RabbitMQ only."""


def matches(kind: str, binding: Binding, keys: Collection[str], headers: Mapping[str, Any]) -> bool | None:
    """Tell whether an exchange of a type sends a message with these routing keys and headers along a binding.

    None: a plugin decides, or RabbitMQ's versions differ.
    """
    match kind:
        case "direct":
            return binding.routing_key in keys
        case "fanout":
            return True
        case "topic":
            return any(matches_topic(binding.routing_key, key) for key in keys)
        case "headers":
            return _matches_headers(binding.arguments, headers)
        case _:
            return None


def matches_topic(pattern: str, key: str) -> bool:
    """Match words between dots: `*` stands for one, `#` for any number; the empty key has no word, `.` has two."""
    words = key.split(".") if key else []
    ends = {0}  # how many words of the key the pattern may have taken so far
    for word in pattern.split(".") if pattern else []:
        if word == "#":
            ends = set(range(min(ends), len(words) + 1))
        else:
            ends = {end + 1 for end in ends if end < len(words) and word in ("*", words[end])}
        if not ends:
            return False
    return len(words) in ends


def _matches_headers(arguments: Mapping[str, Any], headers: Mapping[str, Any]) -> bool | None:
    how = str(arguments.get("x-match", "all"))
    with_x = how.endswith("-with-x")
    found = [
        _has(headers, name, value)
        for name, value in arguments.items()
        if name != "x-match" and (with_x or not name.startswith("x-"))
    ]
    decisive = how.startswith("any")  # one True is enough for any, one False for all
    if decisive in found:
        return decisive
    return None if None in found else not decisive


def _has(headers: Mapping[str, Any], name: str, wanted: Any) -> bool | None:
    """Tell whether a header is there with a value; a binding argument without value asks for its presence only."""
    if name not in headers:
        return False
    if headers[name] is PERHAPS:
        return None
    return True if wanted is None else _equal(_wire(headers[name]), _wire(wanted))


def _equal(actual: tuple[str, Any], wanted: tuple[str, Any]) -> bool | None:
    kinds = {actual[0], wanted[0]}
    if "time" in kinds and kinds <= _NUMBERS:
        return None  # seconds before RabbitMQ 3.13, then milliseconds in the message alone
    if actual == wanted or (actual[1] == wanted[1] and kinds in _ALIKE):
        return True
    # 1 and 1.0 are equal before RabbitMQ 3.13
    return None if kinds <= _NUMBERS and actual[1] == wanted[1] else False


def _wire(value: Any) -> tuple[str, Any]:  # noqa: PLR0911 - a line per field type
    """Return a value with its type on the wire, which counts inside lists and tables, as the order in tables does."""
    match value:
        case bool():
            return "bool", value
        case int():
            return "int" if -_NARROW <= value < _NARROW else "long", value
        case float():
            return "float", value
        case str():
            return "text", value.encode()
        case bytes():
            return "bytes", value
        case datetime():
            return "time", int(value.timestamp())
        case Mapping():
            return "table", [(name, _wire(each)) for name, each in value.items()]
        case list() | tuple():
            return "list", [_wire(each) for each in value]
        case _:
            return type(value).__name__, value
