"""The network fails between rmqkit and a broker that is well (5-7, 36): a proxy cuts, delays, slices and swallows."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

import rmqkit
from rmqkit import Fate, Message, PublishOptions, Queue, Topology
from tests.faults.ledger import Ledger, identity
from tests.faults.proxy import Proxy, Way
from tests.faults.witness import ready, within

pytestmark = pytest.mark.usefixtures("leak_free")


@pytest.fixture
def proxy(broker_url: str) -> Iterator[Proxy]:
    with Proxy(broker_url) as between:
        yield between


def consume_all(connection: rmqkit.Connection, ledger: Ledger, amount: int, prefetch: int = 50) -> None:
    """Consume until every id was handled; each is acknowledged after it was entered."""
    missing: set[int | None] = set(range(amount))
    with connection.consume(ledger.queue, prefetch=prefetch, idle_timeout_s=20) as consumer:
        for delivery in consumer:
            ledger.handle(delivery)
            consumer.acknowledge(delivery)
            missing.discard(identity(delivery.body))
            if not missing:
                return


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("by_reset", [True, False], ids=["reset", "closed"])
def test_5_cut_at_any_byte_of_a_publish_or_a_confirm(
    proxy: Proxy, broker_url: str, ledger: Ledger, way: str, by_reset: bool
) -> None:
    direction: Way = getattr(proxy, way)
    direction.cut_by_reset = by_reset
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    offsets = [*range(1, 9), *random.Random(seed).sample(range(9, 4000 if way == "up" else 300), 12)]

    def stream() -> Iterator[Message | None]:
        numbers = iter(range(10_000))
        for offset in offsets:
            direction.cut_after = offset
            while direction.cut_after is not None:  # the cut comes with one of these
                yield from ledger.messages(next(numbers) for _ in range(5))
                yield None

    with rmqkit.connect(proxy.url) as connection:
        report = connection.publish(stream(), on_settled=ledger.settled)
    ledger.drain(broker_url)
    assert ledger.violations(report) == []
    assert proxy.accepted >= len(offsets)


@pytest.mark.parametrize("way", ["up", "down"])
def test_5_cut_at_any_byte_of_a_delivery_or_an_acknowledgement(
    proxy: Proxy, broker_url: str, ledger: Ledger, way: str
) -> None:
    amount, done = 600, threading.Event()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    rng = random.Random(seed)
    direction: Way = getattr(proxy, way)
    with rmqkit.connect(broker_url) as direct:
        direct.publish(ledger.messages(range(amount)), on_settled=ledger.settled)

    def cut_again_and_again() -> None:
        for _ in range(10):
            direction.cut_after = rng.randrange(1, 9000 if way == "down" else 2000)
            while direction.cut_after is not None and not done.wait(0.005):
                pass

    with rmqkit.connect(proxy.url) as connection:
        cutter = threading.Thread(target=cut_again_and_again)
        cutter.start()
        try:
            consume_all(connection, ledger, amount, prefetch=20)
        finally:
            done.set()
            cutter.join()
            direction.cut_after = None
    assert proxy.accepted > 3
    assert ledger.consumer_violations(ready(broker_url, ledger.queue), 0) == []


@pytest.mark.parametrize("ways", [("up", "down"), ("up",), ("down",)], ids="-".join)
def test_6_what_a_blackhole_swallows_is_published_again_once_the_heartbeat_finds_out(
    proxy: Proxy, broker_url: str, ledger: Ledger, ways: tuple[str, ...]
) -> None:
    amount = 3000

    def stream() -> Iterator[Message | None]:
        yield from ledger.messages(range(amount // 2))
        yield None
        for way in ways:
            getattr(proxy, way).blackhole = True
        accepted = proxy.accepted
        opener = threading.Thread(target=lambda: open_again(accepted))
        opener.start()
        yield from ledger.messages(range(amount // 2, amount))
        yield None
        opener.join()

    def open_again(accepted: int) -> None:
        within(20, lambda: proxy.accepted > accepted, lambda: "the heartbeat found nothing")
        proxy.heal()

    with rmqkit.connect(f"{proxy.url}?heartbeat=1") as connection:
        report = connection.publish(stream(), on_settled=ledger.settled)
    ledger.drain(broker_url)
    assert ledger.violations(report) == []
    assert report.republished >= amount // 2


def test_6_by_default_a_dead_line_is_found_before_a_publisher_gives_up_on_its_confirms(broker_url: str) -> None:
    with rmqkit.connect(broker_url) as connection:
        adapter = connection._consuming._connected()._adapter
        assert adapter is not None
        found_within_s = 2 * (adapter.params.heartbeat + 5)  # see pika/heartbeat.py
    assert 0 < found_within_s < PublishOptions().confirm_timeout_s


def test_7_one_byte_at_a_time_is_slow_but_right(proxy: Proxy, broker_url: str, ledger: Ledger) -> None:
    with rmqkit.connect(proxy.url) as connection:
        connection.apply(Topology(queues=(Queue(ledger.queue),)))
        proxy.up.slice_bytes = proxy.down.slice_bytes = 1
        report = connection.publish(ledger.messages(range(100)), on_settled=ledger.settled)
        consume_all(connection, ledger, 100)
    assert (report.confirmed, report.republished) == (100, 0)
    assert proxy.accepted == 2
    assert ledger.consumer_violations(ready(broker_url, ledger.queue), 0) == []


def test_7_a_slow_line_is_not_taken_for_a_dead_one(proxy: Proxy, ledger: Ledger) -> None:
    with rmqkit.connect(f"{proxy.url}?heartbeat=2") as connection:
        connection.publish(Message(b"first", ledger.queue))
        proxy.up.bytes_per_s, proxy.up.slice_bytes = 4000, 100
        report = connection.publish(ledger.messages(range(200)), on_settled=ledger.settled)
        assert report.seconds > 5
        proxy.up.bytes_per_s = 0
    assert (report.confirmed, report.republished) == (200, 0)
    assert proxy.accepted == 2


def test_7_two_seconds_of_latency(proxy: Proxy, ledger: Ledger) -> None:
    with rmqkit.connect(proxy.url) as connection:
        connection.publish(Message(b"first", ledger.queue))
        proxy.up.delay_s = proxy.down.delay_s = 1.0
        report = connection.publish(ledger.messages(range(2000)), on_settled=ledger.settled)
        proxy.up.delay_s = proxy.down.delay_s = 0.0
    assert (report.confirmed, report.republished) == (2000, 0)
    assert report.seconds < 15


def test_36_connections_reset_every_300_ms_publishing_and_consuming_converge(
    proxy: Proxy, broker_url: str, ledger: Ledger
) -> None:
    amount, done, options = 12_000, threading.Event(), PublishOptions(rate=1500)
    threads: list[int] = []

    def reset_again_and_again() -> None:
        for _ in range(40):
            if done.wait(0.3):
                return
            proxy.reset()
            threads.append(threading.active_count())

    resetter = threading.Thread(target=reset_again_and_again)
    reports: list[rmqkit.PublishReport] = []

    def publish(connection: rmqkit.Connection) -> None:
        reports.append(connection.publish(ledger.messages(range(amount)), options=options, on_settled=ledger.settled))

    with rmqkit.connect(proxy.url) as connection:
        publishing = threading.Thread(target=publish, args=(connection,))
        resetter.start()
        publishing.start()
        try:
            consume_all(connection, ledger, amount, prefetch=200)
        finally:
            done.set()
            publishing.join()
            resetter.join()
    (report,) = reports
    assert report.complete
    assert report.republished > 0
    assert ledger.ids(Fate.CONFIRMED) == set(range(amount))
    assert max(threads) <= min(threads) + 4
    within(5, lambda: ready(broker_url, ledger.queue) <= report.republished)
    assert ledger.consumer_violations(0, 0, report.republished) == []
