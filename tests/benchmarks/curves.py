"""Measure how throughput and memory change with sizes and numbers, and draw the curves.

    python -m tests.benchmarks.curves [--quick] [--write docs/performance.md]

Each point is one run, on one private node, or on a private cluster of three; messages are persistent, mandatory,
confirmed and acknowledged. The curves are SVG files in the folder `curves` beside the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rmqkit import Binding, Exchange, Message, PublishOptions, Queue, Topology, Verdict, connect
from rmqkit.node.cluster import Cluster
from tests.benchmarks.benchmark import BenchmarkNode, log, main
from tests.benchmarks.plot import Quantity, svg
from tests.benchmarks.results import Requirement

HERE = Path(__file__).parent
SIZES = {16: 40_000, 256: 40_000, 1024: 40_000, 4096: 20_000, 16 << 10: 8_000, 64 << 10: 3_000, 1 << 20: 150}
WINDOWS = {1: 1_000, 10: 5_000, 100: 20_000, 1_000: 40_000, 10_000: 40_000}
NUMBERS = (1, 2, 4, 8, 16)  # of connections, or of queues
TOGETHER = 40_000  # messages of all connections
COUNTS = (10_000, 100_000, 1_000_000)
SUBSCRIBERS = {1: 20_000, 10: 4_000, 100: 800, 1_000: 80}  # messages published for so many subscribers
READERS = 2  # processes
SIZE = 100  # bytes of a body, where it does not vary
ARGUMENTS = {"classic": {}, "quorum": {"x-queue-type": "quorum"}}

Curve = tuple[str, list[tuple[float, float]]]


class Curves:
    """A node, and what has been measured."""

    def __init__(self, node: BenchmarkNode) -> None:
        self.node = node
        self.page: list[str] = []
        self.scale = 20 if node.quick else 1

    def draw(self, name: str, title: str, lines: Sequence[Curve], x: Quantity, y: Quantity) -> None:
        """Add a curve to the page, with its numbers as a table."""
        series = ".".join(self.node.status.version.split(".")[:2])
        folder = (self.node.page.parent if self.node.page else Path("build")) / "curves"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}-{series}.svg"
        file.write_text(svg(title, lines, x, y))
        heads = [x.name, *(f"{line}, {y.name}" for line, _ in lines)]
        rows = [
            f"| {x.text(first)} | {' | '.join(f'{dict(points)[first]:,.0f}' for _, points in lines)} |"
            for first, _ in lines[0][1]
        ]
        self.page += [f"### {title}", "", f"![{title}](curves/{file.name})", ""]
        self.page += [f"| {' | '.join(heads)} |", "|" + "---:|" * len(heads), *rows, ""]

    def line(self, name: str, points: Sequence[int], measure: Callable[[int], float]) -> Curve:
        found: list[tuple[float, float]] = []
        for number, point in enumerate(points):
            found.append((point, measure(point)))
            log(number, len(points), found[-1][1], "", f"{name}: {point:,}")
        return name, found


@contextmanager
def queues(url: str, kind: str, number: int = 1) -> Iterator[list[str]]:
    """Declare empty queues of a type for a run, and delete them with what they hold."""
    names = [f"curve.{index}" for index in range(number)]
    topology = Topology(queues=tuple(Queue(name, arguments=ARGUMENTS[kind]) for name in names))
    with connect(url) as connection:
        connection.apply(topology)
        try:
            yield names
        finally:
            connection.destroy(topology, force=True)


def publish(url: str, queue: str, count: int, size: int, window: int | None = None) -> float:
    """Return messages a second of one connection."""
    message = Message(bytes(size), queue)
    options = PublishOptions() if window is None else PublishOptions(window=window)
    with connect(url) as connection:
        return count / connection.publish((message for _ in range(count)), options=options).seconds


def consume(url: str, queue: str, count: int) -> float:
    """Return messages a second of one connection, which acknowledges batches."""
    with connect(url) as connection, connection.consume(queue, count=count) as consumer:
        for batch in consumer.batches():
            consumer.settle(batch, Verdict.ACK)
    return count / consumer.report.seconds


def together(commands: Sequence[Sequence[object]], start: Callable[[], None] = lambda: None) -> float:
    """Run clients of curve_clients.py from one moment on; return the seconds until all are done."""
    script = [sys.executable, str(HERE / "peers" / "curve_clients.py")]
    processes = [
        subprocess.Popen([*script, *map(str, each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for each in commands
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "connected\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    start()
    times = [[float(word) for word in process.communicate()[0].split()] for process in processes]
    return max(ended for _, ended in times) - min(began for began, _ in times)


def over_body_size(curves: Curves) -> None:
    url, rates = curves.node.url, {}

    def published(size: int) -> float:
        with queues(url, "classic") as (queue,):
            count = SIZES[size] // curves.scale
            rate = publish(url, queue, count, size)
            rates[size] = consume(url, queue, count)
        return rate

    lines = [curves.line("publish", list(SIZES), published), curves.line("consume", list(SIZES), rates.__getitem__)]
    x, y = Quantity("body", _bytes, logarithmic=True), Quantity("messages/s", logarithmic=True)
    curves.draw("body-size", "Throughput by body size, one connection", lines, x, y)


def over_window(curves: Curves, cluster: Sequence[str]) -> None:
    def measure(url: str, kind: str) -> Callable[[int], float]:
        def rate(window: int) -> float:
            with queues(url, kind) as (queue,):
                return publish(url, queue, WINDOWS[window] // curves.scale, SIZE, window)

        return rate

    lines = [
        curves.line("classic, one node", list(WINDOWS), measure(curves.node.url, "classic")),
        curves.line("quorum, one node", list(WINDOWS), measure(curves.node.url, "quorum")),
        curves.line("quorum, three nodes", list(WINDOWS), measure(cluster[0], "quorum")),
    ]
    x, y = Quantity("window", logarithmic=True), Quantity("messages/s", logarithmic=True)
    curves.draw("window", "Throughput by unconfirmed messages, one connection", lines, x, y)


def over_connections_and_queues(curves: Curves) -> None:
    url = curves.node.url

    def measure(kind: str, connections: int, number: int) -> float:
        count = TOGETHER // curves.scale // connections
        with queues(url, kind, number) as names:
            shares = [names[index::connections] or names for index in range(connections)]
            seconds = together([("publish", url, count, SIZE, *share) for share in shares])
        return count * connections / seconds

    number = Quantity("connections", logarithmic=True)
    lines = [curves.line(kind, NUMBERS, lambda each, kind=kind: measure(kind, each, 1)) for kind in ARGUMENTS]
    rate = Quantity("messages/s")
    curves.draw("connections", "Throughput by connections that publish to one queue", lines, number, rate)
    lines = [curves.line(kind, NUMBERS, lambda each, kind=kind: measure(kind, 2, each)) for kind in ARGUMENTS]
    curves.draw("queues", "Throughput by queues, two connections", lines, number._replace(name="queues"), rate)


def memory(curves: Curves) -> None:
    counts = [count // curves.scale for count in COUNTS]
    peaks: dict[str, list[tuple[float, float]]] = {"rmqkit publish": [], "rmqkit consume": []}
    for count in counts:
        with queues(curves.node.url, "classic") as (queue,):
            for name, words in (
                ("rmqkit publish", ["publish", "--quiet", "-q", queue, "--count"]),
                ("rmqkit consume", ["consume", "--quiet", queue, "-n"]),
            ):
                peaks[name].append((count, _peak_mb(curves.node, [*words, str(count)])))
                log(len(peaks[name]) - 1, len(counts), peaks[name][-1][1], " MB", name)
    lines = list(peaks.items())
    x, y = Quantity("messages", logarithmic=True), Quantity("MB at the peak")
    curves.draw("memory", "Memory by number of messages", lines, x, y)


def _peak_mb(node: BenchmarkNode, words: Sequence[str]) -> float:
    script, nowhere = str(HERE / "measure_process.py"), os.devnull
    command = [str(Path(sys.executable).with_name("rmqkit")), *words]
    outer = [sys.executable, "-S", script, nowhere, nowhere, *command]
    done = subprocess.run(outer, env=node.env, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["code"] == 0
    return measured["peak_bytes"] / 1e6


def over_subscribers(curves: Curves, cluster: Sequence[str]) -> None:
    def measure(urls: Sequence[str]) -> Callable[[int], float]:
        def rate(number: int) -> float:
            count = SUBSCRIBERS[number] // curves.scale or 1
            names = [f"curve.{index}" for index in range(number)]
            topology = Topology(
                exchanges=(Exchange("curve", "fanout"),),
                queues=tuple(map(Queue, names)),
                bindings=tuple(Binding("curve", name) for name in names),
            )
            with connect(urls[0]) as connection:
                connection.apply(topology)
                try:
                    message = Message(bytes(SIZE), "", "curve")
                    shares = [names[index::READERS] for index in range(min(READERS, number))]
                    commands = [
                        ("subscribe", urls[index % len(urls)], count, *share) for index, share in enumerate(shares)
                    ]
                    seconds = together(commands, lambda: _check(connection.publish([message] * count).confirmed, count))
                finally:
                    connection.destroy(topology, force=True)
            return count * number / seconds

        return rate

    lines = [
        curves.line("one node", list(SUBSCRIBERS), measure([curves.node.url])),
        curves.line("three nodes", list(SUBSCRIBERS), measure(cluster)),
    ]
    x, y = Quantity("subscribers", logarithmic=True), Quantity("deliveries/s")
    curves.draw("subscribers", "Deliveries by subscribers of one exchange", lines, x, y)


def _check(found: int, expected: int) -> None:
    assert found == expected


def _bytes(number: float) -> str:
    for size, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= size:
            return f"{number / size:g} {unit}"
    return f"{number:g} B"


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    cluster = Cluster(node.folder / "cluster")
    curves = Curves(node)
    over_body_size(curves)
    over_connections_and_queues(curves)
    memory(curves)
    try:
        urls = cluster.start(port=0).url.split(",")
        over_window(curves, urls)
        over_subscribers(curves, urls)
    finally:
        cluster.discard()
    return curves.page, []


if __name__ == "__main__":
    sys.exit(main(measure_all, "Draw throughput and memory by size and number.", "a twentieth of the messages"))
