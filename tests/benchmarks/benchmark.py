"""The frame of a benchmark: a private node, contestants that take turns, and a page with their results."""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rmqkit.node.node import Node, NodeStatus
from tests.benchmarks.results import Requirement, machine, requirement_table, write

Contestant = TypeVar("Contestant")
ROUNDS = 5


@dataclass(frozen=True)
class BenchmarkNode:
    """A private node with its status, a folder, the environment of the commands, and the page to write to."""

    node: Node
    status: NodeStatus
    folder: Path
    quick: bool
    page: Path | None = None  # to write the results to

    @property
    def url(self) -> str:
        return self.status.url

    @property
    def rounds(self) -> int:
        return 1 if self.quick else ROUNDS

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"RMQKIT_URL": self.url, "XDG_STATE_HOME": str(self.folder)}


def run_in_turns(
    clients: Sequence[Contestant], rounds: int, run: Callable[[Contestant], float], unit: str
) -> dict[Contestant, list[float]]:
    """Run every contestant in each round, in an order that changes each round; return the results round by round."""
    found: dict[Contestant, list[float]] = {each: [] for each in clients}
    for number in range(rounds):
        for each in random.Random(number).sample(clients, len(clients)):
            found[each].append(run(each))
            log(number, rounds, found[each][-1], unit, each)
    return found


def log(turn: int, rounds: int, number: float, unit: str, who: object) -> None:
    shown = f"{number:9.2f} s" if unit == "s" else f"{number:9,.0f}{unit}"
    print(f"round {turn + 1} of {rounds}  {shown}  {who}", file=sys.stderr, flush=True)


def medians(found: dict[Contestant, list[float]]) -> dict[Contestant, float]:
    return {each: statistics.median(numbers) for each, numbers in found.items()}


def require_ratio(
    found: dict[Contestant, list[float]], ours: Contestant, other: Contestant, least: float
) -> Requirement:
    """Compare two median rates."""
    ratio = medians(found)[ours] / medians(found)[other]
    return Requirement(f"{ours} against {other}", f"{ratio:.2f} times", f"{least:g} times at least", ratio >= least)


def rate_row(name: object, found: Sequence[float], *others: str) -> str:
    """Write a row: a name, other columns, the median rate, the slowest and the fastest."""
    cells = [str(name), *others, f"{statistics.median(found):,.0f}", f"{min(found):,.0f} to {max(found):,.0f}"]
    return f"| {' | '.join(cells)} |"


Measure = Callable[[BenchmarkNode], tuple[list[str], list[Requirement]]]


@contextmanager
def private_node() -> Iterator[tuple[Node, NodeStatus, Path]]:
    """Run a private node in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="rmqkit-bench-") as folder:
        node = Node(Path(folder, "node"))
        try:
            yield node, node.start(0), Path(folder)
        finally:
            node.discard()


def main(measure_all: Measure, description: str, quick: str) -> int:
    """Run a benchmark, which returns its table and its requirements; print the page; return the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    with private_node() as (node, status, folder):
        table, requirements = measure_all(BenchmarkNode(node, status, folder, options.quick, options.write))
    program = Path(sys.argv[0]).stem
    command = " ".join(["python", "-m", f"tests.benchmarks.{program}", *sys.argv[1:]])
    head = f"{datetime.now(UTC):%Y-%m-%d}, `{command}`. {machine()}. RabbitMQ {status.version}."
    text = "\n".join([head, "", *table, *(["", *requirement_table(requirements)] if requirements else [])])
    print(text)
    if options.write:
        write(options.write, text, program, status.version)
    return 0 if all(each.met for each in requirements) else 1
