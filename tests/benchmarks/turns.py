"""What benchmarks share: a node for one alone, contestants that take turns, and a page that tells how they did."""

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

from report import Judged, judged_table, machine, write

from rmqkit.node.node import Node, NodeStatus

Contestant = TypeVar("Contestant")
ROUNDS = 5


@dataclass(frozen=True)
class Place:
    """A node for the benchmark alone, what it says of itself, and a folder; its commands' surroundings."""

    node: Node
    status: NodeStatus
    folder: Path
    quick: bool

    @property
    def url(self) -> str:
        return self.status.url

    @property
    def rounds(self) -> int:
        return 1 if self.quick else ROUNDS

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"RMQKIT_URL": self.url, "XDG_STATE_HOME": str(self.folder)}


def take_turns(
    entered: Sequence[Contestant], rounds: int, run: Callable[[Contestant], float], unit: str
) -> dict[Contestant, list[float]]:
    """Let everybody run in each round, in an order that changes each round; return what `run` did, round by round."""
    found: dict[Contestant, list[float]] = {each: [] for each in entered}
    for turn in range(rounds):
        for each in random.Random(turn).sample(entered, len(entered)):
            found[each].append(run(each))
            tell(turn, rounds, found[each][-1], unit, each)
    return found


def tell(turn: int, rounds: int, number: float, unit: str, who: object) -> None:
    shown = f"{number:9.2f} s" if unit == "s" else f"{number:9,.0f}{unit}"
    print(f"round {turn + 1} of {rounds}  {shown}  {who}", file=sys.stderr, flush=True)


def medians(found: dict[Contestant, list[float]]) -> dict[Contestant, float]:
    return {each: statistics.median(numbers) for each, numbers in found.items()}


def judge_ratio(found: dict[Contestant, list[float]], ours: Contestant, other: Contestant, least: float) -> Judged:
    """Compare two median rates."""
    ratio = medians(found)[ours] / medians(found)[other]
    return Judged(f"{ours} against {other}", f"{ratio:.2f} times", f"{least:g} times at least", ratio >= least)


def rate_row(name: object, found: Sequence[float], *others: str) -> str:
    """Write a row: a name, other columns, the median rate, the slowest and the fastest."""
    cells = [str(name), *others, f"{statistics.median(found):,.0f}", f"{min(found):,.0f} to {max(found):,.0f}"]
    return f"| {' | '.join(cells)} |"


@contextmanager
def private_node() -> Iterator[tuple[Node, NodeStatus, Path]]:
    """Run a node for a benchmark alone, in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="rmqkit-bench-") as folder:
        node = Node(Path(folder, "node"))
        try:
            yield node, node.start(0), Path(folder)
        finally:
            node.discard()


def main(compete: Callable[[Place], tuple[list[str], list[Judged]]], description: str, quick: str) -> int:
    """Run a benchmark, which returns its table and what is judged; print the page; return the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    with private_node() as (node, status, folder):
        table, judged = compete(Place(node, status, folder, options.quick))
    program = Path(sys.argv[0]).name
    command = " ".join(["python", f"tests/benchmarks/{program}", *sys.argv[1:]])
    head = f"{datetime.now(UTC):%Y-%m-%d}, `{command}`. {machine()}. RabbitMQ {status.version}."
    text = "\n".join([head, "", *table, "", *judged_table(judged)])
    print(text)
    if options.write:
        write(options.write, text, program)
    return 0 if all(each.met for each in judged) else 1
