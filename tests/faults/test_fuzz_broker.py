"""A broker that says anything at any moment: publishing and consuming end in bounded time, and claim nothing (37)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

import rmqkit
from rmqkit import Fate, Message, PublishOptions
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import AuthenticationFailed, BrokerError, Unreachable
from tests.faults.fake_broker import CAPABLE, FakeBroker, Gone, Peer, Published, ordinary
from tests.support.fuzzing import bounded, examples, mutated

pytestmark = pytest.mark.usefixtures("leak_free", "hasty")
AMOUNT = 40
BOUND_S = 20.0


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every wait for a broker that says nothing be short."""
    monkeypatch.setattr("rmqkit.amqp.reconnecting_connection.OPEN_TIMEOUT_S", 1.0)
    monkeypatch.setattr("rmqkit.amqp.channel.CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr("rmqkit.amqp.reconnecting_connection.LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr("rmqkit.amqp.reconnecting_connection.FIRST_PAUSE_S", 0.01)
    monkeypatch.setitem(Channel.call.__kwdefaults__ or {}, "timeout_s", 1.0)
    monkeypatch.setitem(ReconnectingConnection.recover.__kwdefaults__ or {}, "timeout_s", 3.0)


def delivery(tag: int, body: bytes, size: int, consumer_tag: str) -> bytes:
    method = frame.Method(1, spec.Basic.Deliver(consumer_tag, tag, False, "", "k")).marshal()
    header = frame.Header(1, size, spec.BasicProperties()).marshal()
    return method + header + (frame.Body(1, body).marshal() if body else b"")


# What it may say, given a random number: all that RabbitMQ might, at the wrong time, and what it never would.
PHRASES: dict[str, Callable[[random.Random, str], bytes]] = {
    "unknown tag": lambda rng, _: method(
        spec.Basic.Ack(rng.choice([AMOUNT + 100, 1 << 40, 1 << 63]), rng.random() < 0.5)
    ),
    "nack of the unknown": lambda rng, _: method(spec.Basic.Nack(rng.choice([AMOUNT + 100, 1 << 63]), True)),
    "delivery": lambda rng, tag: delivery(rng.randrange(1, 9), b"x", 1, rng.choice([tag, "other"])),
    "delivery of another size": lambda rng, tag: delivery(1, b"abc", rng.choice([1, 2, 100, 1 << 40]), tag),
    "delivery without header": lambda _, tag: method(spec.Basic.Deliver(tag, 1, False, "", "")),
    "header of nothing": lambda _rng, _tag: frame.Header(1, 5, spec.BasicProperties()).marshal(),
    "body of nothing": lambda _rng, _tag: frame.Body(1, b"abc").marshal(),
    "return of a stranger": lambda _rng, _tag: (
        method(spec.Basic.Return(312, "NO_ROUTE", "", "k"))
        + frame.Header(1, 1, spec.BasicProperties()).marshal()
        + frame.Body(1, b"?").marshal()
    ),
    "answers nobody asked for": lambda rng, _: method(
        rng.choice(
            [
                spec.Queue.DeclareOk("q", 1, 2),
                spec.Tx.SelectOk(),
                spec.Basic.GetEmpty(),
                spec.Channel.OpenOk(),
                spec.Basic.QosOk(),
                spec.Confirm.SelectOk(),
                spec.Channel.CloseOk(),
                spec.Exchange.BindOk(),
                spec.Basic.CancelOk("t"),
            ]
        )
    ),
    "a client's method": lambda rng, _: method(
        rng.choice([spec.Basic.Publish(), spec.Queue.Declare(queue="q"), spec.Channel.Open()])
    ),
    "another channel": lambda rng, _: method(spec.Basic.Ack(1), rng.choice([2, 3, 65535])),
    "ack on channel 0": lambda _rng, _tag: method(spec.Basic.Ack(1), 0),
    "flow": lambda rng, _: method(spec.Channel.Flow(rng.random() < 0.5)),
    "blocked and not": lambda _rng, _tag: (
        method(spec.Connection.Blocked("x"), 0) + method(spec.Connection.Unblocked(), 0)
    ),
    "handshake again": lambda _rng, _tag: method(spec.Connection.Tune(1, 4096, 1), 0),
    "a secret updated": lambda _rng, _tag: method(spec.Connection.OpenOk(), 0),
    "heartbeat": lambda _rng, _tag: frame.Heartbeat().marshal(),
    "heartbeat on a channel": lambda _rng, _tag: b"\x08\0\1\0\0\0\0\xce",
    "heartbeat with a body": lambda _rng, _tag: b"\x08\0\0\0\0\0\3abc\xce",
    "channel closed": lambda rng, _: method(spec.Channel.Close(rng.choice([404, 406, 504, 0]), "because", 0, 0)),
    "connection closed": lambda rng, _: method(
        spec.Connection.Close(rng.choice([320, 501, 541, 0]), "because", 0, 0), 0
    ),
    "consumer cancelled": lambda _, tag: method(spec.Basic.Cancel(tag, True)),
    "garbage": lambda rng, _: rng.randbytes(rng.randrange(1, 60)),
    "a frame of 4 GiB": lambda _rng, _tag: b"\x03\0\x01\xff\xff\xff\xff",
    "half a frame": lambda _rng, _tag: b"\x01\0\x01\0\0\0\x09\0",
    "nothing more": lambda _rng, _tag: b"",
}


def method(what: Any, channel: int = 1) -> bytes:
    return frame.Method(channel, what).marshal()


class Babbler:
    """A broker that confirms and delivers, and says phrases in between; each connection goes on with the plan."""

    def __init__(self, seed: int, plan: list[str]) -> None:
        self._rng = random.Random(seed)
        self._plan = plan
        self._tag = "none"
        self.confirmed: set[bytes] = set()  # bodies
        self.settled: list[Any] = []  # by the client, with the deliveries it may settle

    def _say(self, peer: Peer) -> None:
        """Say the next phrase of the plan, some of the time."""
        if self._plan and self._rng.random() < 0.2:
            said = PHRASES[self._plan.pop(0)](self._rng, self._tag)
            if not said:
                raise Gone  # which hangs up
            peer.send_bytes(said)

    def _on_published(self, peer: Peer, message: Published) -> None:
        self._say(peer)
        fate = self._rng.random()
        if fate < 0.9:
            self.confirmed.add(message.body)
            peer.confirm(message.tag)
        elif fate < 0.95:
            peer.confirm(message.tag, ack=False)
        else:
            peer.send(spec.Connection.Close(320, "the end", 0, 0), 0)

    def _on_consume(self, peer: Peer, consume: spec.Basic.Consume) -> None:
        self._tag = consume.consumer_tag
        for tag in range(1, AMOUNT + 1):
            self._say(peer)
            peer.deliver(tag, b"%d" % tag, consumer_tag=self._tag)

    def script(self, peer: Peer) -> None:
        peer.greet()
        try:
            peer.serve(self._on_published, self._on_consume)
        finally:
            self.settled += peer.settled


plans = st.lists(st.sampled_from(sorted(PHRASES)), max_size=6)


@pytest.mark.fault(37)
@examples(10)
@given(st.integers(0, 2**32), plans)
def test_only_confirmed_messages_are_reported_as_confirmed_with_random_frames(seed: int, plan: list[str]) -> None:
    babbler, fates, sent = Babbler(seed, plan), dict[int, Fate](), list[bytes]()

    def messages() -> Iterator[Message]:
        for number in range(AMOUNT):
            sent.append(b"%d" % number)
            yield Message(sent[-1], "k")

    started_s = time.monotonic()
    with FakeBroker(ordinary, babbler.script) as broker, rmqkit.connect(broker.url) as connection:
        try:
            report = connection.publish(
                messages(),
                options=PublishOptions(confirm_timeout_s=1.5),
                check=False,
                on_settled=lambda index, _, fate: fates.__setitem__(index, fate),
            )
        except BrokerError as error:
            report = error.report
    assert time.monotonic() - started_s < BOUND_S
    assert {b"%d" % index for index, fate in fates.items() if fate is Fate.CONFIRMED} <= babbler.confirmed
    assert report is None or report.published == len(sent) == len(fates)
    assert report is None or report.confirmed == list(fates.values()).count(Fate.CONFIRMED)


@pytest.mark.fault(37)
@examples(10)
@given(st.integers(0, 2**32), plans)
def test_no_unhandled_message_is_acknowledged_to_a_broker_that_sends_random_frames(seed: int, plan: list[str]) -> None:
    babbler, handled = Babbler(seed, plan), set[int]()
    started_s = time.monotonic()
    with FakeBroker(ordinary, babbler.script) as broker, rmqkit.connect(broker.url) as connection:
        connection._consuming.reset()  # the next connection is the babbler's
        try:
            with connection.consume("queue", count=2 * AMOUNT, idle_timeout_s=0.5) as consumer:
                for delivery in consumer:
                    handled.add(delivery.delivery_tag)
        except BrokerError:
            pass
    assert time.monotonic() - started_s < BOUND_S
    assert {each.delivery_tag for each in babbler.settled} <= handled


GREETING = {
    "start": method(spec.Connection.Start(0, 9, {"product": "x", "capabilities": CAPABLE}, "PLAIN", "en_US"), 0),
    "tune": method(spec.Connection.Tune(2047, 131_072, 0), 0),
    "open": method(spec.Connection.OpenOk(), 0),
}


@pytest.mark.fault(37)
@examples(10)
@given(st.sampled_from(sorted(GREETING)).flatmap(lambda name: st.tuples(st.just(name), mutated([GREETING[name]]))))
def test_a_damaged_greeting_ends_in_a_connection_or_a_rmqkit_error(damaged: tuple[str, bytes]) -> None:
    def script(peer: Peer) -> None:
        for data in (GREETING | dict([damaged])).values():
            peer.socket.recv(10_000)
            peer.send_bytes(data)
        peer.serve()

    started_s, said = time.monotonic(), ""
    with bounded(), FakeBroker(script) as broker:
        try:
            rmqkit.connect(broker.url).close()
        except (Unreachable, AuthenticationFailed) as error:
            said = str(error)
    assert "guest:guest" not in said
    assert time.monotonic() - started_s < BOUND_S
