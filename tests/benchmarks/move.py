"""The benchmark of `rmqkit move`: against `rmqkit publish` of as many messages, on the same node, turn by turn.

    python tests/benchmarks/move.py [--quick] [--write docs/performance.md]

Each contestant is a process of its own; its rate is the one it reports, from the first message to the last confirm.
Where the messages are afterwards is counted. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pika
from contestants import RMQKIT
from report import Judged
from turns import Place, judge_ratio, main, rate_row, tell

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
                tell(turn, rounds, rates[what][-1], "/s", what)

            note(PUBLISH, run(url, "publish", "-q", "source", "--count", str(COUNT)), "source")
            note(DRAIN, run(url, "move", "source", "--to-queue", "target"), "target")
            channel.queue_purge("target")
            run(url, "publish", "-q", "died", "--count", str(COUNT), "--expiration", str(LIFETIME_MS))
            await_ready(channel, "source")
            note(REPLAY, run(url, "move", "source"), "died")
            channel.queue_purge("died")
    return rates


def compete(place: Place) -> tuple[list[str], list[Judged]]:
    os.environ["XDG_STATE_HOME"] = str(place.folder)
    rates = measure(place.url, place.rounds)
    table = ["| 100,000 messages | median /s | slowest to fastest /s |", "|---|---:|---:|"]
    table += [rate_row(each, found) for each, found in rates.items()]
    return table, [judge_ratio(rates, DRAIN, PUBLISH, NEEDED)]


if __name__ == "__main__":
    sys.exit(main(compete, "Move messages, and compare with publishing as many.", "one round"))
