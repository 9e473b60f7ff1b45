"""`rmqkit broker`: a private RabbitMQ for this user, a single node or a cluster."""

import os
import signal
from dataclasses import asdict
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from rmqkit.address import API_PORTS, PORTS
from rmqkit.cli import output
from rmqkit.cli.app import SETTINGS
from rmqkit.cli.options import option
from rmqkit.errors import NodeError
from rmqkit.exit_codes import DONE, PARTLY_DONE, SIGNALLED, UNREACHABLE
from rmqkit.node.cluster import Cluster, ClusterStatus, last_started
from rmqkit.node.node import START_S, Node, NodeStatus

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Start and stop a private RabbitMQ: without root, on loopback only, with its data in your state folder.",
    **SETTINGS,
)
_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
_START = "Start it with `rmqkit broker start`."


@app.command(
    epilog="rmqkit broker start --port 5673\nrmqkit broker start --nodes 3\n"
    "rmqkit broker start --rabbitmq ~/rabbitmq_server-4.3.6"
)
def start(
    port: Annotated[
        int | None,
        option(
            "--port PORT",
            "AMQP port; 0 for any free one. [default: the last one, 5672, or a free one]",
            min=0,
            max=65535,
        ),
    ] = None,
    nodes: Annotated[
        int | None, option("--nodes N", "1, or 3, 5 or 7 for a cluster. [default: as last time, or 1]", min=1, max=7)
    ] = None,
    timeout: Annotated[float, option("--timeout SECONDS", "How long to wait for logins.", min=1)] = START_S,
    rabbitmq: Annotated[
        str | None,
        option(
            "--rabbitmq DIR",
            "Folder of the RabbitMQ to start, with its scripts in sbin. [default: RMQKIT_RABBITMQ,"
            " the last one started, or the installed one]",
        ),
    ] = None,
) -> None:
    """Start the node, or the stopped nodes of a cluster, and wait until it accepts logins.

    The other nodes of a cluster use the ports that follow; each node has its own folder, as on separate machines.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    broker = _chosen(nodes)
    if rabbitmq is not None and any(node.pid for node in broker.nodes):
        advice = "To start another RabbitMQ, stop it with `rmqkit broker stop`."
        raise NodeError("the node is already running", advice=advice)
    before = [node.pid for node in broker.nodes]
    if isinstance(broker, Cluster):
        broker.start(nodes, port, timeout, rabbitmq or "")
    else:
        broker.start(port, timeout, rabbitmq or "")
    if before == [node.pid for node in broker.nodes]:
        output.note(f"The {'cluster' if isinstance(broker, Cluster) else 'node'} is already running.")
    _show(broker.status())
    first = broker.nodes[0].status()
    if first.port != PORTS["amqp"] or urlsplit(first.management_url).port != API_PORTS["http"]:
        output.note('\nTo use it in this shell:  eval "$(rmqkit broker env)"')


def _chosen(nodes: int | None) -> Node | Cluster:
    if nodes is not None and nodes % 2 == 0:
        raise typer.BadParameter(
            "--nodes must be odd (1, 3, 5 or 7): an even-sized cluster tolerates no more failures than the next smaller"
            " odd one"
        )
    last = last_started()
    broker = last if nodes is None else Node() if nodes == 1 else Cluster()
    if type(broker) is not type(last) and any(node.pid for node in last.nodes):
        raise NodeError(
            f"your {'cluster' if isinstance(last, Cluster) else 'single node'} is running",
            advice="Stop it with `rmqkit broker stop`.",
        )
    return broker


@app.command(epilog="rmqkit broker stop && rmqkit broker start   (restarts it; its data is kept)")
def stop() -> None:
    """Stop the node, or all nodes of the cluster; their queues and messages are kept."""
    broker = last_started()
    if any(node.pid for node in broker.nodes):
        output.note("Stopping; this takes a few seconds.")
    output.note("Stopped." if broker.stop() else "No node is running.")


@app.command(epilog="rmqkit broker status --json")
def status(
    *,
    as_json: Annotated[bool, option("--json", "Print the status as JSON.")] = False,
) -> None:
    """Show whether the node, or each node of a cluster, is running, and where.

    The exit code is 0 if it is running, 4 if it is not, and 3 if only some nodes of a cluster are.
    """
    broker = last_started()
    now = broker.status()
    if as_json:
        output.out_json(_as_json(now))
    else:
        _show(now)
    some = any(node.pid for node in broker.nodes)
    raise typer.Exit(DONE if now.running else PARTLY_DONE if some else UNREACHABLE)


@app.command(epilog="rmqkit broker logs -n 100 --follow")
def logs(
    lines: Annotated[int, option("-n --lines N", "Number of lines.", min=0)] = 50,
    *,
    follow: Annotated[bool, option("-f --follow", "Print new lines as they are logged.")] = False,
) -> None:
    """Print the last lines of the log of the node, or of each node of a cluster."""
    found = [str(node.log) for node in last_started().nodes if node.log.exists()]
    if not found:
        raise NodeError("the node has no log: it has never been started", advice=_START)
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), *found])  # noqa: S606, S607 - no shell


@app.command(epilog='eval "$(rmqkit broker env)"')
def env() -> None:
    """Print the shell command that sets RMQKIT_URL (to all nodes of a cluster) and RMQKIT_API_URL."""
    api_url = _running().status().management_url.rstrip("/")
    output.out(f"export RMQKIT_URL={last_started().url} RMQKIT_API_URL={api_url}")


@app.command(
    epilog="rmqkit broker ctl list_queues name messages\nrmqkit broker ctl -n rmqkit-2@127.0.0.1 cluster_status",
    context_settings=_PASS_ON,
)
def ctl(
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments of rabbitmqctl.")] = None,
) -> None:
    """Run rabbitmqctl on the node, or on the first running node of a cluster, and exit with its code."""
    raise typer.Exit(_running().ctl(*(arguments or ()), capture=False).returncode)


def _running() -> Node:
    """Return the first node that is running."""
    for node in last_started().nodes:
        if node.pid:
            return node
    raise NodeError("the node is not running", advice=_START)


def _show(now: NodeStatus | ClusterStatus) -> None:
    if isinstance(now, ClusterStatus):
        nodes = [(node.name, _state(node), str(node.port), node.management_url) for node in now.nodes]
        output.out(output.table(nodes, header=("node", "status", "port", "management (guest, guest)")))
        output.out(f"\nData and logs: {now.folder}")
        return
    rows = {
        "status": _state(now),
        "version": f"RabbitMQ {now.version}" if now.version else "",
        "url": now.url,
        "management": f"{now.management_url}  (guest, guest)" if now.management_url else "",
        "data": now.folder,
        "log": now.log,
    }
    for name, value in rows.items():
        if value:
            output.out(f"{name:<12}{value}")


def _state(node: NodeStatus) -> str:
    return f"running, process {node.pid}" if node.running else "not running"


def _as_json(now: NodeStatus | ClusterStatus) -> Any:
    if isinstance(now, ClusterStatus):
        return asdict(now) | {"folder": str(now.folder), "nodes": [_as_json(node) for node in now.nodes]}
    return asdict(now) | {"folder": str(now.folder), "log": str(now.log)}


def _exit(number: int, _frame: object) -> NoReturn:
    raise SystemExit(SIGNALLED + number)
