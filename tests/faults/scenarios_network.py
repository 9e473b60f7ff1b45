"""The network fails between rmqkit and a broker that is well (5, 6, 36): a proxy cuts, swallows and resets."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence

import rmqkit
from rmqkit import Message
from tests.faults.fault_run import (
    IDLE_TIMEOUT_S,
    FaultSetup,
    Progress,
    Result,
    check_consumed,
    check_published,
    handle_rest,
    in_background,
    publish,
    publish_and_consume,
)
from tests.faults.ledger import identity
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

WAYS = ("up", "down")


def cut_publishing(setup: FaultSetup, rng: random.Random, way: str = "", *, by_reset: bool | None = None) -> Result:
    """Cut the connection within a publish, or within a confirm, at each of twenty brokers."""
    ledger, progress, way = setup.declare_ledger(), Progress(), way or rng.choice(WAYS)
    offsets = [*range(1, 9), *rng.sample(range(9, 4000 if way == "up" else 300), 12)]
    with Proxy(setup.url) as proxy, rmqkit.connect(proxy.url) as connection:
        direction = getattr(proxy, way)
        direction.cut_by_reset = rng.random() < 0.5 if by_reset is None else by_reset

        def stream() -> Iterator[Message | None]:
            numbers = iter(range(10_000))
            for offset in offsets:
                direction.cut_after = offset
                while direction.cut_after is not None:  # the cut comes with one of these
                    yield from ledger.messages(next(numbers) for _ in range(5))
                    yield None

        report = publish(connection, ledger, stream(), progress)  # type: ignore[arg-type] # None waits
        assert proxy.accepted >= len(offsets)
    return check_published(setup, ledger, report, progress)


def cut_consuming(setup: FaultSetup, rng: random.Random, way: str = "", amount: int = 600) -> Result:
    """Cut the connection within a delivery, or within an acknowledgement, ten times."""
    ledger, progress, done, way = setup.declare_ledger(), Progress(), threading.Event(), way or rng.choice(WAYS)
    with rmqkit.connect(setup.url) as direct:
        report = publish(direct, ledger, ledger.messages(range(amount)), Progress())
    with Proxy(setup.url) as proxy, rmqkit.connect(proxy.url) as connection:
        direction = getattr(proxy, way)

        def cut_again_and_again() -> None:
            for _ in range(10):
                direction.cut_after = rng.randrange(1, 12_000 if way == "down" else 2000)
                while direction.cut_after is not None and not done.wait(0.005):
                    pass
            direction.cut_after = None

        with in_background(cut_again_and_again):
            missing: set[int | None] = set(range(amount))
            try:
                with connection.consume(ledger.queue, prefetch=20, idle_timeout_s=IDLE_TIMEOUT_S) as consumer:
                    for delivery in consumer:
                        ledger.handle(delivery)
                        progress.step()
                        consumer.acknowledge(delivery)
                        missing.discard(identity(delivery.body))
                        if not missing:
                            break
            finally:
                done.set()
        assert proxy.accepted > 3
    handle_rest(setup.url, ledger)
    return check_consumed(setup, ledger, progress, report)


def swallowed(setup: FaultSetup, rng: random.Random, ways: Sequence[str] = (), amount: int = 3000) -> Result:
    """Have every send succeed, and nothing arrive, until the heartbeat finds out."""
    ledger, progress, ways = setup.declare_ledger(), Progress(), ways or rng.choice((WAYS, ("up",), ("down",)))
    when = rng.randrange(1, amount)
    with Proxy(setup.url) as proxy:

        def stream() -> Iterator[Message | None]:
            yield from ledger.messages(range(when))
            yield None
            for way in ways:
                getattr(proxy, way).blackhole = True
            accepted = proxy.accepted
            with in_background(lambda: open_again(accepted)):
                yield from ledger.messages(range(when, amount))
                yield None

        def open_again(accepted: int) -> None:
            wait_until(lambda: proxy.accepted > accepted, "the heartbeat found nothing")
            proxy.heal()

        with rmqkit.connect(f"{proxy.url}?heartbeat=1") as connection:
            report = publish(connection, ledger, stream(), progress)  # type: ignore[arg-type] # None waits
    result = check_published(setup, ledger, report, progress)
    if report.republished < amount - when:
        result.violations.append(f"duplicates: only {report.republished} of {amount - when} were republished")
    return result


def reset_for_a_minute(setup: FaultSetup, rng: random.Random) -> Result:
    return reset_every_300_ms(setup, rng, 90_000)


def reset_every_300_ms(setup: FaultSetup, _rng: random.Random, amount: int = 12_000) -> Result:
    """Reset all connections all the time; the number of threads stays bounded."""
    threads: list[int] = []

    def reset_again_and_again(done: threading.Event, _progress: Progress) -> None:
        while not done.wait(0.3):
            proxy.reset()
            threads.append(threading.active_count())

    with Proxy(setup.url) as proxy:
        result = publish_and_consume(setup, proxy.url, reset_again_and_again, amount, 1500)
    if max(threads) > min(threads) + 4:
        result.violations.append(f"leak: from {min(threads)} to {max(threads)} threads")
    return result
