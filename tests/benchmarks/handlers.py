"""The benchmark of handlers: what `rmqkit consume` does with deliveries, and how fast, beside amqp-consume.

    python tests/benchmarks/handlers.py [--quick] [--write docs/performance.md]

Each run is a process of its own, on a full queue of one private node; the contestants take turns, in an order that
changes each round, and the queue must be empty at the end. Exits 1 if a requirement is not met. amqp-consume comes with
`amqp-tools`; where it is not installed it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from contestants import RMQKIT
from report import Judged, judged_table, machine, write

import rmqkit
from rmqkit.node import Node

ROUNDS = 5
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
EXEC_2 = _consume("`--exec cat --concurrency 2`", 2_000, "--exec", "cat", "--concurrency", "2")
NOTHING = _consume("`--handler`, an empty function", 100_000, "--handler", "functions:nothing")
WORK = _consume("`--handler`, a function that computes", 8_000, "--handler", "functions:work")
WORK_2 = _consume("`--handler --workers 2`, the same function", 8_000, "--handler", "functions:work", "--workers", "2")
SAVE = _consume("`--save-to`", 5_000, "--save-to", "{folder}/saved")
FORWARD = _consume("`--to-queue`", 50_000, "--to-queue", TARGET)
CONTESTANTS = (C_CLIENT, EXEC, EXEC_2, NOTHING, WORK, WORK_2, SAVE, FORWARD)
# The median rate must be so many times that of the other.
RATIOS = ((EXEC, C_CLIENT, 1.0), (WORK_2, WORK, 1.5))
LEAST = 30_000  # messages a second to an empty function

Rates = dict[Contestant, list[float]]


class Arena:
    """A node, a folder, and a queue that is full before each run and empty after it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.port = url.rpartition(":")[2].rstrip("/")
        (folder / "functions.py").write_text(FUNCTIONS)
        with rmqkit.connect(url) as connection:
            connection.apply(rmqkit.Topology(queues=(rmqkit.Queue(QUEUE), rmqkit.Queue(TARGET))))

    def run(self, contestant: Contestant, count: int) -> float:
        """Let a contestant do its work; return messages a second."""
        with rmqkit.connect(self.url) as connection:
            connection.publish(rmqkit.Message(b"%d" % number, QUEUE) for number in range(count))
        filled = {"port": self.port, "count": count, "folder": self.folder}
        command = [part.format(**filled) for part in contestant.command]
        env = os.environ | {"RMQKIT_URL": self.url, "XDG_STATE_HOME": str(self.folder)}
        begun = time.perf_counter()
        done = subprocess.run(command, env=env, cwd=self.folder, capture_output=True, check=False)
        seconds = time.perf_counter() - begun
        with rmqkit.connect(self.url) as connection:
            left = connection.queue_state(QUEUE).ready
        if done.returncode or left:
            sys.exit(f"{' '.join(command)} left {left} messages:\n{done.stderr.decode()}")
        if not contestant.whole:
            seconds = json.loads(done.stderr)["seconds"]
        shutil.rmtree(self.folder / "saved", ignore_errors=True)
        return count / seconds


def measure(arena: Arena, entered: list[Contestant], rounds: int, scale: int) -> Rates:
    rates: Rates = {each: [] for each in entered}
    for turn in range(rounds):
        for each in random.Random(turn).sample(entered, len(entered)):
            rates[each].append(arena.run(each, each.count // scale))
            told = f"round {turn + 1} of {rounds}  {rates[each][-1]:9,.0f}/s  {each}"
            print(told, file=sys.stderr, flush=True)
    return rates


def judge(rates: Rates) -> list[Judged]:
    medians = {each: statistics.median(found) for each, found in rates.items()}
    judged = []
    for ours, other, factor in RATIOS:
        if other in medians:
            ratio = medians[ours] / medians[other]
            needed = f"{factor:g} times at least"
            judged.append(Judged(f"{ours} against {other}", f"{ratio:.2f} times", needed, ratio >= factor))
    least = f"{LEAST:,} a second at least"
    return [*judged, Judged(str(NOTHING), f"{medians[NOTHING]:,.0f} a second", least, medians[NOTHING] >= LEAST)]


def render(rates: Rates, judged: list[Judged], version: str, scale: int) -> str:
    command = " ".join(["python", "tests/benchmarks/handlers.py", *sys.argv[1:]])
    lines = [f"{datetime.now(UTC):%Y-%m-%d}, `{command}`. {machine()}. RabbitMQ {version}.", ""]
    lines += ["| consume | messages | median /s | slowest to fastest /s |", "|---|---:|---:|---:|"]
    for each, found in rates.items():
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        lines.append(f"| {each} | {each.count // scale:,} | {statistics.median(found):,.0f} | {spread} |")
    return "\n".join([*lines, "", *judged_table(judged)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the handlers of `rmqkit consume`.")
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the messages")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    rounds, scale = (1, 5) if options.quick else (ROUNDS, 1)
    entered = [each for each in CONTESTANTS if each is not C_CLIENT or shutil.which("amqp-consume")]
    with tempfile.TemporaryDirectory(prefix="rmqkit-bench-") as folder:
        node = Node(Path(folder, "node"))
        status = node.start(0)
        try:
            rates = measure(Arena(status.url, Path(folder)), entered, rounds, scale)
        finally:
            node.discard()
    judged = judge(rates)
    text = render(rates, judged, status.version, scale)
    print(text)
    if options.write:
        write(options.write, text, "handlers.py")
    return 0 if all(each.met for each in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
