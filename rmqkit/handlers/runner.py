"""Run a handler over the deliveries of a queue; settle each as the handler, the contract and the retry decide."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from rmqkit.errors import (
    AccessRefused,
    BrokerError,
    ConnectionLost,
    HandlerError,
    RmqkitError,
    SettingsError,
)
from rmqkit.handlers.contract_filter import ContractFilter, InvalidDelivery
from rmqkit.handlers.failure_copy import FailedDelivery, publish_copies
from rmqkit.handlers.handler import HandledBatch, Handler, Source
from rmqkit.handlers.retry_steps import live_retry, next_steps
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging import thread_group
from rmqkit.model import Contract, Retry, Target, Topology
from rmqkit.options import ConsumeOptions, FailurePolicy, shares
from rmqkit.payload.contracts import compile_contract, reason
from rmqkit.payload.formats import Check
from rmqkit.plural import plural
from rmqkit.report import ConsumeReport, add_up
from rmqkit.stop import Stop
from rmqkit.topology.policies import dead_letter_target
from rmqkit.topology.retry import check_ends, in_words, waiting_queue

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.deploy.live_router import LiveRouter
    from rmqkit.handlers.delivery_filter import DeliveryFilter, FilteredSource

PROGRESS_EVERY_S = 0.05
MAX_FAILURES_SHOWN = 20  # kinds of failure; any others are counted, not shown

_ADVICE = (
    "Give the queue a retry or a dead-letter exchange and apply it, or choose stop, requeue or reject with `failed=`."
)
OnWarning = Callable[[str], None]
_log = logging.getLogger("rmqkit")


@dataclass(frozen=True, slots=True)
class ConsumeJob:
    """A queue to consume, and the destination of the messages that cannot be handled.

    Each of the `consumers` has its own channel and thread. Only messages that match the `filter` expression reach the
    handler; the others get the verdict `unmatched`. A message that breaks the `contract` goes to `invalid_to`, one the
    handler fails on goes where `retry` says; if these are None, `failed` decides. Without it such a message is rejected
    if it is known to be dead-lettered; otherwise the run ends, and the message stays in its queue. `drops` tells
    whether the queue drops the messages it rejects; None: that is not known. With `keep_dropped` the run also ends at a
    failed message whose dead letter no queue would receive. A `temporary` queue ends with the run. A `shared` job is
    one of several that consume the queue together.
    """

    queue: str
    options: ConsumeOptions = field(default_factory=ConsumeOptions)
    consumers: int = 1
    filter: str | None = None
    unmatched: Verdict = Verdict.REQUEUE
    contract: Contract | None = None
    invalid_to: Target | None = None
    retry: Retry | None = None
    failed: FailurePolicy | None = None
    drops: bool | None = None
    keep_dropped: bool = False
    temporary: bool = False
    shared: bool = False

    def with_policy(self, connection: Connection, on_warning: OnWarning) -> ConsumeJob:
        """Return the job with its policy for failed messages, and warn of their fate unless they are kept.

        RabbitMQ's HTTP API knows where a queue's rejected messages go; if it does not answer, `drops` counts.
        """
        job = replace(self, retry=None) if self.failed else self
        if job.retry or job.temporary:
            return replace(job, failed=self.failed or FailurePolicy.REJECT)
        drops = self.drops
        with suppress(BrokerError):
            drops = connection.dead_letter_target(self.queue) is None
        policy = self.failed or (FailurePolicy.REJECT if drops is False else FailurePolicy.STOP)
        known = f"has {'neither a retry nor a' if drops else 'no known retry or'} dead-letter exchange"
        if policy is FailurePolicy.REJECT and drops is not False:
            fate = "will be dropped" if drops else "may be dropped"
            on_warning(f"failed messages {fate}: queue {self.queue!r} {known}")
        elif not self.failed and policy is FailurePolicy.STOP:
            on_warning(f"consuming stops at the first message that fails: queue {self.queue!r} {known}")
        return replace(job, failed=policy, drops=drops, keep_dropped=not self.failed)

    def split(self, parts: int) -> list[ConsumeJob]:
        """Divide the count among jobs that together consume exactly that many; there are fewer if it is small."""
        shared = self.shared or parts > 1
        counts = shares(self.options.count, parts)
        return [replace(self, options=replace(self.options, count=each), shared=shared) for each in counts]

    def check(self, connection: Connection) -> None:
        """Raise SettingsError if messages would return to the queue or be handled several times.

        Raises NotFound if a destination is missing.
        """
        if self.contract and self.invalid_to in (Target("", self.queue), Target("", "")):
            raise SettingsError(
                f"messages that break the contract would return to queue {self.queue!r} forever",
                advice="Name another queue with `invalid_to=`, or give the queue a retry that ends elsewhere.",
            )
        if (self.shared or self.consumers > 1) and connection.is_stream(self.queue):
            raise SettingsError(
                f"queue {self.queue!r} is a stream: every consumer would receive all of its messages",
                advice="Use one consumer.",
            )
        names = [self.invalid_to.routing_key] if self.invalid_to and not self.invalid_to.exchange else []
        if self.retry and not self.retry.native:
            names += (waiting_queue(self.queue, each) for each in self.retry.delays_ms)
        if self.retry:
            names.append(self.retry.then)
        for name in dict.fromkeys(names):
            with suppress(AccessRefused):  # publishing requires no permission on a queue; inspecting does since 4.3
                connection.queue_state(name)


def job_for(queue: str, topology: Topology) -> ConsumeJob:
    """Return the job that a topology describes for a queue. Raises TopologyError for a retry that never ends."""
    check_ends(topology)
    declared = next((each for each in topology.queues if each.name == queue), None)
    if declared is None:
        return ConsumeJob(queue)
    dead_letters = dead_letter_target(topology, declared)
    end = Target("", declared.retry.then) if declared.retry else dead_letters
    contract = declared.contract
    invalid_to = end if contract else None
    return ConsumeJob(queue, contract=contract, invalid_to=invalid_to, retry=declared.retry, drops=dead_letters is None)


def run_handler(
    connection: Connection,
    job: ConsumeJob,
    handler: Handler,
    *,
    stop: Stop,
    on_warning: OnWarning,
    on_consuming: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ConsumeReport:
    """Run a handler over the deliveries of a queue until the job ends or a stop is requested.

    `on_consuming` is called once all consumers are subscribed, which happens in order; `on_progress` is called
    regularly with the number of acknowledged messages. Raises what `handle` raises, and PayloadError for a bad filter.
    """
    started_s = shown_s = time.monotonic()
    runs: list[_ConsumerRun] = []

    def show_progress() -> None:
        nonlocal shown_s
        if time.monotonic() - shown_s >= PROGRESS_EVERY_S:
            shown_s = time.monotonic()
            on_progress(sum(run.report.acknowledged for run in runs))

    def report() -> ConsumeReport:
        reports = {f"channel {number}": run.report for number, run in enumerate(runs, 1)}
        return add_up(reports, time.monotonic() - started_s)

    ending = Stop()  # requested by `stop`, or by a failure: that of the caller is left alone
    try:
        if job.retry and not job.failed:
            job = replace(job, retry=live_retry(connection, job.queue, job.retry))
        job.check(connection)
        if getattr(handler, "may_fail", True) or (job.contract and not job.invalid_to):
            job = job.with_policy(connection, on_warning)
        check = compile_contract(job.contract) if job.contract else None
        matches: DeliveryFilter | None = None
        if job.filter is not None:
            from rmqkit.handlers.delivery_filter import DeliveryFilter  # noqa: PLC0415 - start-up time: jinja2

            matches = DeliveryFilter(job.filter, on_warning)
            _warn_of_requeueing(connection, job, on_warning)
        failures = _FailureLog(on_warning)
        runs.extend(  # one by one, so that those already subscribed are closed if another cannot be
            _ConsumerRun(connection, part, ending, failures, check=check, matches=matches)
            for part in job.split(job.consumers)
        )
        on_consuming()
        with stop.waking(ending.request):
            if stop.requested:
                ending.request()
            thread_group.run_all([partial(run.handle, handler, show_progress) for run in runs], ending)
        _require_acknowledged(report(), job.queue)
    except RmqkitError as exc:
        for run in runs:
            run.close()
        exc.report = report()
        raise
    return report()


def _warn_of_requeueing(connection: Connection, job: ConsumeJob, on_warning: OnWarning) -> None:
    """Warn if requeueing harms the messages that do not match; without the HTTP API that is unknown."""
    if job.unmatched is Verdict.REQUEUE and not job.temporary:
        with suppress(BrokerError):  # consuming does not require that the queue may be inspected
            effects = connection._side_effects(job.queue)  # noqa: SLF001 - not for users
            if effects.type and effects.risk:
                on_warning(f"messages that do not match are requeued at the end: {effects.risk}")


def _require_acknowledged(report: ConsumeReport, queue: str) -> None:
    """Raise ConnectionLost if the broker may not have received the acknowledgements of handled messages."""
    if report.in_doubt:
        messages = f"{plural(report.in_doubt, 'message')} of queue {queue!r}"
        raise ConnectionLost(
            f"the connection was lost, or the consumer timeout was over, before {messages} could be acknowledged",
            advice="They were handled and may be redelivered. A handler that holds Python's GIL stops heartbeats.",
        )


class _FailureLog:
    def __init__(self, on_warning: OnWarning) -> None:
        self.warn = on_warning
        self._shown: set[str] = set()

    def add(self, failure: str, *, fate: str, subject: str = "") -> None:
        if failure not in self._shown and len(self._shown) < MAX_FAILURES_SHOWN:
            self._shown.add(failure)
            self.warn(f"{subject}{failure}; {fate}. Further failures like this are counted, not shown.")


class _ConsumerRun:
    """A subscribed consumer, with the filter and the contract before the handler, and the results of its deliveries."""

    def __init__(
        self,
        connection: Connection,
        job: ConsumeJob,
        stop: Stop,
        failures: _FailureLog,
        *,
        check: Check | None,
        matches: DeliveryFilter | None,
    ) -> None:
        self._connection, self._job, self._stop, self._failures = connection, job, stop, failures
        self._counts: Counter[str] = Counter()
        self._error: HandlerError | None = None
        self._router: LiveRouter | None = None
        options = replace(job.options, count=None) if matches else job.options
        self._consumer = connection.consume(job.queue, **asdict(options), stop=stop, on_warning=failures.warn)
        self._source: Source = self._consumer
        self._filtered: FilteredSource | None = None
        if matches:
            from rmqkit.handlers.delivery_filter import FilteredSource  # noqa: PLC0415 - start-up time: jinja2

            count, prefetch = job.options.count, job.options.prefetch
            self._filtered = FilteredSource(self._consumer, matches, job.unmatched, count, prefetch, failures.warn)
            self._source = self._filtered
        if check:
            self._source = ContractFilter(self._source, check, self._take_invalid)
        self._consumer.subscribe()

    @property
    def report(self) -> ConsumeReport:
        """Return the counts so far."""
        unmatched = self._filtered.unmatched if self._filtered else 0
        return replace(self._consumer.report, unmatched=unmatched, **self._counts)  # type: ignore[arg-type]

    def handle(self, handler: Handler, on_progress: Callable[[], None]) -> None:
        """Pass the deliveries to the handler, and settle those it yields."""
        with self._consumer:
            for batch in handler.handle(self._source, self._stop):
                self._settle(batch)
                on_progress()
            if self._filtered and self._filtered.holds:
                self._consumer.hold_returned(partial(self._connection.queue_settings, self._job.queue))
        if self._error:
            raise self._error

    def close(self) -> None:
        """Stop consuming; deliveries that were not settled return to the queue."""
        self._consumer.close()

    def _settle(self, batch: HandledBatch) -> None:
        retry = self._job.retry
        if retry and batch.verdict is Verdict.REJECT:
            again, failed = next_steps(batch, self._job.queue, retry)
            delayed = self._consumer.return_failed(again)
            self._counts.update(retried=delayed, delayed=delayed)
            for left in self._leave(failed):
                parked = sum(each.target == each.end for each in left)
                self._counts.update(parked=parked, retried=len(left) - parked)
            if batch.failure:
                self._failures.add(batch.failure, fate=f"its message {in_words(retry)}")
        elif batch.failure:
            self._counts["failed"] += len(batch.deliveries)
            self._give_up(batch.deliveries, batch.failure, "its message")
        elif batch.verdict is Verdict.REJECT:
            self._reject(batch.deliveries)
        else:
            self._consumer.settle(batch.deliveries, batch.verdict)

    def _take_invalid(self, invalid: Sequence[InvalidDelivery]) -> None:
        target = self._job.invalid_to
        for number, delivery, error in invalid:
            subject, text = f"message {number}: ", error.problems[0].message
            if target:
                self._failures.add(text, subject=subject, fate=f"it goes to {target} with the reason")
            else:
                self._counts["invalid"] += 1
                self._give_up((delivery,), text, "it", subject=subject)
        for left in self._leave([FailedDelivery(each, reason(error), target) for _, each, error in invalid if target]):
            self._counts["invalid"] += len(left)

    def _give_up(self, deliveries: Sequence[Delivery], failure: str, noun: str, *, subject: str = "") -> None:
        """Settle deliveries that have nowhere to go as the policy says; `noun` stands for their message."""
        drops = self._job.failed is FailurePolicy.REJECT and any(map(self._drops, deliveries))
        match FailurePolicy.STOP if drops and self._job.keep_dropped else self._job.failed:
            case FailurePolicy.STOP:
                self._counts["stayed"] += len(deliveries)
                message = f"{subject}{failure}; {noun} is still in queue {self._job.queue!r}"
                message += ", because no queue would receive its dead letter" * drops
                self._error = self._error or HandlerError(message, advice=_ADVICE)
                self._stop.request()
            case FailurePolicy.REQUEUE:
                self._consumer.settle(deliveries, Verdict.REQUEUE)
                self._failures.add(failure, subject=subject, fate=f"{noun} was requeued")
            case _:
                self._reject(deliveries)
                why = (
                    "the queue has no dead-letter exchange" if self._job.drops else "no queue receives its dead letter"
                )
                fate = f"DROPPED: {why}" if drops else "rejected"
                self._failures.add(failure, subject=subject, fate=f"{noun} was {fate}")

    def _reject(self, deliveries: Sequence[Delivery]) -> None:
        before, dropped = self._consumer.report.rejected, sum(map(self._drops, deliveries))
        self._consumer.settle(deliveries, Verdict.REJECT)
        self._counts["dropped"] += min(dropped, self._consumer.report.rejected - before)

    def _drops(self, delivery: Delivery) -> bool:
        """Tell whether a message is known to be dropped if it is rejected."""
        if self._job.drops is not False:
            return bool(self._job.drops) and not self._job.temporary
        if delivery.origin.malformed:
            return False
        if self._router is None:
            from rmqkit.deploy.live_router import LiveRouter  # noqa: PLC0415 - start-up time

            self._router = LiveRouter(self._connection)
        headers = delivery.properties.headers or {}
        return bool(self._router.drops_dead_letter(self._job.queue, delivery.routing_key, headers))

    def _leave(self, failed: Sequence[FailedDelivery]) -> Iterator[list[FailedDelivery]]:
        for left in publish_copies(self._connection, failed, self._consumer.frame_max, self._stop):
            self._consumer.settle([each.delivery for each in left], left[0].verdict)
            yield left
