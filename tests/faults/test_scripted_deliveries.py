"""What no real broker does to a consumer on demand: odd cancels, malformed headers, hostile bytes (2, 21, 24, 37)."""

from __future__ import annotations

import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from pika import frame, spec

import rmqkit
from tests.faults.fake_broker import FakeBroker, Peer, Script, entry, nested

pytestmark = pytest.mark.usefixtures("leak_free")
FORCED = spec.Connection.Close(320, "CONNECTION_FORCED - the script says so", 0, 0)


def consuming(*scripts: Callable[[Peer, str], None]) -> tuple[list[Script], list[Peer]]:
    """Return scripts that deliver, each on a connection of its own, and the peers they met."""
    peers: list[Peer] = []

    def script(deliver: Callable[[Peer, str], None]) -> Script:
        def play(peer: Peer) -> None:
            peers.append(peer)
            peer.greet()
            peer.serve(on_consume=lambda peer, method: deliver(peer, method.consumer_tag))

        return play

    return [script(deliver) for deliver in scripts], peers


@pytest.mark.fault(2)
def test_a_delivery_of_a_lost_connection_is_never_acknowledged_on_the_next() -> None:
    old_arrived = threading.Event()

    def deliver(peer: Peer, tag: str) -> None:
        for number in (1, 2, 3):
            peer.deliver(number, b"old %d" % number, consumer_tag=tag)
        assert old_arrived.wait(20)
        peer.send(FORCED, 0)

    def deliver_again(peer: Peer, tag: str) -> None:
        for number in (1, 2, 3):
            peer.deliver(number, b"new %d" % number, consumer_tag=tag)

    scripts, peers = consuming(deliver, deliver_again)
    with (
        FakeBroker(*scripts) as broker,
        rmqkit.connect(broker.url) as connection,
        connection.consume("queue", on_warning=lambda _: None) as consumer,
    ):
        got = {}
        for batch in _until(consumer, 6):
            got |= {delivery.body: delivery for delivery in batch}
            if b"old 3" in got:
                old_arrived.set()
        consumer.acknowledge(got[b"old 3"])
        consumer.acknowledge(got[b"new 2"])
    assert [(ack.delivery_tag, ack.multiple) for ack in peers[-1].settled] == [(2, False)]


def _until(consumer: rmqkit.Consumer, amount: int) -> Iterator[list[rmqkit.Delivery]]:
    """Yield what comes until so many have come, settling nothing."""
    for batch in consumer.batches():
        yield batch
        amount -= len(batch)
        if amount <= 0:
            return


@pytest.mark.fault(21)
def test_a_consumer_that_is_cancelled_while_its_queue_is_there_subscribes_again() -> None:
    """So newer brokers end one that holds a delivery for longer than consumer_timeout."""

    times: list[str] = []

    def cancel_once(peer: Peer, tag: str) -> None:
        times.append(tag)
        peer.deliver(1, b"%d" % len(times), consumer_tag=tag)
        if len(times) == 1:
            peer.send(spec.Basic.Cancel(tag, True))

    warnings: list[str] = []
    scripts, _ = consuming(cancel_once)
    with FakeBroker(*scripts) as broker, rmqkit.connect(broker.url) as connection:
        with connection.consume("queue", idle_timeout_s=1, on_warning=warnings.append) as consumer:
            assert [delivery.body for delivery in consumer][-1] == b"2"
        assert broker.connections == 1
    assert len(warnings) == 1
    assert "cancelled the consumer, but the queue still exists" in warnings[0]


@pytest.mark.fault(21)
def test_a_consumer_cancelled_twice_without_a_delivery_is_an_error() -> None:
    scripts, _ = consuming(lambda peer, tag: peer.send(spec.Basic.Cancel(tag, True)))
    with (
        FakeBroker(*scripts) as broker,
        rmqkit.connect(broker.url) as connection,
        connection.consume("queue") as consumer,
        pytest.raises(rmqkit.ConsumerCancelled, match="cancelled the consumer"),
    ):
        next(iter(consumer))


def headers(table: bytes) -> bytes:
    """Make the properties of a message that has only headers: its flags, then the table with its size."""
    return b"\x20\0" + struct.pack(">I", len(table)) + table


MALFORMED = {
    "unknown type": headers(entry(b"k", b"?xyz")),
    "nested 2000 deep": headers(nested(2000)),
    "a table longer than its content": b"\x20\0" + struct.pack(">I", 5000) + b"abc",
    "timestamp in ms": b"\0\x40" + struct.pack(">Q", 1_700_000_000_000),
    "timestamp out of all range": b"\0\x40" + b"\xff" * 8,
    "cut short": b"\x80\0\x20abc",
    "flags alone": b"\xff\xfc",
    "no flags": b"",
}
ODD = {
    "NaN": headers(entry(b"k", b"d" + struct.pack(">d", float("nan")))),
    "infinity": headers(entry(b"k", b"f" + struct.pack(">f", float("inf")))),
    "not UTF-8": headers(entry(b"\xff\xfe", b"S" + struct.pack(">I", 2) + b"\xff\xfe")),
}


@pytest.mark.fault(24)
@pytest.mark.parametrize("properties", [*MALFORMED.values(), *ODD.values()], ids=[*MALFORMED, *ODD])
def test_a_malformed_header_does_not_stop_the_consumer(properties: bytes) -> None:
    def deliver(peer: Peer, method: spec.Basic.Consume) -> None:
        for tag, each in enumerate((b"\0\0", properties, properties, b"\0\0"), 1):
            peer.deliver(tag, b"body %d" % tag, consumer_tag=method.consumer_tag, properties=each)

    def script(peer: Peer) -> None:
        peer.greet()
        peer.serve(on_consume=deliver)

    with FakeBroker(script) as broker, rmqkit.connect(broker.url) as connection:
        with connection.consume("queue", count=4) as consumer:
            got = [(delivery.body, bool(delivery.origin.malformed)) for delivery in consumer]
        assert broker.connections == 1
    bad = properties in MALFORMED.values()
    assert got == [(b"body 1", False), (b"body 2", bad), (b"body 3", bad), (b"body 4", False)]


HOSTILE: dict[str, Callable[[Peer, str], None]] = {
    "a frame of 4 GiB": lambda peer, _: peer.send_bytes(b"\x03\0\x01\xff\xff\xff\xff" + b"x" * 100_000),
    "headers of 4 GiB": lambda peer, _: peer.send_bytes(b"\x02\0\x01\xff\xff\xff\xff" + b"x" * 100_000),
    "a body beyond its header's size": lambda peer, tag: peer.deliver(1, b"x" * 10, consumer_tag=tag, body_size=9),
    "a body of 2**63 bytes": lambda peer, tag: peer.deliver(1, b"x" * 10, consumer_tag=tag, body_size=1 << 63),
    "a body that belongs to nothing": lambda peer, _: peer.send_bytes(frame.Body(1, b"x").marshal()),
    "a frame without its end": lambda peer, _: peer.send_bytes(b"\x01\0\x01\0\0\0\x04\0\x3c\0\x50\0"),
    "an unknown method": lambda peer, _: peer.send_bytes(b"\x01\0\x01\0\0\0\x04\0\x63\0\x63\xce"),
    "an unknown frame": lambda peer, _: peer.send_bytes(b"\x09\0\x01\0\0\0\0\xce"),
    "a delivery that ends too early": lambda peer, _: peer.send_bytes(
        b"\x01\0\x01\0\0\0\x05\0\x3c\0\x3c\x50\xce" + frame.Header(1, 0, spec.BasicProperties()).marshal()
    ),
    "garbage": lambda peer, _: peer.send_bytes(bytes(range(256)) * 100),
}


@pytest.mark.fault(37)
@pytest.mark.parametrize("blow", HOSTILE.values(), ids=HOSTILE)
def test_after_a_protocol_violation_consuming_resumes_on_a_new_connection(
    blow: Callable[[Peer, str], None],
) -> None:
    def hostile(peer: Peer) -> None:
        peer.greet()
        peer.serve(on_consume=lambda peer, method: blow(peer, method.consumer_tag))

    def well(peer: Peer) -> None:
        peer.greet()
        peer.serve(on_consume=lambda peer, method: peer.deliver(1, b"well", consumer_tag=method.consumer_tag))

    warnings: list[str] = []
    tracemalloc.start()
    try:
        with FakeBroker(hostile, well) as broker, rmqkit.connect(broker.url) as connection:
            with connection.consume("queue", count=1, on_warning=warnings.append) as consumer:
                assert [delivery.body for delivery in consumer] == [b"well"]
            assert broker.connections == 2
        if warnings:  # else the violation preceded the subscription
            assert "violated the protocol" in warnings[0]
            assert warnings[1:] == ["reconnected: consuming from queue 'queue' again"]
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_consumer_can_be_closed_from_its_handler() -> None:
    delivered = threading.Event()

    def deliver(peer: Peer, method: spec.Basic.Consume) -> None:
        for tag in range(1, 101):
            peer.deliver(tag, b"", consumer_tag=method.consumer_tag)
        delivered.set()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.serve(on_consume=deliver)
        settled.extend(peer.settled)

    settled: list[object] = []
    with FakeBroker(script) as broker, rmqkit.connect(broker.url) as connection:
        consumer = connection.consume("queue")
        for _ in consumer:
            delivered.wait(5)
            consumer.close()
            break
        assert consumer.report.acknowledged == 0
    assert settled == []
