"""`rmqkit broker`: a private RabbitMQ for this user, one node or a cluster of several."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from typing import Annotated, Any, NoReturn

import typer

from rmqkit.cli import output
from rmqkit.cli.app import SETTINGS
from rmqkit.errors import NodeError
from rmqkit.exit_codes import DONE, PARTLY_DONE, SIGNALLED, UNREACHABLE
from rmqkit.node.cluster import Cluster, ClusterStatus, last_started
from rmqkit.node.node import Node, NodeStatus

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Start and stop a private RabbitMQ: no root needed, loopback only, its data kept in your state folder.",
    **SETTINGS,
)
_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
_START = "Start it: `rmqkit broker start`."


@app.command(epilog="rmqkit broker start --port 5673\nrmqkit broker start --nodes 3")
def start(
    port: Annotated[
        int | None,
        typer.Option(help="AMQP port; else the last one, 5672, or a free one. 0: any free one.", min=0, max=65535),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(help="How many: 1, or a cluster of 3, 5 or 7; else as many as last time.", min=1, max=7),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait until it accepts logins: 60, or 120 for a cluster.", min=1)
    ] = None,
) -> None:
    """Start the node, or the nodes of a cluster that do not run, and wait until it accepts logins.

    A cluster's further nodes have the ports that follow; each has its own folder, as a machine of its own would.
    """
    signal.signal(signal.SIGTERM, _give_up)
    broker = _chosen(nodes)
    before = [node.pid for node in broker.nodes]
    limits: dict[str, Any] = {} if timeout is None else {"timeout_s": timeout}
    if isinstance(broker, Cluster):
        broker.start(nodes, port, **limits)
    else:
        broker.start(port, **limits)
    if before == [node.pid for node in broker.nodes]:
        output.note(f"The {'cluster' if isinstance(broker, Cluster) else 'node'} runs already.")
    _show(broker.status())
    if broker.nodes[0].status().port != 5672:  # noqa: PLR2004 - AMQP's own port, where rmqkit looks by itself
        output.note('\nLet rmqkit find it in this shell:  eval "$(rmqkit broker env)"')


def _chosen(nodes: int | None) -> Node | Cluster:
    if nodes is not None and nodes % 2 == 0:
        raise typer.BadParameter("an odd number: more than half must agree, and one more node adds none that may fail")
    last = last_started()
    broker = last if nodes is None else Node() if nodes == 1 else Cluster()
    if type(broker) is not type(last) and any(node.pid for node in last.nodes):
        raise NodeError(
            f"your {'cluster' if isinstance(last, Cluster) else 'single node'} runs",
            advice="Stop it: `rmqkit broker stop`.",
        )
    return broker


@app.command(epilog="rmqkit broker stop && rmqkit broker start   (restarts it; its data is kept)")
def stop() -> None:
    """Stop the node, or all nodes of the cluster; their queues and messages are kept."""
    broker = last_started()
    if any(node.pid for node in broker.nodes):
        output.note("Stopping; this takes a few seconds.")
    output.note("Stopped." if broker.stop() else "No node runs.")


@app.command(epilog="rmqkit broker status --json")
def status(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say whether the node runs, and where; of a cluster, each node.

    The exit code is 0 when it runs, 4 when it does not, and 3 when some nodes of a cluster do.
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
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many of the last lines.", min=0)] = 50,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is logged from now on.")] = False,
) -> None:
    """Print the end of the node's log; of a cluster, of each."""
    found = [str(node.log) for node in last_started().nodes if node.log.exists()]
    if not found:
        raise NodeError("the node has no log: it was never started", advice=_START)
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), *found])  # noqa: S606, S607 - no shell


@app.command(epilog='eval "$(rmqkit broker env)"')
def env() -> None:
    """Print the shell line that sets RMQKIT_URL, to all nodes of a cluster, and RMQKIT_API_URL."""
    api_url = _running().status().management_url.rstrip("/")
    output.out(f"export RMQKIT_URL={last_started().url} RMQKIT_API_URL={api_url}")


@app.command(
    epilog="rmqkit broker ctl list_queues name messages\nrmqkit broker ctl -n rmqkit-2@127.0.0.1 cluster_status",
    context_settings=_PASS_ON,
)
def ctl(
    arguments: Annotated[list[str] | None, typer.Argument(help="What rabbitmqctl understands.")] = None,
) -> None:
    """Run rabbitmqctl for the node, or the first of a cluster that runs, with its exit code."""
    raise typer.Exit(_running().ctl(*(arguments or ()), capture=False).returncode)


def _running() -> Node:
    """Return the node, or the first of a cluster, that runs."""
    for node in last_started().nodes:
        if node.pid:
            return node
    raise NodeError("the node does not run", advice=_START)


def _show(now: NodeStatus | ClusterStatus) -> None:
    if isinstance(now, ClusterStatus):
        _show_cluster(now)
        return
    rows = {
        "status": f"running, process {now.pid}" if now.running else "not running",
        "version": f"RabbitMQ {now.version}" if now.version else "",
        "url": now.url,
        "management": f"{now.management_url}  (guest, guest)" if now.management_url else "",
        "data": now.folder,
        "log": now.log,
    }
    for name, value in rows.items():
        if value:
            output.out(f"{name:<12}{value}")


def _show_cluster(now: ClusterStatus) -> None:
    rows = [
        (
            node.name,
            f"running, process {node.pid}" if node.running else "not running",
            str(node.port),
            node.management_url,
        )
        for node in now.nodes
    ]
    output.out(output.table(rows, header=("node", "status", "port", "management (guest, guest)")))
    output.out(f"\nData and logs: {now.folder}")


def _as_json(now: NodeStatus | ClusterStatus) -> Any:
    paths = {"folder": str(now.folder)}
    if isinstance(now, ClusterStatus):
        return asdict(now) | paths | {"nodes": [_as_json(node) for node in now.nodes]}
    return asdict(now) | paths | {"log": str(now.log)}


def _give_up(number: int, _frame: object) -> NoReturn:
    raise SystemExit(SIGNALLED + number)
