"""`rmqkit why` brings a real RabbitMQ into each state that it explains."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.node.node import Node
from tests.conftest import Broker
from tests.support.cli import Run, rmqkit
from tests.support.clients import client, holder
from tests.support.queues import declare, fill, open_channel
from tests.support.terminal import terminal
from tests.support.versions import version
from tests.support.wait import wait_for_queue, wait_until

Explain = Callable[..., dict[str, Any]]


@pytest.fixture
def explained(live: Run) -> Explain:
    """Wait until a queue has a cause that mentions some texts; return it.

    The HTTP API knows the state, and the names of the clients, up to five seconds later.
    """

    def wait(queue: str, code: str, *mentioned: str) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}

        def is_known() -> bool:
            done = live("why", queue, "--json")
            assert done.returncode == 0, done.stderr
            found.clear()
            found.update({each["code"]: each for each in json.loads(done.stdout)["causes"]})
            return code in found and all(text in found[code]["message"] for text in mentioned)

        wait_until(is_known, lambda: str(found))
        return found[code] | {"first": next(iter(found)) == code}

    return wait


@pytest.fixture
def orders(vhost_channel: BlockingChannel) -> BlockingChannel:
    vhost_channel.queue_declare("orders", durable=True)
    fill(vhost_channel, "orders", 5)
    return vhost_channel


def test_a_queue_without_a_consumer(live: Run, orders: BlockingChannel, explained: Explain) -> None:
    cause = explained("orders", "no_consumer")
    assert (cause["first"], cause["message"]) == (
        True,
        "It has no consumers: 5 messages are waiting. Start a service that consumes the queue.",
    )
    header, first, command = live("why", "orders").stdout.splitlines()
    assert header.startswith("classic queue 'orders': 5 ready, 0 unacknowledged, 0 consumers, in ")
    assert (first, command) == (f"1. {cause['message']}", "   rmqkit peek orders")
    assert orders.is_open


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_consumers_that_are_full_are_named(
    kind: str, vhost_url: str, vhost_channel: BlockingChannel, explained: Explain
) -> None:
    vhost_channel.queue_declare("orders", durable=True, arguments={"x-queue-type": kind})
    fill(vhost_channel, "orders", 5)
    with client(vhost_url, holder("orders", prefetch=1), "slow"), client(vhost_url, holder("orders", 2), "slower"):
        cause = explained("orders", "consumers_full", "'slow' ", "'slower' ", "(1 unack", "(2 unack")
        assert cause["first"]
        assert cause["message"].startswith(
            "All 2 consumers are full, and receive no more messages until they acknowledge some: "
        )
        for name, held in (("slow", "1 unacknowledged message"), ("slower", "2 unacknowledged messages")):
            assert f"'{name}' from 127.0.0.1:" in cause["message"]
            assert f"({held}" in cause["message"]
        assert cause["command"] == "rmqkit consumers orders"


def test_a_single_active_consumer_that_is_stuck(
    vhost_url: str, vhost_channel: BlockingChannel, explained: Explain
) -> None:
    vhost_channel.queue_declare("single", durable=True, arguments={"x-single-active-consumer": True})
    fill(vhost_channel, "single", 5)
    with ExitStack() as stack:
        for name in ("active", "second", "third"):
            stack.enter_context(client(vhost_url, holder("single", prefetch=1), name))
        cause = explained("single", "single_active_consumer", "'active' ", "other 2")
        assert cause["first"]
        assert cause["message"].startswith("Its single active consumer, 'active' from 127.0.0.1:")
        assert cause["message"].endswith("is not taking messages; the other 2 consumers must wait for it.")
        assert cause["command"].startswith("rmqkit connections --close 127.0.0.1:")


def test_messages_held_by_a_client_without_a_consumer(orders: BlockingChannel, explained: Explain) -> None:
    for _ in range(2):
        assert orders.basic_get("orders")[0]
    cause = explained("orders", "held_without_consumer")
    assert cause["message"] == "Clients without a consumer hold 2 unacknowledged messages."


def test_a_consumer_that_has_just_left_is_not_called_a_client_without_a_consumer(
    live: Run, vhost_url: str, vhost_channel: BlockingChannel, broker: Broker
) -> None:
    declare(vhost_channel, "held", x_queue_type="quorum")
    fill(vhost_channel, "held", 5)
    path = f"queues{urlsplit(vhost_url).path}/held"

    def unacknowledged() -> int:
        return int(json.loads(broker.api("GET", path)).get("messages_unacknowledged", 0))

    with client(vhost_url, holder("held", prefetch=5), "leaving"):
        wait_until(lambda: unacknowledged() == 5)
    wait_for_queue(vhost_channel, "held", ready=5, consumers=0)
    causes = json.loads(live("why", "held", "--json").stdout)["causes"]
    assert [each["code"] for each in causes] == ["no_consumer"]


def test_an_exclusive_queue_names_the_client_that_alone_can_consume_it(
    vhost_channel: BlockingChannel, explained: Explain
) -> None:
    vhost_channel.queue_declare("mine", exclusive=True)
    fill(vhost_channel, "mine", 1)
    cause = explained("mine", "no_consumer", "It is exclusive: only its client at 127.0.0.1:")
    assert cause["command"] == "rmqkit connections"


def test_without_the_tag_monitoring_nobody_is_told_that_consumers_work(
    live: Run, broker: Broker, vhost_url: str, orders: BlockingChannel
) -> None:
    user, vhost = f"u{vhost_url[-8:]}", urlsplit(vhost_url).path
    broker.api("PUT", f"users/{user}", b'{"password": "secret", "tags": "management"}')
    broker.api("PUT", f"permissions{vhost}/{user}", b'{"configure": ".*", "write": ".*", "read": ".*"}')
    parts = urlsplit(vhost_url)
    low = {
        "RMQKIT_URL": parts._replace(netloc=f"{user}:secret@{parts.hostname}:{parts.port}").geturl(),
        "RMQKIT_API_URL": f"http://{broker.api_url.rpartition('@')[2]}",
    }
    with client(vhost_url, holder("orders", prefetch=2), "worker"):
        wait_for_queue(orders, "orders", ready=3)
        done = live("why", "orders", **low)
        assert (done.returncode, "lacks the tag monitoring" in done.stdout) == (0, True), done.stderr
        assert "No problem found" not in done.stdout
        done = live("connections", **low)
        assert (done.returncode, "Only your own are shown" in done.stderr) == (0, True), done.stderr
    broker.api("DELETE", f"users/{user}")


def test_dead_letters_and_where_they_come_from(vhost_channel: BlockingChannel, explained: Explain) -> None:
    vhost_channel.exchange_declare("dead", "fanout")
    vhost_channel.queue_declare("parked", durable=True)
    vhost_channel.queue_bind("parked", "dead")
    to_queue = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "parked"}
    vhost_channel.queue_declare("billing", durable=True, arguments=to_queue)
    vhost_channel.queue_declare("stock", durable=True, arguments={"x-dead-letter-exchange": "dead"})
    vhost_channel.queue_declare("other", durable=True, arguments={"x-dead-letter-exchange": "amq.topic"})
    fill(vhost_channel, "billing", 1)
    method, _properties, _body = vhost_channel.basic_get("billing")
    vhost_channel.basic_reject(method.delivery_tag, requeue=False)
    cause = explained("parked", "dead_letters")
    assert cause["first"]
    assert cause["message"].startswith("It receives the dead letters of 'billing', 'stock' (")
    assert cause["command"] == "rmqkit move parked --dry-run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"x-delivery-limit": 5},
            "a message is dropped, because the queue has no dead-letter exchange.",
        ),
        (
            {"x-delivery-limit": 5, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "parked"},
            "after 6 failed deliveries, a message is dead-lettered.",
        ),
    ],
)
def test_redeliveries_and_the_delivery_limit(
    arguments: dict[str, Any], message: str, vhost_channel: BlockingChannel, explained: Explain
) -> None:
    fail_three_times(vhost_channel, arguments)
    assert explained("orders", "delivery_limit")["message"].endswith(message)


def test_redeliveries_without_a_delivery_limit(
    broker: Broker, vhost_channel: BlockingChannel, explained: Explain
) -> None:
    fail_three_times(vhost_channel, {"x-delivery-limit": -1} if version(broker) >= (4,) else {})
    assert "there is no delivery limit" in explained("orders", "no_delivery_limit")["message"]


def fail_three_times(channel: BlockingChannel, arguments: dict[str, Any]) -> None:
    """Reject the message of a new quorum queue, `orders`, again and again."""
    channel.queue_declare("orders", durable=True, arguments={"x-queue-type": "quorum"} | arguments)
    fill(channel, "orders", 1)
    for _ in range(3):
        wait_for_queue(channel, "orders", ready=1)
        channel.basic_reject(channel.basic_get("orders")[0].delivery_tag)


@pytest.mark.parametrize(
    ("arguments", "fate"),
    [({}, "the oldest messages are dropped."), ({"x-overflow": "reject-publish"}, "new messages are rejected.")],
)
def test_a_queue_that_has_reached_its_length(
    arguments: dict[str, Any], fate: str, vhost_channel: BlockingChannel, explained: Explain
) -> None:
    vhost_channel.queue_declare("short", durable=True, arguments={"x-max-length": 2} | arguments)
    fill(vhost_channel, "short", 2)
    assert explained("short", "length_limit")["message"] == f"It has reached its limit of 2 messages: {fate}"


def test_policies_that_match_and_lose(
    live: Run, broker: Broker, vhost_url: str, orders: BlockingChannel, explained: Explain
) -> None:
    for name, priority in (("strong", 5), ("weak", 1), ("weaker", 0)):
        policy = {"pattern": "^ord", "definition": {"max-length": 100}, "apply-to": "queues", "priority": priority}
        broker.api("PUT", f"policies/{vhost_url.rpartition('/')[2]}/{name}", json.dumps(policy).encode())
    cause = explained("orders", "policy")
    assert cause["message"] == ("Of the policies that match it, only 'strong' applies; it overrides 'weak', 'weaker'.")
    assert "policy 'strong'" in live("why", "orders").stdout
    assert orders.is_open


@pytest.mark.parametrize(("acknowledged", "code"), [(1, "growing"), (9, "draining")])
def test_rates_tell_whether_it_grows_or_drains(
    acknowledged: int, code: str, vhost_url: str, vhost_channel: BlockingChannel, explained: Explain
) -> None:
    """A client publishes five messages and acknowledges fewer, or more, at each turn."""
    vhost_channel.queue_declare("busy", durable=True)
    fill(vhost_channel, "busy", 3000)

    def work(channel: BlockingChannel) -> None:
        tags: list[int] = []
        channel.basic_qos(prefetch_count=500)
        channel.basic_consume("busy", lambda _channel, method, *_: tags.append(method.delivery_tag))

        def turn() -> None:
            for _ in range(5):
                channel.basic_publish("", "busy", b"x")
            for _ in range(min(acknowledged, len(tags))):
                channel.basic_ack(tags.pop(0))
            channel.connection.call_later(0.1, turn)  # slow enough to last for more than a minute

        turn()

    with client(vhost_url, work):
        cause = explained("busy", code)
    assert cause["message"].startswith("It is growing: " if code == "growing" else "It is shrinking: ")


@pytest.mark.parametrize("state", ["alarm", "consumer_timeout"])
def test_states_of_a_whole_node(state: str, node: Node) -> None:
    env = {"RMQKIT_URL": node.url, "RMQKIT_API_URL": node.status().management_url.replace("://", "://guest:guest@")}
    newest = "4." in node.status().version
    arguments: dict[str, Any] = {"x_queue_type": "quorum"}
    if state == "consumer_timeout" and newest:
        arguments["x_consumer_timeout"] = 10_000

    def causes() -> dict[str, dict[str, Any]]:
        done = rmqkit("why", "states", "--json", env=env)
        return {each["code"]: each for each in json.loads(done.stdout)["causes"]}

    declare(node.url, "states", **arguments)
    try:
        if state == "alarm":
            assert node.ctl("set_vm_memory_high_watermark", "0.00001").returncode == 0
            wait_until(lambda: next(iter(causes()), "") == "alarm")
            assert f"An alarm blocks all publishers: memory on {node.name}." in causes()["alarm"]["message"]
        elif newest:  # before 4.3 RabbitMQ does not tell the timeout, whose default is half an hour: see below
            with client(node.url, holder("states")), open_channel(node.url) as channel:
                channel.basic_publish("", "states", b"x")
                wait_until(lambda: "consumer_timeout" in causes())
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.4")
        with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
            connection.channel().queue_delete("states")


def test_a_queue_whose_consumers_work_has_no_cause(live: Run, vhost_url: str, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("calm", durable=True)
    with client(vhost_url, holder("calm", prefetch=5)):
        wait_until(lambda: "1 consumer" in live("why", "calm").stdout)
        assert live("why", "calm").stdout.splitlines()[1] == "No problem found: the queue has no ready messages."
    missing = live("why", "nowhere")
    assert (missing.returncode, "Apply the topology that declares it" in missing.stderr) == (5, True)


@pytest.mark.unguessed_api
def test_why_needs_the_http_api(live: Run) -> None:
    assert live("why", "orders", RMQKIT_API_URL="").returncode == 4


def test_on_a_terminal_lines_are_wrapped(broker: Broker, vhost_url: str, orders: BlockingChannel) -> None:
    with terminal("why", "orders", env={"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url}) as screen:
        code, shown = screen.end()
    assert (code, "1. It has no consumers: 5 messages are waiting." in shown) == (0, True)
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines()), shown
    assert orders.is_open
