"""`rmqkit demo`: a messaging pattern at work, on a node of its own, with a count of what was lost.

Comes in: a pattern's name. Goes out: what happens while it happens, a table, an exit code. Room: cli.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output
from rmqkit.cli.crew import Crew
from rmqkit.cli.options import Json

if TYPE_CHECKING:
    from rmqkit.broker.connection import Connection
    from rmqkit.cli.crew import Ledger
    from rmqkit.report import PublishReport

PATTERNS = {"work": 100_000, "rpc": 10_000}  # and how many messages or calls, if nobody says
_QUEUE = "worker_queue"


def demo(
    pattern: Annotated[
        str, typer.Argument(metavar="[PATTERN]", help=f"Which pattern: {', '.join(PATTERNS)}.")
    ] = "work",
    count: Annotated[
        int | None,
        typer.Option(
            "-n", "--count", metavar="N", min=1, help="How many messages, or calls: 100,000, or 10,000 with rpc."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, max=64, help="How many consumer or server processes.")
    ] = 3,
    *,
    json: Json = False,
) -> None:
    """Show a pattern at work, on a private RabbitMQ node that is removed afterwards.

    work: messages are published with confirms, and dealt out to worker processes. rpc: requests are answered by server
    processes, one of which is killed half-way. Exits with 0 only if nothing was lost, and every call answered.
    """
    if pattern not in PATTERNS:
        raise typer.BadParameter(f"{pattern!r} is none of: {', '.join(PATTERNS)}", param_hint="PATTERN")
    signal.signal(signal.SIGTERM, _exit)
    with _private_node() as url:
        amount = count or PATTERNS[pattern]
        complete = (_show_rpc if pattern == "rpc" else _show_work)(url, amount, workers, json)
    raise typer.Exit(exit_codes.DONE if complete else exit_codes.NOT_CONFIRMED)


def _show_work(url: str, count: int, workers: int, as_json: bool) -> bool:  # noqa: FBT001 - the flag's value
    ledger, report = _work(url, count, workers)
    if as_json:
        output.out_json(_as_json(ledger, report))
    else:
        _print(ledger, report)
    return ledger.complete and report.complete


def _show_rpc(url: str, count: int, servers: int, as_json: bool) -> bool:  # noqa: FBT001 - the flag's value
    from rmqkit.cli import demo_rpc  # noqa: PLC0415 - start-up time

    ledger = demo_rpc.run(url, count, servers)
    if as_json:
        output.out_json(ledger.as_json())
    else:
        _print_shares("server", "replies", ledger.shares)
        output.out(output.table(ledger.as_rows()))
    return ledger.complete


def _exit(number: int, _frame: object) -> None:
    sys.exit(exit_codes.SIGNALLED + number)  # unwinds, so that the node and the workers end


@contextmanager
def _private_node() -> Iterator[str]:
    """Run a node in a folder of its own, and remove both."""
    from rmqkit.node import Node  # noqa: PLC0415 - start-up time

    with tempfile.TemporaryDirectory(prefix="rmqkit-demo-", ignore_cleanup_errors=True) as folder:
        node = Node(Path(folder) / "node")
        started_s = time.monotonic()
        output.note("Starting a private RabbitMQ node ...")
        try:
            status = node.start(port=0)
            took_s = time.monotonic() - started_s
            output.note(f"RabbitMQ {status.version} is ready on port {status.port} after {took_s:.1f} s.")
            yield status.url
        finally:
            node.discard()


def _work(url: str, count: int, workers: int) -> tuple[Ledger, PublishReport]:
    from rmqkit.broker.connection import connect  # noqa: PLC0415 - start-up time: pika
    from rmqkit.message import Message  # noqa: PLC0415
    from rmqkit.topology.loader import load  # noqa: PLC0415
    from rmqkit.topology.shipped import find  # noqa: PLC0415

    with connect(url) as connection, Crew(url, _QUEUE, workers) as crew:
        connection.apply(load(find("work")))
        output.note(f"$ rmqkit apply topologies/work.yaml     # declared: queue {_QUEUE}")
        crew.start()
        _await(lambda: connection.queue_state(_QUEUE).consumers == workers, crew)
        output.note(f"$ rmqkit consume {_QUEUE}           # {workers} worker processes, ready")
        output.note(f"$ rmqkit publish --count {count}          # confirmed, while the workers consume")
        with output.progress_bars("published", "consumed", total=count) as (published, consumed):

            def show(report: PublishReport) -> None:
                published(report.confirmed, connection.blocked)
                consumed(crew.count(), "")

            crew.restart_clock()
            report = connection.publish(
                (Message(b"%d" % number, _QUEUE) for number in range(count)), check=False, on_progress=show
            )
            _consume_the_rest(connection, crew, count, consumed)
        return crew.ledger(count), report


def _consume_the_rest(connection: Connection, crew: Crew, count: int, consumed: Callable[[int, str], None]) -> None:
    """Wait until all have come, or until nothing has come for a while and nothing is left."""
    seen, moved_s = crew.count(), time.monotonic()
    while (now := crew.count()) < count and time.monotonic() - moved_s < 10:  # noqa: PLR2004 - seconds
        if now != seen:
            seen, moved_s = now, time.monotonic()
        consumed(now, "")
        time.sleep(0.02)
    consumed(crew.count(), "")
    _await(lambda: connection.queue_state(_QUEUE).ready == 0, crew)


def _await(condition: Callable[[], bool], crew: Crew, timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        crew.check()
        if time.monotonic() > deadline_s:
            return  # the ledger tells what is missing
        time.sleep(0.02)


def _as_json(ledger: Ledger, report: PublishReport) -> dict[str, object]:
    return {
        "published": report.published,
        "confirmed": report.confirmed,
        "consumed": ledger.consumed,
        "lost": ledger.lost,
        "duplicated": ledger.duplicated,
        "unexpected": ledger.unexpected,
        "shares": {f"worker {number}": share for number, share in enumerate(ledger.shares, 1)},
        "publish_rate": round(report.confirmed / report.seconds),
        "consume_rate": round(ledger.consumed / ledger.seconds),
        "seconds": round(ledger.seconds, 3),
    }


def _print(ledger: Ledger, report: PublishReport) -> None:
    _print_shares("worker", "messages", ledger.shares)
    publish_rate = f"{report.confirmed / report.seconds:,.0f} a second"
    consume_rate = f"{ledger.consumed / ledger.seconds:,.0f} a second, from the first publish to the last delivery"
    totals = [
        ("published", f"{report.published:,}", ""),
        ("confirmed", f"{report.confirmed:,}", publish_rate),
        ("consumed", f"{ledger.consumed:,}", consume_rate),
        ("lost", f"{ledger.lost:,}", ""),
        ("duplicated", f"{ledger.duplicated:,}", ""),
    ]
    output.out(output.table(totals))


def _print_shares(who: str, what: str, shares: Sequence[int]) -> None:
    total = max(sum(shares), 1)
    rows = [
        (f"{who} {number}", f"{share:,}", f"{share / total:6.1%}", _bar(share / total))
        for number, share in enumerate(shares, 1)
    ]
    output.out("")
    output.out(output.table(rows, header=("consumer" if who == "worker" else who, what, "share", "")))
    output.out("")


def _bar(share: float) -> str:
    return "█" * round(share * 30)
