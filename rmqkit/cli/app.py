"""The `rmqkit` command: a table of commands, each imported only when it is called."""

import logging
import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import shellingham  # type: ignore[import-untyped]
import typer
from typer import completion
from typer.core import TyperCommand
from typer.exceptions import TyperException

from rmqkit.cli import argv, error_output, output
from rmqkit.cli.help import Command, Group, Topic, usage_error
from rmqkit.errors import SettingsError
from rmqkit.version import VERSION

_SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


class CommandEntry(NamedTuple):
    """One command: `module:attribute` (a function, or a Typer with subcommands) and its help."""

    target: str
    help: str
    panel: str
    examples: tuple[str, ...]


# By panel and name: the help of each command, then its examples.
_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "Topologies": {
        "init": (
            "Write a topology that is shipped with rmqkit into a folder, as a start for your own.",
            "rmqkit init",
            "rmqkit init work",
            "rmqkit init orders shop --force",
        ),
        "validate": (
            "Check topology files for errors and suspicious declarations.",
            "rmqkit validate topologies/work.yaml",
            "rmqkit validate --strict orders.yaml audit.yaml",
        ),
        "route": (
            "Show which queues a message would reach, and what happens to it there.",
            "rmqkit route topologies/topics.yaml -e orders -r order.eu.paid",
            "rmqkit route topologies/headers.yaml -e documents -H format=pdf -H pages:=1",
        ),
        "test": (
            "Check that messages reach the queues that scenario files expect.",
            "rmqkit test topologies/topics.test.yaml",
            "rmqkit test --live --junit results.xml topologies/*.test.yaml",
        ),
        "plan": (
            "Show what applying topology files would change, and change nothing.",
            "rmqkit plan orders.yaml",
            "rmqkit plan --detailed-exit-code orders.yaml audit.yaml",
        ),
        "apply": (
            "Declare the exchanges, queues, bindings and policies of topology files.",
            "rmqkit apply topologies/work.yaml",
            "rmqkit apply --dry-run orders.yaml audit.yaml",
        ),
        "graph": (
            "Draw a topology as a tree, Mermaid, DOT or SVG.",
            "rmqkit graph topologies/topics.yaml",
            "rmqkit graph orders.yaml -o orders.svg",
        ),
        "convert": (
            "Convert RabbitMQ definitions to a topology file, or back.",
            "rmqkit convert definitions.json orders.yaml --vhost shop",
            "rmqkit convert orders.yaml orders.json",
        ),
        "destroy": (
            "Delete the entities that topology files declare, unless they are in use.",
            "rmqkit destroy --dry-run orders.yaml",
            "rmqkit destroy orders.yaml",
        ),
        "delete": (
            "Delete a queue, an exchange or bindings; show first what would go with them.",
            "rmqkit delete queue old_orders --if-empty",
            "rmqkit delete exchange old_orders --dry-run",
            "rmqkit delete binding orders billing -r order.eu.paid --yes",
        ),
        "export": (
            "Export a virtual host as a topology file, or as RabbitMQ definitions.",
            "rmqkit export -o live.yaml",
            "rmqkit export --format definitions --vhost shop -o shop.json",
        ),
        "diff": (
            "Compare two topologies: files, definitions or live brokers; or two snapshots of queues.",
            "rmqkit diff orders.yaml amqp://localhost/shop",
            "rmqkit diff staging.json production.json --vhost shop",
            "rmqkit diff before.jsonl.gz after.jsonl.gz",
        ),
        "status": (
            "Show the depth, consumers and message rates of queues.",
            "rmqkit status",
            "rmqkit status orders.yaml --watch",
            "rmqkit status 'orders.*' --sort name",
        ),
        "why": (
            "Explain why the messages of a queue wait, with the next command.",
            "rmqkit why orders",
        ),
        "check": (
            "Check that a broker is well: for probes, cron and monitoring.",
            "rmqkit check orders.yaml",
            "rmqkit check --queue 'orders.*' --max-ready 1000 --min-consumers 1 --max-age 5m",
            "rmqkit check --nagios",
        ),
        "connections": (
            "Show the connections of clients, or close one.",
            "rmqkit connections",
            "rmqkit connections 'billing*' --all-vhosts",
            "rmqkit connections --close 'billing worker' --reason 'stuck since 9:40'",
        ),
        "consumers": (
            "Show the consumers of a queue, and what they hold.",
            "rmqkit consumers orders",
        ),
        "wait": (
            "Wait until a queue is empty, or has so many consumers or ready messages.",
            "rmqkit wait orders --empty --timeout 300",
            "rmqkit wait orders --consumers 3 && deploy-next-service",
            "rmqkit wait orders --consumers 0",
        ),
        "schema": (
            "Print the JSON Schema of topology files, for editors.",
            "rmqkit schema > topology.schema.json",
            "rmqkit schema scenarios > scenarios.schema.json",
        ),
    },
    "Messages": {
        "publish": (
            "Publish messages, persistent and confirmed.",
            "rmqkit publish --count 100000",
            'rmqkit publish worker_queue "hello"',
            "rmqkit publish -e orders -r order.eu.paid --lines orders.jsonl",
        ),
        "consume": (
            "Consume a queue: print, save, forward, run a command or call a function, then acknowledge.",
            "rmqkit consume worker_queue",
            "rmqkit consume worker_queue --workers 3 --idle-timeout 5",
            "rmqkit consume orders --exec './bill --now' --concurrency 4 --timeout 60",
            "rmqkit consume events --offset first --idle-timeout 1",
        ),
        "subscribe": (
            "Print the messages that an exchange routes, through a temporary or a durable queue.",
            "rmqkit subscribe news",
            "rmqkit subscribe orders -r 'order.eu.#' -r 'order.*.paid'",
            "rmqkit subscribe documents -H format=pdf -H urgent:=true --match any",
            "rmqkit subscribe letters --durable mailbox_ada",
        ),
        "unsubscribe": (
            "Delete the queue of a durable subscription.",
            "rmqkit unsubscribe mailbox_ada",
            "rmqkit unsubscribe mailbox_ada --force",
        ),
        "peek": (
            "Show the messages of a queue, and leave them there, in their order.",
            "rmqkit peek orders",
            "rmqkit peek parked --filter 'death.reason == \"expired\"' --full",
            "rmqkit peek events --offset last --format json",
        ),
        "snapshot": (
            "Save the messages of a queue in a file, and leave them there.",
            "rmqkit snapshot orders orders.jsonl.gz",
            "rmqkit snapshot events events.jsonl.zst --limit 1000000",
        ),
        "restore": (
            "Publish the messages of a snapshot again.",
            "rmqkit restore orders.jsonl.gz --queue orders",
            "rmqkit restore orders.jsonl --to-origin --resume orders.state",
        ),
        "move": (
            "Move messages: replay a dead-letter queue, or drain one queue into another.",
            "rmqkit move parked --dry-run",
            "rmqkit move parked --filter 'death.reason == \"rejected\" and death.age < 3600' --rate 100",
            "rmqkit move old_orders --to-queue orders",
            "rmqkit move orders --to-url amqps://new.example.com/shop",
        ),
        "copy": (
            "Copy the messages of a queue to another queue, exchange or broker, and leave them there.",
            "rmqkit copy orders --to-queue orders_test",
            "rmqkit copy orders --to-url amqp://localhost/test -n 1000",
        ),
        "purge": (
            "Delete the messages of a queue, or those that match a filter.",
            "rmqkit purge parked",
            "rmqkit purge parked --filter 'death.age > 86400' --yes",
        ),
        "call": (
            "Send requests to a server, and print its replies.",
            'rmqkit call rpc_requests "21"',
            "rmqkit call rpc_requests -f picture.jpg -o smaller.jpg --timeout 60",
            "rmqkit call rpc_requests --lines numbers.txt --window 100",
        ),
        "serve": (
            "Answer requests with a command or a Python function.",
            "rmqkit serve rpc_requests --exec 'jq .number*2' --format json",
            "rmqkit serve rpc_requests --handler accounts:balance --concurrency 4",
            "rmqkit serve pictures --exec 'convert - -resize 50% -' --content-type image/jpeg --timeout 30",
        ),
    },
    "Brokers": {
        "context": (
            "Name brokers: `--context NAME` stands for URLs, a login and TLS files.",
            "rmqkit context add prod amqps://ada@rabbit.example --password-command 'pass show rabbit' --protected",
            "rmqkit context use prod",
            "rmqkit context show",
        ),
        "broker": (
            "Start and stop a private RabbitMQ node or cluster, on loopback only.",
            "rmqkit broker start",
            'eval "$(rmqkit broker env)"',
        ),
        "demo": (
            "Demonstrate a messaging pattern on a private broker, and count lost messages.",
            "rmqkit demo",
            "rmqkit demo topics",
            "rmqkit demo rpc --count 1000 --workers 5",
        ),
    },
}
_TARGETS = {
    "test": "test:run",
    "unsubscribe": "subscribe:unsubscribe",
    "copy": "move:copy",
    "consumers": "connections:consumers",
}
_TARGETS |= {name: f"{name}:app" for name in ("broker", "context", "delete")}  # with subcommands
COMMANDS = {
    name: CommandEntry(f"rmqkit.cli.commands.{_TARGETS.get(name, f'{name}:{name}')}", summary, panel, tuple(examples))
    for panel, commands in _TABLE.items()
    for name, (summary, *examples) in commands.items()
}
TOPICS: dict[str, CommandEntry] = {
    "connection": CommandEntry(
        "rmqkit.cli.options:connection",
        "The options of commands that connect to a broker.",
        "",
        (
            "rmqkit status --url amqps://ada@broker.example.com/shop --password-prompt",
            "rmqkit publish --url amqp://node1,amqp://node2 --count 1000",
        ),
    ),
}
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
        """Return a stand-in for a command, without importing it."""
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
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger = logging.getLogger("rmqkit")
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)


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
