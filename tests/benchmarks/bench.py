"""The benchmark of `rmqkit bench`: how much of the limit for one connection it reaches.

    python -m tests.benchmarks.bench [--quick] [--write docs/performance.md]

The limit is limit.c (see tests.benchmarks.limit). Both publish, and then consume, with one connection, in turns.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.benchmark import BenchmarkNode, main, run_in_turns
from tests.benchmarks.clients import RMQKIT
from tests.benchmarks.limit import COUNTS, SIZES, Contestant, build, run
from tests.benchmarks.results import Requirement

WORDS = {"publish": "published", "consume": "delivered"}
CLIENTS = {"publish": "producers", "consume": "consumers"}
cpu_us: dict[Contestant, float] = {}  # of the processor, a message


def run_either(each: Contestant, node: BenchmarkNode, limit: Path) -> float:
    """Return messages a second."""
    if each.client == "the limit":
        return run(each, node, limit)
    count = COUNTS[each.size] // (10 if node.quick else 1)
    numbers = ("--count", str(count), "--size", str(each.size), "--window", str(each.window), "--prefetch", "1000")
    how = ("--fill-first",) if each.work == "consume" else ("--consumers", "0")
    command = [RMQKIT, "bench", "--json", *numbers, *how]
    done = subprocess.run(command, env=node.env, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout)
    measured = report[WORDS[each.work]]
    if measured["messages"] != count:
        sys.exit(f"{each} counted {measured['messages']} messages")
    cpu_us[each] = min(cpu_us.get(each, math.inf), report["cpu_s"][CLIENTS[each.work]] / count * 1e6)
    return float(measured["rate"])


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    limit = build(node.folder)
    table = [
        "| one connection, bodies of | the limit, /s | `rmqkit bench`, /s | of the limit | its CPU, µs a message |",
        "|---|---:|---:|---:|---:|",
    ]
    for work in WORDS:
        for size in COUNTS:
            pair = Contestant("the limit", work, size), Contestant("rmqkit bench", work, size)
            rates = run_in_turns(pair, node.rounds, lambda each: run_either(each, node, limit), "/s")
            most, ours = (statistics.median(rates[each]) for each in pair)
            table.append(
                f"| {work}, {SIZES[size]} | {most:,.0f} | {ours:,.0f} | {ours / most:.2f} | {cpu_us[pair[1]]:.1f} |"
            )
    return table, []


if __name__ == "__main__":
    sys.exit(main(measure_all, "Compare `rmqkit bench` with the limit for one connection.", "one round of a tenth"))
