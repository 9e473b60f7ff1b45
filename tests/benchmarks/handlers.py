"""The benchmark of handlers: how fast `rmqkit consume` handles deliveries, compared with amqp-consume.

    python -m tests.benchmarks.handlers [--quick] [--write docs/performance.md]

Each run is a process on a full queue of one private node; the contestants take turns, in an order that
changes each round, and the queue must be empty at the end. Exits 1 if a requirement is not met. amqp-consume comes with
`amqp-tools`; where it is not installed it is left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

import rmqkit
from tests.benchmarks.benchmark import BenchmarkNode, main, medians, rate_row, require_ratio, run_in_turns
from tests.benchmarks.clients import RMQKIT
from tests.benchmarks.results import Requirement

QUEUE, TARGET = "bench", "bench.target"
FUNCTIONS = """
def nothing(delivery):
    pass
def work(delivery):  # a millisecond or so
    sum(range(50_000))
"""


@dataclass(frozen=True)
class Contestant:
    """A command in which {port}, {count} and {folder} are filled in; `whole` takes the time of the whole process."""

    name: str
    count: int
    command: tuple[str, ...]
    whole: bool = False

    def __str__(self) -> str:
        return self.name


def _consume(name: str, count: int, *how: str) -> Contestant:
    return Contestant(name, count, (RMQKIT, "consume", QUEUE, "-n", "{count}", "--json", *how))


C_CLIENT = Contestant(
    "`amqp-consume cat` (C), whole process", 2_000,
    ("amqp-consume", "--server=127.0.0.1", "--port={port}", "-q", QUEUE, "-c", "{count}", "cat"), whole=True,
)  # fmt: skip
EXEC = _consume("`--exec cat`", 2_000, "--exec", "cat")
AHEAD = _consume("`--exec cat --prefetch 100`", 2_000, "--exec", "cat", "--prefetch", "100")
EXEC_2 = _consume(
    "`--exec cat --prefetch 100 --concurrency 2`", 2_000, "--exec", "cat", "--prefetch", "100", "--concurrency", "2"
)
NOTHING = _consume("`--handler`, an empty function", 100_000, "--handler", "functions:nothing")
WORK = _consume("`--handler`, a function that computes", 8_000, "--handler", "functions:work")
WORK_2 = _consume("`--handler --workers 2`, the same function", 8_000, "--handler", "functions:work", "--workers", "2")
SAVE = _consume("`--save-to`", 5_000, "--save-to", "{folder}/saved")
FORWARD = _consume("`--to-queue`", 50_000, "--to-queue", TARGET)
CONTESTANTS = (C_CLIENT, EXEC, AHEAD, EXEC_2, NOTHING, WORK, WORK_2, SAVE, FORWARD)
# The median rate must be so many times that of the other.
RATIOS = ((EXEC_2, C_CLIENT, 1.0), (WORK_2, WORK, 1.5))
LEAST = 30_000  # messages a second to an empty function


class HandlerBenchmark:
    """A node, a folder, and a queue that is full before each run and empty after it."""

    def __init__(self, node: BenchmarkNode) -> None:
        self.url, self.folder, self.env = node.url, node.folder, node.env
        self.port = node.url.rpartition(":")[2].rstrip("/")
        (node.folder / "functions.py").write_text(FUNCTIONS)
        with rmqkit.connect(node.url) as connection:
            connection.apply(rmqkit.Topology(queues=(rmqkit.Queue(QUEUE), rmqkit.Queue(TARGET))))

    def run(self, contestant: Contestant, count: int) -> float:
        """Let a contestant do its work; return messages a second."""
        with rmqkit.connect(self.url) as connection:
            connection.publish(rmqkit.Message(b"%d" % number, QUEUE) for number in range(count))
        filled = {"port": self.port, "count": count, "folder": self.folder}
        command = [part.format(**filled) for part in contestant.command]
        begun = time.perf_counter()
        done = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, check=False)
        seconds = time.perf_counter() - begun
        with rmqkit.connect(self.url) as connection:
            left = connection.queue_state(QUEUE).ready
        if done.returncode or left:
            sys.exit(f"{' '.join(command)} left {left} messages:\n{done.stderr.decode()}")
        if not contestant.whole:
            seconds = json.loads(done.stderr[done.stderr.index(b"{") :])["seconds"]  # after warnings
        shutil.rmtree(self.folder / "saved", ignore_errors=True)
        return count / seconds


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    queue, scale = HandlerBenchmark(node), 5 if node.quick else 1
    clients = [each for each in CONTESTANTS if each is not C_CLIENT or shutil.which("amqp-consume")]
    rates = run_in_turns(clients, node.rounds, lambda each: queue.run(each, each.count // scale), "/s")
    requirements = [require_ratio(rates, *each) for each in RATIOS if each[1] in rates]
    median = medians(rates)[NOTHING]
    least = f"{LEAST:,} a second at least"
    requirements.append(Requirement(str(NOTHING), f"{median:,.0f} a second", least, median >= LEAST))
    table = ["| consume | messages | median /s | slowest to fastest /s |", "|---|---:|---:|---:|"]
    return [*table, *(rate_row(each, found, f"{each.count // scale:,}") for each, found in rates.items())], requirements


if __name__ == "__main__":
    sys.exit(main(measure_all, "Measure the handlers of `rmqkit consume`.", "one round of a fifth of the messages"))
