"""A consume job as the command line describes it: run in this process, and reported."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from rmqkit import exit_codes
from rmqkit.cli import error_output, output, report_text
from rmqkit.cli.handler_options import HandlerOptions
from rmqkit.cli.options import connect
from rmqkit.connection import Connection
from rmqkit.errors import RmqkitError
from rmqkit.handlers.handler import Handler
from rmqkit.handlers.runner import ConsumeJob, run_handler
from rmqkit.message import Verdict
from rmqkit.report import ConsumeReport, as_json
from rmqkit.settings import Settings
from rmqkit.stop import Stop


@dataclass(frozen=True, slots=True)
class ConsumeCommand:
    """A job, its broker and handler, and the number of processes that share it.

    `open_queue` declares the queue on the new connection and returns its name, which replaces that in the job.
    """

    settings: Settings
    job: ConsumeJob
    handler: HandlerOptions
    workers: int = 1
    open_queue: Callable[[Connection], str] | None = None
    metrics_port: int | None = None


@dataclass(frozen=True, slots=True)
class ConsumeResult:
    """A report, and the error that ended the run early, if any."""

    report: ConsumeReport
    error: RmqkitError | None = None

    @property
    def exit_code(self) -> int:
        """Return the exit code: that of lost messages, of the error, or of messages that were not handled."""
        report = self.report
        if report.lost:
            return exit_codes.HANDLER_FAILED
        unhandled = report.failed or report.invalid or report.retried or report.parked
        return exit_codes.exit_code(self.error) or (exit_codes.HANDLER_FAILED if unhandled else exit_codes.DONE)


def run(
    command: ConsumeCommand,
    stop: Stop,
    *,
    lock_fd: int | None = None,
    on_consuming: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ConsumeResult:
    """Run the job over one connection until it ends or a stop is requested; `run_handler` explains the callbacks."""
    handler: Handler | None = None
    try:
        with connect(command.settings) as connection:
            job = command.job
            if command.open_queue:
                job = replace(job, queue=command.open_queue(connection))
            handler = command.handler.make(job.queue, command.settings, lock_fd)
            report = run_handler(
                connection,
                job,
                handler,
                stop=stop,
                on_warning=output.warn,
                on_consuming=on_consuming,
                on_progress=on_progress,
            )
    except RmqkitError as exc:
        return ConsumeResult(exc.report or ConsumeReport(), exc)
    finally:
        if handler:
            handler.close()
    return ConsumeResult(report)


def print_report(command: ConsumeCommand, result: ConsumeResult, *, as_json_object: bool) -> None:
    """Print the report on standard error: standard output belongs to the messages."""
    job, report, error = command.job, result.report, result.error
    if as_json_object:
        output.report(as_json(report) | (error_output.as_json(error) if error else {}))
        return
    if report.consumed and (command.workers > 1 or job.consumers > 1):
        output.note(report_text.consumer_shares(report))
    if report.consumed or not error:
        invalid = Verdict.ACK if job.invalid_to else Verdict.REJECT
        output.note(report_text.consume_summary(report, job.unmatched, invalid, job.failed))
    if error:
        error_output.show(error)
