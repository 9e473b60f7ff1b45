"""Read unquoted words of YAML."""

from __future__ import annotations

import math
import re
from typing import Any

NOT_TEXT: dict[type, str] = {bool: "a boolean", int: "a number", float: "a number", type(None): "nothing"}
"""Names of the values that are not text."""

_CONSTANTS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    spelling: value
    for word, value in (("true", True), ("false", False))
    for spelling in (word, word.title(), word.upper())
}
_SWITCHES = {"y": "true", "yes": "true", "on": "true", "n": "false", "no": "false", "off": "false"}
LONGEST_NUMBER = 400  # characters; AMQP cannot carry a longer one
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
# Words that YAML 1.1, YAML 1.2 or one of their readers takes for a number or a date, and another does not.
_SURPRISES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[-+]?0o?[0-7_]+"), "an octal number"),
    (re.compile(r"[-+]?0[0-9_]+"), "a number with a leading zero"),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F_]+"), "a hexadecimal number"),
    (re.compile(r"[-+]?0[bB][01_]+"), "a binary number"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "a base-60 number"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?"), "a number with underscores"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?"), "a date"),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), "infinite, or not a number,"),
    (re.compile(r"\+[0-9][0-9]*(\.[0-9]*)?([eE][-+]?[0-9]+)?"), "a number with a plus sign"),
    (re.compile(r"[-+]?([0-9]+\.|\.[0-9]+)([eE][-+]?[0-9]+)?"), "a number without its zero"),
)


def read_scalar(word: str) -> tuple[Any, str, str]:
    """Return the value of an unquoted word, a message about it (empty if it is clear) and advice.

    An ambiguous word is returned as text.
    """
    if word in _CONSTANTS:
        return _CONSTANTS[word], "", ""
    if word.lower() in _SWITCHES and word in (word.lower(), word.title(), word.upper()):
        switch = _SWITCHES[word.lower()]
        return word, _ambiguous(word, switch), f'Write {switch}, or quote it: "{word}".'
    if word[0] in "-+.0123456789" and len(word) <= LONGEST_NUMBER:
        return _read_number(word)
    return word, "", ""


def _read_number(word: str) -> tuple[Any, str, str]:
    if _INTEGER.fullmatch(word):
        return int(word), "", ""
    if _FLOAT.fullmatch(word):
        if math.isfinite(number := float(word)):
            return number, "", ""
        return word, f"{word} is too large for a number", f'Quote it if text is meant: "{word}".'
    meaning = next((meaning for pattern, meaning in _SURPRISES if pattern.fullmatch(word)), "")
    return (word, _ambiguous(word, meaning), f'Quote it: "{word}".') if meaning else (word, "", "")


def _ambiguous(word: str, meaning: str) -> str:
    return f"{word} is {meaning} to some YAML readers and not to others"
