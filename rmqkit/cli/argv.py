"""Arguments as people type them: options of all commands before or after the command, and `-o json` as in kubectl."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_TO_FILES = {"call", "export", "graph"}  # commands whose -o names a file
_SHORT, _LONG = {"-q", "-v"}, {"--quiet", "--verbose"}  # before the command; -q of publish is a queue


def normalize(arguments: Sequence[str], connection_options: Callable[[], Iterable[Any]]) -> list[str]:
    """Return the arguments with --quiet and --verbose first, options of a connection last, and --json for `-o json`.

    `connection_options` returns Click's objects of these options, and is called only where an option comes first.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    if words[:2] == ["broker", "ctl"]:  # what follows belongs to rabbitmqctl
        end = 0
    first = [each for each in words[:end] if each in _LONG]
    words = [*(each for each in words[:end] if each not in _LONG), *words[end:]]
    while words and words[0] in _SHORT:
        first.append(words.pop(0))
    if words and words[0].startswith("-"):
        words = _behind_command(words, {name: each.is_flag for each in connection_options() for name in each.opts})
    end = words.index("--") if "--" in words else len(words)
    for at in range(1, end - 1):
        if words[at : at + 2] == ["-o", "json"] and words[0] not in _TO_FILES:
            words[at : at + 2] = ["--json"]
            break
    return first + words


def _behind_command(words: list[str], are_flags: Mapping[str, bool]) -> list[str]:
    moved, rest = [], words
    while rest and (name := rest[0].partition("=")[0] if rest[0].startswith("--") else rest[0][:2]) in are_flags:
        size = 1 if are_flags[name] or rest[0] != name else 2
        moved += rest[:size]
        rest = rest[size:]
    return [*rest[:1], *moved, *rest[1:]]
