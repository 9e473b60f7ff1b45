"""What no real broker does on demand to a publisher: odd confirms, no answers (18)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import pytest
from pika import spec

import rmqkit
from rmqkit import Fate, Message, PublishOptions, load_settings
from rmqkit.amqp import entity_methods
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from tests.faults.fake_broker import FakeBroker, Peer, Published, ordinary

pytestmark = pytest.mark.usefixtures("leak_free")
AMOUNT, OPTIONS = 100, PublishOptions()


def publish(
    on_published: Callable[[Peer, Published], None],
    options: PublishOptions = OPTIONS,
    on_warning: Callable[[str], None] = lambda _: None,
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


@pytest.mark.fault(18)
def test_confirms_out_of_order_settle_their_own_messages() -> None:
    def backwards(peer: Peer, message: Published) -> None:
        if message.tag == AMOUNT:
            for tag in range(AMOUNT, 0, -1):
                peer.confirm(tag, ack=tag != 50 or len(peer.published) > AMOUNT)
        elif message.tag > AMOUNT:
            peer.confirm(message.tag)

    report, fates = publish(backwards)
    assert fates == dict.fromkeys(range(AMOUNT), Fate.CONFIRMED)
    assert (report.confirmed, report.republished) == (AMOUNT, 1)  # the one that was nacked


@pytest.mark.fault(18)
@pytest.mark.parametrize("tag", [0, AMOUNT])
def test_one_confirm_for_all(tag: int) -> None:
    def at_once(peer: Peer, message: Published) -> None:
        if message.tag == AMOUNT:
            peer.confirm(tag, multiple=True)

    report, _ = publish(at_once)
    assert (report.confirmed, report.republished) == (AMOUNT, 0)


@pytest.mark.fault(35)
def test_a_channel_that_refuses_everything_is_left_for_a_new_one() -> None:
    """As RabbitMQ 3.10's does that first published to a quorum queue while its leader was dying."""
    channels: list[int] = []

    def first_channel_refuses(peer: Peer, message: Published) -> None:
        if message.tag == 1:
            channels.append(1)
        peer.confirm(message.tag, ack=len(channels) > 1)

    report, fates = publish(first_channel_refuses)
    assert fates == dict.fromkeys(range(AMOUNT), Fate.CONFIRMED)
    assert report.republished <= 3 * AMOUNT
    assert len(channels) == 2


@pytest.mark.fault(18)
@pytest.mark.parametrize("multiple", [False, True])
def test_duplicate_and_unknown_confirms_settle_nothing_else(multiple: bool) -> None:
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
        "the broker confirmed a message that was already confirmed or never sent",
        "reconnected: publishing again",
    ]
    assert report.republished == AMOUNT - 61  # exactly those that had no confirm of their own


@pytest.mark.fault(18)
def test_waiting_for_a_missing_confirm_times_out() -> None:
    def all_but_one(peer: Peer, message: Published) -> None:
        if message.tag != 42:
            peer.confirm(message.tag)

    started_s = time.monotonic()
    with pytest.raises(rmqkit.NotConfirmed, match="1 message is unconfirmed") as raised:
        publish(all_but_one, PublishOptions(confirm_timeout_s=1.5))
    assert (raised.value.report.confirmed, raised.value.report.unknown) == (AMOUNT - 1, 1)
    assert time.monotonic() - started_s < 10


@pytest.mark.fault(18)
def test_a_stop_times_out_waiting_for_a_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmqkit.messaging.publish_window.STOP_GRACE_S", 1.0)
    stop = rmqkit.Stop()

    def silent(peer: Peer) -> None:
        peer.greet()
        peer.serve(lambda _peer, message: stop.request() if message.tag == AMOUNT else None)

    with FakeBroker(ordinary, silent) as broker, rmqkit.connect(broker.url) as connection:
        report = connection.publish((Message(b"", "key") for _ in range(AMOUNT)), stop=stop, check=False)
    assert (report.interrupted, report.unknown) == (True, AMOUNT)
    assert report.seconds < 5


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make calls give up after two seconds instead of thirty."""
    monkeypatch.setattr("rmqkit.amqp.channel.CALL_TIMEOUT_S", 2.0)


@pytest.mark.usefixtures("impatient")
def test_a_broker_that_answers_no_method_is_left_for_a_new_connection() -> None:
    def deaf(peer: Peer) -> None:
        peer.greet()
        peer.hold()

    with FakeBroker(ordinary, deaf, ordinary) as broker, rmqkit.connect(broker.url) as connection:
        report = connection.publish(Message(b"", "key"))
        assert (report.confirmed, broker.connections) == (1, 3)


@pytest.mark.fault(18)
def test_a_refusal_that_overtakes_answers_is_blamed_on_the_refused_entity() -> None:
    def play(peer: Peer) -> None:
        peer.greet()
        while (method := peer.read().method).NAME != "Queue.Declare" or method.queue != "refused":
            if method.NAME == "Channel.Open":
                peer.send(spec.Channel.OpenOk())
            elif method.NAME == "Channel.Close":
                peer.send(spec.Channel.CloseOk())
            elif broker.connections > 1:  # the answers of the first connection are lost
                peer.send(spec.Queue.DeclareOk(method.queue, 0, 0))
        peer.send(spec.Connection.Close(541, "INTERNAL_ERROR - Feature `x` is deprecated.", 50, 10), 0)
        peer.hold()

    queues = [rmqkit.Queue(name) for name in ("one", "two", "refused", "last")]
    with FakeBroker(play, play) as broker:
        connection = ReconnectingConnection(load_settings([broker.url]), "test")
        with closing(connection), pytest.raises(rmqkit.Refused) as caught:
            list(entity_methods.declare_all(connection, queues))
    assert caught.value.subject == "queue 'refused'"
