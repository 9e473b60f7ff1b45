"""Demos of processes that share work, with one of them or their broker killed half-way: work, cluster, rpc."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from rmqkit.cli import output
from rmqkit.cli.demos.runner import DemoRunner, Result, count_deliveries, totals
from rmqkit.message import Delivery, Message, Properties
from rmqkit.node.cluster import Cluster
from rmqkit.report import PublishReport

_TASKS, _ORDERS, _REQUESTS = "worker_queue", "orders.billing", "rpc_requests"
_ORDER_KEY = "order.eu.refunded"
_WINDOW = 100
_ELECTION_S = 30.0


def work(runner: DemoRunner) -> Result:
    """Publish with confirms while workers consume, and count."""
    return _publish(runner, _TASKS, b"%d", _TASKS)


def cluster(runner: DemoRunner) -> Result:
    """Publish with confirms while workers consume, kill the leader of the queue half-way, and count."""
    return _publish(runner, _ORDERS, b'{"order": %d}', _ORDER_KEY, "orders.events")


class LeaderFailure:
    """Kill the leader of the orders, as a power failure would, and time the election of another one."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.before, self.after = cluster.leader(_ORDERS), ""
        self.seconds = 0.0
        self._watcher = threading.Thread(target=self._await_election, daemon=True)

    def begin(self) -> None:
        """Kill the leader, and start to watch."""
        node = next(node for node in self._cluster.nodes if node.name == self.before)
        output.note(f"$ kill -9 {node.pid}   # {self.before}, the leader of {_ORDERS}")
        node.kill()
        self._watcher.start()

    def end(self) -> None:
        """Wait until another node leads."""
        self._watcher.join()

    def _await_election(self) -> None:
        killed_s = time.monotonic()
        while not self.after and self.seconds < _ELECTION_S:
            leader = self._cluster.leader(_ORDERS)
            self.seconds = time.monotonic() - killed_s
            if leader not in ("", self.before):
                self.after = leader
                output.note(f"{leader} is the leader of {_ORDERS} now.")
            time.sleep(0.02)


def _publish(runner: DemoRunner, queue: str, body: bytes, routing_key: str, exchange: str = "") -> Result:
    """Publish until the workers have received every message, and compare; in a cluster, kill the leader half-way."""
    runner.apply()
    workers = runner.start_workers("worker", "consume", queue)
    count = ("--count", str(runner.count))
    options = ("-r", routing_key, *count, "...") if exchange else count
    runner.show("publish", *options, comment="confirmed, while they consume")
    failure = LeaderFailure(Cluster(runner.broker.folder / "cluster")) if runner.pattern.clustered else None
    messages = [Message(body % number, routing_key, exchange) for number in range(runner.count)]
    bodies = {bytes(message.body) for message in messages}

    def published() -> Iterator[Message]:
        for number, message in enumerate(messages):
            if failure and number == len(messages) // 2:
                failure.begin()
            yield message

    started_s = time.monotonic()
    with output.progress_bars("published", "consumed", total=runner.count) as (show_published, show_consumed):

        def show(report: PublishReport) -> None:
            show_published(report.confirmed, runner.connection.blocked)
            is_consumed()

        def is_consumed() -> bool:
            show_consumed(received := sum(len(worker.lines()) for worker in workers), "")
            return received >= len(bodies) and bodies.issubset(line for worker in workers for line in worker.lines())

        report = runner.connection.publish(published(), check=False, on_progress=show)
        runner.wait(is_consumed, *workers)
    seconds = time.monotonic() - started_s
    if failure:
        failure.end()
    runner.wait(lambda: runner.connection.queue_state(queue).ready == 0, *workers)
    runner.end()
    return _result(report, bodies, {worker.name: worker.lines() for worker in workers}, seconds, failure)


def _result(
    report: PublishReport,
    bodies: set[bytes],
    received: Mapping[str, list[bytes]],
    seconds: float,
    failure: LeaderFailure | None,
) -> Result:
    delivered = count_deliveries((line for lines in received.values() for line in lines), bodies)
    publish_rate, consume_rate = report.confirmed / report.seconds, delivered.received / seconds
    counts = {
        "published": report.published,
        "confirmed": report.confirmed,
        "republished": report.republished,
        "consumed": delivered.received,
        **delivered.faults,
    }
    shares = {name: len(lines) for name, lines in received.items()}
    remarks = {
        "confirmed": f"{publish_rate:,.0f} a second",
        "consumed": f"{consume_rate:,.0f} a second, first publish to last delivery",
        "duplicated": "delivery is at least once" if delivered.duplicated else "",
    }
    text = f"{_shares(shares, 'consumer', 'messages')}\n\n{totals(counts, remarks)}"
    rates = {"publish_rate": round(publish_rate), "consume_rate": round(consume_rate), "seconds": round(seconds, 3)}
    numbers = {**counts, "shares": shares, **rates}
    complete = delivered.complete and report.complete
    if failure:
        complete &= bool(failure.after)
        text += f"\nleaderless for {failure.seconds:.2f} s: {failure.before}, then {failure.after or 'none'}"
        numbers |= {"leaders": [failure.before, failure.after], "without_leader_s": round(failure.seconds, 3)}
    return Result(complete, text, numbers)


def double(request: Delivery) -> Message:
    """Reply to a number with its double, and with this server's number in a header; the demo's servers run it."""
    headers = {"server": int(os.environ["RMQKIT_DEMO_WORKER"])}
    return Message(b"%d" % (2 * int(request.body)), properties=Properties(headers=headers))


def rpc(runner: DemoRunner) -> Result:
    """Call servers, kill one of several half-way, and count."""
    runner.apply()
    handler = f"{__name__}:{double.__name__}"
    servers = runner.start_workers("server", "serve", _REQUESTS, "--handler", handler, "--prefetch", "20")
    calls = runner.count
    runner.show("call", _REQUESTS, "--lines", "...", comment=f"{calls:,} calls, {_WINDOW} at a time")
    by_server: Counter[int] = Counter()
    wrong = unanswered = 0
    started_s = time.monotonic()
    requests = (Message(b"%d" % number, _REQUESTS) for number in range(calls))
    with output.progress("answered", calls) as show:
        for number, answer in enumerate(runner.connection.call_many(requests, window=_WINDOW)):
            if answer.error is not None:
                unanswered += 1
                continue
            by_server[int((answer.reply.properties.headers or {}).get("server", 0))] += 1
            wrong += answer.reply.body != b"%d" % (2 * number)
            show(number + 1, "")
            if number == calls // 2 and len(servers) > 1:
                runner.kill(servers[-1], f"{servers[-1].name}; the others answer")
    seconds = max(time.monotonic() - started_s, 1e-6)
    answered, shares = by_server.total(), {each.name: by_server[number] for number, each in enumerate(servers, 1)}
    counts = {"calls": calls, "answered": answered, "wrong": wrong, "unanswered": unanswered}
    remarks = {"calls": f"{calls / seconds:,.0f} a second, {_WINDOW} at a time"}
    numbers = {**counts, "shares": shares, "call_rate": round(calls / seconds), "seconds": round(seconds, 3)}
    text = f"{_shares(shares, 'server', 'replies')}\n\n{totals(counts, remarks)}"
    return Result(not wrong and not unanswered and answered == calls, text, numbers)


def _shares(shares: Mapping[str, int], *header: str) -> str:
    total = max(sum(shares.values()), 1)
    rows = [
        (name, f"{share:,}", f"{share / total:6.1%}", "█" * round(30 * share / total)) for name, share in shares.items()
    ]
    return output.table(rows, header=(*header, "share", ""))
