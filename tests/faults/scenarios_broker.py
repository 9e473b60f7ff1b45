"""Kill, stop or freeze the broker, or close all its connections (1-4)."""

from __future__ import annotations

import random
import threading

import rmqkit
from tests.faults.fault_run import (
    FaultSetup,
    Progress,
    Result,
    check_consumed,
    check_published,
    in_background,
    publish,
    publish_and_consume,
)
from tests.support.nodes import evaluate, freeze, kill_and_restart


def killed_while_publishing(setup: FaultSetup, rng: random.Random, amount: int = 40_000) -> Result:
    ledger, progress, when = setup.declare_ledger(), Progress(), rng.randrange(amount // 2)

    def inject() -> None:
        progress.wait_for(when)
        kill_and_restart(setup.node)

    with rmqkit.connect(setup.url) as connection, in_background(inject):
        report = publish(connection, ledger, ledger.messages(range(amount)), progress)
    return check_published(setup, ledger, report, progress)


def killed_while_consuming(setup: FaultSetup, rng: random.Random, amount: int = 20_000) -> Result:
    ledger, progress, when = setup.declare_ledger(), Progress(), rng.randrange(amount // 2)

    def inject() -> None:
        progress.wait_for(when)
        kill_and_restart(setup.node)

    warnings: list[str] = []
    with rmqkit.connect(setup.url) as connection:
        report = publish(connection, ledger, ledger.messages(range(amount)), Progress())
        consumer = connection.consume(ledger.queue, idle_timeout_s=10, prefetch=300, on_warning=warnings.append)
        with in_background(inject), consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                progress.step()
    result = check_consumed(setup, ledger, progress, report)
    if not warnings:
        result.violations.append("progress: no warning about the broker's death")
    return result


def connections_closed(setup: FaultSetup, rng: random.Random, amount: int = 40_000) -> Result:
    def close_all(done: threading.Event, _progress: Progress) -> None:
        while not done.wait(rng.random()):
            # Not over the HTTP API, whose list of connections may be five seconds old.
            evaluate(setup.node, 'rabbit_networking:close_connections(rabbit_networking:connections(), "a test")')

    return publish_and_consume(setup, setup.url, close_all, amount, 8000)


def application_stopped(setup: FaultSetup, rng: random.Random, amount: int = 30_000) -> Result:
    when = rng.randrange(amount // 2)

    def stop_and_start(_done: threading.Event, progress: Progress) -> None:
        progress.wait_for(when)
        for command in ("stop_app", "start_app"):
            assert setup.node.ctl(command).returncode == 0

    return publish_and_consume(setup, setup.url, stop_and_start, amount, 10_000)


def frozen(setup: FaultSetup, rng: random.Random, amount: int = 40_000) -> Result:
    """Freeze the broker for less than the heartbeat: nothing is republished."""
    return _frozen(setup, rng, setup.url, 5, amount)


def frozen_for_long(setup: FaultSetup, rng: random.Random, amount: int = 40_000) -> Result:
    """Freeze the broker until the heartbeat gives it up, and then resume it."""
    return _frozen(setup, rng, f"{setup.url}?heartbeat=1", 14, amount)


def _frozen(setup: FaultSetup, rng: random.Random, url: str, seconds: float, amount: int) -> Result:
    ledger, progress, when = setup.declare_ledger(), Progress(), rng.randrange(amount // 2)

    def inject() -> None:
        progress.wait_for(when)
        freeze(setup.node, seconds)

    with rmqkit.connect(url) as connection, in_background(inject):
        report = publish(connection, ledger, ledger.messages(range(amount)), progress)
    return check_published(setup, ledger, report, progress)
