"""A connection for the tasks of an event loop, over a synchronous one: its threads do the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, Self, TypeVar, Unpack

from rmqkit import connection as synchronous
from rmqkit.aio.callback_queue import CallbackQueue
from rmqkit.aio.consumer import AsyncConsumer
from rmqkit.aio.coroutine_calls import LoopCalls, LoopFunction, result_of, run_on_thread
from rmqkit.aio.publishing import publish_all, publish_one
from rmqkit.errors import ConnectionLost, RmqkitError
from rmqkit.handlers.function_runner import (
    BatchVerdicts,
    WorkOptions,
    batch_worker,
    pipe_worker,
    verdict_worker,
    work,
)
from rmqkit.handlers.function_worker import FunctionWorker
from rmqkit.handlers.published_results import Transformed, collected
from rmqkit.handlers.runner import OnWarning
from rmqkit.hooks import Hooks
from rmqkit.message import Delivery, Message, Verdict
from rmqkit.messaging.background_publisher import BackgroundPublisher
from rmqkit.messaging.rpc_reply import Result
from rmqkit.messaging.rpc_server import OnFailure, log_failure
from rmqkit.messaging.shared_publisher import CancellableOutcome
from rmqkit.model import Target, Topology
from rmqkit.options import MAX_PREFETCH, ApplyOptions, ConsumeOptions, Offset, PublishOptions, ServeOptions, at_least
from rmqkit.plan import Plan
from rmqkit.report import ConsumeReport, Failure, PublishReport, QueueState, ServeReport
from rmqkit.settings import Settings
from rmqkit.stop import Stop

_log = logging.getLogger("rmqkit")
THREADS = 64  # calls at a time

P = ParamSpec("P")
T = TypeVar("T")


def connect(
    *urls: str,
    context: str | None = None,
    settings: Settings | None = None,
    name: str = "rmqkit",
    wait_s: float = 0.0,
    recover_s: float | None = 60.0,
    hooks: Hooks | None = None,
) -> AsyncConnection:
    """Return a connection that `async with` opens; see `rmqkit.connect` for the arguments and the errors."""
    stop = Stop()
    opening = partial(
        synchronous.connect,
        *urls,
        context=context,
        settings=settings,
        name=name,
        wait_s=wait_s,
        recover_s=recover_s,
        hooks=hooks,
        stop=stop,
    )
    return AsyncConnection(opening, stop)


class AsyncConnection:
    """A connection to a broker, for the tasks of one event loop.

    A task may be cancelled at any `await`: a message that was not sent yet is not sent, and a delivery that was not
    handled is requeued. `sync` is the synchronous connection, for everything else: see `run`.
    """

    def __init__(self, open_connection: Callable[[], synchronous.Connection], stop: Stop) -> None:
        self._open = open_connection
        self._stop = stop  # ends its wait for a broker
        self._wanted = CancellableOutcome()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rmqkit-aio")
        self._publishers: dict[PublishOptions, BackgroundPublisher] = {}
        self._callbacks: CallbackQueue
        self._sync: synchronous.Connection | None = None
        self._entered = False
        self._closing: asyncio.Future[None] | None = None

    @property
    def sync(self) -> synchronous.Connection:
        """Return the synchronous connection; raise ConnectionLost before `async with` has opened it."""
        if self._sync is None:
            raise ConnectionLost("the connection is not open", advice="Open it with `async with`.")
        return self._sync

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ConnectionLost("the connection was opened before", advice="Make another with `rmqkit.aio.connect`.")
        self._entered = True
        loop = asyncio.get_running_loop()
        self._callbacks = CallbackQueue(loop)
        opening = loop.run_in_executor(self._threads, self._open_wanted)
        try:
            await asyncio.shield(opening)
        except BaseException:
            if not opening.done():
                self._stop.request()  # Python waits for the thread when the program ends
            opening.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            if not self._wanted.cancel():  # it was opened in the meantime
                self._threads.submit(self.sync.close)
            self._threads.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _open_wanted(self) -> None:
        self._sync = self._open()
        if not self._wanted.set_running_or_notify_cancel():
            self.sync.close()

    async def close(self) -> None:
        """Wait for the outcomes of all messages, and close the connection; unsettled deliveries are requeued."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().run_in_executor(self._threads, self.sync.close)
            self._threads.shutdown(wait=False)
        await asyncio.shield(self._closing)

    @property
    def is_connected(self) -> bool:
        """Tell whether the connection is open, as far as is known; a lost one is reopened by its next use."""
        return self.sync.is_connected

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a thread: `await connection.run(connection.sync.move, "parked")`.

        A task that is cancelled does not wait for it.
        """
        if self._closing is not None:
            raise ConnectionLost("the connection was closed by rmqkit")
        called = partial(copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, called)

    async def apply(self, topology: Topology, *, options: ApplyOptions = ApplyOptions()) -> Plan:  # noqa: B008 - frozen
        """Declare a topology, as `rmqkit.Connection.apply` does; when cancelled, what was begun is finished first."""
        stop = Stop()
        applying = asyncio.ensure_future(self.run(self.sync.apply, topology, options=options, stop=stop))
        try:
            return await asyncio.shield(applying)
        except asyncio.CancelledError:
            stop.request()
            with suppress(RmqkitError):
                await applying
            raise

    async def queue_state(self, queue: str, *, timeout_s: float | None = None) -> QueueState:
        """Return the numbers of ready messages and of consumers of a queue; see `rmqkit.Connection.queue_state`."""
        return await self.run(self.sync.queue_state, queue, timeout_s=timeout_s)

    async def call(self, request: Message, *, timeout_s: float = 10.0) -> Delivery:
        """Send a request and return its reply; see `rmqkit.Connection.call`."""
        return await self.run(self.sync.call, request, timeout_s=timeout_s)

    async def publish(
        self,
        messages: Message | Iterable[Message] | AsyncIterable[Message],
        *,
        options: PublishOptions = PublishOptions(),  # noqa: B008 - frozen
        check: bool = True,
        timeout_s: float | None = None,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> PublishReport:
        """Publish messages and return when the outcome of each is known: see `rmqkit.Connection.publish`.

        The messages of all tasks share a channel and the window of the options: while that is full, the next one
        waits. `timeout_s` bounds the call: then raises NotConfirmed.
        """
        publisher = self._publishers.get(options)
        if publisher is None:
            publisher = self._publishers[options] = self.sync.publisher(options=options, warn_of_failures=False)
            publisher.direct, publisher.call_soon = True, asyncio.get_running_loop().call_soon
        if isinstance(messages, Message | bytes | str):  # the last two are refused
            report = await publish_one(publisher, self._callbacks, messages, timeout_s)
        else:
            report = await publish_all(publisher, self._callbacks, messages, timeout_s, on_failure)
        if check and (error := report.error()):
            raise error
        return report

    def consume(
        self,
        queue: str,
        *,
        prefetch: int = 1000,
        count: int | None = None,
        idle_timeout_s: float | None = None,
        no_ack: bool = False,
        offset: Offset | None = None,
    ) -> AsyncConsumer:
        """Return a consumer of a queue: iterate over it with `async for`, or over its `batches`.

        See `rmqkit.Connection.consume` for the options.
        """
        options = ConsumeOptions(prefetch, count, idle_timeout_s, no_ack, offset)
        return AsyncConsumer(partial(self.sync.consume, queue), options, self._callbacks)

    async def handle(
        self,
        queue: str,
        function: Callable[[Delivery], Awaitable[Verdict | None]],
        *,
        concurrency: int = 100,
        **options: Unpack[WorkOptions],
    ) -> ConsumeReport:
        """Call a coroutine function with each delivery of a queue, and acknowledge it when the call ends.

        At most `concurrency` calls run at a time; `prefetch` is twice as many. The rest is as in `rmqkit.handle`. After
        a stop, the running calls are awaited; if this task is cancelled, so are they, and their messages are requeued.
        """
        calls = self._calls(lambda group: result_of(function, group[0]), concurrency, options)
        return await self._work(queue, verdict_worker(calls.open, function), calls, options, 2 * concurrency)

    async def handle_batches(
        self,
        queue: str,
        function: Callable[[Sequence[Delivery]], Awaitable[BatchVerdicts]],
        *,
        size: int = 500,
        within_s: float = 0.05,
        concurrency: int = 1,
        **options: Unpack[WorkOptions],
    ) -> ConsumeReport:
        """Call a coroutine function with batches of deliveries: see `rmqkit.Connection.handle_batches`."""
        calls = self._calls(lambda group: result_of(function, group), concurrency, options)
        worker = batch_worker(calls.open, function, size, within_s)
        return await self._work(queue, worker, calls, options, 2 * size * concurrency)

    async def pipe(
        self,
        queue: str,
        transform: Callable[[Delivery], Awaitable[Transformed]],
        *,
        to: Target | None = None,
        concurrency: int = 100,
        **options: Unpack[WorkOptions],
    ) -> ConsumeReport:
        """Publish what a coroutine function makes of each delivery: see `rmqkit.Connection.pipe`.

        With a `concurrency` above 1, messages are published in the order in which the calls end.
        """

        async def call(group: Sequence[Delivery]) -> object:
            return collected(await result_of(transform, group[0]))

        calls = self._calls(call, concurrency, options)
        worker = pipe_worker(self.sync, calls.open, transform, to, options)
        return await self._work(queue, worker, calls, options, max(2 * concurrency, 1000))

    async def serve(
        self,
        queue: str,
        function: Callable[[Delivery], Awaitable[Result]],
        *,
        prefetch: int = 1,
        count: int | None = None,
        concurrency: int = 10,
        reject_failed: bool = False,
        topology: Topology | None = None,
        stop: Stop | None = None,
        on_failure: OnFailure = log_failure,
        on_warning: OnWarning = _log.warning,
    ) -> ServeReport:
        """Answer the requests of a queue with a coroutine function, until a stop is requested.

        See `rmqkit.Connection.serve` and `run`. Each of the `concurrency` servers has a thread, and two channels.
        """
        call, sync = LoopFunction(function), self.sync
        options = ServeOptions(prefetch, count, concurrency, reject_failed)
        served = sync._as_served(call, queue, options, topology)  # noqa: SLF001 - its own class

        def run(ending: Stop) -> ServeReport:
            return sync._run_served((served,), ending, on_failure, on_warning)  # noqa: SLF001 - its own class

        return await run_on_thread(run, stop, call.cancel)

    def _calls(
        self, call: Callable[[Sequence[Delivery]], Awaitable[object]], concurrency: int, options: WorkOptions
    ) -> LoopCalls:
        at_least(1, concurrency=concurrency)
        return LoopCalls(self._callbacks, call, concurrency, options.get("on_failure", log_failure))

    async def _work(
        self, queue: str, worker: FunctionWorker, calls: LoopCalls, options: WorkOptions, prefetch: int
    ) -> ConsumeReport:
        def run(ending: Stop) -> ConsumeReport:
            prefetching = min(prefetch, MAX_PREFETCH)
            return work(self.sync, queue, worker, {**options, "stop": ending}, consumers=1, prefetch=prefetching)

        try:
            return await run_on_thread(run, options.get("stop"), calls.cancel)
        finally:
            await calls.finish()
