#!/usr/bin/env python3
"""Man pages of the commands, from the same parameters as their help: docs/generate.py writes them to docs/man."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class RoffFormatter:
    """What Click's formatter of help is, but it writes roff."""

    width, current_indent = 80, 0

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._in_examples = False

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:  # noqa: ARG002
        """Write the synopsis."""
        self.lines += [".SH SYNOPSIS", f".B {_roff(prog)}", _roff(args)]

    def write_paragraph(self) -> None:
        """Begin a paragraph."""
        self.lines.append(".PP")

    def write_text(self, text: str) -> None:
        """Write the description."""
        self.lines.append(".SH DESCRIPTION")
        for number, paragraph in enumerate(text.split("\n\n")):
            self.lines += [".PP"] * bool(number) + [_roff(" ".join(paragraph.replace("\b", "").split()))]

    def write_dl(self, rows: Sequence[tuple[str, str]]) -> None:
        """Write options, each with its description."""
        for names, description in rows:
            self.lines += [".TP", f".B {_roff(names)}", _roff(" ".join(description.split()))]

    def write(self, text: str) -> None:
        """Write a line of an example, or a note after the options."""
        self.lines += [_roff(text.strip()), ".br"] if self._in_examples else [".PP", _roff(text.strip())]

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Write a section."""
        self.lines.append(f".SH {_roff(name.upper())}")
        self._in_examples = name == "Examples"
        yield
        self._in_examples = False

    @contextmanager
    def indentation(self) -> Iterator[None]:
        """Write as without."""
        yield


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def man_page(name: str, command: Any, summary: str) -> str:
    """Return the man page of a command; that of a group has its subcommands, too."""
    title = name.replace(" ", "-")
    lines = [f'.TH {_roff(title.upper())} 1 "" rmqkit', ".SH NAME", f"{_roff(title)} \\- {_roff(summary.rstrip('.'))}"]
    for path, each in (
        (name, command),
        *((f"{name} {inner}", sub) for inner, sub in getattr(command, "commands", {}).items()),
    ):
        formatter = RoffFormatter()
        with each.make_context(path, [], resilient_parsing=True) as context:
            each.format_help(context, formatter)
        if each is not command:
            lines.append(f".SH {_roff(path.upper())}")
        # sections of a subcommand are parts of its own section
        lines += [line.replace(".SH ", ".SS ", 1) if each is not command else line for line in formatter.lines]
    see = ".BR rmqkit (1)" if name != "rmqkit" else "Each command has its own page, such as\n.BR rmqkit\\-publish (1)."
    lines += [".SH SEE ALSO", see]
    return "\n".join(line for line in lines if line) + "\n"


def completions() -> dict[str, str]:
    """Return the completion script of each shell, as packages install it."""
    from rmqkit.cli.completion import VARIABLE  # noqa: PLC0415

    words = '_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}"'
    fish = (
        f"env {VARIABLE}=complete_fish _TYPER_COMPLETE_FISH_ACTION={{}} _TYPER_COMPLETE_ARGS=(commandline -cp) rmqkit"
    )
    return {
        "bash": f"""_rmqkit_completion() {{
    local IFS=$'\\n'
    COMPREPLY=($(env COMP_WORDS="${{COMP_WORDS[*]}}" COMP_CWORD=$COMP_CWORD {VARIABLE}=complete_bash "$1"))
}}
complete -o default -F _rmqkit_completion rmqkit
""",
        "zsh": f"#compdef rmqkit\neval $(env {words} {VARIABLE}=complete_zsh rmqkit)\n",
        "fish": f'complete --command rmqkit --no-files --arguments "({fish.format("get-args")})" '
        f'--condition "{fish.format("is-args")}"\n',
    }
