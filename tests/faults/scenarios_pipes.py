"""Kill a broker, or cut a connection, under messages on their way from one queue to another (1, 2, 5).

A delivery is acknowledged after its copy was confirmed. So there are no more copies than consumed messages, and two
more of each delivery that an outage interrupts, PREFETCH of them at most: one is sent again, and one is that of its
redelivery.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence

import rmqkit
import rmqkit.aio
from rmqkit import ConsumeReport, Delivery, Message, PublishReport
from rmqkit.handlers.forwarder import Forwarder
from rmqkit.node.node import Node
from tests.faults.fault_run import FaultSetup, Progress, Result, check_published, in_background, publish
from tests.faults.ledger import FaultLedger
from tests.support.nodes import kill_and_restart
from tests.support.proxy import Proxy
from tests.support.queues import consumers, ready
from tests.support.wait import wait_until

PREFETCH = 300
IDLE_TIMEOUT_S = 10.0  # longer than a queue needs to recover, also on a busy machine


def killed_under_piping_tasks(setup: FaultSetup, rng: random.Random, amount: int = 20_000) -> Result:
    """Kill the broker of both queues."""
    source, progress = _filled(setup, amount), Progress()
    target, when = setup.declare_queue(), rng.randrange(amount // 2)

    def inject() -> None:
        progress.wait_for(when)
        kill_and_restart(setup.node)

    with in_background(inject):
        report = asyncio.run(_pipe(setup.url, source.queue, target, progress.step))
    return _check((setup, setup), source, target, report, 1)


def cut_under_piping_tasks(setup: FaultSetup, rng: random.Random, amount: int = 10_000) -> Result:
    """Cut the connections again and again."""
    source, target, progress, done = _filled(setup, amount), setup.declare_queue(), Progress(), threading.Event()

    def cut() -> None:
        while not done.wait(rng.random() / 2):
            rng.choice((proxy.up, proxy.down)).cut_after = rng.randrange(1, 100_000)
        proxy.heal()

    def step() -> None:
        progress.step()
        if progress.done >= amount:  # else it is cut whenever it has been idle for almost long enough
            done.set()

    with Proxy(setup.url) as proxy, in_background(cut):
        try:
            report = asyncio.run(_pipe(proxy.url, source.queue, target, step))
        finally:
            done.set()
    return _check((setup, setup), source, target, report, proxy.accepted)


async def _pipe(url: str, source: str, target: str, step: Callable[[], None]) -> ConsumeReport:
    async def copy(delivery: Delivery) -> Message:
        step()
        await asyncio.sleep(0)
        return Message(delivery.body, target, properties=delivery.properties)

    async with rmqkit.aio.connect(url) as connection:
        return await connection.pipe(source, copy, prefetch=PREFETCH, idle_timeout_s=IDLE_TIMEOUT_S)


def forwarded(here: FaultSetup, there: FaultSetup, killed: Node, rng: random.Random, amount: int = 20_000) -> Result:
    """Kill one of two brokers while messages are forwarded from a queue of the one to a queue of the other."""
    source, progress = _filled(here, amount), Progress()
    target, when = there.declare_queue(), rng.randrange(amount // 2)

    class Count(rmqkit.Hooks):
        def received(self, queue: str, deliveries: Sequence[Delivery]) -> None:  # noqa: ARG002 - there is one queue
            progress.done += len(deliveries)

    def inject() -> None:
        progress.wait_for(when)
        kill_and_restart(killed)

    with rmqkit.connect(here.url, hooks=Count()) as connection, in_background(inject):
        forwarder = Forwarder(rmqkit.connect(there.url), "", target)
        try:
            report = connection.handle(source.queue, forwarder, prefetch=PREFETCH, idle_timeout_s=IDLE_TIMEOUT_S)
        finally:
            forwarder.close()
    return _check((here, there), source, target, report, 1)


def _filled(setup: FaultSetup, amount: int) -> FaultLedger:
    ledger = setup.declare_ledger()
    with rmqkit.connect(setup.url) as connection:
        assert publish(connection, ledger, ledger.messages(range(amount)), Progress()).complete
    return ledger


def _check(
    ends: tuple[FaultSetup, FaultSetup], ledger: FaultLedger, target: str, report: ConsumeReport, outages: int
) -> Result:
    """Check what has arrived; what is still queued lost its last acknowledgement, and has arrived as well."""
    here, there = ends
    wait_until(lambda: consumers(here.url, ledger.queue) == 0)
    left, amount = ready(here.url, ledger.queue), len(ledger.sent)
    twice = report.consumed - amount + 2 * outages * PREFETCH
    ledger.queue = target
    published = PublishReport(published=amount, confirmed=amount, republished=twice)
    result = check_published(there, ledger, published, Progress(), ordered=here is not there)
    if left > PREFETCH:
        result.violations.append(f"progress: {left} messages are left")
    return result
