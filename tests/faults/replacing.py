"""Replace what conflicts with a topology, as `rmqkit apply --replace` does; as a program, until it kills itself.

    python -m tests.faults.replacing URL STEP QUEUE EXCHANGE KEY ARGUMENTS

replaces a queue, and is gone with `kill -9` at the beginning of that step, counted from 1.
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

from rmqkit.broker.link import Link
from rmqkit.broker.probing import Looker
from rmqkit.broker.replace import Replaced, replace, unfinished
from rmqkit.broker.site import Pauses
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.report import Outcome
from rmqkit.settings import load_settings

SHORT = Pauses(on_disk_s=0.05, stale_s=0.2, quiet_s=0.2)  # where the broker is not killed
ROOT = Path(__file__).parents[2]


@contextmanager
def links(url: str) -> Iterator[tuple[Link, Link]]:
    pair = Link(load_settings((url,)), "consumer"), Link(load_settings((url,)), "publisher")
    try:
        yield pair
    finally:
        for link in pair:
            link.close()


def replaced(url: str, topology: Topology, *, pauses: Pauses = SHORT, **options: Any) -> tuple[Replaced, ...]:
    """Replace whatever conflicts with a topology, and finish what was begun."""
    with links(url) as (consuming, publishing):
        with Looker(consuming) as looker:
            steps = [looker.look(each) for each in (*topology.exchanges, *topology.queues)]
        conflicts = [each for each in steps if each.outcome is Outcome.CONFLICT]
        return replace(consuming, publishing, topology, conflicts, pauses=pauses, **options)


def bound_queue(queue: str, exchange: str, key: str, arguments: dict[str, Any]) -> Topology:
    """Return a queue with one binding, as a topology."""
    binding = Binding(exchange, queue, routing_key=key)
    return Topology(queues=(Queue(queue, arguments=arguments),), bindings=(binding,))


def left_over(url: str, name: str) -> list[str]:
    """Return what a replacement left on the virtual host: nothing, once it is finished."""
    parts = ("way", "turn", "out", "back", "kept", "came", "trial", "gate")
    names = [*(f"{name}.rmqkit.{part}" for part in parts), "rmqkit.replacing"]
    with links(url) as (link, _), Looker(link) as looker:
        return [f"{noun.__name__} {each}" for each in names for noun in (Exchange, Queue) if looker.answer(noun(each))]


def is_begun(url: str, topology: Topology) -> bool:
    with links(url) as (link, _):
        return bool(unfinished(link, topology))


def killed_at(step: int, url: str, queue: str, exchange: str, key: str, arguments: dict[str, Any]) -> bool:
    """Let a process replace a queue, which kills itself at a step; tell whether it came so far."""
    command = [sys.executable, "-m", __name__, url, str(step), queue, exchange, key, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def _main() -> None:
    url, step, queue, exchange, key, arguments = sys.argv[1:]
    left = int(step)

    def count_down(_what: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    replaced(url, bound_queue(queue, exchange, key, json.loads(arguments)), on_step=count_down)


if __name__ == "__main__":
    _main()
