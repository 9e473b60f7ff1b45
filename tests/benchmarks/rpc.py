"""The benchmark of request and reply: calls a second, one after the other and several at once.

    python -m tests.benchmarks.rpc [--quick] [--write docs/performance.md]

Clients and servers are processes on one private node; the peer is pika as in RabbitMQ's tutorial 6, with a
callback queue. Every reply is compared with its request. The contestants take turns, in an order that changes each
round. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rmqkit import Queue, Topology, connect
from tests.benchmarks.benchmark import BenchmarkNode, main, medians, rate_row, require_ratio, run_in_turns
from tests.benchmarks.results import Requirement

CALLS = 2000
PEERS = Path(__file__).parent / "peers"
QUEUE = "requests"
LEAST = 2.0  # how much faster than one call after the other of pika's


@dataclass(frozen=True)
class Contestant:
    """A client and a server: scripts of `peers`, each with its last arguments."""

    name: str
    client: tuple[str, ...]
    server: tuple[str, ...]
    at_once: int = 1

    def __str__(self) -> str:
        return self.name


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


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    calls = CALLS // 4 if node.quick else CALLS
    with connect(node.url) as connection:
        connection.apply(Topology(queues=(Queue(QUEUE),)))
    rates = run_in_turns(CONTESTANTS, node.rounds, lambda each: rate(each, node.url, calls), "/s")
    median = medians(rates)
    table = [f"| {calls:,} calls | at once | median /s | slowest to fastest /s | |", "|---|---:|---:|---:|---|"]
    for each in sorted(rates, key=lambda each: -median[each]):
        ratio = "" if each is ALL_PIKA else f"{median[each] / median[ALL_PIKA]:.2f} times pika's"
        table.append(f"{rate_row(each, rates[each], str(each.at_once))} {ratio} |")
    return table, [require_ratio(rates, MANY_AHEAD, ALL_PIKA, LEAST)]


if __name__ == "__main__":
    about = "Call servers, and compare with pika as in RabbitMQ's tutorial."
    sys.exit(main(measure_all, about, "one round with a quarter of the calls"))
