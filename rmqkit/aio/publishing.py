"""Publish from the tasks of an event loop, by a publisher in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial

from rmqkit.aio.callback_queue import CallbackQueue
from rmqkit.errors import BrokerError, RmqkitError
from rmqkit.message import Message
from rmqkit.messaging.background_publisher import BackgroundPublisher
from rmqkit.messaging.publish_counts import PublishCounts
from rmqkit.messaging.publish_window import unconfirmed
from rmqkit.messaging.shared_publisher import CancellableOutcome, report_of, timed_out
from rmqkit.messaging.unconfirmed import Sent
from rmqkit.report import Failure, Fate, PublishReport

_YIELD_EVERY = 100  # messages of an iterable, between two chances for other tasks


class _PublishOutcome(CancellableOutcome):
    """An outcome that is passed to a function on the event loop: the error, or None."""

    def __init__(self, callbacks: CallbackQueue, settle: Callable[[RmqkitError | None], None]) -> None:
        super().__init__()
        self._callbacks = callbacks
        self._settle = settle

    def set_result(self, _: Fate, /) -> None:
        self._callbacks.post(self._settle, None)

    def set_exception(self, error: RmqkitError, /) -> None:
        self._callbacks.post(self._settle, error)


async def publish_one(
    publisher: BackgroundPublisher, callbacks: CallbackQueue, message: Message, timeout_s: float | None
) -> PublishReport:
    """Publish a message and return its report; raise the error if its fate is not known."""
    started_s = time.monotonic()
    settled: asyncio.Future[RmqkitError | None] = asyncio.get_running_loop().create_future()

    def settle(error: RmqkitError | None) -> None:
        if not settled.done():
            settled.set_result(error)

    outcome = _PublishOutcome(callbacks, settle)
    try:
        if timeout_s is None:
            await _submit(publisher, message, outcome)
            error = await settled
        else:
            async with asyncio.timeout(timeout_s):
                await _submit(publisher, message, outcome)
                error = await settled
    except TimeoutError:
        raise timed_out(message, timeout_s or 0.0, publisher.blocked, sent=not outcome.cancel()) from None
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    return report_of(error, started_s)


async def _submit(publisher: BackgroundPublisher, message: Message, outcome: _PublishOutcome) -> None:
    message = publisher.prepare(message)
    while (room := publisher.submit(message, outcome)) is not None:
        await asyncio.wrap_future(room)


async def publish_all(
    publisher: BackgroundPublisher,
    callbacks: CallbackQueue,
    messages: Iterable[Message] | AsyncIterable[Message],
    timeout_s: float | None,
    on_failure: Callable[[Failure], None] | None,
) -> PublishReport:
    """Publish messages and return the report; raise the error if the fate of one is not known."""
    run = _PublishRun(publisher, callbacks, on_failure)
    bound = asyncio.timeout(timeout_s)
    try:
        async with bound:
            try:
                await run.submit_each(messages)
            except Exception:  # of the iterable: raised after the messages before it are settled
                await run.wait()
                raise
            await run.wait()
    except TimeoutError:
        if not bound.expired():  # the iterable raised it
            raise
        run.give_up(timeout_s or 0.0)
    except asyncio.CancelledError:
        run.cancel()
        raise
    if run.error is not None:
        run.error.report = run.report
        raise run.error
    return run.report


class _PublishRun:
    """The messages of one iterable."""

    def __init__(
        self, publisher: BackgroundPublisher, callbacks: CallbackQueue, on_failure: Callable[[Failure], None] | None
    ) -> None:
        self.error: BrokerError | None = None  # why the fate of a message is not known
        self._publisher = publisher
        self._callbacks = callbacks
        self._counts = PublishCounts(confirms=publisher.confirms, on_failure=on_failure)
        self._pending: dict[int, tuple[Sent, _PublishOutcome]] = {}
        self._all_settled: asyncio.Future[None] | None = None

    @property
    def report(self) -> PublishReport:
        """Return the numbers so far."""
        return self._counts.report

    async def submit_each(self, messages: Iterable[Message] | AsyncIterable[Message]) -> None:
        """Queue all messages; while the window is full, wait."""
        async for message in messages if isinstance(messages, AsyncIterable) else _each(messages):
            position = self._counts.published
            outcome = _PublishOutcome(self._callbacks, partial(self._settle, position))
            await _submit(self._publisher, message, outcome)
            self._pending[position] = Sent(position, message, len(message.body)), outcome
            self._counts.published += 1

    async def wait(self) -> None:
        """Wait until the outcome of each message is known."""
        if self._pending:
            self._all_settled = asyncio.get_running_loop().create_future()
            await self._all_settled

    def cancel(self) -> list[Sent]:
        """Keep the messages from being sent that were not sent yet; return all whose outcome is not known."""
        pending, self._pending = self._pending, {}
        for _, outcome in pending.values():
            outcome.cancel()
        return [sent for sent, _ in pending.values()]

    def give_up(self, timeout_s: float) -> None:
        """Count what is pending as unknown."""
        pending = self.cancel()
        self.error = unconfirmed(len(pending), timeout_s, self._publisher.blocked, sent=bool(pending))
        for sent in pending:
            self._counts.fail(sent, Fate.UNKNOWN, self.error.message, self.error)

    def _settle(self, position: int, error: RmqkitError | None) -> None:
        sent, _ = self._pending.pop(position, (None, None))
        if sent is None:
            return
        if error is None:
            self._counts.settle([sent], Fate.CONFIRMED if self._publisher.confirms else Fate.UNKNOWN, {})
        elif isinstance(error, BrokerError) and isinstance(error.report, PublishReport):
            (failure,) = error.report.failures
            self._counts.fail(sent, failure.fate, failure.reason, failure.cause)
            if failure.fate is Fate.UNKNOWN:
                self.error = error
        else:
            self._counts.fail(sent, Fate.REFUSED, error.message, error)
        if not self._pending and self._all_settled is not None and not self._all_settled.done():
            self._all_settled.set_result(None)


async def _each(messages: Iterable[Message]) -> AsyncIterator[Message]:
    for number, message in enumerate(messages):
        if number % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
        yield message
