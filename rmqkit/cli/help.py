"""Help texts: plain, grouped, with examples.

Typer's boxed help would import rich and Markdown with it, and take three times as long as the rest of `rmqkit --help`.
"""

from __future__ import annotations

import sys
from typing import Any

from typer.core import TyperCommand, TyperGroup

from rmqkit.cli.output import paint


class Command(TyperCommand):
    """A command whose options are grouped by their `rich_help_panel`, and whose epilog holds an example a line."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line, the arguments as RabbitMQ's own tools write them: QUEUE, [FILE]...."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        names = [(_name(each) if each.required else f"[{_name(each)}]", each.nargs) for each in arguments]
        return [self.options_metavar or "", *(name if nargs == 1 else f"{name}..." for name, nargs in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments, and one for each group of options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                if param.param_type_name == "argument":
                    sections["Arguments"].append((_name(param), record[1].removesuffix("[required]")))
                else:
                    panel = getattr(param, "rich_help_panel", None) or "Options"
                    sections.setdefault(panel, []).append(record)
        _write(formatter, sections)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples."""
        _write_examples(formatter, self.epilog)


class Group(TyperGroup):
    """A group whose commands are listed by their `rich_help_panel`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group of commands."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command and not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                sections.setdefault(panel, []).append((name, command.get_short_help_str(limit=100)))
        _write(formatter, sections)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples."""
        _write_examples(formatter, self.epilog)


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name).strip("[].").upper()


def _write(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    for title, records in sections.items():
        if records:
            with formatter.section(paint(title, "bold", sys.stdout)):
                formatter.write_dl(records)


def _write_examples(formatter: Any, epilog: str | None) -> None:
    if epilog:
        with formatter.section(paint("Examples", "bold", sys.stdout)):
            for line in epilog.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
