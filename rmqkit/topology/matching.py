"""Match messages against bindings by the type of the exchange (https://www.rabbitmq.com/tutorials/amqp-concepts)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from rmqkit.model import Binding

MAX_STATES = 2_000  # patterns like #.a.*.*.*... have a state for each set of places: beyond this many, say no

_OTHER = "."  # stands for any word in neither pattern: no word contains a dot
States = frozenset[int]  # numbers of words of a pattern that may have matched so far


def words(key: str) -> tuple[str, ...]:
    """Split a routing key or pattern into words; the empty one has none."""
    return tuple(key.split(".")) if key else ()


def includes(wide: str, narrow: str) -> bool:
    """Tell whether every routing key that matches `narrow` matches `wide`."""
    if wide in (narrow, "#"):
        return True
    outer, inner = words(wide), words(narrow)
    named = {*outer} - {"*", "#"}
    if named == {*outer}:
        return False
    todo = [(0, _closed(outer, {0}))]
    seen = {*todo}
    while todo:
        place, states = todo.pop()
        if place == len(inner):
            if len(outer) not in states:
                return False
            continue
        expected = inner[place]
        following = {(place + 1, states)} if expected == "#" else set()
        for word in {*named, _OTHER} if expected in ("*", "#") else {expected}:
            following.add((place + (expected != "#"), _step(outer, states, word)))
        todo += following - seen
        seen |= following
        if len(seen) > MAX_STATES:
            return False
    return True


def _step(pattern: tuple[str, ...], states: States, word: str) -> States:
    here = (state for state in states if state < len(pattern) and pattern[state] in ("*", "#", word))
    return _closed(pattern, {state + (pattern[state] != "#") for state in here})


def _closed(pattern: tuple[str, ...], states: set[int]) -> States:
    """Add the states that are reached without a word, since `#` matches none too."""
    for state, each in enumerate(pattern):
        if each == "#" and state in states:
            states.add(state + 1)
    return frozenset(states)


KINDS = ("direct", "fanout", "topic", "headers")
_NARROW = 2**31  # smaller integers are sent as 32 bits, others as 64: in a list or table the two are not equal
_NUMBERS = {"int", "long", "float", "time"}
_ALIKE = ({"text", "bytes"}, {"list", "table"})  # equal in Erlang: the same bytes, and empty ones

PERHAPS = object()
"""The value of a header that a message has only with some versions of RabbitMQ."""


def matches(kind: str, binding: Binding, keys: Collection[str], headers: Mapping[str, Any]) -> bool | None:
    """Tell whether an exchange of a type routes a message with these keys and headers through a binding.

    None if a plugin decides, or the versions of RabbitMQ differ.
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
    """Match words between dots: `*` matches one, `#` any number; the empty key has no word, `.` has two."""
    expected = words(pattern)
    states = _closed(expected, {0})
    for word in words(key):
        states = _step(expected, states, word)
    return len(expected) in states


def _matches_headers(arguments: Mapping[str, Any], headers: Mapping[str, Any]) -> bool | None:
    how = str(arguments.get("x-match", "all"))
    with_x = how.endswith("-with-x")
    compared = {name: each for name, each in arguments.items() if name != "x-match" and (with_x or name[:2] != "x-")}
    found = [_has(headers, name, each) for name, each in compared.items()]
    decisive = how.startswith("any")  # one True is enough for any, one False for all
    if decisive in found:
        return decisive
    return None if None in found else not decisive


def _has(headers: Mapping[str, Any], name: str, wanted: Any) -> bool | None:
    """Tell whether a header has a value; a binding argument without a value requires only the header."""
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
    """Return a value with its type on the wire, which lists and tables compare, as well as the order of tables."""
    match value:
        case int() if not isinstance(value, bool):
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
