"""Numbers with their nouns."""

from __future__ import annotations

import re


def plural(count: int, noun: str) -> str:
    """Write a number and the noun it counts: `1 message`, `2,000 messages`, `0 entities`."""
    if count != 1:
        noun = re.sub("(?<=[^aeiou])y$", "ie", noun) + "s"
    return f"{count:,} {noun}"
