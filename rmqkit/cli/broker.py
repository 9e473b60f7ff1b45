"""`rmqkit broker`: a private RabbitMQ node for this user.

Comes in: a subcommand. Goes out: one call of `rmqkit.node.Node`, and what it says. Room: cli.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict
from typing import Annotated, NoReturn

import typer

from rmqkit.cli.app import SETTINGS
from rmqkit.errors import NodeError
from rmqkit.exit_codes import SIGNALLED, UNREACHABLE
from rmqkit.node import Node, NodeStatus

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Start and stop a private RabbitMQ node: no root needed, loopback only, its data kept in your state folder.",
    **SETTINGS,
)
_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


@app.command(epilog="rmqkit broker start --port 5673")
def start(
    port: Annotated[
        int | None,
        typer.Option(help="AMQP port; else the last one, 5672, or a free one. 0: any free one.", min=0, max=65535),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until it accepts logins.", min=1)] = 60,
) -> None:
    """Start the node and wait until it accepts logins."""
    signal.signal(signal.SIGTERM, _give_up)
    node = Node()
    before = node.pid
    status = node.start(port, timeout)
    if status.pid == before:
        typer.echo("The node runs already.", err=True)
    _show(status)
    if status.port != 5672:  # noqa: PLR2004 - AMQP's own port, where rmqkit looks by itself
        typer.echo('\nLet rmqkit find it in this shell:  eval "$(rmqkit broker env)"', err=True)


@app.command(epilog="rmqkit broker stop && rmqkit broker start   (restarts it; its data is kept)")
def stop() -> None:
    """Stop the node; its queues and messages are kept."""
    node = Node()
    if node.pid:
        typer.echo("Stopping the node; this takes a few seconds.", err=True)
    typer.echo("Stopped." if node.stop() else "No node runs.", err=True)


@app.command(epilog="rmqkit broker status --json")
def status(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say whether the node runs, and where.

    The exit code is 0 when it runs and 4 when it does not.
    """
    now = Node().status()
    if as_json:
        typer.echo(json.dumps(asdict(now), default=str))
    else:
        _show(now)
    if not now.running:
        raise typer.Exit(UNREACHABLE)


@app.command(epilog="rmqkit broker logs -n 100 --follow")
def logs(
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many of the last lines.", min=0)] = 50,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is logged from now on.")] = False,
) -> None:
    """Print the end of the node's log."""
    log = Node().log
    if not log.exists():
        raise NodeError("the node has no log: it was never started", advice="Start it: `rmqkit broker start`.")
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)])  # noqa: S606, S607 - no shell


@app.command(epilog='eval "$(rmqkit broker env)"')
def env() -> None:
    """Print the shell line that sets RMQKIT_URL and RMQKIT_API_URL."""
    node = _running()
    typer.echo(f"export RMQKIT_URL={node.url} RMQKIT_API_URL={node.management_url.rstrip('/')}")


@app.command(epilog="rmqkit broker ctl list_queues name messages", context_settings=_PASS_ON)
def ctl(
    arguments: Annotated[list[str] | None, typer.Argument(help="What rabbitmqctl understands.")] = None,
) -> None:
    """Run rabbitmqctl for the node, with its exit code."""
    _running()
    raise typer.Exit(Node().ctl(*(arguments or ()), capture=False).returncode)


def _running() -> NodeStatus:
    now = Node().status()
    if not now.running:
        raise NodeError("the node does not run", advice="Start it: `rmqkit broker start`.")
    return now


def _show(node: NodeStatus) -> None:
    rows = {
        "status": f"running, process {node.pid}" if node.running else "not running",
        "version": f"RabbitMQ {node.version}" if node.version else "",
        "url": node.url,
        "management": f"{node.management_url}  (guest, guest)" if node.management_url else "",
        "data": node.folder,
        "log": node.log,
    }
    for name, value in rows.items():
        if value:
            typer.echo(f"{name:<12}{value}")


def _give_up(number: int, _frame: object) -> NoReturn:
    raise SystemExit(SIGNALLED + number)
