"""Arguments as people type them: options of a connection before the command, and `-o json` as in kubectl."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_TO_FILES = {"call", "export", "graph"}  # commands whose -o names a file


def normalize(arguments: Sequence[str], connection_options: Callable[[], Iterable[Any]]) -> list[str]:
    """Return the arguments with options of a connection behind the command, and with --json for `-o json`.

    `connection_options` returns Click's objects of these options, and is called only where an option comes first.
    """
    words = list(arguments)
    if words and words[0].startswith("-"):
        words = _behind_command(words, {name: each.is_flag for each in connection_options() for name in each.opts})
    end = words.index("--") if "--" in words else len(words)
    for at in range(1, end - 1):
        if words[at : at + 2] == ["-o", "json"] and words[0] not in _TO_FILES:
            return [*words[:at], "--json", *words[at + 2 :]]
    return words


def _behind_command(words: list[str], are_flags: Mapping[str, bool]) -> list[str]:
    moved, rest = [], words
    while rest and (name := rest[0].partition("=")[0] if rest[0].startswith("--") else rest[0][:2]) in are_flags:
        size = 1 if are_flags[name] or rest[0] != name else 2
        moved += rest[:size]
        rest = rest[size:]
    return [*rest[:1], *moved, *rest[1:]]
