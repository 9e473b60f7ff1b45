"""Clients written in the manner of RabbitMQ's tutorials 1 to 5, with pika, on the other side of rmqkit.

https://www.rabbitmq.com/tutorials; the sixth, request and reply, is in test_rpc.py.
"""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Exchange, Message, Queue, Topology
from tests.conftest import Namespace

WAIT_S = 10  # for a message that was confirmed or published before


def receive(channel: BlockingChannel, queue: str, count: int) -> list[bytes]:
    """Consume as the tutorials do, up to a count."""
    bodies: list[bytes] = []
    for method, _, body in channel.consume(queue, inactivity_timeout=WAIT_S):
        assert method is not None, f"only {bodies} came"
        assert body is not None
        bodies.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(bodies) == count:
            channel.cancel()
            return bodies
    return bodies


def consume(connection: rmqkit.Connection, queue: str, count: int) -> list[bytes]:
    """Consume with rmqkit, and leave."""
    with connection.consume(queue, count=count, idle_timeout_s=WAIT_S) as consumer:
        return [each.body for each in consumer]


@pytest.mark.parametrize("durable", [False, True], ids=["1: hello world", "2: work queues"])
def test_a_queue_is_shared_with_a_tutorial_in_both_directions(
    connection: rmqkit.Connection, channel: BlockingChannel, queue_name: str, *, durable: bool
) -> None:
    channel.queue_declare(queue=queue_name, durable=durable)
    connection.apply(Topology(queues=(Queue(queue_name, durable=durable),)))  # the same, by both
    channel.basic_publish(exchange="", routing_key=queue_name, body=b"Hello World!")
    assert consume(connection, queue_name, 1) == [b"Hello World!"]
    connection.publish(Message(b"A very hard task...", queue_name))
    channel.basic_qos(prefetch_count=1)
    assert receive(channel, queue_name, 1) == [b"A very hard task..."]


@pytest.mark.parametrize(
    ("kind", "keys", "sent", "expected"),
    [
        pytest.param("fanout", [], ["", ""], [0, 1], id="3: publish/subscribe"),
        pytest.param("direct", ["error", "warning"], ["info", "warning", "error"], [1, 2], id="4: routing"),
        pytest.param(
            "topic", ["kern.*", "*.critical"], ["kern.info", "a.critical", "cron.info"], [0, 1], id="5: topics"
        ),
    ],
)
def test_an_exchange_is_shared_with_a_tutorial_in_both_directions(
    connection: rmqkit.Connection,
    channel: BlockingChannel,
    namespace: Namespace,
    *,
    kind: str,
    keys: list[str],
    sent: list[str],
    expected: list[int],
) -> None:
    name = namespace.exchange()
    channel.exchange_declare(exchange=name, exchange_type=kind, durable=True)
    connection.apply(Topology(exchanges=(Exchange(name, kind),)))
    theirs = channel.queue_declare(queue="", exclusive=True).method.queue
    for key in keys or [""]:
        channel.queue_bind(exchange=name, queue=theirs, routing_key=key)
    ours = connection.subscribe(name, keys)

    for number, key in enumerate(sent):
        channel.basic_publish(exchange=name, routing_key=key, body=b"theirs %d" % number)
    wanted = [f"theirs {number}".encode() for number in expected]
    assert consume(connection, ours, len(wanted)) == wanted
    assert receive(channel, theirs, len(wanted)) == wanted

    ours = connection.subscribe(name, keys)  # the one before went with its consumer
    for number, key in enumerate(sent):
        connection.publish(Message(b"ours %d" % number, key, exchange=name), check=False)
    wanted = [b"ours %d" % number for number in expected]
    assert receive(channel, theirs, len(wanted)) == wanted
    assert consume(connection, ours, len(wanted)) == wanted
