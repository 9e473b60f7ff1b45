"""`rmqkit demo cluster`: three nodes, and the one that leads a quorum queue is killed under load."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rmqkit.cli import output
from rmqkit.cli.demos.delivery_count import DeliveryCount, count_deliveries
from rmqkit.cli.demos.runner import DemoBroker, DemoProcess, DemoRunner, Result
from rmqkit.message import Message
from rmqkit.node.cluster import Cluster
from rmqkit.node.reaper import reap_when_done
from rmqkit.report import PublishReport

_QUEUE, _EXCHANGE, _KEY = "orders.billing", "orders.events", "order.eu.refunded"
_PATIENCE_S = 20.0  # without a message
_ELECTION_S = 30.0


@contextmanager
def private_cluster() -> Iterator[DemoBroker]:
    """Run three nodes while the block runs; their folder goes with them, even if we are killed."""
    with reap_when_done(Path(tempfile.mkdtemp(prefix="rmqkit-demo-"))) as folder:
        started_s = time.monotonic()
        output.note("Starting a private RabbitMQ cluster of three nodes ...")
        cluster = Cluster(folder / "cluster")
        status = cluster.start(port=0)
        first, took_s = status.nodes[0], time.monotonic() - started_s
        ports = ", ".join(str(node.port) for node in status.nodes)
        output.note(f"RabbitMQ {first.version} is ready on ports {ports} after {took_s:.1f} s.")
        yield DemoBroker(status.url, first.management_url, folder, cluster.nodes)


def run(stage: DemoRunner) -> Result:
    """Publish and consume, kill the queue's leader half-way, and count."""
    stage.apply("topologies/orders.yaml")
    workers = [stage.start(f"worker {number}", "consume", _QUEUE) for number in range(1, stage.workers + 1)]
    stage.wait_for_consumers(_QUEUE, *workers)
    stage.show("consume", _QUEUE, comment=f"{stage.workers} worker processes, ready")
    stage.show("publish", "-r", _KEY, "--count", str(stage.count), "...", comment="confirmed, while they consume")
    fall = LeaderFailure(Cluster(stage.place.folder / "cluster"))
    bodies = [b'{"order": %d}' % number for number in range(stage.count)]
    with output.progress_bars("published", "consumed", total=stage.count) as (published, consumed):

        def messages() -> Iterator[Message]:
            for number, body in enumerate(bodies):
                if number == stage.count // 2:
                    fall.begin()
                yield Message(body, _KEY, _EXCHANGE)

        def show(report: PublishReport) -> None:
            published(report.confirmed, stage.connection.blocked)
            consumed(sum(worker.count() for worker in workers), "")

        report = stage.connection.publish(messages(), check=False, on_progress=show)
        _await(stage.count, workers)
    fall.end()
    stage.end()
    came = [line for worker in workers for line in worker.lines()]
    return _result(report, count_deliveries(came, bodies), fall)


class LeaderFailure:
    """The leader's end: killed as by a power cut, and how long it takes until another one is seen."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.before, self.after = cluster.leader(_QUEUE), ""
        self.seconds = 0.0
        self._watch = threading.Thread(target=self._wait, daemon=True)

    def begin(self) -> None:
        """Kill the leader, and begin to watch."""
        node = next(node for node in self._cluster.nodes if node.name == self.before)
        output.note(f"$ kill -9 {node.pid}   # {self.before}, which leads {_QUEUE}")
        node.kill()
        self._watch.start()

    def end(self) -> None:
        """Wait until another one leads."""
        self._watch.join()

    def _wait(self) -> None:
        killed_s = time.monotonic()
        while not self.after and self.seconds < _ELECTION_S:
            leader = self._cluster.leader(_QUEUE)
            self.seconds = time.monotonic() - killed_s
            if leader not in ("", self.before):
                self.after = leader
                output.note(f"{leader} leads {_QUEUE} now.")
            time.sleep(0.02)


def _await(wanted: int, workers: Sequence[DemoProcess]) -> None:
    """Wait until so many different messages have come, or nothing has come for a while."""
    seen, moved_s = 0, time.monotonic()
    while time.monotonic() - moved_s < _PATIENCE_S:
        now = sum(worker.count() for worker in workers)
        if now >= wanted and len({line for worker in workers for line in worker.lines()}) >= wanted:
            return
        if now != seen:
            seen, moved_s = now, time.monotonic()
        time.sleep(0.1)


def _result(report: PublishReport, ledger: DeliveryCount, fall: LeaderFailure) -> Result:
    leaders = f"{fall.before}, then {fall.after or 'nobody'}"
    totals = [
        ("published", f"{report.published:,}", ""),
        (
            "confirmed",
            f"{report.confirmed:,}",
            f"{report.republished:,} were sent again, some more than once" if report.republished else "",
        ),
        ("consumed", f"{ledger.came:,}", ""),
        ("lost", f"{ledger.lost:,}", ""),
        ("duplicated", f"{ledger.duplicated:,}", "at least once is what is promised"),
        ("leaderless", f"{fall.seconds:.2f} s", leaders),
    ]
    numbers = {
        "published": report.published,
        "confirmed": report.confirmed,
        "republished": report.republished,
        "consumed": ledger.came,
        "lost": ledger.lost,
        "duplicated": ledger.duplicated,
        "unexpected": ledger.unexpected,
        "leaders": [fall.before, fall.after],
        "without_leader_s": round(fall.seconds, 3),
        "seconds": round(report.seconds, 3),
    }
    complete = report.complete and ledger.complete and bool(fall.after)
    return Result(complete, output.table(totals), numbers)
