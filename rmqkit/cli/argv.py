"""Arguments as people type them: options of all commands before or after the command, and `-o json` as in kubectl."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rmqkit.errors import SettingsError

_TO_FILES = {"call", "export", "graph"}  # commands whose -o names a file
_GROUPS = {"context", "delete"}  # whose subcommands connect
_NO_COMMAND = {"-h", "--help", "-V", "--version"}
_SHORT, _LONG = {"-q", "-v"}, {"--quiet", "--verbose"}  # before the command; -q of publish is a queue

_LOG_FORMAT = "--log-format"


def normalize(arguments: Sequence[str], connection_options: Callable[[], Iterable[Any]]) -> list[str]:
    """Return the arguments with --json for `-o json`, options of all commands first, and those of a connection last.

    `connection_options` returns Click's objects of these options, and is called only where an option comes first.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    if words[:2] == ["broker", "ctl"]:  # what follows belongs to rabbitmqctl
        end = 0
    first, words = _split(words, end)
    while words and words[0] in _SHORT:
        first.append(words.pop(0))
    if words and words[0].startswith("-") and words[0] not in _NO_COMMAND:
        words = _behind_command(words, {name: each.is_flag for each in connection_options() for name in each.opts})
    end = words.index("--") if "--" in words else len(words)
    for at in range(1, end - 1):
        if words[at : at + 2] == ["-o", "json"] and words[0] not in _TO_FILES:
            words[at : at + 2] = ["--json"]
            break
    return first + words


def _split(words: list[str], end: int) -> tuple[list[str], list[str]]:
    """Return the options among the words up to `end` that every command has, each one word, and the other words."""
    first: list[str] = []
    rest: list[str] = []
    words, behind = words[:end], words[end:]
    while words:
        word = words.pop(0)
        if word == _LOG_FORMAT and words:
            word = f"{word}={words.pop(0)}"
        (first if word in _LONG or word.startswith(f"{_LOG_FORMAT}=") else rest).append(word)
    return first, rest + behind


def _behind_command(words: list[str], are_flags: Mapping[str, bool]) -> list[str]:
    moved, rest = [], words
    while rest and (name := rest[0].partition("=")[0] if rest[0].startswith("--") else rest[0][:2]) in are_flags:
        size = 1 if are_flags[name] or rest[0] != name else 2
        moved += rest[:size]
        rest = rest[size:]
    size = 2 if rest and rest[0] in _GROUPS else 1
    return [*rest[:size], *moved, *rest[size:]]


def complete_yes(words: Sequence[str], parameters: Iterable[Any]) -> list[str]:
    """Return the words of a command with `--yes=NAME` for `--yes NAME`, if a context has this name, else with `--yes=`.

    `parameters` are Click's objects of its options; a command without this option gets its words unchanged.
    """
    options = [each for each in parameters if each.param_type_name == "option"]
    if not {"-y", "--yes"} & set(words) or not any("--yes" in each.opts for each in options):
        return list(words)
    with_value = {name for each in options if not each.is_flag for name in each.opts} - {"-y", "--yes"}
    completed: list[str] = []
    rest = list(words)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        if word in ("-y", "--yes"):
            word = f"--yes={rest.pop(0) if rest and _is_context(rest[0]) else ''}"
        completed.append(word)
        if word in with_value and rest:
            completed.append(rest.pop(0))
    return completed + rest


def _is_context(word: str) -> bool:
    from rmqkit import contexts  # noqa: PLC0415 - start-up time

    with suppress(SettingsError):  # reported where the context is used
        return word in contexts.load().by_name
    return False
