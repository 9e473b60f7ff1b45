"""The broker dies, stops, freezes, or throws everybody out (1-4)."""

from __future__ import annotations

import random
import threading

import rmqkit
from tests.faults.fault_run import (
    Ground,
    Progress,
    Result,
    consumed,
    freeze,
    meanwhile,
    publish,
    published,
    restart_after_kill,
    stream_through,
)


def killed_while_publishing(ground: Ground, dice: random.Random, amount: int = 40_000) -> Result:
    ledger, progress, when = ground.books(), Progress(), dice.randrange(amount // 2)

    def strike() -> None:
        progress.reaches(when)
        restart_after_kill(ground.node)

    with rmqkit.connect(ground.url) as connection, meanwhile(strike):
        report = publish(connection, ledger, ledger.messages(range(amount)), progress)
    return published(ground, ledger, report, progress)


def killed_while_consuming(ground: Ground, dice: random.Random, amount: int = 20_000) -> Result:
    ledger, progress, when = ground.books(), Progress(), dice.randrange(amount // 2)

    def strike() -> None:
        progress.reaches(when)
        restart_after_kill(ground.node)

    warnings: list[str] = []
    with rmqkit.connect(ground.url) as connection:
        report = publish(connection, ledger, ledger.messages(range(amount)), Progress())
        consumer = connection.consume(ledger.queue, idle_timeout_s=2, prefetch=300, on_warning=warnings.append)
        with meanwhile(strike), consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                progress.step()
    result = consumed(ground, ledger, progress, report)
    if not warnings:
        result.violations.append("I9: nothing was said of the broker's death")
    return result


def connections_closed(ground: Ground, dice: random.Random, amount: int = 40_000) -> Result:
    def close_all(done: threading.Event, _progress: Progress) -> None:
        while not done.wait(dice.random()):
            ground.node.ctl("close_all_connections", "a test")

    return stream_through(ground, ground.url, close_all, amount, 8000)


def application_stopped(ground: Ground, dice: random.Random, amount: int = 30_000) -> Result:
    when = dice.randrange(amount // 2)

    def stop_and_start(_done: threading.Event, progress: Progress) -> None:
        progress.reaches(when)
        for command in ("stop_app", "start_app"):
            assert ground.node.ctl(command).returncode == 0

    return stream_through(ground, ground.url, stop_and_start, amount, 10_000)


def frozen(ground: Ground, dice: random.Random, amount: int = 40_000) -> Result:
    """Freeze it for less than the heartbeat's time: nothing is sent twice."""
    return _frozen(ground, dice, ground.url, 5, amount)


def frozen_for_long(ground: Ground, dice: random.Random, amount: int = 40_000) -> Result:
    """Freeze it until the heartbeat gives it up, and let it go on then."""
    return _frozen(ground, dice, f"{ground.url}?heartbeat=1", 14, amount)


def _frozen(ground: Ground, dice: random.Random, url: str, seconds: float, amount: int) -> Result:
    ledger, progress, when = ground.books(), Progress(), dice.randrange(amount // 2)

    def strike() -> None:
        progress.reaches(when)
        freeze(ground.node, seconds)

    with rmqkit.connect(url) as connection, meanwhile(strike):
        report = publish(connection, ledger, ledger.messages(range(amount)), progress)
    return published(ground, ledger, report, progress)
