"""The benchmark of templates: 100,000 messages filled in, against a plain count.

    python -m tests.benchmarks.templates [--quick] [--write docs/performance.md]

Whole processes, on one private node; the contestants take turns, in an order that changes each round, and what arrived
is counted. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import pika

from tests.benchmarks.benchmark import BenchmarkNode, main, medians, run_in_turns
from tests.benchmarks.clients import RMQKIT
from tests.benchmarks.results import Requirement, require_most

COUNT = 100_000
QUEUE = "templates"
MOST = 2.0  # times a plain count


@dataclass(frozen=True)
class Contestant:
    """Arguments of `rmqkit publish`, and whether it has to cost no more than `MOST`."""

    name: str
    arguments: tuple[str, ...]
    judged: bool = True

    def __str__(self) -> str:
        return self.name


PLAIN = Contestant("`--count`", ("-n", "{count}"))
CONTESTANTS = (
    PLAIN,
    Contestant("the number in a body", ("-n", "{count}", "--template", "{{ n }}")),
    Contestant(
        "an order: number, UUID, time",
        ("-n", "{count}", "--template", '{"n": {{ n }}, "id": "{{ uuid }}", "at": "{{ now }}"}'),
    ),
    Contestant("a random number", ("-n", "{count}", "--template", "{{ random_int(1, 6) }}")),
    Contestant(
        "a header that seldom changes", ("-n", "{count}", "--template", "{{ n }}", "-H", "part={{ n // 10000 }}")
    ),
    Contestant(
        "a header that always changes",
        ("-n", "{count}", "--template", "{{ n }}", "-H", "id={{ n }}"),
        judged=False,
    ),
    Contestant("rows of CSV, checked first", ("--rows", "rows.csv", "--template", "{{ name }} {{ n }}"), judged=False),
)


def run(each: Contestant, node: BenchmarkNode, channel: Any) -> float:
    """Let a contestant publish; return the seconds."""
    arguments = [argument.replace("{count}", str(COUNT)) for argument in each.arguments]
    command = [RMQKIT, "publish", "-q", QUEUE, "--json", *arguments]
    begun = time.perf_counter()
    done = subprocess.run(command, env=node.env, cwd=node.folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode or json.loads(done.stdout)["confirmed"] != COUNT:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    if channel.queue_purge(QUEUE).method.message_count != COUNT:
        sys.exit(f"{each}: not every message arrived")
    return seconds


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    (node.folder / "rows.csv").write_text("id,name\n" + "".join(f"{n},name {n}\n" for n in range(COUNT)))
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        seconds = run_in_turns(CONTESTANTS, node.rounds, lambda each: run(each, node, channel), "s")
    median = medians(seconds)
    table = [f"| {COUNT:,} messages | median s | fastest to slowest s | times `--count` |", "|---|---:|---:|---:|"]
    for each, found in seconds.items():
        ratio = "" if each is PLAIN else f"{median[each] / median[PLAIN]:.2f}"
        table.append(f"| {each} | {median[each]:.2f} | {min(found):.2f} to {max(found):.2f} | {ratio} |")
    requirements = [
        require_most(f"{each} against {PLAIN}", median[each] / median[PLAIN], MOST, "times its seconds")
        for each in seconds
        if each.judged and each is not PLAIN
    ]
    return table, requirements


if __name__ == "__main__":
    sys.exit(main(measure_all, "Publish from templates, and compare with a plain count.", "one round"))
