"""What the broker takes as a name, a routing key and an argument."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
"""The exchanges every virtual host begins with, and their types; the default exchange, which has no name, is apart."""

Fault = tuple[str, str]
"""What is wrong, and what to write instead."""


def any_part(pattern: str) -> re.Pattern[str]:
    """Compile a name in which `*` is any part and all else itself, the brackets of a binding's key too."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def check_name(kind: str, name: str) -> Fault | None:
    """Check the name of an `exchange` or `queue` that is to be declared."""
    if not name:
        if kind == "exchange":
            return "the default exchange has no name and cannot be declared", "Leave it out: it is always there."
        return "a queue needs a name", "Write one before the colon."
    if name.startswith("amq."):
        advice = "Leave it out: bindings may name it." if name in BUILT_IN else "Begin the name otherwise."
        return f"{kind} {name!r}: names that begin with amq. belong to the broker", advice
    if "\n" in name or "\r" in name:
        return f"{kind} {name!r}: the broker takes line breaks out of names", "Write the name without."
    return check_length(f"{kind} {_short(name)}", name)


def check_length(what: str, text: str) -> Fault | None:
    """Check the length of a name or routing key, which AMQP counts in bytes."""
    size = len(text.encode())
    if size <= MAX_NAME_BYTES:
        return None
    advice = f"Shorten it: {MAX_NAME_BYTES} bytes is all AMQP can carry."
    return f"{what} has {size} bytes of UTF-8 ({len(text)} characters)", advice


def _short(name: str) -> str:
    return repr(name if len(name) <= 30 else f"{name[:27]}...")  # noqa: PLR2004 - enough to know it by


def check_exchange_type(kind: str) -> Fault | None:
    """Check for a misspelling of the four types; any other type may be a plugin's."""
    from rmqkit.topology.file.schema import suggest  # noqa: PLC0415 - start-up time: it reads YAML

    known = ["direct", "fanout", "topic", "headers"]
    guess = "" if kind in known or kind.startswith("x-") else suggest(kind.strip(), [*known, "header"])
    guess = "headers" if guess == "header" else guess
    return (f"{kind!r} is no exchange type", f"Did you mean {guess}?") if guess else None


def check_queue_type(kind: str) -> Fault | None:
    """Check for a misspelling of the three types; any other may be one of a newer broker."""
    from rmqkit.topology.file.schema import suggest  # noqa: PLC0415 - start-up time: it reads YAML

    known = ["classic", "quorum", "stream"]
    guess = "" if kind in known else suggest(kind.strip(), known)
    return (f"{kind!r} is no queue type", f"Did you mean {guess}?") if guess else None


def check_arguments(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Fault]]:
    """Yield what AMQP's field tables cannot carry, each with its path inside the arguments."""
    if isinstance(value, dict):
        for key, item in value.items():
            if fault := check_length(f"the argument {_short(key)}", key):
                yield (*path, key), fault
            yield from check_arguments(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from check_arguments(item, (*path, index))
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield path, ("the number has more than 63 bits, which AMQP cannot carry", "Quote it if text will do.")
