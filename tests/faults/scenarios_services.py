"""Kill the broker, or cut its connections, under the threads and tasks of a service (1, 2, 5)."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import rmqkit
import rmqkit.aio
from rmqkit import Fate, Message, PublishReport
from tests.faults.fault_run import (
    FaultSetup,
    Progress,
    Result,
    check_consumed,
    check_published,
    handle_rest,
    in_background,
)
from tests.faults.ledger import FaultLedger, identity
from tests.support.nodes import kill_and_restart
from tests.support.proxy import Proxy

THREADS = 20


def _report(ledger: FaultLedger, republished: int) -> PublishReport:
    """Return the report that the fates of the ledger add up to; a future does not tell how often it was sent."""
    counts = Counter(fate for _, fate in ledger.fates)
    numbers: dict[str, Any] = {fate.value: counts[fate] for fate in Fate}
    return PublishReport(published=len(ledger.sent), republished=republished, **numbers)


def _publish_from_threads(url: str, ledger: FaultLedger, progress: Progress, amount: int) -> PublishReport:
    messages, taking = ledger.messages(range(amount)), threading.Lock()

    def note(message: Message, future: Future[Fate]) -> None:
        ledger.settled(0, message, Fate.UNKNOWN if future.exception() else future.result())
        progress.step()

    def publish(publisher: rmqkit.BackgroundPublisher, connection: rmqkit.Connection, thread: int) -> None:
        while True:
            with taking:
                message = next(messages, None)
            if message is None:
                return
            if thread % 4:
                publisher.publish(message).add_done_callback(partial(note, message))
            else:
                assert connection.publish(message).confirmed == 1
                ledger.settled(0, message, Fate.CONFIRMED)

    with (
        rmqkit.connect(url) as connection,
        connection.publisher(options=rmqkit.PublishOptions(window=500)) as publisher,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        list(threads.map(partial(publish, publisher, connection), range(THREADS)))
    return _report(ledger, republished=amount)


def killed_under_threads(setup: FaultSetup, rng: random.Random, amount: int = 20_000) -> Result:
    """Kill the broker while twenty threads share a connection, some in the background and some one by one."""
    ledger, progress, when = setup.declare_ledger(), Progress(), rng.randrange(amount // 3)

    def inject() -> None:
        progress.wait_for(when)
        kill_and_restart(setup.node)

    with in_background(inject):
        report = _publish_from_threads(setup.url, ledger, progress, amount)
    return check_published(setup, ledger, report, progress, ordered=False)


def cut_under_threads(setup: FaultSetup, rng: random.Random, amount: int = 10_000) -> Result:
    """Cut the connection of twenty threads again and again."""
    ledger, progress, done = setup.declare_ledger(), Progress(), threading.Event()
    with Proxy(setup.url) as proxy, in_background(lambda: _cut(proxy, rng, done)):
        try:
            report = _publish_from_threads(proxy.url, ledger, progress, amount)
        finally:
            done.set()
    return check_published(setup, ledger, report, progress, ordered=False)


def _cut(proxy: Proxy, rng: random.Random, done: threading.Event) -> None:
    while not done.wait(rng.random() / 5):
        rng.choice((proxy.up, proxy.down)).cut_after = rng.randrange(1, 5000)
    proxy.heal()


def killed_under_tasks(setup: FaultSetup, rng: random.Random, amount: int = 10_000) -> Result:
    """Kill the broker while the tasks of an event loop publish, and another one consumes."""
    ledger, progress, when = setup.declare_ledger(), Progress(), rng.randrange(amount // 2)

    def inject() -> None:
        progress.wait_for(when)
        kill_and_restart(setup.node)

    with in_background(inject):
        asyncio.run(_publish_and_consume(setup.url, ledger, progress.step, amount))
    handle_rest(setup.url, ledger)
    return check_consumed(setup, ledger, progress, _report(ledger, republished=amount))


async def _publish_and_consume(url: str, ledger: FaultLedger, step: Callable[[], None], amount: int) -> None:
    messages = ledger.messages(range(amount))

    async def publish(connection: rmqkit.aio.AsyncConnection) -> None:
        for message in messages:
            assert (await connection.publish(message)).confirmed == 1
            ledger.settled(0, message, Fate.CONFIRMED)

    async def consume(connection: rmqkit.aio.AsyncConnection) -> None:
        missing: set[int | None] = set(range(amount))
        async with connection.consume(ledger.queue, prefetch=200) as deliveries:
            async for delivery in deliveries:
                ledger.handle(delivery)
                step()
                missing.discard(identity(delivery.body))
                if not missing:
                    deliveries.acknowledge(delivery)
                    return

    async with rmqkit.aio.connect(url) as connection, asyncio.TaskGroup() as tasks:
        tasks.create_task(consume(connection))
        for _ in range(THREADS):
            tasks.create_task(publish(connection))
