"""Help texts and usage errors: plain, grouped, with examples, and without Typer's own words.

Typer's boxed help would import rich and Markdown, and take three times as long as the rest of `rmqkit --help`.
"""

import re
import sys
from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand, TyperGroup

from rmqkit.cli import argv, output
from rmqkit.errors import SettingsError

CONNECTION = "Connection"  # the panel that most commands share; `rmqkit help connection` shows all of it
_ALWAYS_SHOWN = ("url", "context", "vhost")
_TYPE = re.compile(r"<(.+)>$")  # how Typer shows the type of an option without a metavar
_OTHER_TOOLS = {  # commands of rabbitmqadmin, kubectl and others, and their equivalents
    "declare": "rmqkit apply FILE",
    "get": "rmqkit peek QUEUE",
    "lint": "rmqkit validate FILE",
    "list": "rmqkit status",
    "ls": "rmqkit status",
    "ping": "rmqkit status",
    "receive": "rmqkit consume QUEUE",
    "send": "rmqkit publish",
    "shovel": "rmqkit move QUEUE --to-queue QUEUE",
    "tail": "rmqkit subscribe EXCHANGE",
}


class _Examples:
    epilog: str | None

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the completions of a word; zsh, for which Typer quotes the help, would drop its apostrophes."""
        found: list[Any] = super().shell_complete(ctx, incomplete)  # type: ignore[misc]
        for each in found:
            each.help = each.help and each.help.replace("'", "\u2019")
        return found

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples."""
        if self.epilog:
            with formatter.section(output.paint("Examples", "bold", sys.stdout)):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Command(_Examples, TyperCommand):
    """A command whose options are grouped by their `rich_help_panel`, and whose epilog holds an example a line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, among them `--yes` with or without the name of a context."""
        parsed: list[str] = super().parse_args(ctx, argv.complete_yes(args, self.params))
        return parsed

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line, the arguments as RabbitMQ's own tools write them: QUEUE, [FILE]...."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        names = [(_name(each) if each.required else f"[{_name(each)}]", each.nargs) for each in arguments]
        return [self.options_metavar or "", *(name if nargs == 1 else f"{name}..." for name, nargs in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments, and one for each group of options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        is_abridged = False
        for param in self.get_params(ctx):
            if record := _record(param, ctx):
                is_argument = param.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or "Options"
                if panel == CONNECTION and param.name not in _ALWAYS_SHOWN:
                    is_abridged = True
                else:
                    sections.setdefault(panel, []).append(record)
        if is_abridged:
            sections[CONNECTION] = sections.pop(CONNECTION)  # last, before the note about it
        _write(formatter, sections)
        if is_abridged:
            formatter.write("  For the HTTP API, passwords and TLS, see `rmqkit help connection`.\n")


class Topic(Command):
    """A page of help that is no command, about the options that commands share."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write no usage line."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write all of its options, in one section."""
        records = [_record(param, ctx) for param in self.params]
        _write(formatter, {"Options": [record for record in records if record]})


class Group(_Examples, TyperGroup):
    """A group whose commands are listed by their `rich_help_panel`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options; without a command, print the help."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            output.error(ctx.get_help())
            ctx.exit(2)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called; an unknown one is an error that suggests another."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            close = [f"{ctx.command_path} {name}" for name in get_close_matches(args[0], self.list_commands(ctx))]
            if ctx.parent is None and args[0] in _OTHER_TOOLS:
                close = [_OTHER_TOOLS[args[0]]]
            suggestion = f"Did you mean {' or '.join(f'`{each}`' for each in close)}?" if close else ""
            advice = suggestion or f"See `{ctx.command_path} --help`."
            raise SettingsError(f"unknown command {args[0]!r}", advice=advice)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group of commands."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command and not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                sections.setdefault(panel, []).append((name, command.get_short_help_str(limit=100)))
        _write(formatter, sections)


def usage_error(error: Any) -> SettingsError:
    """Return a usage error of Typer's as an error of rmqkit's, with advice."""
    options = sorted(getattr(error, "possibilities", None) or ())
    message = error.message if options else error.format_message().removeprefix("Invalid value: ")
    if found := re.fullmatch(r"(?:Invalid value for|(Missing \w+)) ('.+?')[:.](.*)", message, re.DOTALL):
        missing, name = found[1], found[2].rpartition(" / ")[2].strip("'")
        problem = found[3].strip().removeprefix("Value error, ")
        if missing:
            message = f"{missing} {name}"
        elif problem.startswith("Input should be "):  # the words of pydantic, which checks values
            message = f"{name} must be {problem.removeprefix('Input should be ').partition(', unable to parse')[0]}"
        else:
            message = f"{name}: {problem}"
    advice = [f"Did you mean {' or '.join(options)}?"] if options else []
    if context := getattr(error, "ctx", None):
        advice.append(f"See `{context.command_path} --help`.")
    return SettingsError(message[:1].lower() + message[1:].removesuffix("."), advice=" ".join(advice))


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name).strip("[].").upper()


def _record(param: Any, ctx: Any) -> tuple[str, str] | None:
    """Return how help shows a parameter and its description."""
    param.min = param.max = None  # help would show x>=1; the check itself does not read them
    if not (record := param.get_help_record(ctx)):
        return None
    names, description = record
    if param.param_type_name == "argument":
        return _name(param).replace("] [", " "), description.removesuffix("[required]")
    if found := _TYPE.search(names):
        value = found[1] if "|" in found[1] else param.name.replace("_", "-").upper()
        names = f"{names[: found.start()]}{value}"
    return names, description


def _write(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    for title, records in sections.items():
        if records:
            with formatter.section(output.paint(title, "bold", sys.stdout)):
                formatter.write_dl(records)
