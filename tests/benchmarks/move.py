"""The benchmark of `rmqkit move`: against `rmqkit publish` of as many messages, on the same node, turn by turn.

    python tests/benchmarks/move.py [--quick] [--write docs/performance.md]

Each contestant is a process of its own; its rate is the one it reports, from the first message to the last confirm.
Where the messages are afterwards is counted. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pika
from contestants import RMQKIT
from report import Judged, judged_table, machine, write

from rmqkit.node import Node

ROUNDS = 5
COUNT = 100_000
NEEDED = 0.8
PUBLISH = "`rmqkit publish --count 100000`"
DRAIN = "`rmqkit move QUEUE --to-queue OTHER`"
REPLAY = "`rmqkit move QUEUE`, of dead letters"
LIFETIME_MS = 500  # of what is to become a dead letter


def run(url: str, *arguments: str) -> Any:
    done = subprocess.run([RMQKIT, *arguments, "--json", "-u", url], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"rmqkit {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def await_ready(channel: Any, queue: str) -> None:
    """Wait until all messages are in a queue, and then a moment more, until the broker has nothing else to do."""
    while (found := channel.queue_declare(queue, passive=True).method.message_count) != COUNT:
        if found > COUNT:
            sys.exit(f"{found} messages in queue {queue}")
        time.sleep(0.1)
    time.sleep(1)


def measure(url: str, rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {PUBLISH: [], DRAIN: [], REPLAY: []}
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for queue in ("source", "target"):
            channel.queue_declare(queue, durable=True)
        dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "source"}
        channel.queue_declare("died", durable=True, arguments=dead)
        for turn in range(rounds):

            def note(what: str, report: Any, queue: str, turn: int = turn) -> None:
                await_ready(channel, queue)
                rates[what].append(COUNT / report["seconds"])
                print(f"round {turn + 1} of {rounds}  {rates[what][-1]:8,.0f}/s  {what}", file=sys.stderr, flush=True)

            note(PUBLISH, run(url, "publish", "-q", "source", "--count", str(COUNT)), "source")
            note(DRAIN, run(url, "move", "source", "--to-queue", "target"), "target")
            channel.queue_purge("target")
            run(url, "publish", "-q", "died", "--count", str(COUNT), "--expiration", str(LIFETIME_MS))
            await_ready(channel, "source")
            note(REPLAY, run(url, "move", "source"), "died")
            channel.queue_purge("died")
    return rates


def judge(rates: dict[str, list[float]]) -> list[Judged]:
    medians = {each: statistics.median(found) for each, found in rates.items()}
    judged = []
    for each in (DRAIN, REPLAY):
        ratio = medians[each] / medians[PUBLISH]
        what, needed = f"{each} against {PUBLISH}", f"{NEEDED:g} times at least"
        judged.append(Judged(what, f"{ratio:.2f} times", needed, ratio >= NEEDED))
    return judged


def render(rates: dict[str, list[float]], judged: list[Judged], version: str) -> str:
    command = " ".join(["python", "tests/benchmarks/move.py", *sys.argv[1:]])
    lines = [f"{datetime.now(UTC):%Y-%m-%d}, `{command}`. {machine()}. RabbitMQ {version}.", ""]
    lines += ["| 100,000 messages | median /s | slowest to fastest /s |", "|---|---:|---:|"]
    for each, found in rates.items():
        lines.append(f"| {each} | {statistics.median(found):,.0f} | {min(found):,.0f} to {max(found):,.0f} |")
    return "\n".join([*lines, "", *judged_table(judged)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Move messages, and compare with publishing as many.")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmqkit-bench-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        node = Node(Path(folder, "node"))
        status = node.start(0)
        try:
            rates = measure(status.url, 1 if options.quick else ROUNDS)
        finally:
            node.discard()
    judged = judge(rates)
    text = render(rates, judged, status.version)
    print(text)
    if options.write:
        write(options.write, text, "move.py")
    return 0 if all(each.met for each in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
