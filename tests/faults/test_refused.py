"""What the broker refuses, returns or nacks: the culprit is named, the rest is published (11-17, 19, 20)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Binding, Exchange, Fate, Message, Properties, Queue, Topology
from rmqkit.message import PERSISTENT
from rmqkit.node.node import Node
from tests.faults.fault_run import DeclareLedger
from tests.faults.ledger import FaultLedger
from tests.support.nodes import evaluate
from tests.support.queues import declare, open_channel, ready


@pytest.mark.fault(11)
def test_deleting_the_queue_ends_its_consumer_with_an_error(
    connection: rmqkit.Connection, ledger: FaultLedger, channel: BlockingChannel
) -> None:
    connection.publish(ledger.messages(range(10)))

    def handle(delivery: rmqkit.Delivery) -> None:
        ledger.handle(delivery)
        if len(ledger.handled) == 10:
            channel.queue_delete(ledger.queue)

    with connection.consume(ledger.queue) as consumer, pytest.raises(rmqkit.ConsumerCancelled, match=ledger.queue):
        deque(map(handle, consumer), maxlen=0)
    assert len(ledger.handled) == 10


@pytest.mark.fault(11)
def test_the_deletion_of_a_queue_of_which_the_broker_tells_nobody_ends_its_consumer(
    node: Node, node_ledger: DeclareLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quorum queue that does not end within five seconds is removed by force, and no consumer is cancelled."""
    monkeypatch.setattr("rmqkit.messaging.deletion_check.CHECK_EVERY_S", 1.0)
    queue = node_ledger(x_queue_type="quorum").queue
    with rmqkit.connect(node.url) as connection, connection.consume(queue) as consumer:
        consumer.subscribe()
        assert evaluate(node, f"sys:suspend({{'%2F_{queue}', node()}})") == "ok"
        with open_channel(node.url) as deleting:
            deleting.queue_delete(queue)
        with pytest.raises(rmqkit.ConsumerCancelled, match="was deleted"):
            deque(consumer, maxlen=0)


@pytest.mark.fault(12)
def test_messages_published_after_the_target_queue_is_deleted_are_returned(
    connection: rmqkit.Connection, ledger: FaultLedger, channel: BlockingChannel
) -> None:
    def delete_on_the_way() -> Iterator[Message | None]:
        yield from ledger.messages(range(3000))
        yield None
        channel.queue_delete(ledger.queue)
        yield from ledger.messages(range(3000, 6000))

    report = connection.publish(delete_on_the_way(), on_settled=ledger.settled, check=False)
    assert ledger.ids(Fate.CONFIRMED) == set(range(3000))
    assert ledger.ids(Fate.RETURNED) == set(range(3000, 6000))
    assert (report.confirmed, report.returned, report.unknown) == (3000, 3000, 0)


CULPRITS = {
    "404": lambda message: Message(message.body, "k", exchange="there.is.no.such.exchange"),
    "403": lambda message: Message(message.body, "k", exchange="amq.rabbitmq.trace"),  # internal to the broker
    "406": lambda message: Message(message.body, message.routing_key, properties=Properties(user_id="somebody else")),
}


@pytest.mark.fault(13)
@pytest.mark.parametrize("code", CULPRITS)
def test_the_message_that_is_refused_in_mid_stream_is_the_only_one_that_fails(
    connection: rmqkit.Connection, ledger: FaultLedger, broker_url: str, code: str
) -> None:
    culprits = {0, 777, 12_000, 12_001, 19_999}
    spoil = CULPRITS[code]

    def stream() -> Iterator[Message]:
        for number, message in enumerate(ledger.messages(range(20_000))):
            yield spoil(message) if number in culprits else message

    report = connection.publish(stream(), on_settled=ledger.settled, check=False)
    assert ledger.ids(Fate.REFUSED) == culprits
    assert {failure.index for failure in report.failures} == culprits
    assert all(code in failure.reason for failure in report.failures)
    ledger.drain(broker_url)
    assert ledger.violations(report) == []


@pytest.mark.fault(13)
def test_a_stream_of_nothing_but_refused_messages_ends_in_bounded_time(
    connection: rmqkit.Connection, ledger: FaultLedger
) -> None:
    spoil = CULPRITS["406"]
    report = connection.publish(map(spoil, ledger.messages(range(3000))), on_settled=ledger.settled, check=False)
    assert report.refused == len(ledger.ids(Fate.REFUSED)) == 3000
    assert report.republished < 10 * 3000


@pytest.mark.fault(13)
def test_a_refused_channel_does_not_cost_the_connection(connection: rmqkit.Connection, ledger: FaultLedger) -> None:
    spoil = CULPRITS["406"]
    connection.publish(Message(b"", ledger.queue))
    transport = connection._publishing._connected()

    def stream() -> Iterator[Message]:
        for number, message in enumerate(ledger.messages(range(40_000))):
            yield spoil(message) if number == 5000 else message

    assert connection.publish(stream(), check=False).refused == 1
    assert connection._publishing._connected() is transport


@pytest.mark.fault(14)
def test_apply_reports_every_conflict_and_changes_nothing(
    connection: rmqkit.Connection, namespace: Any, channel: BlockingChannel
) -> None:
    names = [namespace.queue(f"queue{number}") for number in range(3)]
    for name in names[:2]:
        channel.queue_declare(name, durable=True, arguments={"x-max-length": 5})
    topology = Topology(queues=tuple(Queue(name) for name in names))
    with pytest.raises(rmqkit.PropertyMismatch) as raised:
        connection.apply(topology)
    assert [problem.message.count("x-max-length") for problem in raised.value.problems] == [1, 1]
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        channel.queue_declare(names[2], passive=True)


@pytest.mark.fault(15)
def test_the_error_for_an_exclusive_queue_of_another_connection_explains_it(
    connection: rmqkit.Connection, namespace: Any, channel: BlockingChannel
) -> None:
    name = namespace.queue()
    channel.queue_declare(name, exclusive=True)
    with pytest.raises(rmqkit.ResourceLocked, match=name):
        next(iter(connection.consume(name)))


@pytest.mark.fault(16)
def test_messages_nacked_by_a_full_queue_are_retried_and_then_given_up(
    connection: rmqkit.Connection, broker_url: str, namespace: Any
) -> None:
    ledger = FaultLedger(namespace.queue())
    declare(broker_url, ledger.queue, x_max_length=100, x_overflow="reject-publish")
    report = connection.publish(ledger.messages(range(300)), on_settled=ledger.settled, check=False)
    assert report.nacked > 0
    assert report.seconds < 15
    assert report.republished <= 5 * 300
    ledger.drain(broker_url)
    assert not ledger.ids(Fate.NACKED) & {int(each.body.split()[0]) for each in ledger.found}
    assert ledger.violations(report, ordered=False) == []


HEADERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "list": {"more": [1, "two", None, True]},
    "bytes": {"more": b"bytes"},
    "nested": {"more": {"deep": {"deeper": 1}}},
    "long": {"more": 1 << 40},
    "float": {"more": 0.1},
}


@pytest.mark.fault(17)
@pytest.mark.parametrize("kind", HEADERS)
def test_returns_of_identical_bodies_are_distinguished_by_their_properties(
    connection: rmqkit.Connection, ledger: FaultLedger, namespace: Any, broker_url: str, kind: str
) -> None:
    exchange = namespace.exchange()
    bound = Binding(exchange, ledger.queue, arguments={"x-match": "all", "go": "there"})
    connection.apply(Topology(exchanges=(Exchange(exchange, type="headers"),), bindings=(bound,)))
    there = [number % 3 != 0 for number in range(3000)]
    headers = ({"go": "there" if go else "away"} | HEADERS[kind] for go in there)
    messages = (Message(b"the same", "", exchange, Properties(headers=each)) for each in headers)
    fates: dict[int, Fate] = {}
    connection.publish(messages, check=False, on_settled=lambda index, _, fate: fates.__setitem__(index, fate))
    assert [fates[index] for index in range(3000)] == [Fate.CONFIRMED if go else Fate.RETURNED for go in there]
    assert ready(broker_url, ledger.queue) == sum(there)


@pytest.mark.fault(20)
@pytest.mark.parametrize("frame_max", [8192, 131_072])
def test_bodies_around_the_frame_size_keep_every_byte(ledger: FaultLedger, broker_url: str, frame_max: int) -> None:
    room = frame_max - 8
    sizes = [0, 1, room - 1, room, room + 1, 2 * room - 1, 2 * room, 2 * room + 1, 5 * room, 0]
    bodies = [bytes(index % 251 for index in range(size)) for size in sizes]
    with rmqkit.connect(f"{broker_url}?frame_max={frame_max}") as connection:
        report = connection.publish(Message(body, ledger.queue, properties=PERSISTENT) for body in bodies)
        assert report.complete
        with connection.consume(ledger.queue, count=len(bodies)) as consumer:
            assert [delivery.body for delivery in consumer] == bodies


def test_a_message_amqp_cannot_carry_ends_publishing_after_the_messages_before_it(
    connection: rmqkit.Connection, ledger: FaultLedger, broker_url: str
) -> None:
    def stream() -> Iterator[Message]:
        yield from ledger.messages(range(500))
        yield Message(b"", ledger.queue, properties=Properties(priority=300))

    with pytest.raises(rmqkit.PayloadError, match="priority"):
        connection.publish(stream(), on_settled=ledger.settled)
    assert ledger.ids(Fate.CONFIRMED) == set(range(500))
    assert ready(broker_url, ledger.queue) == 500


def test_a_publish_that_fails_leaves_no_channel_behind(connection: rmqkit.Connection, ledger: FaultLedger) -> None:
    def breaking() -> Iterator[Message]:
        yield from ledger.messages(range(3))
        raise ValueError

    for _ in range(3):
        with pytest.raises(ValueError):  # noqa: PT011
            connection.publish(breaking())
    assert len(connection._publishing._connected()._channels) == 1  # the next publish uses it


def test_iterating_again_after_a_break_resumes_with_buffered_messages(
    connection: rmqkit.Connection, ledger: FaultLedger, broker_url: str
) -> None:
    connection.publish(ledger.messages(range(10)), on_settled=ledger.settled)
    with connection.consume(ledger.queue, count=10) as consumer:
        for _ in range(10):
            delivery = next(iter(consumer))
            ledger.handle(delivery)
            consumer.acknowledge(delivery)
    assert [each.body for each in ledger.handled] == [message.body for message in FaultLedger("").messages(range(10))]
    assert ledger.consumer_violations(ready(broker_url, ledger.queue), 0) == []


def test_a_message_that_breaks_the_connection_each_time_is_refused_alone(
    connection: rmqkit.Connection, ledger: FaultLedger, broker_url: str
) -> None:
    def stream() -> Iterator[Message]:
        yield from ledger.messages(range(300))
        yield Message(b"", "amq.rabbitmq.reply-to.x.y")  # RabbitMQ 3.10 crashes on it: 541; newer ones return it
        yield from ledger.messages(range(300, 600))

    report = connection.publish(stream(), check=False, on_warning=lambda _: None)
    assert (report.published, report.confirmed >= 600, report.unknown) == (601, True, 0)
    assert [failure.index for failure in report.failures] in ([300], [])
    assert ready(broker_url, ledger.queue) >= 600
