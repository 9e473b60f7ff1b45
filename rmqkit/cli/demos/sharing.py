"""Demos of processes that share work, with one of them or their broker killed halfway: work, cluster, rpc."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Thread

from rmqkit.cli import output
from rmqkit.cli.demos.runner import DemoResult, DemoRunner, count_deliveries, totals
from rmqkit.message import Delivery, Message, Properties
from rmqkit.node.cluster import Cluster
from rmqkit.report import PublishReport

_TASKS, _ORDERS, _REQUESTS = "worker_queue", "orders.billing", "rpc_requests"
_ORDER_KEY = "order.eu.refunded"
_WINDOW = 100
_ELECTION_S = 30.0


def tasks(runner: DemoRunner) -> DemoResult:
    """Publish with confirms while workers consume, and count."""
    runner.show(f"publish --count {runner.count}", "confirmed, while they consume")
    return _publish(runner, _TASKS, [Message(b"%d" % number, _TASKS) for number in range(runner.count)])


def orders(runner: DemoRunner) -> DemoResult:
    """Publish with confirms while workers consume, kill the leader of the queue halfway, and count."""
    runner.show(f"publish -r {_ORDER_KEY} --count {runner.count} ...", "confirmed, while they consume")
    messages = [Message(b'{"order": %d}' % number, _ORDER_KEY, "orders.events") for number in range(runner.count)]
    cluster = Cluster(runner.broker.folder / "cluster")
    elections: list[tuple[str, str, float]] = []
    failure = Thread(target=lambda: elections.append(_kill_leader(cluster)), daemon=True)
    result = _publish(runner, _ORDERS, messages, halfway=failure.start)
    failure.join()
    before, after, seconds = elections[0]
    text = f"{result.text}\nleaderless for {seconds:.2f} s: {before}, then {after or 'none'}"
    numbers = {**result.numbers, "leaders": [before, after], "without_leader_s": round(seconds, 3)}
    return DemoResult(result.complete and bool(after), text, numbers)


def _kill_leader(cluster: Cluster) -> tuple[str, str, float]:
    """Kill the leader of the orders, as a power failure would; return it, the next one, and the seconds between."""
    before = cluster.leader(_ORDERS)
    node = next(node for node in cluster.nodes if node.name == before)
    output.note(f"$ kill -9 {node.pid}   # {before}, the leader of {_ORDERS}")
    node.kill()
    killed_s, seconds = time.monotonic(), 0.0
    while seconds < _ELECTION_S:
        leader = cluster.leader(_ORDERS)
        seconds = time.monotonic() - killed_s
        if leader not in ("", before):
            output.note(f"{leader} is the leader of {_ORDERS} now.")
            return before, leader, seconds
        time.sleep(0.02)
    return before, "", seconds


def _publish(
    runner: DemoRunner, queue: str, messages: Sequence[Message], halfway: Callable[[], object] = lambda: None
) -> DemoResult:
    """Publish until the workers have received every message, and compare."""
    workers, bodies = runner.processes.values(), {bytes(message.body) for message in messages}

    def published() -> Iterator[Message]:
        for number, message in enumerate(messages):
            if number == len(messages) // 2:
                halfway()
            yield message

    started_s = time.monotonic()
    with output.progress_bars("published", "consumed", total=runner.count) as (show_published, show_consumed):

        def show(report: PublishReport) -> None:
            show_published(report.confirmed, runner.connection.blocked)
            is_consumed()

        def is_consumed() -> bool:
            show_consumed(received := sum(len(worker.lines()) for worker in workers), "")
            return received >= len(bodies) and bodies.issubset(line for worker in workers for line in worker.lines())

        report = runner.connection.publish(published(), check=False, on_progress=show, on_warning=lambda _: None)
        runner.wait_until(is_consumed)
    seconds = time.monotonic() - started_s
    runner.wait_until_empty(queue)
    runner.end()
    delivered = count_deliveries((line for worker in workers for line in worker.lines()), bodies)
    names = ("published", "confirmed", "republished")
    counts = {name: getattr(report, name) for name in names} | {"consumed": delivered.received, **delivered.faults}
    rates = {"publish_rate": report.confirmed / report.seconds, "consume_rate": delivered.received / seconds}
    remarks = {
        "confirmed": f"{rates['publish_rate']:,.0f} a second",
        "consumed": f"{rates['consume_rate']:,.0f} a second, first publish to last delivery",
        "duplicated": "delivery is at least once" if delivered.duplicated else "",
    }
    shares = {worker.name: len(worker.lines()) for worker in workers}
    text = f"{_shares(shares, 'consumer', 'messages')}\n\n{totals(counts, remarks)}"
    rounded = {name: round(rate) for name, rate in rates.items()} | {"seconds": round(seconds, 3)}
    return DemoResult(delivered.complete and report.complete, text, {**counts, "shares": shares, **rounded})


def double(request: Delivery) -> Message:
    """Reply to a number with its double, and with this server's process in a header; the demo's servers run it."""
    return Message(b"%d" % (2 * int(request.body)), properties=Properties(headers={"server": os.getpid()}))


def calls(runner: DemoRunner) -> DemoResult:
    """Call servers, kill one of several halfway, and count."""
    number_of_calls, servers = runner.count, list(runner.processes.values())
    runner.show(f"call {_REQUESTS} --lines ...", f"{number_of_calls:,} calls, {_WINDOW} at a time")
    by_server: Counter[int] = Counter()
    wrong = unanswered = 0
    started_s = time.monotonic()
    requests = (Message(b"%d" % number, _REQUESTS) for number in range(number_of_calls))
    with output.progress("answered", number_of_calls) as show:
        for number, answer in enumerate(runner.connection.call_many(requests, window=_WINDOW)):
            if answer.error is not None:
                unanswered += 1
                continue
            by_server[int((answer.reply.properties.headers or {}).get("server", 0))] += 1
            wrong += answer.reply.body != b"%d" % (2 * number)
            show(number + 1, "")
            if number == number_of_calls // 2:
                runner.kill(servers[-1].name, f"{servers[-1].name}; the others answer")
    seconds = max(time.monotonic() - started_s, 1e-6)
    answered, shares = by_server.total(), {each.name: by_server[each.pid] for each in servers}
    counts = {"calls": number_of_calls, "answered": answered, "wrong": wrong, "unanswered": unanswered}
    remarks = {"calls": f"{number_of_calls / seconds:,.0f} a second, {_WINDOW} at a time"}
    rates = {"call_rate": round(number_of_calls / seconds), "seconds": round(seconds, 3)}
    text = f"{_shares(shares, 'server', 'replies')}\n\n{totals(counts, remarks)}"
    complete = not wrong and not unanswered and answered == number_of_calls
    return DemoResult(complete, text, {**counts, "shares": shares, **rates})


def _shares(shares: Mapping[str, int], *header: str) -> str:
    total = max(sum(shares.values()), 1)
    rows = [
        (name, f"{share:,}", f"{share / total:6.1%}", "█" * round(30 * share / total)) for name, share in shares.items()
    ]
    return output.table(rows, header=(*header, "share", ""))
