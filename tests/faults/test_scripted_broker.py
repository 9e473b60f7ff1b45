"""What no real broker does on demand: odd confirms, malformed headers, hostile bytes (8, 18, 24, 37)."""

from __future__ import annotations

import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from pika import frame, spec

import rmqkit
from rmqkit import Fate, Message, PublishOptions
from tests.faults.fake_broker import CAPABLE, FakeBroker, Peer, Published, Script, ordinary

pytestmark = pytest.mark.usefixtures("leak_free")
AMOUNT, OPTIONS = 100, PublishOptions()


def publish(
    on_published: Callable[[Peer, Published], None],
    options: PublishOptions = OPTIONS,
    on_warning: Callable[[str], None] | None = None,
) -> tuple[rmqkit.PublishReport, dict[int, Fate]]:
    """Publish a hundred messages to a broker that answers so on the first connection, and well on later ones."""
    fates: dict[int, Fate] = {}

    def once(peer: Peer) -> None:
        peer.greet()
        peer.serve(on_published)

    with FakeBroker(ordinary, once, ordinary) as broker, rmqkit.connect(broker.url) as connection:
        report = connection.publish(
            (Message(b"%d" % number, "key") for number in range(AMOUNT)),
            options=options,
            check=False,
            on_warning=on_warning,
            on_settled=lambda index, _, fate: fates.__setitem__(index, fate),
        )
    return report, fates


def test_18_confirms_out_of_order_settle_their_own_messages() -> None:
    def backwards(peer: Peer, message: Published) -> None:
        if message.tag == AMOUNT:
            for tag in range(AMOUNT, 0, -1):
                peer.confirm(tag, ack=tag != 50 or len(peer.published) > AMOUNT)
        elif message.tag > AMOUNT:
            peer.confirm(message.tag)

    report, fates = publish(backwards)
    assert fates == dict.fromkeys(range(AMOUNT), Fate.CONFIRMED)
    assert (report.confirmed, report.republished) == (AMOUNT, 1)  # the one that was nacked


@pytest.mark.parametrize("tag", [0, AMOUNT])
def test_18_one_confirm_for_all(tag: int) -> None:
    def at_once(peer: Peer, message: Published) -> None:
        if message.tag == AMOUNT:
            peer.confirm(tag, multiple=True)

    report, _ = publish(at_once)
    assert (report.confirmed, report.republished) == (AMOUNT, 0)


@pytest.mark.parametrize("multiple", [False, True])
def test_18_duplicate_and_unknown_confirms_settle_nothing_else(multiple: bool) -> None:
    def confused(peer: Peer, message: Published) -> None:
        if message.tag == 60:
            peer.confirm(60, multiple=True)
            for tag in (1, 10, 59, 60, 5000, 1 << 63):
                peer.confirm(tag, multiple=multiple)
        if message.tag == AMOUNT:
            peer.confirm(70)
            peer.send(spec.Connection.Close(320, "CONNECTION_FORCED - the script ends", 0, 0), 0)

    warnings: list[str] = []
    report, fates = publish(confused, on_warning=warnings.append)
    assert fates == dict.fromkeys(range(AMOUNT), Fate.CONFIRMED)
    assert [warning for warning in warnings if "CONNECTION_FORCED" not in warning] == [
        "the broker confirmed a message that has its confirm already, or was never sent"
    ]
    assert report.republished == AMOUNT - 61  # exactly those that had no confirm of their own


def test_18_a_confirm_that_never_comes_is_not_waited_for_for_ever() -> None:
    def all_but_one(peer: Peer, message: Published) -> None:
        if message.tag != 42:
            peer.confirm(message.tag)

    started_s = time.monotonic()
    with pytest.raises(rmqkit.NotConfirmed, match="1 messages are unconfirmed") as raised:
        publish(all_but_one, PublishOptions(confirm_timeout_s=1.5))
    assert (raised.value.report.confirmed, raised.value.report.unknown) == (AMOUNT - 1, 1)
    assert time.monotonic() - started_s < 10


def test_18_a_stop_does_not_wait_for_ever_for_a_confirm_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmqkit.broker.patience.STOP_GRACE_S", 1.0)
    stop = rmqkit.Stop()

    def silent(peer: Peer) -> None:
        peer.greet()
        peer.serve(lambda _peer, message: stop.request() if message.tag == AMOUNT else None)

    with FakeBroker(ordinary, silent) as broker, rmqkit.connect(broker.url) as connection:
        report = connection.publish((Message(b"", "key") for _ in range(AMOUNT)), stop=stop, check=False)
    assert (report.interrupted, report.unknown) == (True, AMOUNT)
    assert report.seconds < 5


FORCED = spec.Connection.Close(320, "CONNECTION_FORCED - the script says so", 0, 0)


def forced_out(stage: int) -> Script:
    """Close the connection by force within the handshake, or after it: `stage` counts the client's frames."""

    def script(peer: Peer) -> None:
        answers = [
            spec.Connection.Start(0, 9, {"capabilities": CAPABLE}, "PLAIN", "en_US"),
            spec.Connection.Tune(2047, 131_072, 0),
            None,
            spec.Connection.OpenOk(),
            spec.Channel.OpenOk(),
        ]
        for number, answer in enumerate(answers):
            peer.read()
            if number == stage:
                peer.send(FORCED, 0)
                return
            if answer is not None:
                peer.send(answer, 1 if number == len(answers) - 1 else 0)

    return script


@pytest.mark.parametrize("stage", range(5))
def test_3_a_close_by_force_at_any_stage_of_the_handshake_is_tried_again_one_connection_at_a_time(stage: int) -> None:
    def lose(peer: Peer) -> None:
        peer.greet()
        peer.serve(lambda peer, message: peer.send(FORCED, 0) if message.tag == AMOUNT else None)

    at_once: list[int] = []

    def counted(script: Script) -> Script:
        def play(peer: Peer) -> None:
            at_once.append(threading.active_count())
            script(peer)

        return play

    stages = [forced_out(stage)] * 2
    with (
        FakeBroker(ordinary, counted(lose), *map(counted, stages), counted(ordinary)) as broker,
        rmqkit.connect(broker.url) as connection,
    ):
        report = connection.publish(Message(b"%d" % number, "key") for number in range(AMOUNT))
    assert (report.confirmed, report.republished) == (AMOUNT, AMOUNT)
    assert broker.connections == 5
    assert max(at_once) <= at_once[0] + 2


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


def test_2_a_delivery_of_a_lost_connection_is_never_acknowledged_on_the_next() -> None:
    def deliver(peer: Peer, tag: str) -> None:
        for number in (1, 2, 3):
            peer.deliver(number, b"old %d" % number, consumer_tag=tag)
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
        got = {delivery.body: delivery for batch in _until(consumer, 6) for delivery in batch}
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


def test_21_a_consumer_that_is_cancelled_while_its_queue_is_there_subscribes_again() -> None:
    """So newer brokers end one that holds a delivery for longer than consumer_timeout."""

    def cancel(peer: Peer, tag: str) -> None:
        peer.deliver(1, b"1", consumer_tag=tag)
        peer.send(spec.Basic.Cancel(tag, True))

    times: list[str] = []

    def cancel_once(peer: Peer, tag: str) -> None:
        times.append(tag)
        if len(times) == 1:
            cancel(peer, tag)
        else:
            peer.deliver(1, b"1", consumer_tag=tag)

    warnings: list[str] = []
    scripts, _ = consuming(cancel_once)
    with FakeBroker(*scripts) as broker, rmqkit.connect(broker.url) as connection:
        with connection.consume("queue", count=2, on_warning=warnings.append) as consumer:
            assert [delivery.body for delivery in consumer] == [b"1", b"1"]
        assert broker.connections == 1
    assert len(warnings) == 1
    assert "cancelled the consumer, and the queue is there" in warnings[0]


def test_21_a_consumer_that_is_cancelled_again_before_anything_came_is_an_error() -> None:
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


def entry(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + value


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = entry(b"t", b"F" + struct.pack(">I", len(table)) + table)
    return table


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


@pytest.mark.parametrize("properties", [*MALFORMED.values(), *ODD.values()], ids=[*MALFORMED, *ODD])
def test_24_a_malformed_header_does_not_stop_the_consumer(properties: bytes) -> None:
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


def nested_start(peer: Peer) -> None:
    """Begin as a broker would, with properties that take pika's decoder beyond Python's depth."""
    peer.expect(frame.ProtocolHeader)
    table = nested(2000)
    start = b"\0\x0a\0\x0a\0\x09" + struct.pack(">I", len(table)) + table + b"\0\0\0\5PLAIN\0\0\0\5en_US"
    peer.send_bytes(b"\x01\0\0" + struct.pack(">I", len(start)) + start + b"\xce")
    peer.hold()


def answering(data: bytes) -> Script:
    """Answer the first bytes with these, and close."""

    def script(peer: Peer) -> None:
        peer.socket.recv(1000)
        peer.send_bytes(data)

    return script


def greeting(frame_max: int) -> Script:
    def script(peer: Peer) -> None:
        peer.greet(frame_max=frame_max)
        peer.hold()

    return script


HANDSHAKES = {
    "an HTTP server": answering(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    "a TLS port": answering(bytes.fromhex("15030100020228")),
    "another protocol version": answering(b"AMQP\x00\x01\x00\x00"),
    "garbage": answering(bytes(range(256)) * 40),
    "silence, then the end": answering(b""),
    "a frame of 4 GiB": answering(b"\x01\0\0\xff\xff\xff\xff" + b"x" * 1000),
    "server properties nested 2000 deep": nested_start,
    "tiny frames": greeting(64),
}


@pytest.mark.parametrize("script", HANDSHAKES.values(), ids=HANDSHAKES)
def test_8_and_37_what_is_no_rabbitmq_is_an_error_that_says_so(script: Script) -> None:
    started_s = time.monotonic()
    with FakeBroker(script) as broker, pytest.raises(rmqkit.Unreachable, match=f"127.0.0.1:{broker.port}") as raised:
        rmqkit.connect(broker.url)
    expected = "speaks TLS" if script is HANDSHAKES["a TLS port"] else "does not speak AMQP 0-9-1"
    assert expected in raised.value.message
    assert "guest:guest" not in str(raised.value)
    assert time.monotonic() - started_s < 5


def test_37_no_limit_on_frames_means_our_own() -> None:
    with FakeBroker(greeting(0)) as broker, rmqkit.connect(broker.url) as connection:
        assert connection._consuming._connected().frame_max == 131_072


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


@pytest.mark.parametrize("blow", HOSTILE.values(), ids=HOSTILE)
def test_37_a_broker_that_breaks_the_protocol_is_left_and_the_next_connection_goes_on(
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
        assert all("broke the protocol" in warning for warning in warnings)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_8_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(rmqkit.Unreachable, match=f"nobody listens at 127.0.0.1:{port}"):
            rmqkit.connect(f"amqp://guest:guest@127.0.0.1:{port}/")


def test_8_a_host_name_that_is_not_known() -> None:
    with pytest.raises(rmqkit.Unreachable, match=r"no\.such\.host\.invalid"):
        rmqkit.connect("amqp://guest:guest@no.such.host.invalid/")


def test_8_tls_against_a_plain_port(broker_url: str) -> None:
    with pytest.raises(rmqkit.Unreachable, match="TLS"):
        rmqkit.connect(broker_url.replace("amqp://", "amqps://"))


def test_8_a_host_that_accepts_and_says_nothing_is_given_up_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmqkit.broker.link.OPEN_TIMEOUT_S", 1.0)
    started_s = time.monotonic()
    with FakeBroker(Peer.hold) as broker, pytest.raises(rmqkit.Unreachable, match="answer"):
        rmqkit.connect(broker.url)
    assert time.monotonic() - started_s < 4


def test_8_a_refused_login_is_told_from_an_unreachable_broker(broker_url: str) -> None:
    with pytest.raises(rmqkit.AuthenticationFailed, match="guest"):
        rmqkit.connect(broker_url.replace("guest:guest", "guest:canary-47"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let calls give up after two seconds instead of thirty."""
    monkeypatch.setattr("rmqkit.broker.link.CALL_TIMEOUT_S", 2.0)
    return None


@pytest.mark.usefixtures("impatient")
def test_a_broker_that_answers_no_method_is_left_for_a_new_connection() -> None:
    def deaf(peer: Peer) -> None:
        peer.greet()
        peer.hold()

    with FakeBroker(ordinary, deaf, ordinary) as broker, rmqkit.connect(broker.url) as connection:
        report = connection.publish(Message(b"", "key"))
        assert (report.confirmed, broker.connections) == (1, 3)


def test_a_consumer_closed_from_a_handler_leaves_quietly() -> None:
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
