"""The benchmark: rmqkit and its peers at the same work, on one private node, in one run.

    python -m tests.benchmarks.publish_consume [--quick] [--write docs/performance.md]

Every contestant is a process and starts with an empty queue (to publish) or a full one (to consume); the
contestants take turns, in an order that changes each round; each result is verified. Exits 1 if a requirement is not
met. `pip install -e .[bench]` installs the peers; peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pika

from tests.benchmarks.benchmark import private_node
from tests.benchmarks.clients import (
    CONTESTANTS,
    FULL,
    PUBLISH,
    PUBLISH_COMMAND,
    QUEUE,
    REQUIREMENTS,
    RMQKIT,
    Contestant,
    build_consumer,
    present,
    versions,
)
from tests.benchmarks.results import Rates, Requirement, render, require_most, require_rate, write

ROUNDS = 5
STARTS = 15  # of `rmqkit --help`, and of Python with Typer
START_FACTOR = 2.5
MEMORY_FACTOR, MEMORY_MB = 1.1, 80.0
WORK = Path(__file__).parents[2] / "topologies" / "work.yaml"  # what `rmqkit publish` without a target publishes to
MEASURE_PROCESS = Path(__file__).with_name("measure_process.py")


class QueueBenchmark:
    """A node, a folder, and one queue whose depth is verified before and after each run."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.port = url.rpartition(":")[2].rstrip("/")
        self.built = build_consumer(folder)
        self.file, self.lines = folder / "out", folder / "lines"
        self._env = os.environ | {"RMQKIT_URL": url, "XDG_STATE_HOME": str(folder)}
        subprocess.run([RMQKIT, "apply", str(WORK)], env=self._env, stdout=subprocess.DEVNULL, check=True)

    def measure_process(self, command: list[str], given: Path = Path(os.devnull)) -> tuple[float, float, bytes]:
        """Run a command; return its seconds, its peak memory in bytes, and its output."""
        output = self.folder / "stdout"
        outer = [sys.executable, "-S", str(MEASURE_PROCESS), str(given), str(output), *command]
        done = subprocess.run(outer, env=self._env, capture_output=True, text=True, check=False)
        measured = json.loads(done.stdout or "{}")
        if measured.get("code") != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        return measured["seconds"], measured["peak_bytes"], output.read_bytes()

    def run(self, contestant: Contestant, count: int) -> tuple[float, float]:
        """Let a contestant do its work; return messages a second and its peak memory in bytes."""
        self.empty()
        if contestant.work == "consume":
            self.run(PUBLISH, count)
        given = Path(os.devnull)
        if contestant.lines_in:
            given = self.lines
            given.write_bytes(_bodies(count))
        filled = {"url": self.url, "port": self.port, "count": count, "file": self.file, "built": self.built}
        seconds, peak, output = self.measure_process([part.format(**filled) for part in contestant.command], given)
        if contestant.work == "publish":
            self.expect_depth(count, contestant)
        else:
            got = output if contestant.lines_out else self.file.read_bytes()
            if got != _bodies(count):
                sys.exit(f"{contestant} did not write the {count} bodies in order")
            self.expect_depth(0, contestant)
        if not contestant.whole:
            seconds = float(output.split()[-1])
        return count / seconds, peak

    def empty(self) -> None:
        with closing(pika.BlockingConnection(pika.URLParameters(self.url))) as connection:
            channel = connection.channel()
            channel.queue_declare(QUEUE, durable=True)
            channel.queue_purge(QUEUE)
        self.expect_depth(0, "the purge")

    def expect_depth(self, count: int, who: object) -> None:
        """Wait until the queue holds that many messages: a publisher without confirms may be ahead of the broker."""
        deadline = time.monotonic() + 20
        with closing(pika.BlockingConnection(pika.URLParameters(self.url))) as connection:
            channel = connection.channel()
            while (depth := channel.queue_declare(QUEUE, passive=True).method.message_count) != count:
                if time.monotonic() > deadline:
                    sys.exit(f"after {who} the queue holds {depth} messages, not {count}")
                connection.sleep(0.05)


def _bodies(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(count))


def measure_rates(queue: QueueBenchmark, clients: Sequence[Contestant], rounds: int, scale: int) -> Rates:
    """Return each contestant's rates, round by round; the order changes with the round."""
    rates: Rates = {each: [] for each in clients}
    for number in range(rounds):
        for each in _order(clients, number):
            rate, _ = queue.run(each, each.count // scale)
            rates[each].append(rate)
            log(f"round {number + 1} of {rounds}  {each.work}  {rate:9,.0f}/s  {each}")
    return rates


def _order(clients: Sequence[Contestant], number: int) -> list[Contestant]:
    """Shuffle, but run compared contestants one after the other: other load on the machine changes with time."""
    compared = {each for requirement in REQUIREMENTS for each in requirement[:2]}
    shuffled = random.Random(number).sample(clients, len(clients))
    return sorted(shuffled, key=lambda each: (each.work, each not in compared))


def measure_memory(queue: QueueBenchmark, scale: int) -> list[Requirement]:
    """Compare the peak memory of the command that publishes ten times as much."""
    less, more = FULL // scale, 10 * FULL // scale
    log(f"memory: {less:,} and {more:,} messages")
    low, high = queue.run(PUBLISH_COMMAND, less)[1], queue.run(PUBLISH_COMMAND, more)[1]
    name = f"peak memory of `rmqkit publish --count {more}`"
    return [
        require_most(f"{name} against {less:,}", high / low, MEMORY_FACTOR, "times"),
        require_most(name, high / 1e6, MEMORY_MB, "MB"),
    ]


def measure_start(queue: QueueBenchmark, starts: int) -> list[Requirement]:
    """Compare the time `rmqkit --help` takes with that of Python and Typer alone."""
    log(f"start-up: {starts} times")
    commands = {"rmqkit": [RMQKIT, "--help"], "typer": [sys.executable, "-c", "import typer"]}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(starts):
        for name, command in commands.items():
            seconds[name].append(queue.measure_process(command)[0])
    ours, typer = (statistics.median(each) for each in seconds.values())
    what = f"`rmqkit --help` ({ours * 1000:.0f} ms) against `python -c 'import typer'` ({typer * 1000:.0f} ms)"
    return [require_most(what, ours / typer, START_FACTOR, "times")]


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare rmqkit with other clients of RabbitMQ.")
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the messages: a smoke test")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    rounds, scale, starts = (1, 5, 5) if options.quick else (ROUNDS, 1, STARTS)
    with private_node() as (_, status, folder):
        queue = QueueBenchmark(folder, status.url)
        clients = [each for each in CONTESTANTS if present(each, queue.built)]
        rates = measure_rates(queue, clients, rounds, scale)
        requirements = [require_rate(*each, rates) for each in REQUIREMENTS if {*each[:2]} <= {*clients}]
        requirements += measure_memory(queue, scale) + measure_start(queue, starts)
    left_out = [str(each) for each in CONTESTANTS if each not in clients]
    text = render(rates, requirements, left_out, {"RabbitMQ": status.version} | versions(clients), scale)
    print(text)
    if options.write:
        write(options.write, text, "publish_consume", status.version)
    return 0 if all(each.met for each in requirements) else 1


if __name__ == "__main__":
    sys.exit(main())
