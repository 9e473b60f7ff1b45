"""Consume in the tasks of an event loop: a thread runs a consumer and passes on what arrives."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from queue import Empty, SimpleQueue
from typing import Self

from rmqkit.aio.callback_queue import CallbackQueue
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.consumer import Consumer
from rmqkit.options import ConsumeOptions
from rmqkit.report import ConsumeReport
from rmqkit.stop import Stop


class AsyncConsumer:
    """A consumer of one queue, for the tasks of one event loop; made by `AsyncConnection.consume`.

    Iterating acknowledges each delivery once the next is asked for; one that ended the loop by `break`, an exception or
    the cancellation of its task is not acknowledged, unless it was settled by hand. Outside an `async with` block the
    consumer is closed when the loop is left. Any task may settle a delivery while another one iterates.
    """

    def __init__(
        self, open_consumer: Callable[..., Consumer], options: ConsumeOptions, callbacks: CallbackQueue
    ) -> None:
        self._stop = Stop()
        values = {each.name: getattr(options, each.name) for each in fields(options)}
        self._consumer = open_consumer(**values, stop=self._stop)
        self._no_ack = options.no_ack
        self._callbacks = callbacks
        self._thread: threading.Thread | None = None
        self._arrived: deque[Delivery] = deque()
        self._taken = threading.Semaphore(0)  # with `no_ack`: all that arrived was taken
        self._to_settle: SimpleQueue[tuple[Sequence[Delivery], Verdict] | None] = SimpleQueue()  # None: no more
        self._woken = False  # the thread will look into it
        self._passed_on = self._done = 0  # deliveries; those that a task has handled, or left
        self._entered = False
        self._waiting: asyncio.Future[None] | None = None  # a task, for a delivery or the end
        self._ended = False
        self._error: BaseException | None = None
        self._closed: asyncio.Future[None]

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def queue(self) -> str:
        """Return the name of the queue."""
        return self._consumer.queue

    @property
    def report(self) -> ConsumeReport:
        """Return the numbers so far."""
        return self._consumer.report

    async def __aiter__(self) -> AsyncGenerator[Delivery]:
        try:
            while await self._arrival():
                delivery = self._arrived.popleft()
                self._note_taken()
                try:
                    if self._consumer.is_lost(delivery):
                        continue  # it is redelivered
                    with self._consumer.handling((delivery,)):
                        yield delivery
                finally:
                    self._note_done(1)
                if not self._no_ack:
                    self.settle((delivery,), Verdict.ACK)
        finally:
            await self._leave()

    async def batches(self) -> AsyncGenerator[list[Delivery]]:
        """Yield deliveries in batches, as many as have arrived, to be settled by the caller.

        Raises ConsumerCancelled when the broker ends the consumer, NotFound, AccessRefused, ResourceLocked,
        ConnectionLost when recovery fails.
        """
        try:
            while await self._arrival():
                arrived = list(self._arrived)
                self._arrived.clear()
                self._note_taken()
                try:
                    if batch := [each for each in arrived if not self._consumer.is_lost(each)]:
                        yield batch
                finally:
                    self._note_done(len(arrived))
        finally:
            await self._leave()

    def settle(self, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        """Acknowledge, reject or requeue deliveries soon; see `rmqkit.Consumer.settle`."""
        self._to_settle.put((deliveries, verdict))
        self._wake_thread()

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge one delivery soon."""
        self.settle((delivery,), Verdict.ACK)

    def reject(self, delivery: Delivery) -> None:
        """Reject one delivery: it is dead-lettered, or dropped where no dead-letter exchange is set."""
        self.settle((delivery,), Verdict.REJECT)

    def requeue(self, delivery: Delivery) -> None:
        """Requeue one delivery."""
        self.settle((delivery,), Verdict.REQUEUE)

    async def close(self) -> None:
        """Settle what was settled by hand, and stop consuming; unsettled deliveries return to their queue."""
        if self._thread is not None:
            self._stop.request()
            self._to_settle.put(None)
            await asyncio.shield(self._closed)

    # On the event loop.

    async def _arrival(self) -> bool:
        """Wait until a delivery has arrived; return False at the end, and raise the error that ended the consumer."""
        if self._thread is None:
            self._closed = asyncio.get_running_loop().create_future()
            self._thread = threading.Thread(target=self._work, name=f"rmqkit-aio {self.queue}", daemon=True)
            self._thread.start()
        while not self._arrived and not self._ended:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if not self._arrived and self._error is not None:
            raise self._error
        return bool(self._arrived)

    def _note_taken(self) -> None:
        if self._no_ack and not self._arrived:
            self._taken.release()

    def _note_done(self, amount: int) -> None:
        self._done += amount
        if not self._is_busy():
            self._wake_thread()

    def _is_busy(self) -> bool:
        return self._passed_on > self._done

    def _wake_thread(self) -> None:
        if not self._woken:
            self._woken = True
            self._consumer.wake()

    async def _leave(self) -> None:
        if not self._entered:
            await self.close()

    def _receive(self, batch: list[Delivery]) -> None:
        self._arrived.extend(batch)
        self._wake_task()

    def _end(self, error: BaseException | None) -> None:
        self._ended, self._error = True, error
        self._wake_task()

    def _wake_task(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _note_closed(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    # On the thread.

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            with self._consumer:
                for batch in self._consumer.batches(busy=self._is_busy):
                    self._settle_requested()
                    if batch:
                        self._passed_on += len(batch)
                        self._callbacks.post(self._receive, batch)
                        while self._no_ack and not self._stop.requested and not self._taken.acquire(timeout=0.1):
                            pass
                self._callbacks.post(self._end, None)  # by its count or idle time: what was handed out is still settled
                while (request := self._to_settle.get()) is not None:
                    self._settle_requested(request)
        except BaseException as exc:  # noqa: BLE001 - raised in the task that iterates
            error = exc
        self._callbacks.post(self._end, error)
        self._callbacks.post(self._note_closed)

    def _settle_requested(self, request: tuple[Sequence[Delivery], Verdict] | None = None) -> None:
        """Settle what was requested, in order; those with one verdict together."""
        self._woken = False  # first: what is put from now on needs another wake
        deliveries, verdict = (list(request[0]), request[1]) if request else ([], Verdict.ACK)
        with suppress(Empty):
            while (request := self._to_settle.get_nowait()) is not None:
                if request[1] is not verdict:
                    self._consumer.settle(deliveries, verdict)
                    deliveries, verdict = [], request[1]
                deliveries += request[0]
            self._to_settle.put(None)  # the stop that came with it ends the consumer
        self._consumer.settle(deliveries, verdict)
