"""The benchmark of request and reply: calls a second, one after the other and several at once.

    python tests/benchmarks/rpc.py [--quick] [--write docs/performance.md]

Clients and servers are processes of their own on one private node; the peer is pika as in RabbitMQ's tutorial 6, with a
callback queue. Every reply is compared with its request. The contestants take turns, in an order that changes each
round. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from report import Judged, judged_table, machine, write

from rmqkit import Queue, Topology, connect
from rmqkit.node import Node

ROUNDS = 5
CALLS = 2000
PEERS = Path(__file__).parent / "peers"
QUEUE = "requests"
LEAST = 2.0  # how much faster than one call after the other of pika's


@dataclass(frozen=True)
class Contestant:
    """A client and a server: scripts among the peers, and what their arguments end with."""

    name: str
    client: tuple[str, ...]
    server: tuple[str, ...]
    at_once: int = 1


PIKA, OURS = "rpc_with_pika.py", "rpc_with_rmqkit.py"
ALL_PIKA = Contestant("pika tutorial client, pika tutorial server", (PIKA,), (PIKA,))
PIKA_TO_US = Contestant("pika tutorial client, rmqkit server", (PIKA,), (OURS, "1"))
US_TO_PIKA = Contestant("rmqkit `call`, pika tutorial server", (OURS, "0"), (PIKA,))
ONE = Contestant("rmqkit `call`, rmqkit server", (OURS, "0"), (OURS, "1"))
MANY = Contestant("rmqkit `call_many`, rmqkit server", (OURS, "100"), (OURS, "1"), at_once=100)
MANY_AHEAD = Contestant(
    "rmqkit `call_many`, rmqkit server with prefetch 100", (OURS, "100"), (OURS, "100"), at_once=100
)
CONTESTANTS = (ALL_PIKA, PIKA_TO_US, US_TO_PIKA, ONE, MANY, MANY_AHEAD)


def rate(each: Contestant, url: str, calls: int) -> float:
    """Run a client against its server, and return calls a second."""
    script, *prefetch = each.server
    with subprocess.Popen([sys.executable, str(PEERS / script), "serve", url, QUEUE, *prefetch]) as server:
        try:
            with connect(url) as connection:
                while not connection.queue_state(QUEUE).consumers:
                    time.sleep(0.02)
            script, *window = each.client
            command = [sys.executable, str(PEERS / script), "call", url, QUEUE, str(calls), *window]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            server.kill()
    return calls / float(done.stdout)


def measure(url: str, rounds: int, calls: int) -> dict[Contestant, list[float]]:
    rates: dict[Contestant, list[float]] = {each: [] for each in CONTESTANTS}
    for turn in range(rounds):
        for each in random.Random(turn).sample(CONTESTANTS, len(CONTESTANTS)):
            rates[each].append(rate(each, url, calls))
            print(f"round {turn + 1} of {rounds}  {rates[each][-1]:7,.0f}/s  {each.name}", file=sys.stderr, flush=True)
    return rates


def judge(rates: dict[Contestant, list[float]]) -> list[Judged]:
    medians = {each: statistics.median(found) for each, found in rates.items()}
    ratio = medians[MANY_AHEAD] / medians[ALL_PIKA]
    what = f"{MANY_AHEAD.name}, against {ALL_PIKA.name}"
    return [Judged(what, f"{ratio:.2f} times", f"{LEAST:g} times at least", ratio >= LEAST)]


def render(rates: dict[Contestant, list[float]], judged: list[Judged], version: str, calls: int) -> str:
    own = statistics.median(rates[ALL_PIKA])
    rows = []
    for each, found in sorted(rates.items(), key=lambda item: -statistics.median(item[1])):
        median = statistics.median(found)
        ratio = "" if each is ALL_PIKA else f"{median / own:.2f} times pika's"
        rows.append(
            f"| {each.name} | {each.at_once} | {median:,.0f} | {min(found):,.0f} to {max(found):,.0f} | {ratio} |"
        )
    command = " ".join(["python", "tests/benchmarks/rpc.py", *sys.argv[1:]])
    head = [f"{datetime.now(UTC):%Y-%m-%d}, `{command}`. {machine()}. RabbitMQ {version}.", ""]
    head += [f"| {calls:,} calls | at once | median /s | slowest to fastest /s | |", "|---|---:|---:|---:|---|"]
    return "\n".join([*head, *rows, "", *judged_table(judged)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Call servers, and compare with pika as in RabbitMQ's tutorial.")
    parser.add_argument("--quick", action="store_true", help="one round with a quarter of the calls")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    calls = CALLS // 4 if options.quick else CALLS
    with tempfile.TemporaryDirectory(prefix="rmqkit-bench-") as folder:
        node = Node(Path(folder, "node"))
        status = node.start(0)
        try:
            with connect(status.url) as connection:
                connection.apply(Topology(queues=(Queue(QUEUE),)))
            rates = measure(status.url, 1 if options.quick else ROUNDS, calls)
        finally:
            node.discard()
    judged = judge(rates)
    text = render(rates, judged, status.version, calls)
    print(text)
    if options.write:
        write(options.write, text, "rpc.py")
    return 0 if all(each.met for each in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
