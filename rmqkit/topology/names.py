"""Check names, types, routing keys and arguments by the rules of the broker."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

MAX_NAME_BYTES = 255
BUILT_IN = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
}
"""The exchanges of every new virtual host and their types, without the default exchange, which has no name."""

_TYPES = {"exchange": ("direct", "fanout", "topic", "headers"), "queue": ("classic", "quorum", "stream")}

Fault = tuple[str, str]
"""A message, and advice."""


def any_part(pattern: str) -> re.Pattern[str]:
    """Compile a name in which only `*` is special and stands for any part."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def check_name(kind: str, name: str) -> Fault | None:
    """Check the name of an `exchange` or `queue` to declare."""
    if not name:
        if kind == "exchange":
            return "the default exchange has no name and cannot be declared", "Remove it: it always exists."
        return "a queue needs a name", "Write one before the colon."
    if name.startswith("amq."):
        advice = "Remove it: bindings may name it." if name in BUILT_IN else "Choose another name."
        return f"{kind} {name!r}: names that begin with amq. are reserved for the broker", advice
    if "\n" in name or "\r" in name:
        return f"{kind} {name!r}: the broker removes line breaks from names", "Write the name without them."
    return check_length(f"{kind} {_short(name)}", name)


def check_length(subject: str, text: str) -> Fault | None:
    """Check the length of a name or routing key, which AMQP counts in bytes."""
    size = len(text.encode())
    if size <= MAX_NAME_BYTES:
        return None
    advice = f"Shorten it: AMQP allows {MAX_NAME_BYTES} bytes."
    return f"{subject} has {size} bytes of UTF-8 ({len(text)} characters)", advice


def _short(name: str) -> str:
    return repr(name if len(name) <= 30 else f"{name[:27]}...")  # noqa: PLR2004 - enough to recognize it


def check_type(kind: str, name: str) -> Fault | None:
    """Report a misspelled type of an `exchange` or `queue`; an unknown one may be of a plugin or a newer broker."""
    known = _TYPES[kind]
    guess = "" if name in known or name.startswith("x-") else suggest(name.strip(), known)
    return (f"unknown {kind} type {name!r}", f"Did you mean {guess}?") if guess else None


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the known word that was probably meant, or an empty string."""
    lower, known = word.lower(), list(known)
    guesses = (difflib.get_close_matches(each, known, 1, 0.75) for each in (lower.replace("-", "_"), lower))
    return next((guess for close in guesses for guess in close), "")


def check_arguments(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Fault]]:
    """Yield the values that AMQP's field tables cannot carry, each with its path inside the arguments."""
    if isinstance(value, dict):
        for key, item in value.items():
            if fault := check_length(f"the argument {_short(key)}", key):
                yield (*path, key), fault
            yield from check_arguments(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from check_arguments(item, (*path, index))
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield path, ("the number has more than 63 bits, which AMQP cannot carry", "Quote it if text is acceptable.")
