"""The benchmark: rmqkit and its peers at the same work, on one private node, in one run.

    python tests/benchmarks/run.py [--quick] [--write docs/performance.md]

Every contestant is a process of its own and starts with an empty queue (to publish) or a full one (to consume); the
contestants take turns, in an order that changes each round; what each did is verified. Exits 1 if a requirement is not
met. `pip install -e .[bench]` installs the peers; whoever is not installed is left out.
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
from contestants import (
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
from report import Judged, Rates, judge_most, judge_rate, render, write
from turns import private_node

ROUNDS = 5
STARTS = 15  # of `rmqkit --help`, and of Python with Typer
START_FACTOR = 2.5
MEMORY_FACTOR, MEMORY_MB = 1.1, 80.0
LAUNCH = Path(__file__).with_name("launch.py")


class Arena:
    """A node, a folder, and one queue that is as it should be before and after each run."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.port = url.rpartition(":")[2].rstrip("/")
        self.built = build_consumer(folder)
        self.file, self.lines = folder / "out", folder / "lines"
        self._env = os.environ | {"RMQKIT_URL": url, "XDG_STATE_HOME": str(folder)}

    def launch(self, command: list[str], given: Path = Path(os.devnull)) -> tuple[float, float, bytes]:
        """Run a command; return its seconds, its peak memory in bytes, and what it wrote."""
        output = self.folder / "stdout"
        outer = [sys.executable, "-S", str(LAUNCH), str(given), str(output), *command]
        done = subprocess.run(outer, env=self._env, capture_output=True, text=True, check=False)
        told = json.loads(done.stdout or "{}")
        if told.get("code") != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        return told["seconds"], told["peak_bytes"], output.read_bytes()

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
        seconds, peak, output = self.launch([part.format(**filled) for part in contestant.command], given)
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
        """Fail unless the queue holds so many messages; a publisher without confirms may be ahead of the broker."""
        deadline = time.monotonic() + 20
        with closing(pika.BlockingConnection(pika.URLParameters(self.url))) as connection:
            channel = connection.channel()
            while (depth := channel.queue_declare(QUEUE, passive=True).method.message_count) != count:
                if time.monotonic() > deadline:
                    sys.exit(f"after {who} the queue holds {depth} messages, not {count}")
                connection.sleep(0.05)


def _bodies(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(count))


def measure_rates(arena: Arena, entered: Sequence[Contestant], rounds: int, scale: int) -> Rates:
    """Return each contestant's rates, round by round; whoever goes first changes with the round."""
    rates: Rates = {each: [] for each in entered}
    for turn in range(rounds):
        for each in _order(entered, turn):
            rate, _ = arena.run(each, each.count // scale)
            rates[each].append(rate)
            tell(f"round {turn + 1} of {rounds}  {each.work}  {rate:9,.0f}/s  {each}")
    return rates


def _order(entered: Sequence[Contestant], turn: int) -> list[Contestant]:
    """Shuffle, but keep together in time who is compared by a requirement: other load on the machine comes and goes."""
    compared = {each for requirement in REQUIREMENTS for each in requirement[:2]}
    shuffled = random.Random(turn).sample(entered, len(entered))
    return sorted(shuffled, key=lambda each: (each.work, each not in compared))


def measure_memory(arena: Arena, scale: int) -> list[Judged]:
    """Compare the peak memory of the command that publishes ten times as much."""
    less, more = FULL // scale, 10 * FULL // scale
    tell(f"memory: {less:,} and {more:,} messages")
    low, high = arena.run(PUBLISH_COMMAND, less)[1], arena.run(PUBLISH_COMMAND, more)[1]
    what = f"peak memory of `rmqkit publish --count {more}`"
    return [
        judge_most(f"{what} against {less:,}", high / low, MEMORY_FACTOR, "times"),
        judge_most(what, high / 1e6, MEMORY_MB, "MB"),
    ]


def measure_start(arena: Arena, starts: int) -> list[Judged]:
    """Compare the time `rmqkit --help` takes with that of Python and Typer alone."""
    tell(f"start-up: {starts} times")
    commands = {"rmqkit": [RMQKIT, "--help"], "typer": [sys.executable, "-c", "import typer"]}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(starts):
        for name, command in commands.items():
            seconds[name].append(arena.launch(command)[0])
    ours, typer = (statistics.median(each) for each in seconds.values())
    what = f"`rmqkit --help` ({ours * 1000:.0f} ms) against `python -c 'import typer'` ({typer * 1000:.0f} ms)"
    return [judge_most(what, ours / typer, START_FACTOR, "times")]


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare rmqkit with other clients of RabbitMQ.")
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the messages: a smoke test")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    rounds, scale, starts = (1, 5, 5) if options.quick else (ROUNDS, 1, STARTS)
    with private_node() as (_, status, folder):
        place = Arena(folder, status.url)
        entered = [each for each in CONTESTANTS if present(each, place.built)]
        rates = measure_rates(place, entered, rounds, scale)
        judged = [judge_rate(*each, rates) for each in REQUIREMENTS if {*each[:2]} <= {*entered}]
        judged += measure_memory(place, scale) + measure_start(place, starts)
    left_out = [str(each) for each in CONTESTANTS if each not in entered]
    text = render(rates, judged, left_out, {"RabbitMQ": status.version} | versions(entered), scale)
    print(text)
    if options.write:
        write(options.write, text, "run.py")
    return 0 if all(each.met for each in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
