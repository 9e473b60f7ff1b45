"""`rmqkit consume`: the messages of a queue to standard output, each acknowledged once it is out.

Comes in: the command's options. Goes out: messages, a report on standard error, an exit code. Room: cli.
"""

from __future__ import annotations

import json as codec
import os
import sys
from contextlib import nullcontext
from enum import Enum
from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import consumption, failure, output, workers
from rmqkit.cli.consumption import Job, Outcome
from rmqkit.cli.options import Broker, Json, grouped
from rmqkit.cli.signals import Signals, StoppedAtOnce
from rmqkit.errors import OutputError
from rmqkit.report import ConsumeReport, as_json


class Print(Enum):
    """How a message is printed."""

    RAW = "raw"
    JSON = "json"


@grouped
def consume(
    queue: Annotated[str, typer.Argument(help="The queue.")],
    broker: Broker,
    *,
    count: Annotated[
        int | None, typer.Option("-n", "--count", metavar="N", min=1, help="End after exactly N.", show_default=False)
    ] = None,
    idle_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="End after so long without a message.", show_default=False),
    ] = None,
    prefetch: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="How many may be under way to each consumer.")
    ] = 1000,
    format: Annotated[  # noqa: A002 - the flag's word
        Print, typer.Option(help="raw: each body and a newline; json: an envelope a line, for `publish --envelopes`.")
    ] = Print.RAW,
    worker_count: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Consume with N processes.")] = 1,
    channels: Annotated[
        int, typer.Option(metavar="N", min=1, help="Consume with N consumers on one connection, in each process.")
    ] = 1,
    no_ack: Annotated[
        bool, typer.Option("--no-ack", help="Do not acknowledge: faster, and what is under way in a crash is lost.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the messages of a queue as they come, until Ctrl-C; each is acknowledged once it is out.

    What was not printed whole stays in the queue. The report goes to standard error.
    """
    if sys.stdout is None:  # closed, as by `>&-`: its number may come to stand for any other file
        raise OutputError("standard output is closed")
    job = Job(broker.settings(), queue, prefetch, count, idle_timeout, no_ack, format is Print.JSON, channels)
    with Signals() as signals:
        try:
            outcome = _run(job, worker_count, signals)
        except StoppedAtOnce:
            os._exit(exit_codes.SIGNALLED + signals.received)  # the broker queues again what was not acknowledged
        _tell(outcome, several=worker_count > 1 or channels > 1, as_json_object=json)
        code = exit_codes.exit_code(outcome.error)
        raise typer.Exit(code or (exit_codes.SIGNALLED + signals.received if signals.received else exit_codes.DONE))


def _run(job: Job, worker_count: int, signals: Signals) -> Outcome:
    # On a terminal the messages themselves are progress enough.
    progress = nullcontext(lambda _done, _blocked: None) if os.isatty(1) else output.progress("consuming", job.count)
    with progress as show:

        def take(done: int) -> None:
            show(done, "")

        if worker_count > 1:
            return workers.run(job, worker_count, signals.stop, on_progress=take)
        return consumption.run(job, signals.stop, on_progress=take)


def _tell(outcome: Outcome, *, several: bool, as_json_object: bool) -> None:
    report, error = outcome.report, outcome.error
    if as_json_object:
        output.note(codec.dumps(as_json(report) | (failure.as_json(error) if error else {}), indent=2))
        return
    if several and report.consumed:
        output.note(_shares(report))
    if report.consumed or not error:
        output.note(_summary(report))
    if error:
        output.note(failure.as_text(error))


def _shares(report: ConsumeReport) -> str:
    total = max(report.acknowledged, 1)
    rows = [(name, f"{share:,}", f"{share / total:.1%}") for name, share in report.shares.items()]
    return output.table([("consumer", "messages", "share"), *rows])


def _summary(report: ConsumeReport) -> str:
    """Say how many messages were printed; those that were delivered and not printed are back in the queue."""
    rate = f", {report.acknowledged / report.seconds:,.0f}/s" if report.acknowledged and report.seconds else ""
    things = "message" if report.acknowledged == 1 else "messages"
    again = f"; {report.redelivered:,} had been delivered before" if report.redelivered and report.acknowledged else ""
    return f"Consumed {report.acknowledged:,} {things} in {report.seconds:.2f} s{rate}{again}."
