"""`rmqkit demo work`: numbers, dealt out to worker processes while they are published."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rmqkit.cli import output
from rmqkit.cli.demos.delivery_count import DeliveryCount, count_deliveries
from rmqkit.cli.demos.runner import DemoProcess, DemoRunner, Result
from rmqkit.message import Message
from rmqkit.report import PublishReport

_QUEUE = "worker_queue"


def run(stage: DemoRunner) -> Result:
    """Publish with confirms while workers consume, and count."""
    stage.apply("topologies/work.yaml")
    workers = [stage.start(f"worker {number}", "consume", _QUEUE) for number in range(1, stage.workers + 1)]
    stage.wait_for_consumers(_QUEUE, *workers)
    stage.show("consume", _QUEUE, comment=f"{stage.workers} worker processes, ready")
    stage.show("publish", "--count", str(stage.count), comment="while they consume")
    report, seconds = _publish(stage, workers)
    stage.end()
    shares = {worker.name: len(worker.lines()) for worker in workers}
    came = (line for worker in workers for line in worker.lines())
    ledger = count_deliveries(came, [b"%d" % number for number in range(stage.count)])
    return _result(ledger, report, shares, seconds)


def _publish(stage: DemoRunner, workers: Sequence[DemoProcess]) -> tuple[PublishReport, float]:
    """Publish, and wait until all have come; return the report, and the seconds until the last came."""
    started_s = time.monotonic()
    with output.progress_bars("published", "consumed", total=stage.count) as (published, consumed):

        def count() -> int:
            seen = sum(worker.count() for worker in workers)
            consumed(seen, "")
            return seen

        def show(report: PublishReport) -> None:
            published(report.confirmed, stage.connection.blocked)
            count()

        messages = (Message(b"%d" % number, _QUEUE) for number in range(stage.count))
        report = stage.connection.publish(messages, check=False, on_progress=show)
        stage.wait(lambda: count() >= stage.count, *workers)
    seconds = time.monotonic() - started_s
    stage.wait(lambda: stage.connection.queue_state(_QUEUE).ready == 0, *workers)
    return report, seconds


def _result(ledger: DeliveryCount, report: PublishReport, shares: dict[str, int], seconds: float) -> Result:
    publish_rate, consume_rate = report.confirmed / report.seconds, ledger.came / seconds
    totals = [
        ("published", f"{report.published:,}", ""),
        ("confirmed", f"{report.confirmed:,}", f"{publish_rate:,.0f} a second"),
        ("consumed", f"{ledger.came:,}", f"{consume_rate:,.0f} a second, first publish to last delivery"),
        ("lost", f"{ledger.lost:,}", ""),
        ("duplicated", f"{ledger.duplicated:,}", ""),
    ]
    numbers = {
        "published": report.published,
        "confirmed": report.confirmed,
        "consumed": ledger.came,
        "lost": ledger.lost,
        "duplicated": ledger.duplicated,
        "unexpected": ledger.unexpected,
        "shares": shares,
        "publish_rate": round(publish_rate),
        "consume_rate": round(consume_rate),
        "seconds": round(seconds, 3),
    }
    text = f"{share_table('consumer', 'messages', shares)}\n\n{output.table(totals)}"
    return Result(ledger.complete and report.complete, text, numbers)


def share_table(who: str, what: str, shares: dict[str, int]) -> str:
    """Draw who had how much."""
    total = max(sum(shares.values()), 1)
    rows = [
        (name, f"{share:,}", f"{share / total:6.1%}", "█" * round(30 * share / total)) for name, share in shares.items()
    ]
    return output.table(rows, header=(who, what, "share", ""))
