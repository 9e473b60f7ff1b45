"""The benchmark against the limit: what the broker can do for one connection, and how much of it rmqkit reaches.

    python -m tests.benchmarks.limit [--quick] [--write docs/performance.md]

The limit is limit.c: frames made beforehand on a plain socket, with the same window and prefetch. Both publish into,
and consume from, one durable classic queue, in turns. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rmqkit import Message, PublishOptions, Queue, Topology, connect
from tests.benchmarks.benchmark import BenchmarkNode, main, run_in_turns
from tests.benchmarks.results import Requirement

HERE = Path(__file__).parent
QUEUE = "limit"
NEEDED = 0.9
PREFETCH = 1000
COUNTS = {16: 100_000, 1024: 100_000, 16 * 1024: 20_000, 1024 * 1024: 300}  # messages, by the bytes of their bodies
SIZES = {16: "16 B", 1024: "1 KiB", 16 * 1024: "16 KiB", 1024 * 1024: "1 MiB"}


@dataclass(frozen=True)
class Contestant:
    """rmqkit or the limit, at one kind of work with bodies of one size."""

    client: str
    work: str
    size: int

    def __str__(self) -> str:
        return f"{self.work} {SIZES[self.size]}: {self.client}"

    @property
    def window(self) -> int:
        options = PublishOptions()
        return PREFETCH if self.work == "consume" else min(options.window, options.window_bytes // self.size)


def build(folder: Path) -> Path:
    """Compile limit.c and return its path."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("no C compiler; install gcc or clang")
    built = folder / "limit"
    subprocess.run([compiler, "-O2", "-o", built, HERE / "limit.c"], check=True)
    return built


def run(each: Contestant, node: BenchmarkNode, limit: Path) -> float:
    """Return messages a second, from a queue that is empty or holds all messages."""
    count = COUNTS[each.size] // (10 if node.quick else 1)
    with connect(node.url) as connection:
        connection.apply(Topology(queues=(Queue(QUEUE),)))
        connection.purge(QUEUE)
        if each.work == "consume":
            connection.publish(Message(bytes(each.size), QUEUE) for _ in range(count))
        words = [QUEUE, str(count), str(each.size), str(each.window)]
        if each.client == "rmqkit":
            script = HERE / "peers" / "limit_with_rmqkit.py"
            command = [sys.executable, str(script), each.work, node.url, *words]
        else:
            command = [str(limit), each.work, str(urlsplit(node.url).port), *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        left = 0 if each.work == "consume" else count
        if connection.queue_state(QUEUE).ready != left:
            sys.exit(f"after {each} the queue does not hold {left} messages")
        connection.purge(QUEUE)
    return count / float(done.stdout)


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    limit = build(node.folder)
    pairs = {
        (work, size): (Contestant("the limit", work, size), Contestant("rmqkit", work, size))
        for work in ("publish", "consume")
        for size in COUNTS
    }
    table = [
        "| one connection, bodies of | the limit, median /s | rmqkit, median /s | of the limit |",
        "|---|---:|---:|---:|",
    ]
    requirements: list[Requirement] = []
    for (work, size), pair in pairs.items():
        rates = run_in_turns(pair, node.rounds, lambda each: run(each, node, limit), "/s")
        most, ours = (statistics.median(rates[each]) for each in pair)
        table.append(f"| {work}, {SIZES[size]} | {most:,.0f} | {ours:,.0f} | {ours / most:.2f} |")
        what = f"{work}, {SIZES[size]}: rmqkit against the limit"
        requirements.append(Requirement(what, f"{ours / most:.2f}", f"{NEEDED:g} at least", ours >= NEEDED * most))
    return table, requirements


if __name__ == "__main__":
    sys.exit(main(measure_all, "Compare with what the broker can do for one connection.", "one round of a tenth"))
