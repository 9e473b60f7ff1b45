"""The deliveries of a queue to a handler, each settled as the handler says, or as the contract and the retry do."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rmqkit.connection import Connection
from rmqkit.errors import Location, PayloadError, RmqkitError, SettingsError
from rmqkit.handlers.failure_copy import FailedDelivery, FailureCopier
from rmqkit.handlers.function import Function, FunctionHandler
from rmqkit.handlers.handler import HandledBatch, Handler, Source
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging import thread_group
from rmqkit.messaging.rpc_server import OnFailure, log_failure
from rmqkit.model import Contract, Retry, Target, Topology
from rmqkit.options import ConsumeOptions, shares
from rmqkit.payload.contracts import compile_contract, reason
from rmqkit.payload.death_headers import ATTEMPTS, QUEUE
from rmqkit.payload.formats import Check
from rmqkit.report import ConsumeReport
from rmqkit.stop import Stop
from rmqkit.topology.policies import dead_letter_target
from rmqkit.topology.retry import in_words, waiting_queue

if TYPE_CHECKING:
    from rmqkit.handlers.delivery_filters import FilteredSource


def next_steps(rejected: HandledBatch, queue: str, retry: Retry) -> list[FailedDelivery]:
    """Return where what failed goes: to wait, or to the end; there what the handler rejected goes at once."""
    reason = ": ".join(filter(None, (rejected.failure or "the handler rejected it", rejected.detail)))
    failed, end = [], Target("", retry.then)
    for delivery in rejected.deliveries:
        attempts = _attempts(delivery, queue)
        again = bool(rejected.failure) and attempts <= len(retry.delays_ms)
        target = Target("", waiting_queue(queue, retry.delays_ms[attempts - 1])) if again else end
        failed.append(FailedDelivery(delivery, reason, target, {QUEUE: queue, ATTEMPTS: attempts}, end))
    return failed


def _attempts(delivery: Delivery, queue: str) -> int:
    """Count the tries, this one included; those in another queue do not count."""
    headers = delivery.properties.headers or {}
    before = headers.get(ATTEMPTS) if headers.get(QUEUE) == queue else 0
    return 1 + (before if type(before) is int and before > 0 else 0)


class ContractSource:
    """A source of what keeps the contract; what does not, `leave` gets, with `target`.

    `tell` hears why, each with its number, from 1 for the first message of this source.
    """

    def __init__(
        self,
        source: Source,
        check: Check,
        target: Target | None,
        *,
        leave: Callable[[Sequence[FailedDelivery]], None],
        tell: Callable[[int, PayloadError], None],
    ) -> None:
        self._source = source
        self._check = check
        self._target = target
        self._leave = leave
        self._tell = tell
        self._number = 0

    def batches(self, *, busy: Callable[[], bool] = lambda: False) -> Iterator[list[Delivery]]:
        """Yield what keeps the contract of each batch, which may be nothing. Raises what `leave` raises."""
        for batch in self._source.batches(busy=busy):
            kept: list[Delivery] = []
            failed: list[FailedDelivery] = []
            for delivery in batch:
                self._number += 1
                try:
                    self._check(delivery.body, Location("the message"))
                except PayloadError as exc:
                    self._tell(self._number, exc)
                    failed.append(FailedDelivery(delivery, reason(exc), self._target))
                else:
                    kept.append(delivery)
            if failed:
                self._leave(failed)
            yield kept

    def wake(self) -> None:
        """Have `batches` yield an empty batch soon."""
        self._source.wake()


PROGRESS_EVERY_S = 0.05
KINDS_OF_FAILURE = 20  # that are told; of a next one it is only counted

OnWarning = Callable[[str], None]
_log = logging.getLogger("rmqkit")


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What becomes of messages that are not handled well.

    What breaks the `contract` goes to `invalid_to`, what the handler failed on where `retry` says; without these it is
    rejected.
    """

    contract: Contract | None = None
    invalid_to: Target | None = None
    retry: Retry | None = None

    def check(self, queue: str) -> None:
        """Raise SettingsError if what breaks the contract would come back into its queue."""
        if self.contract and self.invalid_to in (Target("", queue), Target("", "")):
            raise SettingsError(
                f"what breaks its contract would come back into queue {queue!r} for ever",
                advice="Name another queue with --invalid-to, or give the queue a retry that ends elsewhere.",
            )

    def ways_out(self, queue: str) -> list[str]:
        """Return the queues that messages of another leave to."""
        names = [self.invalid_to.routing_key] if self.invalid_to and not self.invalid_to.exchange else []
        if self.retry:
            names += (waiting_queue(queue, each) for each in self.retry.delays_ms)
            names.append(self.retry.then)
        return list(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class ConsumeJob:
    """What is to be handled: of a queue all, or what `matches`; of so many consumers each has a channel and a thread.

    What does not match gets the verdict `unmatched`.
    """

    queue: str
    options: ConsumeOptions
    terms: FailurePolicy = FailurePolicy()
    consumers: int = 1
    matches: Callable[[Delivery], bool] | None = None
    unmatched: Verdict = Verdict.REQUEUE


def handle(
    connection: Connection,
    queue: str,
    handler: Function | Handler,
    *,
    topology: Topology | None = None,
    prefetch: int = 100,
    count: int | None = None,
    idle_timeout_s: float | None = None,
    concurrency: int = 1,
    stop: Stop | None = None,
    on_failure: OnFailure = log_failure,
    on_warning: OnWarning = _log.warning,
) -> ConsumeReport:
    """Call a function with each delivery of a queue, and acknowledge it when that has returned.

    Where the function raises, the message goes along the retry that `topology` has for the queue: to wait and come
    again, and in the end to where somebody looks at it, with the reason in its headers. What breaks the queue's
    contract goes there at once, and so does what it returns Verdict.REJECT for; Verdict.REQUEUE gives a message back.
    Without a retry a failure is rejected: dead-lettered, or dropped where the queue has no dead-letter exchange.

    It ends as a consumer does: see `ConsumeOptions`. With `concurrency`, as many threads call the function.
    `on_failure` gets what it raised, `on_warning` hears of each kind of failure once, and of what is recovered from;
    both are logged if not given. Instead of a function it may be any Handler. Raises what a consumer raises, NotFound
    if a queue of the retry is missing, Unroutable or NotConfirmed if a message could not leave, HandlerError for a
    function that returns anything else; the `report` of these has the numbers.
    """
    terms = failure_policy_of(topology, queue, on_warning) if topology else FailurePolicy()
    work = ConsumeJob(queue, ConsumeOptions(prefetch, count, idle_timeout_s), terms, concurrency)
    called = handler if isinstance(handler, Handler) else FunctionHandler(handler, on_failure)
    return run_handler(connection, work, called, stop=stop or Stop(), on_warning=on_warning)


def failure_policy_of(topology: Topology, queue: str, on_warning: OnWarning = lambda _: None) -> FailurePolicy:
    """Return what a topology says of a queue; warn if its failures are dropped."""
    found = next((each for each in topology.queues if each.name == queue), None)
    if found is None:
        return FailurePolicy()
    dead_letters = dead_letter_target(topology, found)
    if not found.retry and not dead_letters:
        on_warning(f"what fails will be dropped: queue {queue!r} has neither a retry nor a dead-letter exchange")
    end = Target("", found.retry.then) if found.retry else dead_letters
    return FailurePolicy(found.contract, end if found.contract else None, found.retry)


def run_handler(
    connection: Connection,
    work: ConsumeJob,
    handler: Handler,
    *,
    stop: Stop,
    on_warning: OnWarning,
    on_consuming: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ConsumeReport:
    """Let a handler handle the deliveries of a queue up to the end of the work or a stop.

    `on_consuming` is called once the broker knows all consumers, which are subscribed in order; `on_progress` now and
    then, with how many messages were acknowledged. Raises what `handle` raises.
    """
    started_s = told_s = time.monotonic()
    lanes: list[_ConsumerRun] = []

    def tell() -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= PROGRESS_EVERY_S:
            told_s = time.monotonic()
            on_progress(sum(lane.report.acknowledged for lane in lanes))

    def report() -> ConsumeReport:
        reports = {f"channel {number}": lane.report for number, lane in enumerate(lanes, 1)}
        return combine(reports, time.monotonic() - started_s)

    try:
        work.terms.check(work.queue)
        for name in work.terms.ways_out(work.queue):
            connection.queue_state(name)  # that it is not there is better said now
        failures = _Failures(on_warning)
        check = compile_contract(work.terms.contract) if work.terms.contract else None
        for count in shares(work.options.count, work.consumers):
            part = replace(work, options=replace(work.options, count=count))
            lanes.append(_ConsumerRun(connection, part, check, stop, failures))
        on_consuming()
        thread_group.run_all([lambda lane=lane: lane.work(handler, tell) for lane in lanes], stop)  # type: ignore[misc]
    except RmqkitError as exc:
        for lane in lanes:
            lane.close()
        exc.report = report()
        raise
    return report()


def combine(reports: Mapping[str, ConsumeReport], seconds: float) -> ConsumeReport:
    """Sum up reports by name; each one's share is what it acknowledged."""
    totals: Counter[str] = Counter()
    for report in reports.values():
        numbers: dict[str, Any] = asdict(report)
        totals.update({name: number for name, number in numbers.items() if isinstance(number, int)})
    return ConsumeReport(
        **totals, seconds=seconds, shares={name: report.acknowledged for name, report in reports.items()}
    )


class _Failures:
    """Tells of each kind of failure once."""

    def __init__(self, on_warning: OnWarning) -> None:
        self.warn = on_warning
        self._told: set[str] = set()

    def tell(self, failure: str, *, fate: str, subject: str = "") -> None:
        if failure not in self._told and len(self._told) < KINDS_OF_FAILURE:
            self._told.add(failure)
            self.warn(f"{subject}{failure}; {fate}. Others like it are only counted.")


class _ConsumerRun:
    """A consumer, subscribed, with filter and contract before the handler, and what came of its deliveries."""

    def __init__(
        self, connection: Connection, work: ConsumeJob, check: Check | None, stop: Stop, failures: _Failures
    ) -> None:
        options, terms = work.options, work.terms
        self._work, self._stop, self._failures = work, stop, failures
        self._exit = FailureCopier(connection, stop)
        self._counts: Counter[str] = Counter()
        self._consumer = connection.consume(
            work.queue,
            prefetch=options.prefetch,
            count=None if work.matches else options.count,
            idle_timeout_s=options.idle_timeout_s,
            no_ack=options.no_ack,
            offset=options.offset,
            stop=stop,
            on_warning=failures.warn,
        )
        self._source: Source = self._consumer
        self._filtered: FilteredSource | None = None
        if work.matches:
            from rmqkit.handlers.delivery_filters import FilteredSource  # noqa: PLC0415 - start-up time: jinja2

            self._source = self._filtered = FilteredSource(
                self._consumer,
                work.matches,
                work.unmatched,
                count=options.count,
                prefetch=options.prefetch,
                warn=failures.warn,
            )
        if check:
            self._source = ContractSource(
                self._source, check, terms.invalid_to, leave=self._leave_invalid, tell=self._tell_invalid
            )
        self._consumer.subscribe()

    @property
    def report(self) -> ConsumeReport:
        """Return what was done so far."""
        unmatched = self._filtered.left_out if self._filtered else 0
        counts = self._counts
        found = replace(self._consumer.report, unmatched=unmatched, invalid=counts["invalid"], failed=counts["failed"])
        return replace(found, retried=counts["retried"], parked=counts["parked"])

    def work(self, handler: Handler, tell: Callable[[], None]) -> None:
        """Let the handler handle what comes, and settle what it says, and nothing else."""
        with self._consumer:
            for settled in handler.handle(self._source, self._stop):
                self._settle(settled)
                tell()

    def close(self) -> None:
        """Stop consuming; what was not settled goes back to its queue."""
        self._consumer.close()

    def _settle(self, settled: HandledBatch) -> None:
        retry = self._work.terms.retry
        if retry and settled.verdict is Verdict.REJECT:
            for left in self._leave(next_steps(settled, self._work.queue, retry)):
                parked = sum(each.target == each.end for each in left)
                self._counts.update(parked=parked, retried=len(left) - parked)
        else:
            self._consumer.settle(settled.deliveries, settled.verdict)
            self._counts["failed"] += len(settled.deliveries) * bool(settled.failure)
        if settled.failure:
            fate = f"its message {in_words(retry)}" if retry else "its message was rejected"
            self._failures.tell(settled.failure, fate=fate)

    def _leave(self, failed: Sequence[FailedDelivery]) -> Iterator[list[FailedDelivery]]:
        for left in self._exit.copy(failed, self._consumer.frame_max):
            self._consumer.settle([each.delivery for each in left], left[0].verdict)
            yield left

    def _leave_invalid(self, failed: Sequence[FailedDelivery]) -> None:
        for left in self._leave(failed):
            self._counts["invalid"] += len(left)

    def _tell_invalid(self, number: int, error: PayloadError) -> None:
        target = self._work.terms.invalid_to
        fate = f"it goes to {target} with the reason" if target else "it was rejected"
        self._failures.tell(error.problems[0].message, subject=f"message {number}: ", fate=fate)
