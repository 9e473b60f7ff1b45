"""The benchmark of completion: names of a local broker with 1,000 queues, of a file, and of a broker that is away.

    python -m tests.benchmarks.completion [--quick] [--write docs/performance.md]

Each run is a process, as a shell starts it for the Tab key. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import rmqkit
from rmqkit.model import Queue, Topology
from tests.benchmarks.benchmark import BenchmarkNode, main, medians, run_in_turns
from tests.benchmarks.clients import RMQKIT
from tests.benchmarks.results import Requirement, require_most

QUEUES = 1000
MOST_MS = 150.0
RUNS = 5  # in each round
ORDERS = Path(__file__).parents[2] / "topologies" / "topics.yaml"


@dataclass(frozen=True)
class Contestant:
    """A line whose last word is completed, and other variables."""

    name: str
    line: str
    api_url: str = ""

    def __str__(self) -> str:
        return self.name


PYTHON = Contestant("`python -c pass`", "")
CONTESTANTS = (
    PYTHON,
    Contestant("queues of a local broker", "rmqkit consume queue.0"),
    Contestant("exchanges of a local broker", "rmqkit publish -e amq."),
    Contestant("virtual hosts of a local broker", "rmqkit status --vhost "),
    Contestant("routing keys of a file", f"rmqkit route {ORDERS} -r "),
    Contestant("queues of a broker that is away", "rmqkit consume queue.0", "http://127.0.0.1:1"),
)


def run(each: Contestant, node: BenchmarkNode) -> float:
    """Return the shortest of some runs, in milliseconds: the shell's user waits for one process on a quiet machine."""
    env = node.env | {"RMQKIT_API_URL": each.api_url or node.status.management_url, "_RMQKIT_COMPLETE": "complete_bash"}
    env |= {"COMP_WORDS": each.line, "COMP_CWORD": str(len(each.line.split(" ")) - 1)}
    command = [RMQKIT] if each.line else [sys.executable, "-c", "pass"]
    seconds = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - begun)
        if bool(done.stdout.split()) == (bool(each.api_url) or not each.line):
            sys.exit(f"{each}: {done.stdout!r}{done.stderr}")
    return min(seconds) * 1000


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    os.environ.pop("RMQKIT_CONTEXT", None)
    with rmqkit.connect(node.url) as connection:
        connection.apply(Topology(queues=tuple(Queue(f"queue.{number:04}") for number in range(QUEUES))))
    found = run_in_turns(CONTESTANTS, node.rounds, lambda each: run(each, node), " ms")
    median = medians(found)
    table = [f"| completion, {QUEUES:,} queues | median ms | fastest to slowest ms |", "|---|---:|---:|"]
    rows = [f"| {each} | {median[each]:.0f} | {min(some):.0f} to {max(some):.0f} |" for each, some in found.items()]
    return [*table, *rows], [require_most(str(each), median[each], MOST_MS, "ms") for each in CONTESTANTS[1:]]


if __name__ == "__main__":
    sys.exit(main(measure_all, "Complete names of a broker and of a file.", "one round"))
