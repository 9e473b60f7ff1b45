"""Private nodes that tests kill, freeze and restart."""

from __future__ import annotations

import shutil
import subprocess
import time

from rmqkit.node import installation
from rmqkit.node.faults import SYNC
from rmqkit.node.node import Node


def evaluate(node: Node, expression: str) -> str:
    """Evaluate an Erlang expression on a node; return the result as Erlang prints it.

    Erlang's own `erl_call` takes a hundredth of the time of `rabbitmqctl`, which starts a node to ask another one.
    """
    if not (erl_call := shutil.which("erl_call")):
        done = node.ctl("-q", "eval", f"{expression}.")
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout.strip()
    env = installation.environment(node.folder, node._identity, node._load_state().ports)
    command = [erl_call, "-name", env["RABBITMQ_NODENAME"], "-e"]
    done = subprocess.run(command, input=f"{expression}.\n", env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("{ok, "), done.stderr or done.stdout
    return done.stdout.removeprefix("{ok, ").removesuffix("}")


def wait_until_on_disk(node: Node) -> None:
    """Wait until everything declared on a node, and confirmed by its queues, survives `kill -9`."""
    assert evaluate(node, SYNC) == "ok"


def kill_and_restart(node: Node) -> None:
    """Kill a node with `kill -9`, and start it again."""
    node.kill()
    node.start()


def freeze(node: Node, seconds: float) -> None:
    """Stop a node's process for some seconds; its connections stay open."""
    with node.frozen():
        time.sleep(seconds)
