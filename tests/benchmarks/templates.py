"""The benchmark of templates: 100,000 messages filled in, against a plain count.

    python tests/benchmarks/templates.py [--quick] [--write docs/performance.md]

Whole processes, on one private node; the contestants take turns, in an order that changes each round, and what arrived
is counted. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pika
from contestants import RMQKIT
from report import Judged, judge_most, judged_table, machine, write

from rmqkit.node import Node

ROUNDS = 5
COUNT = 100_000
QUEUE = "templates"
MOST = 2.0  # times a plain count


@dataclass(frozen=True)
class Contestant:
    """Arguments of `rmqkit publish`, and whether it has to cost no more than `MOST`."""

    name: str
    arguments: tuple[str, ...]
    judged: bool = True


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
        "a header that always changes", ("-n", "{count}", "--template", "{{ n }}", "-H", "id={{ n }}"), judged=False
    ),
    Contestant("rows of CSV, checked first", ("--rows", "rows.csv", "--template", "{{ name }} {{ n }}"), judged=False),
)


def measure(url: str, folder: Path, rounds: int, count: int) -> dict[Contestant, list[float]]:
    (folder / "rows.csv").write_text("id,name\n" + "".join(f"{n},name {n}\n" for n in range(count)))
    env = os.environ | {"RMQKIT_URL": url, "XDG_STATE_HOME": str(folder)}
    seconds: dict[Contestant, list[float]] = {each: [] for each in CONTESTANTS}
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        for turn in range(rounds):
            for each in random.Random(turn).sample(CONTESTANTS, len(CONTESTANTS)):
                arguments = [argument.replace("{count}", str(count)) for argument in each.arguments]
                command = [RMQKIT, "publish", "-q", QUEUE, "--json", *arguments]
                begun = time.perf_counter()
                done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
                seconds[each].append(time.perf_counter() - begun)
                if done.returncode or json.loads(done.stdout)["confirmed"] != count:
                    sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
                if channel.queue_purge(QUEUE).method.message_count != count:
                    sys.exit(f"{each.name}: not every message arrived")
                print(
                    f"round {turn + 1} of {rounds}  {seconds[each][-1]:6.2f} s  {each.name}",
                    file=sys.stderr,
                    flush=True,
                )
    return seconds


def judge(seconds: dict[Contestant, list[float]]) -> list[Judged]:
    plain = statistics.median(seconds[PLAIN])
    return [
        judge_most(f"{each.name} against {PLAIN.name}", statistics.median(found) / plain, MOST, "times its seconds")
        for each, found in seconds.items()
        if each.judged and each is not PLAIN
    ]


def render(seconds: dict[Contestant, list[float]], judged: list[Judged], version: str, count: int) -> str:
    plain = statistics.median(seconds[PLAIN])
    rows = []
    for each, found in seconds.items():
        median = statistics.median(found)
        ratio = "" if each is PLAIN else f"{median / plain:.2f}"
        rows.append(f"| {each.name} | {median:.2f} | {min(found):.2f} to {max(found):.2f} | {ratio} |")
    command = " ".join(["python", "tests/benchmarks/templates.py", *sys.argv[1:]])
    head = [f"{datetime.now(UTC):%Y-%m-%d}, `{command}`. {machine()}. RabbitMQ {version}.", ""]
    head += [f"| {count:,} messages | median s | fastest to slowest s | times `--count` |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *rows, "", *judged_table(judged)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish from templates, and compare with a plain count.")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmqkit-bench-") as folder:
        node = Node(Path(folder, "node"))
        status = node.start(0)
        try:
            seconds = measure(status.url, Path(folder), 1 if options.quick else ROUNDS, COUNT)
        finally:
            node.discard()
    judged = judge(seconds)
    text = render(seconds, judged, status.version, COUNT)
    print(text)
    if options.write:
        write(options.write, text, "templates.py")
    return 0 if all(each.met for each in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
