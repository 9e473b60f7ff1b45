"""Consuming to standard output over one connection: one consumer, or several with a channel each.

Comes in: a Job. Goes out: an Outcome, and messages on standard output. Room: cli; `workers` does it with processes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rmqkit.broker.consumer import Consumer
from rmqkit.cli import output
from rmqkit.cli.options import connect
from rmqkit.errors import OutputError, RmqkitError
from rmqkit.handlers.printing import Printer
from rmqkit.message import Verdict
from rmqkit.report import ConsumeReport
from rmqkit.settings import Settings
from rmqkit.stop import Stop

PROGRESS_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Job:
    """What to consume, and how; `count` None means no end, `idle_timeout_s` None means to wait for ever."""

    settings: Settings
    queue: str
    prefetch: int = 1000
    count: int | None = None
    idle_timeout_s: float | None = None
    no_ack: bool = False
    as_json: bool = False
    channels: int = 1

    def split(self, parts: int) -> list[Job]:
        """Deal the count out, so that the parts together take exactly that many; no part takes none."""
        if self.count is None:
            return [self] * parts
        each, more = divmod(self.count, parts)
        counts = [each + (number < more) for number in range(parts)]
        return [replace(self, count=count) for count in counts if count]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and what ended it before its time."""

    report: ConsumeReport
    error: RmqkitError | None = None


def combine(reports: Mapping[str, ConsumeReport], error: RmqkitError | None, seconds: float) -> Outcome:
    """Sum up reports by name; each one's share is what it acknowledged."""

    def total(field: str) -> int:
        return sum(getattr(report, field) for report in reports.values())

    shares = {name: report.acknowledged for name, report in reports.items()}
    names = ("consumed", "acknowledged", "rejected", "requeued", "redelivered")
    return Outcome(ConsumeReport(**{name: total(name) for name in names}, seconds=seconds, shares=shares), error)


def run(
    job: Job,
    stop: Stop,
    *,
    lock_fd: int | None = None,
    on_consuming: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Print the messages of a queue, each acknowledged once it is out, up to the end of the job or a stop.

    `on_consuming` is called once the broker knows all consumers, which are subscribed in order; `on_progress` now and
    then, with how many messages were printed.
    """
    started_s = time.monotonic()
    consumers: list[Consumer] = []
    error: RmqkitError | None = None
    try:
        printer = Printer(as_json=job.as_json, lock_fd=lock_fd)
        with connect(job.settings) as connection:
            for part in job.split(job.channels):
                consumer = connection.consume(
                    part.queue,
                    prefetch=part.prefetch,
                    count=part.count,
                    idle_timeout_s=part.idle_timeout_s,
                    no_ack=part.no_ack,
                    stop=stop,
                    on_warning=output.warn,
                )
                consumer.subscribe()
                consumers.append(consumer)
            on_consuming()
            error = _print_all(consumers, printer, stop, on_progress)
    except RmqkitError as exc:
        error = exc
    reports = {f"channel {number}": consumer.report for number, consumer in enumerate(consumers, 1)}
    return combine(reports, error, time.monotonic() - started_s)


def _print_all(
    consumers: Sequence[Consumer], printer: Printer, stop: Stop, on_progress: Callable[[int], None]
) -> RmqkitError | None:
    """Let every consumer print, each on a thread of its own if there are several; return the first error."""
    told_s = 0.0

    def tell() -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= PROGRESS_EVERY_S:
            told_s = time.monotonic()
            on_progress(sum(consumer.report.acknowledged for consumer in consumers))

    if len(consumers) == 1:
        _print(consumers[0], printer, stop, tell)
        return None
    errors: list[BaseException] = []

    def work(consumer: Consumer) -> None:
        try:
            _print(consumer, printer, stop, tell)
        except BaseException as exc:  # noqa: BLE001 - raised again below, on the main thread
            errors.append(exc)
            stop.request()  # one cannot go on: the others finish what they have

    threads = [threading.Thread(target=work, args=(consumer,), daemon=True) for consumer in consumers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, RmqkitError):
            raise error
    return errors[0] if errors else None  # type: ignore[return-value] # all others were raised above


def _print(consumer: Consumer, printer: Printer, stop: Stop, tell: Callable[[], None]) -> None:
    """Print batch by batch; acknowledge what is wholly out, and nothing else."""
    with consumer:
        for batch in consumer.batches():
            try:
                written = printer.write(batch, stop)
            except OutputError as exc:
                consumer.settle(batch[: exc.written], Verdict.ACK)
                raise
            consumer.settle(batch[:written], Verdict.ACK)
            tell()
            if written < len(batch):
                return
