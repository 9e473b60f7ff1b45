"""Consuming over one connection: one consumer, or several with a channel each, and one handler.

Comes in: a Job. Goes out: an Outcome, and what the handler does. Room: cli; `workers` does it with processes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rmqkit.broker.connection import Connection
from rmqkit.cli import output
from rmqkit.cli.handling import FilterOptions, HandlerOptions, Predicate
from rmqkit.cli.options import connect
from rmqkit.errors import PayloadError, RmqkitError
from rmqkit.handlers.handler import Handler, Settled, Source
from rmqkit.message import Verdict
from rmqkit.model import Contract, Retry, Target
from rmqkit.report import ConsumeReport
from rmqkit.settings import Settings
from rmqkit.stop import Stop
from rmqkit.topology.retry import in_words, waiting_queue

if TYPE_CHECKING:
    from rmqkit.broker.stream import Offset
    from rmqkit.handlers.checking import Checked
    from rmqkit.handlers.filtering import Filtered
    from rmqkit.handlers.retrying import Retrying
    from rmqkit.payload.contracts import Check

_WAIT_S = 0.5  # an endless wait, in slices: a signal that comes just before a wait does not end it
PROGRESS_EVERY_S = 0.05
KINDS_OF_FAILURE = 20  # that are told; of a next one it is only counted


@dataclass(frozen=True, slots=True)
class Job:
    """What to consume, and how; `count` None means no end, `idle_timeout_s` None means to wait for ever.

    What breaks the `contract` goes to `invalid_to`, or is rejected; what the handler fails on goes where `retry` says,
    or is rejected. `enter` returns the queue, where it is known only once there is a connection.
    """

    settings: Settings
    queue: str
    prefetch: int = 1000
    count: int | None = None
    idle_timeout_s: float | None = None
    no_ack: bool = False
    channels: int = 1
    contract: Contract | None = None
    invalid_to: Target | None = None
    handling: HandlerOptions = field(default_factory=HandlerOptions)
    filtering: FilterOptions = field(default_factory=FilterOptions)
    enter: Callable[[Connection], str] | None = None
    retry: Retry | None = None
    offset: Offset | None = None

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
    names = ["consumed", "acknowledged", "rejected", "requeued", "redelivered", "failed", "unmatched", "invalid"]
    names += ["retried", "parked"]
    return Outcome(ConsumeReport(**{name: total(name) for name in names}, seconds=seconds, shares=shares), error)


def run(
    job: Job,
    stop: Stop,
    *,
    lock_fd: int | None = None,
    on_consuming: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Handle the messages of a queue, each settled as the handler says, up to the end of the job or a stop.

    `on_consuming` is called once the broker knows all consumers, which are subscribed in order; `on_progress` now and
    then, with how many messages were acknowledged.
    """
    started_s = time.monotonic()
    lanes: list[_Lane] = []
    handler: Handler | None = None
    error: RmqkitError | None = None
    try:
        matches = job.filtering.make(output.warn)
        check = _check(job.contract)
        failures = _Failures()
        with connect(job.settings) as connection:
            job = replace(job, queue=job.enter(connection)) if job.enter else job
            handler = job.handling.make(job.queue, job.settings, lock_fd)
            for name in _ways_out(job):
                connection.queue_state(name)  # that it is not there is better said now
            lanes += (
                _Lane(part, connection, matches, check, stop, failures=failures) for part in job.split(job.channels)
            )
            on_consuming()
            error = _work_all(lanes, handler, stop, on_progress)
    except RmqkitError as exc:
        error = exc
    finally:
        if handler:
            handler.close()
    reports = {f"channel {number}": lane.report for number, lane in enumerate(lanes, 1)}
    return combine(reports, error, time.monotonic() - started_s)


def _ways_out(job: Job) -> list[str]:
    """Return the queues that messages are going to leave to."""
    names = [job.invalid_to.routing_key] if job.invalid_to and not job.invalid_to.exchange else []
    if job.retry:
        names += (waiting_queue(job.queue, each) for each in job.retry.delays_ms)
        names.append(job.retry.then)
    return list(dict.fromkeys(names))


def _retrying(job: Job, connection: Connection, stop: Stop) -> Retrying | None:
    if job.retry is None:
        return None
    from rmqkit.handlers.failing import Exit  # noqa: PLC0415 - start-up time
    from rmqkit.handlers.retrying import Retrying  # noqa: PLC0415

    return Retrying(Exit(connection, stop), job.queue, job.retry)


def _check(contract: Contract | None) -> Check | None:
    if contract is None:
        return None
    from rmqkit.payload.contracts import compile_contract  # noqa: PLC0415 - start-up time

    return compile_contract(contract)


class _Failures:
    """Tells of each kind of failure once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, failure: str, *, fate: str, subject: str = "") -> None:
        if failure not in self._told and len(self._told) < KINDS_OF_FAILURE:
            self._told.add(failure)
            output.warn(f"{subject}{failure}; {fate}. Others like it are only counted.")


class _Lane:
    """A consumer, subscribed, with filter and contract before the handler, and what came of its deliveries."""

    def __init__(
        self,
        job: Job,
        connection: Connection,
        matches: Predicate | None,
        check: Check | None,
        stop: Stop,
        *,
        failures: _Failures,
    ) -> None:
        self._consumer = connection.consume(
            job.queue,
            prefetch=job.prefetch,
            count=None if matches else job.count,
            idle_timeout_s=job.idle_timeout_s,
            no_ack=job.no_ack,
            offset=job.offset,
            stop=stop,
            on_warning=output.warn,
        )
        self._stop = stop
        self._failures = failures
        self._failed = 0
        self._filtered: Filtered | None = None
        if matches:
            from rmqkit.handlers.filtering import Filtered  # noqa: PLC0415 - start-up time: jinja2

            self._filtered = Filtered(
                self._consumer,
                matches,
                job.filtering.verdict,
                count=job.count,
                prefetch=job.prefetch,
                warn=output.warn,
            )
        self._checked: Checked | None = None
        if check:
            from rmqkit.handlers.checking import Checked  # noqa: PLC0415 - start-up time
            from rmqkit.handlers.failing import Exit  # noqa: PLC0415

            target = job.invalid_to
            fate = f"it goes to {target} with the reason" if target else "it was rejected"

            def tell(number: int, error: PayloadError) -> None:
                failures.tell(error.problems[0].message, subject=f"message {number}: ", fate=fate)

            source, settle = self._filtered or self._consumer, self._consumer.settle
            self._checked = Checked(source, check, Exit(connection, stop), target, settle=settle, tell=tell)
        self._retrying = _retrying(job, connection, stop)
        self._fate = f"its message {in_words(job.retry)}" if job.retry else "its message was rejected"
        self._consumer.subscribe()

    @property
    def report(self) -> ConsumeReport:
        """Return what was done so far."""
        unmatched = self._filtered.left_out if self._filtered else 0
        invalid = self._checked.invalid if self._checked else 0
        retried, parked = (self._retrying.retried, self._retrying.parked) if self._retrying else (0, 0)
        found = replace(self._consumer.report, failed=self._failed, unmatched=unmatched, invalid=invalid)
        return replace(found, retried=retried, parked=parked)

    def work(self, handler: Handler, tell: Callable[[], None]) -> None:
        """Let the handler handle what comes, and settle what it says, and nothing else."""
        with self._consumer as consumer:
            source: Source = self._checked or self._filtered or consumer
            for settled in handler.handle(source, self._stop):
                for left in self._leave(settled):
                    consumer.settle(left.deliveries, left.verdict)
                    if settled.failure and left.verdict is Verdict.REJECT:
                        self._failed += len(left.deliveries)
                if settled.failure:
                    self._failures.tell(settled.failure, fate=self._fate)
                tell()

    def _leave(self, settled: Settled) -> Iterable[Settled]:
        if self._retrying and settled.verdict is Verdict.REJECT:
            return self._retrying.leave(settled)
        return (settled,)


def _work_all(
    lanes: Sequence[_Lane], handler: Handler, stop: Stop, on_progress: Callable[[int], None]
) -> RmqkitError | None:
    """Let every lane work, each on a thread of its own if there are several; return the first error."""
    told_s = 0.0

    def tell() -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= PROGRESS_EVERY_S:
            told_s = time.monotonic()
            on_progress(sum(lane.report.acknowledged for lane in lanes))

    if len(lanes) == 1:
        lanes[0].work(handler, tell)
        return None
    errors: list[BaseException] = []

    def work(lane: _Lane) -> None:
        try:
            lane.work(handler, tell)
        except BaseException as exc:  # noqa: BLE001 - raised again below, on the main thread
            errors.append(exc)
            stop.request()  # one cannot go on: the others finish what they have

    threads = [threading.Thread(target=work, args=(lane,), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(_WAIT_S)
    for error in errors:
        if not isinstance(error, RmqkitError):
            raise error
    return errors[0] if errors else None  # type: ignore[return-value] # all others were raised above
