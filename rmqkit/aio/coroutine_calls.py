"""Work through a queue with coroutine functions: a thread consumes and settles, the event loop runs the calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import Any, TypeVar

from rmqkit.aio.callback_queue import CallbackQueue
from rmqkit.handlers.function_calls import Called, failed
from rmqkit.handlers.handler import Source
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.rpc_server import OnFailure
from rmqkit.stop import Stop
from rmqkit.thread_queue import ThreadQueue

T = TypeVar("T")
_WAIT_S = 0.5  # between two looks at a loop that was closed, perhaps


class Cancelled(BaseException):
    """The task that serves was cancelled: the request returns to its queue."""


class LoopCalls:
    """The calls of a coroutine function: tasks of an event loop, `concurrency` at a time.

    The deliveries of a call that is cancelled return to their queue.
    """

    def __init__(
        self,
        callbacks: CallbackQueue,
        call: Callable[[Sequence[Delivery]], Awaitable[Any]],
        concurrency: int,
        on_failure: OnFailure,
    ) -> None:
        self._callbacks, self._call, self._concurrency, self._on_failure = callbacks, call, concurrency, on_failure
        self._source: Source
        self._stop: Stop
        self._unfinished = 0
        self._ended: ThreadQueue[Called | BaseException | None] = ThreadQueue()  # None: it returns to its queue
        self._waiting: deque[Sequence[Delivery]] = deque()
        self._running: set[asyncio.Task[Called]] = set()
        self._cancelled = False

    # On the thread of the source.

    def open(self, source: Source, stop: Stop) -> LoopCalls:
        """Call the function with the deliveries of this source, the only one."""
        self._source, self._stop = source, stop
        return self

    def of(self, groups: Sequence[Sequence[Delivery]]) -> Iterator[Called]:
        """Begin calls with these groups; yield the calls that have ended. Raises what ended the loop."""
        if groups:
            self._unfinished += len(groups)
            self._callbacks.post(self._add, groups)
        return self._take(0)

    def is_busy(self) -> bool:
        """Tell whether calls are running."""
        return self._unfinished > 0

    def rest(self) -> Iterator[Called]:
        """Wait for the running calls, and yield them; after a stop, none is begun."""
        self._callbacks.post(self._begin)
        while self._unfinished:
            yield from self._take(_WAIT_S)

    def close(self) -> None:
        """Cancel the running calls."""
        if self._unfinished:
            self._callbacks.post(self.cancel)

    def _take(self, timeout_s: float) -> Iterator[Called]:
        with suppress(Empty):
            while True:
                ended = self._ended.get(timeout_s)
                timeout_s = 0
                self._unfinished -= 1
                if isinstance(ended, BaseException):
                    raise ended
                if ended is not None:
                    yield ended

    # On the event loop.

    def cancel(self) -> None:
        """Cancel the running calls, and begin no more."""
        self._cancelled = True
        for task in self._running:
            task.cancel()
        self._begin()

    async def finish(self) -> None:
        """Wait until no call is running; those that still are, because of an error, are cancelled."""
        self.cancel()
        if self._running:
            await asyncio.wait(tuple(self._running))

    def _add(self, groups: Sequence[Sequence[Delivery]]) -> None:
        self._waiting.extend(groups)
        self._begin()

    def _begin(self) -> None:
        while self._waiting:
            ended = self._cancelled or self._stop.requested
            if not ended and len(self._running) >= self._concurrency:
                return
            group = self._waiting.popleft()
            if ended or self._source.is_lost(group[0]):
                self._end(None)
                continue
            task = asyncio.get_running_loop().create_task(self._run(group))
            self._running.add(task)
            task.add_done_callback(partial(self._note_end, group))

    async def _run(self, group: Sequence[Delivery]) -> Called:
        try:
            with self._source.handling(group):
                return Called(group, await self._call(group))
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
            return failed(group, exc, self._on_failure)

    def _note_end(self, group: Sequence[Delivery], task: asyncio.Task[Called]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._end(task.exception() or task.result())
        else:  # else by itself
            self._end(None if self._cancelled else Called(group, Verdict.REQUEUE))
        self._begin()

    def _end(self, ended: Called | BaseException | None) -> None:
        self._ended.put(ended)
        if len(self._ended) == 1:  # else the source has been woken already
            self._source.wake()


async def result_of(function: Callable[..., Awaitable[T]], argument: object) -> T:
    """Call a coroutine function, or one that returns a value at once."""
    result = function(argument)
    return await result if inspect.isawaitable(result) else result


async def run_on_thread(work: Callable[[Stop], T], stop: Stop | None, cancel: Callable[[], object]) -> T:
    """Run a function on a thread of its own; its stop is requested with `stop`, and when this task is cancelled.

    In that case `cancel` is called, and the end of the function awaited.
    """
    ending = Stop()
    ended: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result = work(ending)
        except BaseException as exc:  # noqa: BLE001 - raised in the task
            ended.set_exception(exc)
        else:
            ended.set_result(result)

    stop = stop or Stop()
    with stop.waking(ending.request):
        if stop.requested:
            ending.request()
        threading.Thread(target=run, name="rmqkit-aio work", daemon=True).start()
        running = asyncio.wrap_future(ended)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(lambda done: done.cancelled() or done.exception())
            ending.request()
            cancel()
            await asyncio.wait([running])
            raise


class LoopFunction:
    """A function for threads: it runs a coroutine function on an event loop, and waits for its result."""

    def __init__(self, function: Callable[[Delivery], Awaitable[Any]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._function = function
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._cancelled = False

    def __call__(self, request: Delivery) -> Any:
        """Return the result. Raises what the function raises, and Cancelled."""
        running = asyncio.run_coroutine_threadsafe(result_of(self._function, request), self._loop)
        self._running.add(running)
        try:
            if self._cancelled:
                running.cancel()
            return running.result()
        except concurrent.futures.CancelledError:
            if self._cancelled:
                raise Cancelled from None
            raise
        finally:
            self._running.discard(running)

    def cancel(self) -> None:
        """Cancel the running calls, and begin no more."""
        self._cancelled = True
        for running in tuple(self._running):
            running.cancel()
