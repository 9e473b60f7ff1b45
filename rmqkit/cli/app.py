"""The `rmqkit` command, which imports a command only when it is called."""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import shellingham  # type: ignore[import-untyped]
import typer
from typer import completion
from typer.core import TyperCommand
from typer.exceptions import TyperException

from rmqkit.cli import argv, error_output, output
from rmqkit.cli.command_table import COMMANDS, TOPICS
from rmqkit.cli.help import Command, Group, Topic, usage_error
from rmqkit.cli.output import LogFormat
from rmqkit.errors import SettingsError
from rmqkit.version import VERSION

_SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


SETTINGS: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"]}, "rich_markup_mode": None}


def load(name: str) -> Any:
    """Import a command or a topic of help, and return it as Click's object, with its examples."""
    entry = COMMANDS.get(name) or TOPICS[name]
    module, _, attribute = entry.target.partition(":")
    target = getattr(import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False, **SETTINGS)
        target.command(name)(function)
    target.info.cls = Group
    for each in target.registered_commands:
        each.cls = Topic if name in TOPICS else Command
    command = typer.main.get_command(target)
    command.name = name
    command.epilog = "\n".join(entry.examples)
    return command


class LazyGroup(Group):
    """The top command: help and completion read the table, and only the command that is called is imported."""

    def main(self, args: Any = None, prog_name: str | None = None, *_: Any, **__: Any) -> Any:
        """Run the command line and return its exit code; raise a usage error as SettingsError."""
        completion.get_completion_inspect_parameters()  # which registers the shells
        try:
            return super().main(args, prog_name, standalone_mode=False)
        except TyperException as error:
            raise usage_error(error) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options that come before a command; `help COMMAND` and `version` are other words for options."""
        match args:
            case ["help", *command]:
                args = [*command, "--help"]
            case ["version"]:
                args = ["--version"]
            case ["--install-completion" | "--show-completion"]:
                args = [*args, _current_shell()]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a placeholder for a command, without importing it."""
        entry = COMMANDS.get(cmd_name) or TOPICS.get(cmd_name)
        return entry and TyperCommand(cmd_name, short_help=entry.help, rich_help_panel=entry.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(name or ""), ["--help"] if name in TOPICS else rest


def _current_shell() -> str:
    try:
        return str(shellingham.detect_shell()[0])
    except shellingham.ShellDetectionFailure:
        return ""


def _complete(ctx: typer.Context, param: typer.CallbackParam, shell: str | None) -> None:
    """Install or print the completion of a shell."""
    if shell is None or ctx.resilient_parsing:
        return
    if shell not in _SHELLS:
        problem = f"unknown shell {shell!r}" if shell else "the current shell is unknown"
        raise SettingsError(f"{param.opts[0]}: {problem}", advice=f"Name one of {', '.join(_SHELLS)}.")
    (completion.install_callback if param.name == "install" else completion.show_callback)(ctx, param, shell)


def _be_quiet(value: bool) -> None:  # noqa: FBT001 - Typer calls it
    output.is_quiet = value


def _log_steps(value: bool) -> None:  # noqa: FBT001 - Typer calls it
    if value:
        from rmqkit.cli import log  # noqa: PLC0415 - start-up time

        log.write(steps=True)


def _log_as(value: LogFormat) -> None:
    if os.environ.get(output.LOG_FORMAT, LogFormat.TEXT.value) != value.value:
        os.environ[output.LOG_FORMAT] = value.value  # worker processes inherit it
    if value is LogFormat.JSON:
        from rmqkit.cli import log  # noqa: PLC0415 - start-up time

        log.write(steps=False)


def _print_version(value: bool) -> None:  # noqa: FBT001 - Typer calls it
    if value:
        typer.echo(f"rmqkit {VERSION}")
        raise typer.Exit


app = typer.Typer(
    name="rmqkit",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    **SETTINGS,
)
EXAMPLES = ("rmqkit broker start", "rmqkit apply topologies/work.yaml", "rmqkit publish --count 100000")


@app.callback(
    help="A messaging toolkit for RabbitMQ: apply topologies, publish and consume without losing messages.\n\n"
    "`rmqkit help COMMAND` explains a command, `rmqkit help connection` how commands find the broker.",
    epilog="\n".join(EXAMPLES),
)
def rmqkit(
    *,
    _: Annotated[
        bool, typer.Option("-V", "--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "-q", "--quiet", help="Print only results, warnings and errors.", callback=_be_quiet, is_eager=True
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Log connections and HTTP requests.", callback=_log_steps, is_eager=True),
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            "--log-format",
            help="Format of notes, warnings, errors and the log: text, or JSON with one object per line."
            f" [default: {output.LOG_FORMAT}, or text]",
            envvar=output.LOG_FORMAT,
            show_envvar=False,
            show_default=False,
            callback=_log_as,
            is_eager=True,
        ),
    ] = LogFormat.TEXT,
    install: Annotated[
        str | None,
        typer.Option(
            "--install-completion",
            metavar="[SHELL]",
            help="Install completion for bash, zsh, fish or powershell. [default: the current shell]",
            callback=_complete,
            is_eager=True,
        ),
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="[SHELL]",
            help="Print the completion script.",
            callback=_complete,
            is_eager=True,
        ),
    ] = None,
) -> None:
    """Take the options that come before a command."""


def main() -> None:
    """Run the command line and exit."""
    output.write_utf8()
    words = argv.normalize(sys.argv[1:], lambda: load("connection").params)
    sys.exit(error_output.run(lambda: typer.main.get_command(app)(words, prog_name="rmqkit"), words))
