"""The benchmark of `rmqkit move`: against `rmqkit publish` of as many messages, on the same node, number by number.

    python -m tests.benchmarks.move [--quick] [--write docs/performance.md]

Each contestant is a process; its rate is the one it reports, from the first message to the last confirm.
Where the messages are afterward is counted. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pika

from tests.benchmarks.benchmark import BenchmarkNode, log, main, rate_row, require_ratio
from tests.benchmarks.clients import RMQKIT
from tests.benchmarks.results import Requirement

COUNT = 100_000
NEEDED = 0.8
PUBLISH = "`rmqkit publish --count 100000`"
DRAIN = "`rmqkit move QUEUE --to-queue OTHER`"
REPLAY = "`rmqkit move QUEUE`, of dead letters"
LIFETIME_MS = 500  # until a message becomes a dead letter


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
        for number in range(rounds):

            def note(what: str, report: Any, queue: str, number: int = number) -> None:
                await_ready(channel, queue)
                rates[what].append(COUNT / report["seconds"])
                log(number, rounds, rates[what][-1], "/s", what)

            note(PUBLISH, run(url, "publish", "-q", "source", "--count", str(COUNT)), "source")
            note(DRAIN, run(url, "move", "source", "--to-queue", "target"), "target")
            channel.queue_purge("target")
            run(url, "publish", "-q", "died", "--count", str(COUNT), "--expiration", str(LIFETIME_MS))
            await_ready(channel, "source")
            note(REPLAY, run(url, "move", "source"), "died")
            channel.queue_purge("died")
    return rates


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    os.environ["XDG_STATE_HOME"] = str(node.folder)
    rates = measure(node.url, node.rounds)
    table = ["| 100,000 messages | median /s | slowest to fastest /s |", "|---|---:|---:|"]
    table += [rate_row(each, found) for each, found in rates.items()]
    return table, [require_ratio(rates, DRAIN, PUBLISH, NEEDED)]


if __name__ == "__main__":
    sys.exit(main(measure_all, "Move messages, and compare with publishing as many.", "one round"))
