"""No deletion takes a message with it that AMQP does not count: unacknowledged, delayed, or waiting dead letters."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika import URLParameters
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import exit_codes
from rmqkit.errors import NotFound, PropertyMismatch
from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.options import ApplyOptions
from rmqkit.settings import load_settings
from tests.conftest import Broker
from tests.support.queues import declare, drain, drain_messages, ready
from tests.support.replace_process import left_over, replaced
from tests.support.wait import wait_for_queue, wait_until

TTL = {"x-message-ttl": 600_000}
Delete = Callable[[rmqkit.Connection, float], object]


@pytest.fixture
def pika_channel(vhost_url: str) -> Iterator[BlockingChannel]:
    """A channel of plain pika, on a fresh virtual host."""
    with pika.BlockingConnection(URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


@pytest.fixture
def connection(broker: Broker, vhost_url: str) -> Iterator[rmqkit.Connection]:
    with rmqkit.connect(settings=load_settings([vhost_url], api_url=broker.api_url, environ={})) as opened:
        yield opened


@pytest.fixture
def blind(vhost_url: str) -> Iterator[rmqkit.Connection]:
    """A connection without RabbitMQ's HTTP API: that of the tests' broker is not at its usual port."""
    with rmqkit.connect(settings=load_settings([vhost_url], environ={})) as opened:
        yield opened


DELETIONS: dict[str, Delete] = {
    "destroy": lambda connection, wait_s: connection.destroy(Topology(queues=(Queue("q"),)), wait_s=wait_s),
    "prune": lambda connection, wait_s: connection.apply(
        Topology(scope=("q",)), options=ApplyOptions(prune=True, wait_s=wait_s)
    ),
    "replace": lambda connection, wait_s: connection.apply(
        Topology(queues=(Queue("q", arguments=TTL),)), options=ApplyOptions(replace=True, wait_s=wait_s)
    ),
}


def hold(channel: BlockingChannel, kind: str) -> list[int]:
    """Fill a queue and take all of it with a consumer that is then cancelled; return the delivery tags."""
    channel.queue_declare("q", durable=True, arguments={"x-queue-type": kind})
    for number in range(3):
        channel.basic_publish("", "q", b"%d" % number)
    tags: list[int] = []
    consumer = channel.basic_consume("q", lambda _, method, *__: tags.append(method.delivery_tag))
    while len(tags) < 3:
        channel.connection.process_data_events(time_limit=20)
    channel.basic_cancel(consumer)
    wait_for_queue(channel, "q", ready=0)
    return tags


# RabbitMQ 3.10 counts a cancelled consumer of a quorum queue as long as it holds messages.
HELD = {"classic": "'q' has 3 unacknowledged messages", "quorum": "'q' has (1 consumer|3 unacknowledged messages)"}


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_queue_is_not_deleted_while_a_client_without_a_consumer_holds_its_messages(
    connection: rmqkit.Connection, vhost_url: str, pika_channel: BlockingChannel, deletion: str, kind: str
) -> None:
    tags = hold(pika_channel, kind)
    with pytest.raises(PropertyMismatch, match=HELD[kind]):
        DELETIONS[deletion](connection, 0)
    for tag in tags:
        pika_channel.basic_nack(tag)
    wait_until(lambda: ready(vhost_url, "q") == 3)
    assert left_over(vhost_url, "q") == []
    assert sorted(drain(vhost_url, "q")) == [b"0", b"1", b"2"]


def test_a_subscription_is_not_removed_while_its_reader_holds_messages(
    connection: rmqkit.Connection, vhost_url: str, pika_channel: BlockingChannel
) -> None:
    connection.subscribe("amq.fanout", durable="q")
    pika_channel.basic_publish("amq.fanout", "", b"x")
    wait_for_queue(pika_channel, "q", ready=1)
    method, _, _ = pika_channel.basic_get("q")
    assert method is not None
    with pytest.raises(PropertyMismatch, match="'q' has 1 unacknowledged message"):
        connection.unsubscribe("q")
    pika_channel.basic_nack(method.delivery_tag)
    wait_for_queue(pika_channel, "q", ready=1)
    assert drain(vhost_url, "q") == [b"x"]
    connection.unsubscribe("q")


@pytest.mark.parametrize("deletion", DELETIONS)
def test_wait_lets_a_client_finish(connection: rmqkit.Connection, pika_channel: BlockingChannel, deletion: str) -> None:
    tags, done = hold(pika_channel, "classic"), threading.Event()

    def delete() -> None:
        DELETIONS[deletion](connection, 30)
        done.set()

    thread = threading.Thread(target=delete)
    thread.start()
    pika_channel.connection.process_data_events(time_limit=1)
    assert not done.is_set()
    for tag in tags:
        pika_channel.basic_ack(tag)
    pika_channel.connection.process_data_events()
    thread.join(60)
    assert done.is_set()


def test_a_stop_ends_the_wait_and_nothing_is_pruned(
    connection: rmqkit.Connection, pika_channel: BlockingChannel
) -> None:
    hold(pika_channel, "quorum")
    stop = rmqkit.Stop()
    stop.request()
    options = ApplyOptions(prune=True, wait_s=600)
    with pytest.raises(PropertyMismatch, match="nothing was deleted"):
        connection.apply(Topology(scope=("q",)), options=options, stop=stop)
    pika_channel.queue_declare("q", passive=True)


def test_a_dead_letter_that_waits_for_its_target_is_not_deleted(
    connection: rmqkit.Connection, pika_channel: BlockingChannel
) -> None:
    arguments = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    pika_channel.exchange_declare("nowhere", "fanout", durable=True)
    arguments |= {"x-queue-type": "quorum", "x-dead-letter-exchange": "nowhere"}
    pika_channel.queue_declare("q", durable=True, arguments=arguments)
    pika_channel.basic_publish("", "q", b"x")
    wait_for_queue(pika_channel, "q", ready=1)
    method, _, _ = pika_channel.basic_get("q")
    assert method is not None
    pika_channel.basic_reject(method.delivery_tag, requeue=False)
    wait_for_queue(pika_channel, "q", ready=0, consumers=0)  # a quorum queue counts a basic.get for a moment
    with pytest.raises(PropertyMismatch, match="'q' has 1 delayed or dead-lettered message"):
        connection.destroy(Topology(queues=(Queue("q"),)))
    pika_channel.queue_declare("q", passive=True)


@pytest.mark.unguessed_api
@pytest.mark.parametrize("deletion", ["destroy", "replace"])
def test_without_the_http_api_only_force_deletes_a_queue(
    blind: rmqkit.Connection, vhost_url: str, pika_channel: BlockingChannel, deletion: str
) -> None:
    declare(vhost_url, "q")
    with pytest.raises(PropertyMismatch, match=r"unacknowledged messages.* cannot be seen") as refused:
        DELETIONS[deletion](blind, 0)
    assert "`force=True`" in refused.value.advice
    pika_channel.queue_declare("q", durable=True)
    if deletion == "destroy":
        blind.destroy(Topology(queues=(Queue("q"),)), force=True)
        assert blind.destroy(Topology(queues=(Queue("q"),))).steps[0].outcome.value == "absent"
    else:
        pika_channel.basic_publish("", "q", b"x")
        blind.apply(Topology(queues=(Queue("q", arguments=TTL),)), options=ApplyOptions(replace=True, force=True))
        assert drain(vhost_url, "q") == [b"x"]


@pytest.mark.parametrize("operator", [False, True], ids=["policy", "operator policy"])
def test_a_policy_that_would_limit_a_temporary_queue_prevents_replacement(
    broker: Broker, connection: rmqkit.Connection, vhost_url: str, pika_channel: BlockingChannel, *, operator: bool
) -> None:
    declare(vhost_url, "o")
    for number in range(20):
        pika_channel.basic_publish("", "o", b"%d" % number)
    policies = [Policy("all", "^o", {"max-length": 10}), Policy("one", "^o$", {"max-length": 1000}, priority=5)]
    if operator:
        body = json.dumps({"pattern": "^o[.]", "definition": {"max-length": 10}}).encode()
        broker.api("PUT", f"operator-policies{urlsplit(vhost_url).path}/all", body)
        del policies[0]
    wanted = Topology(queues=(Queue("o", arguments={"x-queue-type": "quorum"}),), policies=tuple(policies))
    with pytest.raises(
        PropertyMismatch, match=r"policy 'all' applies to temporary queue 'o.rmqkit.old-messages' \(max-l"
    ):
        connection.apply(wanted, options=ApplyOptions(replace=True))
    assert left_over(vhost_url, "o") == []
    assert drain(vhost_url, "o") == [b"%d" % number for number in range(20)]


@pytest.mark.unguessed_api
@pytest.mark.parametrize("overflow", [{}, {"overflow": "drop-head"}], ids=["rejects", "drops"])
def test_a_policy_that_is_not_seen_does_not_cost_the_queue(
    broker: Broker, blind: rmqkit.Connection, vhost_url: str, pika_channel: BlockingChannel, overflow: dict[str, str]
) -> None:
    declare(vhost_url, "o", x_queue_type="quorum")
    for number in range(500):
        pika_channel.basic_publish("", "o", b"%d" % number)
    body = json.dumps({"pattern": "^o[.]", "definition": {"max-length": 10, **overflow}}).encode()
    broker.api("PUT", f"policies{urlsplit(vhost_url).path}/all", body)
    wanted = Topology(queues=(Queue("o", arguments={"x-queue-type": "quorum", "x-delivery-limit": 9}),))
    with pytest.raises(PropertyMismatch, match="everything was restored"):
        blind.apply(wanted, options=ApplyOptions(replace=True, force=True))
    assert left_over(vhost_url, "o") == []
    pika_channel.queue_declare("o", durable=True, arguments={"x-queue-type": "quorum"})
    kept = sorted(map(int, drain(vhost_url, "o")))
    assert kept == list(range(500))[-len(kept) :]
    assert overflow or len(kept) == 500


def test_a_policy_that_limits_the_new_queue_prevents_replacement(
    connection: rmqkit.Connection, vhost_url: str, pika_channel: BlockingChannel
) -> None:
    declare(vhost_url, "o")
    for number in range(20):
        pika_channel.basic_publish("", "o", b"%d" % number)
    policies = (Policy("few", "^o$", {"max-length": 10, "delivery-limit": 50}),)  # which classic queues pass over
    wanted = Topology(queues=(Queue("o", arguments={"x-queue-type": "quorum"}),), policies=policies)
    with pytest.raises(PropertyMismatch, match="holds 20 messages, but the new queue has room for 10"):
        connection.apply(wanted, options=ApplyOptions(replace=True))
    assert len(drain(vhost_url, "o")) == 20


def test_a_limit_on_the_number_of_queues_changes_nothing(
    broker: Broker, connection: rmqkit.Connection, vhost_url: str
) -> None:
    declare(vhost_url, "q")
    broker.api("PUT", f"vhost-limits{urlsplit(vhost_url).path}/max-queues", b'{"value": 3}')
    with pytest.raises(PropertyMismatch, match="queue limit"):
        DELETIONS["replace"](connection, 0)
    assert left_over(vhost_url, "q") == []


def test_a_binding_to_any_value_of_a_header_is_seen_as_it_is(
    connection: rmqkit.Connection, vhost_url: str, pika_channel: BlockingChannel
) -> None:
    declare(vhost_url, "q")
    values: list[dict[str, Any]] = [
        {"x-match": "all", "id": None},
        {"x-match": "all", "id": "undefined"},
        {"x-match": "any", "id": None, "text": "undefined", "é": "", "twelve bytes": "x" * 12, "ok": True, "no": False},
        {"x-match": "any", "id": None, "small": 5, "negative": -5, "large": 2**40, "least": -(2**60)},
    ]
    wanted = Topology(
        queues=(Queue("q"),), bindings=tuple(Binding("amq.headers", "q", arguments=each) for each in values)
    )
    for each in values:
        pika_channel.queue_bind("q", "amq.headers", "", each)
    planned = connection.plan(replace(wanted, scope=("q",)))
    assert {step.outcome.value for step in planned.steps} == {"unchanged"}
    pika_channel.queue_unbind("q", "amq.headers", "", values[3])
    pika_channel.queue_unbind("q", "amq.headers", "", values[2])
    changed = Topology(queues=(Queue("q", arguments=TTL),))
    connection.apply(changed, options=ApplyOptions(replace=True))
    for headers in ({"id": 7}, {"id": "undefined"}):
        pika_channel.basic_publish("amq.headers", "", b"", pika.BasicProperties(headers=headers), mandatory=True)
    wait_for_queue(pika_channel, "q", ready=2)


@pytest.mark.parametrize("durable", ["", "kept"])
def test_a_subscription_does_not_delete_the_exchange_of_others(
    connection: rmqkit.Connection, pika_channel: BlockingChannel, durable: str
) -> None:
    pika_channel.exchange_declare("x", "topic", auto_delete=True)
    for keys in ((), ("k",)):
        with pytest.raises(PropertyMismatch, match="'x' is auto-delete, and nothing else is bound to it"):
            connection.subscribe("x", keys, durable=durable)
    pika_channel.queue_declare("theirs", exclusive=True)
    pika_channel.queue_bind("theirs", "x", "#")
    connection.unsubscribe(connection.subscribe("x", durable=durable))
    pika_channel.exchange_declare("x", passive=True)


@pytest.mark.unguessed_api
def test_whether_an_exchange_would_be_deleted_is_not_guessed(
    blind: rmqkit.Connection, pika_channel: BlockingChannel
) -> None:
    pika_channel.exchange_declare("x", "topic", auto_delete=True)
    with pytest.raises(PropertyMismatch, match="cannot be seen"):
        blind.subscribe("x", ("k",))
    pika_channel.exchange_declare("x", passive=True)


@pytest.mark.parametrize("with_api", [True, False])
def test_a_missing_external_entity_is_found_before_anything_is_declared(
    request: pytest.FixtureRequest, pika_channel: BlockingChannel, *, with_api: bool
) -> None:
    opened: rmqkit.Connection = request.getfixturevalue("connection" if with_api else "blind")
    wanted = Topology(
        exchanges=(Exchange("mine"),),
        bindings=(Binding("theirs", "mine", "exchange"), Binding("mine", "elsewhere")),
        external_exchanges=("theirs", "unneeded"),
        external_queues=("elsewhere",),
    )
    missing = [(step.kind, step.name) for step in opened.plan(wanted).missing]
    assert missing == [("exchange", "theirs"), ("queue", "elsewhere")]
    assert exit_codes.exit_code(opened.plan(wanted)) == exit_codes.REFUSED
    with pytest.raises(NotFound, match="2 external entities are missing; nothing was changed"):
        opened.apply(wanted)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no exchange 'mine'"):
        pika_channel.exchange_declare("mine", passive=True)
    opened.destroy(wanted, force=True)


@pytest.mark.parametrize("with_api", [True, False])
def test_an_apply_that_fails_midway_reports_the_created_entities(
    request: pytest.FixtureRequest, pika_channel: BlockingChannel, *, with_api: bool
) -> None:
    opened: rmqkit.Connection = request.getfixturevalue("connection" if with_api else "blind")
    pika_channel.queue_declare("old", durable=True)
    wanted = Topology(
        exchanges=(Exchange("x"),),
        queues=(Queue("old"), Queue("new"), Queue("bad", arguments={"x-max-length": "many"})),
    )
    with pytest.raises(PropertyMismatch, match="x-max-length") as refused:
        opened.apply(wanted)
    assert "This run first created or changed 2 entities: exchange 'x', queue 'new'" in refused.value.advice
    assert [step.name for step in refused.value.report.steps] == ["x", "new"]


def test_without_the_http_api_delayed_messages_are_waited_for(vhost_url: str, pika_channel: BlockingChannel) -> None:
    declare(vhost_url, "q", x_queue_type="quorum")
    new = {"x-queue-type": "quorum", "x-delivery-limit": 9, "x-delayed-retry-max": 1000}

    def deliver_delayed(step: str) -> None:
        if "for delayed messages" in step:
            pika_channel.basic_publish("", "q", b"delayed")

    (done,) = replaced(vhost_url, Topology(queues=(Queue("q", arguments=new),)), on_step=deliver_delayed)
    assert done.moved == 1
    assert drain(vhost_url, "q") == [b"delayed"]


@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_message_that_a_quorum_queue_delays_is_not_deleted(
    connection: rmqkit.Connection, pika_channel: BlockingChannel, deletion: str
) -> None:
    delay_ms = 3000 if deletion == "replace" else 30_000  # the others refuse before it is over
    delayed = {"x-delayed-retry-type": "all", "x-delayed-retry-min": delay_ms, "x-delayed-retry-max": delay_ms}
    pika_channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum", **delayed})
    pika_channel.basic_publish("", "q", b"x")
    wait_for_queue(pika_channel, "q", ready=1)
    method, _, _ = pika_channel.basic_get("q")
    assert method is not None
    pika_channel.basic_reject(method.delivery_tag)
    if deletion == "replace":  # it waits as long as the argument says
        DELETIONS[deletion](connection, 0)
        assert [body for _, _, body in drain_messages(pika_channel, "q")] == [b"x"]
        return
    with pytest.raises(PropertyMismatch, match=r"'q' has 1 (message|delayed or dead-lettered message)"):  # before 4.3
        DELETIONS[deletion](connection, 0)
    pika_channel.queue_declare("q", passive=True)


def test_a_consumer_is_not_waited_for_as_long_as_a_delayed_message(
    connection: rmqkit.Connection, pika_channel: BlockingChannel
) -> None:
    delayed = {"x-delayed-retry-type": "all", "x-delayed-retry-min": 60_000, "x-delayed-retry-max": 60_000}
    pika_channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum", **delayed})
    pika_channel.basic_consume("q", lambda *_: None)
    began_s = time.monotonic()
    with pytest.raises(PropertyMismatch, match="'q' has 1 consumer"):
        DELETIONS["replace"](connection, 0)
    assert time.monotonic() - began_s < 30
