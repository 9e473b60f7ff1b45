"""Replace conflicting entities as `rmqkit apply --replace` does; as a program, kill itself at a step.

    python -m tests.support.replace_process URL STEP QUEUE ARGUMENTS

replaces a queue, and kills itself with `kill -9` at the beginning of that step, counted from 1.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika

from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy.replace.replace import replace, unfinished
from rmqkit.deploy.replace.session import Pauses, ReplaceResult
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.plan import Outcome
from rmqkit.settings import load_settings

SHORT = Pauses(on_disk_s=0.0, stale_s=0.15, quiet_s=0.15)  # where the broker is not killed
EXCHANGE, KEY = "amq.topic", "a.b"  # of every queue's binding
ROOT = Path(__file__).parents[2]


@contextmanager
def links(url: str) -> Iterator[tuple[ReconnectingConnection, ReconnectingConnection]]:
    pair = (
        ReconnectingConnection(load_settings((url,)), "consumer"),
        ReconnectingConnection(load_settings((url,)), "publisher"),
    )
    try:
        yield pair
    finally:
        for link in pair:
            link.close()


def replaced(url: str, topology: Topology, *, pauses: Pauses = SHORT, **options: Any) -> tuple[ReplaceResult, ...]:
    """Replace the entities that conflict with a topology, and finish interrupted replacements."""
    with links(url) as (consuming, publishing):
        with EntityInspector(consuming) as looker:
            entities: tuple[Exchange | Queue, ...] = (*topology.exchanges, *topology.queues)
            steps = [looker.compare(each) for each in entities]
        conflicts = [each for each in steps if each.outcome is Outcome.CONFLICT]
        return replace(consuming, publishing, topology, conflicts, pauses=pauses, **options)


def bound_queue(queue: str, arguments: dict[str, Any]) -> Topology:
    """Return a queue with one binding, as a topology."""
    binding = Binding(EXCHANGE, queue, routing_key=KEY)
    return Topology(queues=(Queue(queue, arguments=arguments),), bindings=(binding,))


def bind(url: str, queue: str) -> None:
    """Bind a queue with plain pika."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_bind(queue, EXCHANGE, KEY)


def left_over(url: str, name: str) -> list[str]:
    """Return what a replacement left on the virtual host; nothing once it is finished."""
    parts = ("ingress", "overflow", "drain", "refill", "old-messages", "new-messages", "trial", "temporary")
    names = [*(f"{name}.rmqkit.{part}" for part in parts), "rmqkit.replacing"]
    with links(url) as (link, _), EntityInspector(link) as looker:
        return [
            f"{noun.__name__} {each}"
            for each in names
            for noun in (Exchange, Queue)
            if looker.passive_declare(noun(each))
        ]


def is_begun(url: str, topology: Topology) -> bool:
    with links(url) as (link, _):
        return bool(unfinished(link, topology))


def killed_at(step: int, url: str, queue: str, arguments: dict[str, Any]) -> bool:
    """Run a process that replaces a queue and kills itself at a step; report whether it reached the step."""
    with start(url, queue, arguments, step) as process:
        _, errors = process.communicate(timeout=90)
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


def start(url: str, queue: str, arguments: dict[str, Any], step: int = 0) -> subprocess.Popen[str]:
    """Start a process that replaces a queue."""
    command = [sys.executable, "-m", __name__, url, str(step), queue, json.dumps(arguments)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def waiting(url: str, queue: str) -> int:
    """Return the number of ready messages in a queue; 0 if it does not exist."""
    with links(url) as (link, _), EntityInspector(link) as looker:
        answer = looker.passive_declare(Queue(queue))
        return answer.message_count if answer else 0


def _main() -> None:
    url, step, queue, arguments = sys.argv[1:]
    left = int(step)

    def count_down(_what: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    replaced(url, bound_queue(queue, json.loads(arguments)), on_step=count_down)


if __name__ == "__main__":
    _main()
