"""The network fails between rmqkit and a broker that is well (5-7, 36): a proxy cuts, delays, slices and swallows."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import count

import pytest

import rmqkit
from rmqkit import Message, PublishOptions, Queue, Topology
from tests.faults import scenarios_network as scenarios
from tests.faults.fault_run import FaultSetup
from tests.faults.ledger import FaultLedger
from tests.support.proxy import Proxy
from tests.support.queues import ready

pytestmark = pytest.mark.usefixtures("leak_free")


@pytest.fixture
def proxy(broker_url: str) -> Iterator[Proxy]:
    with Proxy(broker_url) as between:
        yield between


@pytest.mark.fault(5)
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("by_reset", [True, False], ids=["reset", "closed"])
def test_cut_at_any_byte_of_a_publish_or_a_confirm(
    setup: FaultSetup, rng: random.Random, way: str, by_reset: bool
) -> None:
    assert scenarios.cut_publishing(setup, rng, way, by_reset=by_reset).violations == []


@pytest.mark.fault(5)
@pytest.mark.parametrize("way", ["up", "down"])
def test_cut_at_any_byte_of_a_delivery_or_an_acknowledgement(setup: FaultSetup, rng: random.Random, way: str) -> None:
    assert scenarios.cut_consuming(setup, rng, way).violations == []


@pytest.mark.fault(6)
@pytest.mark.parametrize("ways", [("up", "down"), ("up",), ("down",)], ids="-".join)
def test_messages_lost_in_a_blackhole_are_republished_after_the_heartbeat_timeout(
    setup: FaultSetup, rng: random.Random, ways: Sequence[str]
) -> None:
    assert scenarios.swallowed(setup, rng, ways).violations == []


@pytest.mark.fault(6)
def test_by_default_a_dead_connection_is_detected_before_the_confirm_timeout(broker_url: str) -> None:
    with rmqkit.connect(broker_url) as connection:
        adapter = connection._consuming._connected()._adapter
        assert adapter is not None
        heartbeat_s = adapter.params.heartbeat
        assert isinstance(heartbeat_s, int)
        found_within_s = 2 * (heartbeat_s + 5)  # see pika/heartbeat.py
    assert 0 < found_within_s < PublishOptions().confirm_timeout_s


@pytest.mark.fault(7)
def test_one_byte_at_a_time_is_slow_but_correct(proxy: Proxy, broker_url: str, ledger: FaultLedger) -> None:
    with rmqkit.connect(proxy.url) as connection:
        connection.apply(Topology(queues=(Queue(ledger.queue),)))
        proxy.up.slice_bytes = proxy.down.slice_bytes = 1
        report = connection.publish(ledger.messages(range(100)), on_settled=ledger.settled)
        with connection.consume(ledger.queue, count=100) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
    assert (report.confirmed, report.republished) == (100, 0)
    assert proxy.accepted == 2
    assert ledger.consumer_violations(ready(broker_url, ledger.queue), 0) == []


@pytest.mark.fault(7)
def test_a_slow_connection_is_not_mistaken_for_a_dead_one(proxy: Proxy, ledger: FaultLedger) -> None:
    with rmqkit.connect(f"{proxy.url}?heartbeat=2") as connection:
        connection.publish(Message(b"first", ledger.queue))
        proxy.up.bytes_per_s, proxy.up.slice_bytes = 4000, 100
        report = connection.publish(ledger.messages(range(200)), on_settled=ledger.settled)
        assert report.seconds > 5
        proxy.up.bytes_per_s = 0
    assert (report.confirmed, report.republished) == (200, 0)
    assert proxy.accepted == 2


@pytest.mark.fault(7)
def test_a_slow_line_fills_no_memory(proxy: Proxy, ledger: FaultLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmqkit.messaging.publish_window.STOP_GRACE_S", 0.5)
    stop, taken, most = rmqkit.Stop(), list[int](), 4 * 1024 * 1024

    def endless() -> Iterator[Message]:
        for number in count():
            taken.append(number)
            yield Message(bytes(65_536), ledger.queue)

    with rmqkit.connect(proxy.url) as connection:
        connection.publish(Message(b"first", ledger.queue))
        proxy.up.bytes_per_s, proxy.up.slice_bytes = 1000, 100
        threading.Timer(2.0, stop.request).start()
        tracemalloc.start()
        try:
            options = PublishOptions(window_bytes=most)
            report = connection.publish(endless(), options=options, stop=stop, check=False)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        proxy.heal()
    assert report.unknown == len(taken) <= most // 65_536 + 1
    assert peak_bytes < 4 * most


@pytest.mark.fault(7)
def test_two_seconds_of_latency(proxy: Proxy, ledger: FaultLedger) -> None:
    with rmqkit.connect(proxy.url) as connection:
        connection.publish(Message(b"first", ledger.queue))
        proxy.up.delay_s = proxy.down.delay_s = 1.0
        report = connection.publish(ledger.messages(range(2000)), on_settled=ledger.settled)
        proxy.up.delay_s = proxy.down.delay_s = 0.0
    assert (report.confirmed, report.republished) == (2000, 0)
    assert report.seconds < 15


@pytest.mark.fault(36)
def test_connections_reset_every_300_ms_publishing_and_consuming_converge(
    setup: FaultSetup, rng: random.Random
) -> None:
    result = scenarios.reset_every_300_ms(setup, rng)
    assert result.violations == []
    assert result.report.republished > 0
