"""Delayed messages arrive at their time, unchanged, at any exchange, and none is lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pytest

import rmqkit
from rmqkit import (
    Binding,
    Contract,
    Exchange,
    InputError,
    Message,
    NotFound,
    PayloadError,
    Policy,
    Properties,
    Queue,
    Topology,
)
from rmqkit.node.node import Node
from rmqkit.settings import load_settings
from rmqkit.topology.delays import ladder
from tests.conftest import Broker
from tests.support.queues import Received, drain, open_channel, ready
from tests.support.wait import wait_until

QUEUES = ("by_topic", "by_direct", "by_fanout", "by_headers", "jobs")
SHOP = Topology(
    exchanges=(
        Exchange("topics", "topic"),
        Exchange("direct"),
        Exchange("all", "fanout"),
        Exchange("headers", "headers"),
    ),
    queues=tuple(map(Queue, QUEUES)),
    bindings=(
        Binding("topics", "by_topic", routing_key="*.paid"),
        Binding("direct", "by_direct", routing_key="ürgent"),
        Binding("all", "by_fanout"),
        Binding("headers", "by_headers", arguments={"region": "eu"}),
    ),
)
TARGETS = (("topics", "order.paid"), ("direct", "ürgent"), ("all", ""), ("headers", "any key"), ("", "jobs"))


@pytest.fixture(scope="module")
def url(broker: Broker) -> Iterator[str]:
    """A virtual host for this module: declaring the queues of delayed messages takes seconds."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    broker.api("PUT", f"vhosts/{name}")
    yield urlsplit(broker.url)._replace(path=f"/{name}").geturl()
    broker.api("DELETE", f"vhosts/{name}")


@pytest.fixture
def connection(broker: Broker, url: str) -> Iterator[rmqkit.Connection]:
    """Our connection, in the module's virtual host, where the shop is declared and empty."""
    with rmqkit.connect(settings=load_settings((url,), api_url=broker.api_url, environ={})) as opened:
        opened.apply(SHOP)
        for each in QUEUES:
            opened.purge(each)
        yield opened


def receive(url: str, queues: tuple[str, ...], count: int) -> list[tuple[float, Received]]:
    """Receive messages from several queues as they arrive, each with its time of arrival."""
    received: list[tuple[float, Received]] = []
    with open_channel(url) as channel:

        def keep(_: object, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
            received.append((time.time(), Received(method, properties, body)))

        for queue in queues:
            channel.basic_consume(queue, keep, auto_ack=True)
        wait_until(
            lambda: channel.connection.process_data_events(0.05) or len(received) >= count,
            lambda: f"{len(received)} of {count} messages arrived",
        )
    return received


def test_a_message_arrives_after_its_delay_at_any_exchange_with_its_key_headers_and_properties(
    connection: rmqkit.Connection, url: str
) -> None:
    """As published, but for the headers that are named in docs/delayed-messages.md: x-death and x-rmqkit-delay-*."""
    given = Properties(
        content_type="application/json", headers={"region": "eu", "n": 7, "CC": []}, priority=3, message_id="7",
        correlation_id="c", reply_to="r", timestamp=datetime(2026, 1, 31, tzinfo=UTC), type="t", app_id="a",
        user_id="guest",
    )  # fmt: skip
    sent: dict[bytes, tuple[float, int, str, str]] = {}
    for seconds in (1, 2, 3):
        for exchange, key in TARGETS:
            body = f"{seconds} {exchange}".encode()
            sent[body] = (time.time(), seconds, exchange, key)
            report = connection.publish(Message(body, key, exchange, given), delay=timedelta(seconds=seconds))
            assert report.confirmed == 1
    received = receive(url, QUEUES, len(sent))
    assert sorted(each.body for _, each in received) == sorted(sent)
    for arrived, (method, properties, body) in received:
        begun, seconds, exchange, key = sent[body]
        assert seconds <= arrived - begun < seconds + 30, body  # a busy disk confirms late
        assert (method.exchange, method.routing_key) == (exchange, key)
        kept = {name: value for name, value in properties.headers.items() if not name.startswith("x-")}
        assert kept == given.headers
        added = {name for name in properties.headers if name.startswith("x-")}
        assert all(name.startswith(("x-death", "x-first-death-", "x-last-death-", "x-rmqkit-delay-")) for name in added)
        assert (properties.content_type, properties.priority, properties.message_id) == ("application/json", 3, "7")
        assert (properties.correlation_id, properties.reply_to, properties.type) == ("c", "r", "t")
        assert (properties.app_id, properties.user_id, properties.delivery_mode) == ("a", "guest", 2)
        assert properties.timestamp == int(datetime(2026, 1, 31, tzinfo=UTC).timestamp())


def test_messages_of_one_delay_keep_their_order_and_priorities_delay_none(
    connection: rmqkit.Connection, url: str
) -> None:
    """A message of a high priority neither arrives early nor holds others up."""
    bodies = [b"%d" % number for number in range(200)]
    messages = (Message(body, "jobs", properties=Properties(priority=int(body) % 10)) for body in bodies)
    begun = time.time()
    assert connection.publish(messages, delay=timedelta(seconds=3)).confirmed == len(bodies)
    received = receive(url, ("jobs",), len(bodies))
    assert all(arrived - begun >= 3 for arrived, _ in received)
    assert sorted(each.body for _, each in received) == sorted(bodies)
    assert connection.publish((Message(body, "jobs") for body in bodies), delay=timedelta(seconds=1)).confirmed
    assert [each.body for _, each in receive(url, ("jobs",), len(bodies))] == bodies


def test_a_delivery_can_be_delayed_again_and_again(connection: rmqkit.Connection, url: str) -> None:
    """RabbitMQ 3 drops a message that expires twice in one queue, unless its x-death header is set aside."""
    message = Message(b"x", "jobs")
    for _ in range(3):
        connection.publish(message, delay=timedelta(seconds=1))
        (delivery,) = connection.consume("jobs", count=1, idle_timeout_s=30)
        message = Message(delivery.body, delivery.routing_key, delivery.exchange, delivery.properties)
    assert ready(url, "jobs") == 0


def test_a_time_in_any_zone_is_the_time_of_delivery(connection: rmqkit.Connection, url: str) -> None:
    at = datetime.now(timezone(timedelta(hours=5, minutes=45))) + timedelta(seconds=2)
    connection.publish(Message(b"x", "jobs"), delay=at)
    ((arrived, _),) = receive(url, ("jobs",), 1)
    assert at.timestamp() <= arrived < at.timestamp() + 10


def test_a_message_that_no_queue_receives_at_its_time_waits_until_one_does(connection: rmqkit.Connection) -> None:
    """It can be seen, and is not lost; the broker tries again every three minutes."""
    connection.publish(Message(b"x", "order.lost", "topics"), delay=timedelta(seconds=1))

    def waiting() -> int:
        totals = connection.http_api().queue_totals()
        return sum(each.waiting for each in totals if each.name == "rmqkit.delay.exchange.topics")

    wait_until(waiting)
    connection.delete(Queue("rmqkit.delay.exchange.topics"))


def test_a_target_that_does_not_exist_is_an_error_before_anything_is_sent(connection: rmqkit.Connection) -> None:
    for message in (Message(b"x", "missing"), Message(b"x", "key", "missing")):
        with pytest.raises(NotFound, match="'missing' does not exist; nothing was delayed"):
            connection.publish(message, delay=timedelta(seconds=1))


def test_a_policy_that_would_drop_waiting_messages_or_shorten_delays_is_refused(
    connection: rmqkit.Connection, url: str
) -> None:
    definition = {"expires": 600_000, "max-length": 1000, "message-ttl": 600_000}
    longest = ladder().queues[-1]

    def is_applied() -> bool:
        """Ask RabbitMQ's HTTP API, which knows of a policy for a queue after five seconds."""
        settings = connection.queue_settings(longest.name) or {}
        return all(settings.get(f"x-{key}") != longest.arguments.get(f"x-{key}") for key in definition)

    connection.apply(replace(SHOP, delay=True))
    try:
        connection.apply(replace(SHOP, policies=(Policy("everything", ".*", definition, "queues"),)))
        wait_until(is_applied)
        keys = ", ".join(sorted(definition))
        with pytest.raises(InputError, match=f"a policy sets {keys} for the queues of delayed messages"):
            connection.publish(Message(b"x", "jobs"), delay=timedelta(hours=1))
        assert sum(ready(url, each.name) for each in ladder().queues) == 0
    finally:
        connection.http_api().delete_policy("everything")
        wait_until(lambda: not is_applied())


def test_a_message_that_breaks_its_contract_is_not_delayed(
    connection: rmqkit.Connection, url: str, tmp_path: Path
) -> None:
    (tmp_path / "order.json").write_text('{"required": ["total"]}')
    topology = Topology(queues=(Queue("jobs", contract=Contract("json", str(tmp_path / "order.json"))),))
    with pytest.raises(PayloadError, match="total"):
        connection.publish(Message(b"{}", "jobs"), topology=topology, delay=timedelta(days=1))
    assert sum(ready(url, each.name) for each in ladder().queues) == 0


def test_a_waiting_message_is_cancelled_by_a_purge_with_a_filter(connection: rmqkit.Connection, url: str) -> None:
    """The others stay, and arrive at their time."""
    messages = (Message(b"%d" % each, "jobs", properties=Properties(message_id=str(each))) for each in range(20))
    connection.publish(messages, delay=timedelta(seconds=8))
    purged = connection.purge("rmqkit.delay.3", matches=lambda each: each.properties.message_id == "7", force=True)
    assert (purged.purged, purged.unmatched) == (1, 19)
    received = {each.body for _, each in receive(url, ("jobs",), 19)}
    assert received == {b"%d" % each for each in range(20)} - {b"7"}


def test_delayed_messages_survive_a_restart_and_a_kill_of_the_broker(node: Node) -> None:
    """Time that passes while the broker is down counts, too."""
    url = node.status().url
    with rmqkit.connect(url) as connection:
        connection.apply(Topology(queues=(Queue("later"),)))
        begun = time.time()
        report = connection.publish(
            (Message(b"%d" % each, "later") for each in range(100)), delay=timedelta(seconds=20)
        )
        assert report.confirmed == 100
    node.stop()
    node.start()
    node.kill()
    node.start()
    with open_channel(url) as channel:
        wait_until(lambda: ready(channel, "later") == 100)
        assert time.time() - begun >= 12
        assert drain(channel, "later") == [b"%d" % each for each in range(100)]
    with rmqkit.connect(url) as connection:
        connection.delete(Queue("later"))
