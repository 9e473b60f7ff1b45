"""Run a function over the deliveries of a queue: the parts of `Connection.handle`, `handle_batches` and `pipe`.

Coroutine functions share them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from rmqkit.errors import HandlerError
from rmqkit.handlers.function import FunctionHandler, HandlerFunction, as_verdict, name_of, require_plain
from rmqkit.handlers.function_calls import OpenCalls, PlainCalls
from rmqkit.handlers.function_worker import FunctionWorker, Verdicts
from rmqkit.handlers.handler import Handler, Source
from rmqkit.handlers.published_results import PublishedDeliveries, PublishedResults, Transformed, collected
from rmqkit.handlers.runner import ConsumeJob, OnWarning, job_for, run_handler
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.rpc_server import OnFailure, log_failure
from rmqkit.model import Target, Topology
from rmqkit.options import ConsumeOptions, FailurePolicy, at_least
from rmqkit.report import ConsumeReport
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.connection import Connection

BatchVerdicts = Verdict | Sequence[Verdict | None] | None
BatchFunction = Callable[[Sequence[Delivery]], BatchVerdicts]
Transform = Callable[[Delivery], Transformed]
_log = logging.getLogger("rmqkit")


class QueueOptions(TypedDict, total=False):
    """The options that may differ between the queues of a program; they are explained at `rmqkit.handle`."""

    prefetch: int | None
    count: int | None
    idle_timeout_s: float | None
    failed: FailurePolicy | None
    on_failure: OnFailure
    on_warning: OnWarning


class WorkOptions(QueueOptions, total=False):
    """The options that all ways to work through a queue share; they are explained at `rmqkit.handle`."""

    topology: Topology | None
    stop: Stop | None


def refuse_unknown(options: QueueOptions, known: frozenset[str]) -> None:
    """Raise TypeError for an option that is not known: Python does not check `**options`."""
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}")


def work(
    connection: Connection, queue: str, handler: Handler, options: WorkOptions, *, consumers: int, prefetch: int
) -> ConsumeReport:
    """Run a handler over the deliveries of a queue; `prefetch` is that of the options, if they have none.

    Raises TypeError for an option that does not exist, SettingsError for one that is out of its range.
    """
    refuse_unknown(options, WorkOptions.__optional_keys__)
    at_least(1, concurrency=consumers)
    topology = options.get("topology")
    given = options.get("prefetch")
    prefetch = prefetch if given is None else given
    consuming = ConsumeOptions(prefetch, options.get("count"), options.get("idle_timeout_s"))
    job = job_for(queue, topology) if topology else ConsumeJob(queue)
    job = replace(job, options=consuming, consumers=consumers, failed=options.get("failed"))
    on_warning = options.get("on_warning", _log.warning)
    return run_handler(connection, job, handler, stop=options.get("stop") or Stop(), on_warning=on_warning)


def function_handler(function: HandlerFunction | Handler, options: WorkOptions) -> Handler:
    """Return the handler of `handle`."""
    return (
        function if isinstance(function, Handler) else FunctionHandler(function, options.get("on_failure", log_failure))
    )


def plain_calls(call: Callable[[Sequence[Delivery]], Any], options: WorkOptions) -> OpenCalls:
    """Return what opens the calls of a function on the threads of the consumers. Raises for a coroutine function."""
    call = require_plain(call)
    on_failure = options.get("on_failure", log_failure)
    return lambda source, stop: PlainCalls(source, stop, call, on_failure)


def verdict_worker(calls: OpenCalls, function: Callable[..., object]) -> FunctionWorker:
    """Return a handler that calls a function with one delivery, and settles it by its verdict."""
    return FunctionWorker(calls, lambda _: Verdicts(lambda result, _: (as_verdict(result, function),)))


def batch_worker(calls: OpenCalls, function: Callable[..., object], size: int, within_s: float) -> FunctionWorker:
    """Return the handler of `handle_batches`. Raises SettingsError for a size below 1, or a negative time."""
    at_least(1, size=size)
    at_least(0, within_s=within_s)
    return FunctionWorker(calls, lambda _: Verdicts(partial(_verdicts, function)), (size, within_s))


def transform_calls(transform: Callable[[Delivery], object], options: WorkOptions) -> OpenCalls:
    """Return a function that opens the calls of a transform on the threads of the consumers."""
    call = require_plain(transform)
    return plain_calls(lambda group: collected(call(group[0])), options)


def pipe_worker(
    connection: Connection, calls: OpenCalls, function: Callable[..., object], to: Target | None, options: WorkOptions
) -> FunctionWorker:
    """Return the handler of `pipe`."""
    on_warning = options.get("on_warning", _log.warning)

    def open_outputs(source: Source) -> PublishedResults:
        publisher = connection.publisher(on_warning=on_warning, warn_of_failures=False)
        return PublishedResults(PublishedDeliveries(publisher, source.wake), function, to)

    return FunctionWorker(calls, open_outputs)


def _verdicts(function: Callable[..., object], result: object, number: int) -> Sequence[Verdict]:
    if not isinstance(result, Sequence):
        return [as_verdict(result, function)] * number
    if len(result) != number:
        message = f"handler {name_of(function)} returned {len(result)} verdicts for {number} deliveries"
        raise HandlerError(f"{message}; they were requeued", advice="Return None, a Verdict, or one for each delivery.")
    return [as_verdict(each, function) for each in result]
