"""Numbers with their nouns, and times in their units."""

from __future__ import annotations

import re


def plural(count: int, noun: str) -> str:
    """Write a number and the noun it counts: `1 message`, `2,000 messages`, `0 entities`."""
    if count != 1:
        noun = re.sub("(?<=[^aeiou])y$", "ie", noun) + "s"
    return f"{count:,} {noun}"


def span(seconds: float) -> str:
    """Write a time in whole units, of which it has at least two: `90 s`, `5 min`, `36 h`, `3 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"
