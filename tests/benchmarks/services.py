"""The benchmark of services: one confirmed message, 32 threads, a thousand tasks, an asyncio consumer, a pipe.

    python -m tests.benchmarks.services [--quick] [--write docs/performance.md]

Each run is a process of its own on one private node. pika's threads have a connection each, rmqkit's share one; the
limit is limit.c, which keeps as many messages unconfirmed on one connection as there are threads. Every message is
persistent and confirmed, every delivery acknowledged. The contestants take turns, in an order that changes each round.
Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rmqkit import Message, Queue, Topology, connect
from tests.benchmarks.benchmark import BenchmarkNode, main, rate_row, require_ratio, run_in_turns
from tests.benchmarks.limit import build
from tests.benchmarks.results import Requirement

PEERS = Path(__file__).parent / "peers"
QUEUE, OUTPUT = "services", "services.output"


@dataclass(frozen=True)
class Contestant:
    """A script of `peers`, what it does, and how many messages it takes."""

    client: str
    what: str
    words: str
    count: int

    def __str__(self) -> str:
        return f"{self.client}: {self.words}"


ONE, THREADS = "one message after the other", "32 threads"
TASKS, CONSUME = "`asyncio.gather` of 1,000 publishes", "`async for` over deliveries"
PIKA_ONE, OUR_ONE = Contestant("pika", "one", ONE, 3000), Contestant("rmqkit", "one", ONE, 3000)
PIKA_THREADS, OUR_THREADS = (
    Contestant("pika", "threads", f"{THREADS}, a connection each", 9600),
    Contestant("rmqkit", "threads", f"{THREADS}, one connection", 32_000),
)
LIMIT_THREADS = Contestant("the limit", "threads", "32 unconfirmed messages, one connection", 32_000)
THEIR_TASKS, OUR_TASKS = Contestant("aio-pika", "tasks", TASKS, 10_000), Contestant("rmqkit", "tasks", TASKS, 30_000)
THEIR_CONSUME, OUR_CONSUME = (
    Contestant("aio-pika", "consume", CONSUME, 20_000),
    Contestant("rmqkit", "consume", CONSUME, 60_000),
)
PUBLISH = Contestant("rmqkit", "publish", "`connection.publish` of an iterable", 60_000)
PIPE = Contestant("rmqkit", "pipe", "`connection.pipe`, one message for each delivery", 60_000)


def run(each: Contestant, node: BenchmarkNode) -> list[float]:
    """Run a contestant on an empty queue, or on one with all that it consumes; return the numbers that it prints."""
    count = each.count // 10 * (1 if node.quick else 10)
    with connect(node.url) as connection:
        topology = Topology(queues=(Queue(QUEUE), Queue(OUTPUT)))
        connection.apply(topology)
        if each.what in ("consume", "pipe"):
            connection.publish(Message(b"x" * 100, QUEUE) for _ in range(count))
        if each is LIMIT_THREADS:
            port = str(urlsplit(node.url).port)
            command = [str(node.folder / "limit"), "publish", port, QUEUE, str(count), "100", "32"]
        else:
            script = PEERS / f"service_with_{each.client.replace('-', '_')}.py"
            command = [sys.executable, str(script), each.what, node.url, QUEUE, str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        expected = 0 if each.what == "consume" else count
        assert connection.queue_state(OUTPUT if each.what == "pipe" else QUEUE).ready >= expected
        connection.destroy(topology, force=True)
    numbers = [float(number) for number in done.stdout.split()]
    return [count / numbers[0]] if each is LIMIT_THREADS else numbers


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    build(node.folder)
    slowest: dict[Contestant, list[float]] = {PIKA_ONE: [], OUR_ONE: []}

    def measure(each: Contestant) -> float:
        number, *p99 = run(each, node)
        if p99:
            slowest[each] += p99
            return 1000 / number  # compared as a rate
        return number

    contestants = (
        PIKA_ONE, OUR_ONE, PIKA_THREADS, OUR_THREADS, LIMIT_THREADS, THEIR_TASKS, OUR_TASKS, THEIR_CONSUME, OUR_CONSUME,
        PUBLISH, PIPE,
    )  # fmt: skip
    rates = run_in_turns(contestants, node.rounds, measure, "/s")
    table = ["| confirmed or acknowledged | median /s | slowest to fastest /s |", "|---|---:|---:|"]
    table += [rate_row(each, rates[each]) for each in contestants]
    table += ["", "| one message after the other | median ms | 99th percentile ms |", "|---|---:|---:|"]
    p99 = {each: statistics.median(numbers) for each, numbers in slowest.items()}
    table += [f"| {each.client} | {1000 / statistics.median(rates[each]):.2f} | {p99[each]:.2f} |" for each in p99]
    ratio = p99[OUR_ONE] / p99[PIKA_ONE]
    requirements = [
        require_ratio(rates, OUR_ONE, PIKA_ONE, 1.0),
        Requirement(f"99th percentile of {OUR_ONE}", f"{ratio:.2f} of pika's", "less than 1", ratio < 1),
        require_ratio(rates, OUR_THREADS, PIKA_THREADS, 8.0),
        require_ratio(rates, OUR_TASKS, THEIR_TASKS, 4.0),
        require_ratio(rates, OUR_CONSUME, THEIR_CONSUME, 4.0),
        require_ratio(rates, PIPE, PUBLISH, 0.7),
    ]
    return table, requirements


if __name__ == "__main__":
    about = "Publish and consume as services do, and compare with pika and aio-pika."
    sys.exit(main(measure_all, about, "one round with a tenth of the messages"))
