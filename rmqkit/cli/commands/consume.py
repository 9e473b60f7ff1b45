"""`rmqkit consume`: the messages of a queue, each settled once it was handled: printed, if nothing else is named."""

from __future__ import annotations

import json as codec
import os
import re
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rmqkit import exit_codes
from rmqkit.cli import consume_job, error_output, last_applied, output, worker_processes
from rmqkit.cli.consume_job import ConsumeRequest, ConsumeResult
from rmqkit.cli.contract_options import ConsumedSchemaOptions
from rmqkit.cli.frame import Signals, StoppedAtOnce
from rmqkit.cli.handler_options import FilterOptions, HandlerOptions
from rmqkit.cli.last_applied import LastApplied
from rmqkit.cli.options import ConnectionOptions, Json, grouped, option
from rmqkit.cli.topology_source import load_topology
from rmqkit.errors import OutputError
from rmqkit.message import Verdict
from rmqkit.model import Retry
from rmqkit.payload import amqp_json
from rmqkit.report import ConsumeReport, as_json
from rmqkit.topology.retry import in_words

if TYPE_CHECKING:
    from rmqkit.options import Offset


Count = Annotated[int | None, option("-n", "--count", metavar="N", min=1, help="End after exactly N.")]
IdleTimeout = Annotated[float | None, option(metavar="SECONDS", min=0, help="End after so long without a message.")]
Prefetch = Annotated[
    int | None,
    option(
        metavar="N",
        min=1,
        max=65535,
        help="How many may be under way to each consumer: 1000, with --exec two a command, if not given.",
    ),
]

_LEFT = {Verdict.ACK: "sent on with the reason", Verdict.REJECT: "rejected"}
_PAST = {Verdict.ACK: "acknowledged", Verdict.REJECT: "rejected", Verdict.REQUEUE: "given back"}


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """How messages are taken from the queue, and where its contract and its retry stand."""

    worker_count: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Consume with N processes.")] = 1
    channels: Annotated[
        int, typer.Option(metavar="N", min=1, help="Consume with N consumers on one connection, in each process.")
    ] = 1
    topology: Annotated[
        list[str] | None,
        option(
            "--topology",
            metavar="FILE",
            help="Take the queue's contract and retry from this file, and not from the topology applied last.",
        ),
    ] = None
    no_ack: Annotated[
        bool, typer.Option("--no-ack", help="Do not acknowledge: faster, and what is under way in a crash is lost.")
    ] = False
    offset: Annotated[
        str | None,
        option(
            metavar="WHERE",
            help="Where to begin in a stream: first, last, next, an offset, 5m for what is no older, or a time.",
        ),
    ] = None

    def check(self, handling: HandlerOptions, filtering: FilterOptions, *, checked: bool) -> None:
        """Raise a usage error for what does not go together; `checked` tells that there is a contract."""
        if self.no_ack and (filtering.filter is not None or not handling.prints):
            raise typer.BadParameter("--no-ack is for printing everything: what is settled needs acknowledgements")
        if self.no_ack and checked:
            raise typer.BadParameter("a contract needs acknowledgements: leave --no-ack out, or add --no-schema")
        if self.offset is not None and (self.no_ack or self.worker_count > 1 or self.channels > 1):
            raise typer.BadParameter(
                "a stream gives every consumer all of it, and needs acknowledgements: --offset stands alone"
            )

    def position(self) -> Offset | None:
        """Return where to begin; raise a usage error for what is no offset."""
        text = self.offset
        if text is None or re.fullmatch(r"first|last|next|\d+[YMDhms]", text):
            return text
        if text.isdecimal():
            return int(text)
        try:
            return amqp_json.parse_timestamp(text)
        except ValueError as exc:
            raise typer.BadParameter(f"--offset: {exc}; or first, last, next, an offset, or an age like 5m") from exc


@grouped
def consume(
    queue: Annotated[str, typer.Argument(help="The queue.")],
    handling: HandlerOptions,
    filtering: FilterOptions,
    contract: ConsumedSchemaOptions,
    broker: ConnectionOptions,
    *,
    count: Count = None,
    idle_timeout: IdleTimeout = None,
    prefetch: Prefetch = None,
    taking: ConsumerOptions,
    json: Json = False,
) -> None:
    """Print the messages of a queue as they come, until Ctrl-C; each is acknowledged once it is out.

    Or save them, run a command for each, call a function, or forward them. What was not handled whole stays in the
    queue. What a handler fails on is tried again as the topology's retry says; without one it is rejected:
    dead-lettered, or dropped where the queue has no dead-letter exchange. The report goes to standard error.
    """
    check(handling, filtering)
    settings = broker.settings()
    applied = (
        last_applied.of(load_topology(taking.topology), taking.topology)
        if taking.topology
        else last_applied.recall(settings)
    )
    retry = _retry(queue, applied) if handling.may_fail and applied else None
    schema = contract.of_queue(queue, applied)
    if contract.invalid_to is not None and not schema:
        raise typer.BadParameter("--invalid-to is for a contract, and there is none: name a --schema")
    taking.check(handling, filtering, checked=bool(schema))
    if taking.offset is not None and filtering.filter is not None and filtering.unmatched is None:
        filtering = replace(filtering, unmatched=Verdict.ACK)  # which takes nothing out of a stream
    job = ConsumeRequest(
        settings,
        queue,
        handling.prefetch(prefetch, filtered=filtering.filter is not None),
        count,
        idle_timeout,
        taking.no_ack,
        taking.channels,
        schema,
        contract.target(queue, applied) if schema else None,
        handling,
        filtering,
        retry=retry,
        offset=taking.position(),
    )
    perform(job, taking.worker_count, as_json_object=json)


def _retry(queue: str, applied: LastApplied) -> Retry | None:
    """Return the retry of a queue, and say whose it is; warn if there is none, and failures are dropped."""
    files = ", ".join(applied.files)
    if retry := applied.retries.get(queue):
        output.note(output.safe(f"What fails {in_words(retry)}: the retry of queue {queue!r} in {files}."))
    elif applied.dead_letters.get(queue, ...) is None:
        lacking = f"queue {queue!r} has neither a retry nor a dead-letter exchange in {files}"
        output.warn(f"what fails will be dropped: {lacking}")
    return retry


def check(handling: HandlerOptions, filtering: FilterOptions) -> None:
    """Refuse what does not go together, and a closed standard output."""
    if sys.stdout is None:  # closed, as by `>&-`: its number may come to stand for any other file
        raise OutputError("standard output is closed")
    handling.check()
    filtering.check()


def perform(job: ConsumeRequest, worker_count: int = 1, *, as_json_object: bool) -> NoReturn:
    """Do the job, tell what was done, and exit."""
    with Signals() as signals:
        try:
            outcome = _run(job, worker_count, signals)
        except StoppedAtOnce:
            os._exit(exit_codes.SIGNALLED + signals.received)  # the broker queues again what was not acknowledged
        invalid = Verdict.ACK if job.invalid_to else Verdict.REJECT
        several = worker_count > 1 or job.channels > 1
        _tell(outcome, job.filtering.verdict, invalid, several=several, as_json_object=as_json_object)
        code = exit_codes.exit_code(outcome.error)
        report = outcome.report
        if not code and (report.failed or report.invalid or report.retried or report.parked):
            code = exit_codes.HANDLER_FAILED
        raise typer.Exit(code or (exit_codes.SIGNALLED + signals.received if signals.received else exit_codes.DONE))


def _run(job: ConsumeRequest, worker_count: int, signals: Signals) -> ConsumeResult:
    # On a terminal the messages themselves are progress enough.
    progress = nullcontext(lambda _done, _blocked: None) if os.isatty(1) else output.progress("consuming", job.count)
    with progress as show:

        def take(done: int) -> None:
            show(done, "")

        if worker_count > 1:
            return worker_processes.run(job, worker_count, signals.stop, on_progress=take)
        return consume_job.run(job, signals.stop, on_progress=take)


def _tell(outcome: ConsumeResult, unmatched: Verdict, invalid: Verdict, *, several: bool, as_json_object: bool) -> None:
    report, error = outcome.report, outcome.error
    if as_json_object:
        output.note(codec.dumps(as_json(report) | (error_output.as_json(error) if error else {}), indent=2))
        return
    if several and report.consumed:
        output.note(_shares(report))
    if report.consumed or not error:
        output.note(_summary(report, unmatched, invalid))
    if error:
        output.note(error_output.as_text(error))


def _shares(report: ConsumeReport) -> str:
    total = max(report.acknowledged, 1)
    rows = [(name, f"{share:,}", f"{share / total:.1%}") for name, share in report.shares.items()]
    return output.table([("consumer", "messages", "share"), *rows])


def _summary(report: ConsumeReport, unmatched: Verdict, invalid: Verdict) -> str:
    """Say how many messages were handled; those that were delivered and not settled are back in the queue."""

    def of_ours(settled: int, verdict: Verdict) -> int:
        left_out = (report.unmatched if verdict is unmatched else 0) + (report.invalid if verdict is invalid else 0)
        return settled - left_out

    done = of_ours(report.acknowledged, Verdict.ACK) - report.retried - report.parked
    rate = f", {done / report.seconds:,.0f}/s" if done and report.seconds else ""
    again = f"; {report.redelivered:,} had been delivered before" if report.redelivered and done else ""
    others = {
        "rejected": of_ours(report.rejected, Verdict.REJECT) - report.failed,
        "requeued": report.requeued,
        "failed (rejected)": report.failed,
        "failed (to be tried again)": report.retried,
        "parked (not to be tried again)": report.parked,
        f"broke the contract, and were {_LEFT[invalid]}": report.invalid,
        f"did not match ({_PAST[unmatched]})": report.unmatched,
    }
    told = "".join(f"; {number:,} {what}" for what, number in others.items() if number > 0)
    return f"Consumed {done:,} {'message' if done == 1 else 'messages'} in {report.seconds:.2f} s{rate}{again}{told}."
