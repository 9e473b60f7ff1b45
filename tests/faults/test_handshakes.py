"""What answers is no RabbitMQ, or one that closes in the handshake, or nobody at all (3, 8, 37)."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest
from pika import frame, spec

import rmqkit
from rmqkit import Message
from tests.faults.fake_broker import CAPABLE, FakeBroker, Peer, Script, nested, ordinary

pytestmark = pytest.mark.usefixtures("leak_free")
AMOUNT = 100
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


@pytest.mark.fault(3)
@pytest.mark.parametrize("stage", range(5))
def test_a_close_by_force_at_any_stage_of_the_handshake_is_tried_again_one_connection_at_a_time(stage: int) -> None:
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


@pytest.mark.fault(8, 37)
@pytest.mark.parametrize("script", HANDSHAKES.values(), ids=HANDSHAKES)
def test_the_error_for_a_server_that_is_not_rabbitmq_explains_it(script: Script) -> None:
    started_s = time.monotonic()
    with FakeBroker(script) as broker, pytest.raises(rmqkit.Unreachable, match=f"127.0.0.1:{broker.port}") as raised:
        rmqkit.connect(broker.url)
    expected = "speaks TLS" if script is HANDSHAKES["a TLS port"] else "does not speak AMQP 0-9-1"
    assert expected in raised.value.message
    assert "guest:guest" not in str(raised.value)
    assert time.monotonic() - started_s < 5


@pytest.mark.fault(37)
def test_no_limit_on_frames_means_the_default_limit() -> None:
    with FakeBroker(greeting(0)) as broker, rmqkit.connect(broker.url) as connection:
        assert connection._consuming._connected().frame_max == 131_072


@pytest.mark.fault(8)
def test_a_refused_connection() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(rmqkit.Unreachable, match=f"connection refused: nothing is listening on 127.0.0.1:{port}"):
            rmqkit.connect(f"amqp://guest:guest@127.0.0.1:{port}/")


@pytest.mark.fault(8)
def test_a_host_name_that_is_not_known() -> None:
    with pytest.raises(rmqkit.Unreachable, match=r"no\.such\.host\.invalid"):
        rmqkit.connect("amqp://guest:guest@no.such.host.invalid/")


@pytest.mark.fault(8)
def test_tls_against_a_plain_port(broker_url: str) -> None:
    with pytest.raises(rmqkit.Unreachable, match="TLS"):
        rmqkit.connect(broker_url.replace("amqp://", "amqps://"))


@pytest.mark.fault(8)
def test_a_host_that_accepts_and_says_nothing_is_given_up_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmqkit.amqp.reconnecting_connection.OPEN_TIMEOUT_S", 1.0)
    started_s = time.monotonic()
    with FakeBroker(Peer.hold) as broker, pytest.raises(rmqkit.Unreachable, match="answer"):
        rmqkit.connect(broker.url)
    assert time.monotonic() - started_s < 4


@pytest.mark.fault(8)
def test_a_refused_login_is_distinguished_from_an_unreachable_broker(broker_url: str) -> None:
    with pytest.raises(rmqkit.AuthenticationFailed, match="guest"):
        rmqkit.connect(broker_url.replace("guest:guest", "guest:canary-47"))
