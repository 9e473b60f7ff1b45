"""A worker process: functions registered by decorators, and everything around them from connecting to SIGTERM."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, TypeVar, Unpack

from rmqkit.aio.connection import AsyncConnection
from rmqkit.aio.coroutine_calls import run_on_thread
from rmqkit.connection import Connection, connect
from rmqkit.errors import ConnectionLost, InputError, RmqkitError, SettingsError, Unreachable
from rmqkit.handlers.function import HandlerFunction
from rmqkit.handlers.function_runner import BatchFunction, BatchVerdicts, QueueOptions, Transform, refuse_unknown
from rmqkit.handlers.published_results import Transformed
from rmqkit.handlers.runner import OnWarning
from rmqkit.hooks import Hooks
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.rpc_reply import Result
from rmqkit.messaging.rpc_server import Function, OnFailure, log_failure
from rmqkit.model import Target, Topology
from rmqkit.options import ServeOptions
from rmqkit.report import ConsumeReport, ServeReport
from rmqkit.stop import Stop

Report = ConsumeReport | ServeReport
H = TypeVar("H", bound=HandlerFunction | Callable[[Delivery], Awaitable[Verdict | None]])
B = TypeVar("B", bound=BatchFunction | Callable[[Sequence[Delivery]], Awaitable[BatchVerdicts]])
T = TypeVar("T", bound=Transform | Callable[[Delivery], Awaitable[Transformed]])
F = TypeVar("F", bound=Function | Callable[[Delivery], Awaitable[Result]])
C = TypeVar("C", bound=Callable[..., Any])
R = TypeVar("R")

_Part = Callable[[AsyncConnection, Topology | None, Stop], Awaitable[Report]]
_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it
_log = logging.getLogger("rmqkit")


class App:
    """A worker process: its functions, and `run`, which connects and calls them until SIGTERM or Ctrl-C.

    app = rmqkit.App()

    @app.handler("orders", concurrency=4)
    def bill(order: rmqkit.Delivery) -> None: ...

    @app.server("totals")
    async def total(request: rmqkit.Delivery) -> str: ...

    if __name__ == "__main__":
        app.run(topology=rmqkit.load("orders.yaml"), apply=True)

    The decorators return the function as it is, and connect to nothing. A coroutine function runs on the event loop of
    the main thread, which all of them share; any other runs on `concurrency` threads of its own. Each queue has one
    function: raises SettingsError for a second one. Functions publish with `connection` or `aio_connection`.
    """

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}
        self._opened: AsyncConnection | None = None

    @property
    def connection(self) -> Connection:
        """Return the connection of the running app, for plain functions; raise ConnectionLost before and after `run`.

        Threads share it: `app.connection.publish(message)`.
        """
        return self.aio_connection.sync

    @property
    def aio_connection(self) -> AsyncConnection:
        """Return the connection of the running app, for coroutine functions: see `connection`."""
        if self._opened is None:
            raise ConnectionLost("the app is not running", advice="Functions can use its connection while `run` runs.")
        return self._opened

    def handler(
        self, queue: str, *, concurrency: int | None = None, **options: Unpack[QueueOptions]
    ) -> Callable[[H], H]:
        """Return a decorator for a function that handles each delivery of a queue, as `rmqkit.handle` calls it.

        `concurrency` is 1 by default, or 100 for a coroutine function.
        """
        refuse_unknown(options, QueueOptions.__optional_keys__)
        return self._decorator(queue, Connection.handle, AsyncConnection.handle, concurrency=concurrency, **options)

    def batch_handler(
        self,
        queue: str,
        *,
        size: int = 500,
        within_s: float = 0.05,
        concurrency: int = 1,
        **options: Unpack[QueueOptions],
    ) -> Callable[[B], B]:
        """Return a decorator for a function that handles batches: see `rmqkit.Connection.handle_batches`."""
        refuse_unknown(options, QueueOptions.__optional_keys__)
        batching = {"size": size, "within_s": within_s, "concurrency": concurrency}
        return self._decorator(queue, Connection.handle_batches, AsyncConnection.handle_batches, **batching, **options)

    def pipe(
        self, queue: str, *, to: Target | None = None, concurrency: int | None = None, **options: Unpack[QueueOptions]
    ) -> Callable[[T], T]:
        """Return a decorator for a function that makes messages of each delivery: see `rmqkit.Connection.pipe`.

        `concurrency` is 1 by default, or 100 for a coroutine function.
        """
        refuse_unknown(options, QueueOptions.__optional_keys__)
        return self._decorator(queue, Connection.pipe, AsyncConnection.pipe, to=to, concurrency=concurrency, **options)

    def server(
        self,
        queue: str,
        *,
        prefetch: int = 1,
        concurrency: int | None = None,
        reject_failed: bool = False,
        on_failure: OnFailure = log_failure,
        on_warning: OnWarning = _log.warning,
    ) -> Callable[[F], F]:
        """Return a decorator for a function that answers the requests of a queue: see `rmqkit.Connection.serve`.

        `concurrency` is 1 by default, or 10 for a coroutine function.
        """
        return self._decorator(
            queue,
            _serve,
            AsyncConnection.serve,
            prefetch=prefetch,
            concurrency=concurrency,
            reject_failed=reject_failed,
            on_failure=on_failure,
            on_warning=on_warning,
        )

    def run(
        self,
        *urls: str,
        topology: Topology | None = None,
        apply: bool = False,
        name: str = "rmqkit",
        wait_s: float = 60.0,
        recover_s: float | None = None,
        hooks: Hooks | None = None,
        stop: Stop | None = None,
    ) -> dict[str, Report]:
        """Connect, run all functions until a signal or the `stop`, and return the reports by queue.

        The functions follow the retries and contracts of `topology`, which is declared first with `apply`. The other
        arguments are those of `rmqkit.connect`; a lost connection is reopened without a limit.

        On SIGTERM or SIGINT, running functions finish, and what they have done is settled; deliveries that were not
        begun are requeued. A second signal ends the process at once: then running ones are requeued, too. Signals are
        handled if this is the main thread. If one function cannot go on, as when its queue is missing or a message
        that failed has nowhere to go, all others stop in the same way, and its error is raised. Raises what `connect`,
        `apply`, `handle`, `pipe` and `serve` raise.
        """
        if not self._parts:
            raise InputError("the app has no functions", advice="Decorate one with `@app.handler(queue)` first.")
        if apply and topology is None:
            raise SettingsError("`apply=True` needs a `topology=`")
        stop = stop or Stop()
        opening = partial(connect, *urls, name=name, wait_s=wait_s, recover_s=recover_s, hooks=hooks, stop=stop)
        connection = AsyncConnection(opening, stop)
        with _signals(stop):
            return asyncio.run(_in_slices(self._run(connection, topology, stop, apply=apply)))

    def _decorator(
        self, queue: str, on_thread: Callable[..., Report], on_loop: Callable[..., Awaitable[Report]], **options: Any
    ) -> Callable[[C], C]:
        def register(function: C) -> C:
            if queue in self._parts:
                raise SettingsError(f"queue {queue!r} has a function already")
            given = {name: value for name, value in options.items() if value is not None}

            async def run(connection: AsyncConnection, topology: Topology | None, stop: Stop) -> Report:
                if inspect.iscoroutinefunction(function):
                    return await on_loop(connection, queue, function, topology=topology, stop=stop, **given)
                call = partial(on_thread, connection.sync, queue, function, topology=topology, **given)
                return await run_on_thread(lambda ending: call(stop=ending), stop, lambda: None)

            self._parts[queue] = run
            return function

        return register

    async def _run(
        self, opened: AsyncConnection, topology: Topology | None, stop: Stop, *, apply: bool
    ) -> dict[str, Report]:
        reports: dict[str, Report] = {}
        errors: list[Exception] = []
        ending = Stop()  # requested by `stop`, or by an error: that of the caller is left alone

        async def run(queue: str, part: _Part) -> None:
            try:
                reports[queue] = await part(connection, topology, ending)
            except Exception as exc:  # noqa: BLE001 - raised again below
                errors.append(exc)
                ending.request()

        try:
            async with opened as connection:
                self._opened = connection
                if apply and topology is not None:
                    await connection.run(connection.sync.apply, topology, stop=stop)
                with stop.waking(ending.request):
                    if stop.requested:
                        ending.request()
                    await asyncio.gather(*(run(queue, part) for queue, part in self._parts.items()))
        except Unreachable:
            if not stop.requested:  # else it was no longer waited for
                raise
        finally:
            self._opened = None
        if errors:
            raise min(errors, key=lambda each: isinstance(each, RmqkitError))  # a bug before all others
        return reports


def _serve(
    connection: Connection,
    queue: str,
    function: Function,
    *,
    topology: Topology | None,
    stop: Stop,
    on_failure: OnFailure,
    on_warning: OnWarning,
    **options: Any,
) -> ServeReport:
    served = connection._as_served(function, queue, ServeOptions(**options), topology)  # noqa: SLF001 - its own class
    return connection._run_served((served,), stop, on_failure, on_warning)  # noqa: SLF001 - its own class


async def _in_slices(work: Coroutine[Any, Any, R]) -> R:
    running = asyncio.ensure_future(work)
    while not running.done():
        await asyncio.wait((running,), timeout=_WAIT_S)
    return running.result()


@contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Request the stop on the first signal; the second one does what it does by default, and so ends the process."""

    def receive(_number: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        stop.request()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
