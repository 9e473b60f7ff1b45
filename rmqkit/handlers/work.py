"""Work through a queue: with a function, with batches, or from queue to exchange."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from rmqkit.errors import HandlerError, SettingsError
from rmqkit.handlers.calls import OpenCalls, PlainCalls
from rmqkit.handlers.function import FunctionHandler, HandlerFunction, as_verdict, name_of, require_plain
from rmqkit.handlers.handler import Handler, Source
from rmqkit.handlers.outputs import Outputs, PublishedDeliveries, Transformed, collected
from rmqkit.handlers.runner import ConsumeJob, OnWarning, job_for, run_handler
from rmqkit.handlers.worker import Verdicts, Worker
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.rpc_server import OnFailure, log_failure
from rmqkit.model import Target, Topology
from rmqkit.options import ConsumeOptions, FailurePolicy
from rmqkit.report import ConsumeReport
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.connection import Connection

BatchVerdicts = Verdict | Sequence[Verdict | None] | None
BatchFunction = Callable[[Sequence[Delivery]], BatchVerdicts]
Transform = Callable[[Delivery], Transformed]
MAX_PREFETCH = 65_535
_log = logging.getLogger("rmqkit")


class WorkOptions(TypedDict, total=False):
    """The options that all ways to work through a queue share; they are explained at `rmqkit.handle`."""

    topology: Topology | None
    prefetch: int | None
    count: int | None
    idle_timeout_s: float | None
    stop: Stop | None
    failed: FailurePolicy | None
    on_failure: OnFailure
    on_warning: OnWarning


def handle(
    connection: Connection,
    queue: str,
    handler: HandlerFunction | Handler,
    *,
    concurrency: int = 1,
    **options: Unpack[WorkOptions],
) -> ConsumeReport:
    """Call a function with each delivery of a queue, and acknowledge the delivery when the function returns.

    If the function raises, the message follows the retry that `topology` has for the queue: it waits, is delivered
    again, and in the end is parked for inspection, with the reason in its headers. A message that breaks the queue's
    contract is parked immediately, as is one the function returns Verdict.REJECT for; Verdict.REQUEUE requeues it.
    Without a retry, a failed message is rejected if `topology` or RabbitMQ's HTTP API shows that it is dead-lettered.
    Otherwise the run ends with HandlerError, and the message is still queued. `failed` decides in place of all this.

    The run ends as a consumer does: see `ConsumeOptions`. `concurrency` is the number of threads that call the
    function; each has a consumer, and `prefetch` is 100, or 2 with several threads, so that each gets a share of a
    short queue. `on_failure` gets the exceptions; `on_warning` is called once for each kind of failure, and for
    problems that were recovered from; both are logged by default. Any Handler may take the place of the function.
    Raises what a consumer raises, NotFound if a queue of the retry is missing, Unroutable or NotConfirmed if a message
    could not be parked or retried, HandlerError if the function returns anything else; their `report` has the counts.
    """
    on_failure = options.get("on_failure", log_failure)
    called = handler if isinstance(handler, Handler) else FunctionHandler(handler, on_failure)
    return work(connection, queue, called, options, consumers=concurrency, prefetch=100 if concurrency == 1 else 2)


def handle_batches(
    connection: Connection,
    queue: str,
    function: BatchFunction,
    *,
    size: int = 500,
    within_s: float = 0.05,
    concurrency: int = 1,
    **options: Unpack[WorkOptions],
) -> ConsumeReport:
    """Call a function with batches of deliveries: see `Connection.handle_batches`."""
    call = require_plain(function)
    worker = batch_worker(plain_calls(call, options), call, size, within_s)
    return work(connection, queue, worker, options, consumers=concurrency, prefetch=min(2 * size, MAX_PREFETCH))


def pipe(
    connection: Connection,
    queue: str,
    transform: Transform,
    *,
    to: Target | None = None,
    concurrency: int = 1,
    **options: Unpack[WorkOptions],
) -> ConsumeReport:
    """Publish what a function makes of each delivery: see `Connection.pipe`."""
    function = require_plain(transform)
    worker = pipe_worker(
        connection, plain_calls(lambda group: collected(function(group[0])), options), function, to, options
    )
    return work(connection, queue, worker, options, consumers=concurrency, prefetch=1000)


def work(
    connection: Connection, queue: str, handler: Handler, options: WorkOptions, *, consumers: int, prefetch: int
) -> ConsumeReport:
    """Run a handler over the deliveries of a queue; see `handle`."""
    topology = options.get("topology")
    consuming = ConsumeOptions(options.get("prefetch") or prefetch, options.get("count"), options.get("idle_timeout_s"))
    job = job_for(queue, topology) if topology else ConsumeJob(queue)
    job = replace(job, options=consuming, consumers=consumers, failed=options.get("failed"))
    on_warning = options.get("on_warning", _log.warning)
    return run_handler(connection, job, handler, stop=options.get("stop") or Stop(), on_warning=on_warning)


def plain_calls(call: Callable[[Sequence[Delivery]], Any], options: WorkOptions) -> OpenCalls:
    """Return what opens the calls of a function on the threads of the consumers."""
    on_failure = options.get("on_failure", log_failure)
    return lambda source, stop: PlainCalls(source, stop, call, on_failure)


def verdict_worker(calls: OpenCalls, function: Callable[..., object]) -> Worker:
    """Return a handler that calls a function with one delivery, and settles it by its verdict."""
    return Worker(calls, lambda _: Verdicts(lambda result, _: (as_verdict(result, function),)))


def batch_worker(calls: OpenCalls, function: Callable[..., object], size: int, within_s: float) -> Worker:
    """Return the handler of `handle_batches`. Raises SettingsError for a size that is no size."""
    if size < 1:
        raise SettingsError(f"`size=` must be at least 1, not {size}")
    return Worker(calls, lambda _: Verdicts(partial(_verdicts, function)), (size, within_s))


def pipe_worker(
    connection: Connection, calls: OpenCalls, function: Callable[..., object], to: Target | None, options: WorkOptions
) -> Worker:
    """Return the handler of `pipe`."""
    on_warning = options.get("on_warning", _log.warning)

    def open_outputs(source: Source) -> Outputs:
        publisher = connection.publisher(on_warning=on_warning, warn_of_failures=False)
        return Outputs(PublishedDeliveries(publisher, source.wake), function, to)

    return Worker(calls, open_outputs)


def _verdicts(function: Callable[..., object], result: object, number: int) -> Sequence[Verdict]:
    if not isinstance(result, Sequence):
        return [as_verdict(result, function)] * number
    if len(result) != number:
        message = f"handler {name_of(function)} returned {len(result)} verdicts for {number} deliveries"
        raise HandlerError(f"{message}; they were requeued", advice="Return None, a Verdict, or one for each delivery.")
    return [as_verdict(each, function) for each in result]
