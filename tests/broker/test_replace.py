"""Replacing queues and exchanges on a live broker keeps their messages and bindings."""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika import BasicProperties, URLParameters
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Fate
from rmqkit.deploy.replace.replace import replace as replace_entities
from rmqkit.deploy.replace.session import Pauses, ReplaceResult, ReplaceSession
from rmqkit.errors import NotConfirmed, PropertyMismatch, Unroutable
from rmqkit.messaging import drain
from rmqkit.messaging.drain import Drain
from rmqkit.messaging.message_rewrite import KEPT_USER_ID, USER_ID, stashed_in
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.payload.death_headers import COUNTS
from rmqkit.plan import Outcome, Step
from rmqkit.stop import Stop
from tests.conftest import Broker
from tests.support.queues import declare, drain_messages, ready
from tests.support.replace_process import SHORT, bind, bound_queue, is_begun, left_over, links, replaced, waiting
from tests.support.wait import wait_until

TTL = {"x-message-ttl": 600_000}


def drained(channel: BlockingChannel, queue: str) -> list[tuple[bytes, dict[str, Any], str]]:
    """Empty a queue; return bodies, properties and routing keys."""
    return [(body, vars(properties), method.routing_key) for method, properties, body in drain_messages(channel, queue)]


def fill(channel: BlockingChannel, url: str, queue: str, amount: int) -> None:
    """Declare a bound queue and put messages in it."""
    declare(url, queue)
    bind(url, queue)
    for number in range(amount):
        channel.basic_publish("amq.topic", "a.b", b"%d" % number)
    wait_until(lambda: ready(url, queue) == amount)


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "classic to quorum": ({}, {"x-queue-type": "quorum"}),
    "quorum to classic": ({"x-queue-type": "quorum"}, {"x-queue-type": "classic"}),
    "a quorum queue's delivery limit": ({"x-queue-type": "quorum"}, {"x-queue-type": "quorum", "x-delivery-limit": 5}),
    "dead-letter exchange": ({"x-dead-letter-exchange": ""}, {"x-dead-letter-exchange": "amq.fanout"}),
    "length": ({"x-max-length": 900}, {"x-max-length": 1000, "x-overflow": "reject-publish"}),
    "single active consumer": ({"x-single-active-consumer": True}, {}),
    "to a stream": ({}, {"x-queue-type": "stream"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_replaced_queue_has_its_new_properties_its_messages_in_order_and_its_bindings(
    vhost_url: str, vhost_channel: BlockingChannel, change: str
) -> None:
    old, new = CHANGES[change]
    declare(vhost_url, "q", **{name.replace("-", "_"): value for name, value in old.items()})
    bind(vhost_url, "q")
    for number in range(700):
        vhost_channel.basic_publish("amq.topic", "a.b", b"%d" % number)
    wait_until(lambda: ready(vhost_url, "q") == 700)
    assert replaced(vhost_url, bound_queue("q", new)) == (ReplaceResult("queue", "q", moved=700),)
    vhost_channel.queue_declare("q", durable=True, arguments=new)
    if new.get("x-queue-type") != "stream":
        vhost_channel.basic_publish("amq.topic", "a.b", b"later")
        wait_until(lambda: ready(vhost_url, "q") == 701)  # a quorum queue counts it a moment later
        bodies = [body for body, _, _ in drained(vhost_channel, "q")]
        assert bodies == [*(b"%d" % number for number in range(700)), b"later"]
    assert left_over(vhost_url, "q") == []


@pytest.mark.parametrize("name", ["a{b}", "{0} 100%"])
def test_a_queue_of_any_name_is_replaced(vhost_url: str, vhost_channel: BlockingChannel, name: str) -> None:
    fill(vhost_channel, vhost_url, name, 3)
    (done,) = replaced(vhost_url, bound_queue(name, TTL))
    assert done == ReplaceResult("queue", name, moved=3)
    assert [body for body, _, _ in drained(vhost_channel, name)] == [b"0", b"1", b"2"]
    assert left_over(vhost_url, name) == []


SPECIMENS = [
    BasicProperties(),
    BasicProperties(expiration="60000", delivery_mode=2, priority=3),
    BasicProperties(headers={"CC": ["elsewhere"], "n": 1, "deep": {"list": [1, "two", None]}}, expiration="90000"),
    BasicProperties(
        content_type="text/plain", content_encoding="utf-8", correlation_id="c", reply_to="r", message_id="m", type="t",
        app_id="a", cluster_id="k", timestamp=1_800_000_000, delivery_mode=1, user_id="guest", headers={},
    ),
    BasicProperties(headers={"when": datetime(2026, 1, 1, tzinfo=UTC), "bytes": b"\xff", "big": 2**40, "no": False}),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_moved_message_keeps_its_body_its_properties_and_its_key(
    vhost_url: str, vhost_channel: BlockingChannel, kind: str
) -> None:
    for queue in ("q", "twin", "elsewhere"):
        declare(vhost_url, queue)
    bind(vhost_url, "q")
    bind(vhost_url, "twin")
    for number, properties in enumerate(SPECIMENS):
        vhost_channel.basic_publish("amq.topic", "a.b", b"\x00\xff" * number, properties)
    (done,) = replaced(vhost_url, bound_queue("q", {"x-queue-type": kind, **TTL}))
    found, expected = drained(vhost_channel, "q"), drained(vhost_channel, "twin")
    if kind == "quorum":  # it adds a header of its own to what it delivers
        for _, received, _ in (*found, *expected):
            headers = received["headers"] or {}
            received["headers"] = {name: headers[name] for name in headers if name not in COUNTS}
        found.sort(key=lambda each: len(each[0]))  # from 4.0 on it delivers by priority
    assert found == expected
    assert len(found) == done.moved == len(SPECIMENS)
    assert ready(vhost_url, "elsewhere") == 0  # the CC header did not route again


def test_a_foreign_user_id_is_kept_in_a_header_and_reported(
    broker: Broker, vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    vhost, url = urlsplit(vhost_url).path[1:], urlsplit(vhost_url)
    broker.api("PUT", f"users/{vhost}", b'{"password": "p", "tags": ""}')
    broker.api("PUT", f"permissions/{vhost}/{vhost}", b'{"configure": ".*", "write": ".*", "read": ".*"}')
    declare(vhost_url, "q")
    theirs = url._replace(netloc=f"{vhost}:p@{url.hostname}:{url.port}").geturl()
    with pika.BlockingConnection(URLParameters(theirs)) as connection:
        connection.channel().basic_publish("", "q", b"", BasicProperties(user_id=vhost))
    (done,) = replaced(vhost_url, bound_queue("q", TTL))
    broker.api("DELETE", f"users/{vhost}")
    ((_, properties, _),) = drained(vhost_channel, "q")
    assert properties["headers"] == {USER_ID: vhost}
    assert done.notes == (f"1 message {KEPT_USER_ID}",)


def test_every_kind_of_binding_is_restored_also_those_that_only_the_broker_knew(
    vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    fill(vhost_channel, vhost_url, "q", 10)
    vhost_channel.exchange_declare("upstream", "fanout", durable=True)
    bindings = (
        Binding("amq.direct", "q", routing_key="k"),
        Binding("amq.fanout", "q"),
        Binding("amq.headers", "q", arguments={"x-match": "any", "color": "red"}),
        Binding("upstream", "amq.direct", "exchange"),
        Binding("upstream", "q", routing_key="a"),
        Binding("upstream", "q", routing_key="b"),
    )
    for each in bindings[:3] + bindings[4:]:
        vhost_channel.queue_bind("q", each.source, each.routing_key, dict(each.arguments))
    topology = Topology(queues=(Queue("q", arguments=TTL),), bindings=bindings)
    replaced(vhost_url, topology, extra_bindings=[Binding("amq.topic", "q", routing_key="a.b")])
    drained(vhost_channel, "q")
    vhost_channel.confirm_delivery()
    red = BasicProperties(headers={"color": "red"})
    for exchange, key in (
        ("amq.direct", "k"),
        ("amq.fanout", ""),
        ("amq.headers", ""),
        ("upstream", "z"),
        ("amq.topic", "a.b"),
    ):
        vhost_channel.basic_publish(exchange, key, exchange.encode(), red, mandatory=True)
        assert [body for body, _, _ in drained(vhost_channel, "q")] == [exchange.encode()]
    vhost_channel.exchange_delete("upstream")


def test_a_queue_with_a_consumer_is_left_alone_until_the_consumer_is_gone(
    vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    fill(vhost_channel, vhost_url, "q", 10)
    with pika.BlockingConnection(URLParameters(vhost_url)) as other:
        consumer = other.channel()
        consumer.basic_qos(prefetch_count=1)
        consumer.basic_consume("q", lambda *_: None)
        with pytest.raises(PropertyMismatch, match="has 1 consumer") as refused:
            replaced(vhost_url, bound_queue("q", TTL))
        assert len(refused.value.problems) == 1
        assert left_over(vhost_url, "q") == []
        leaving = threading.Event()

        def leave(step: str) -> None:
            if "waiting up to" in step and not leaving.is_set():
                leaving.set()
                consumer.close()

        (done,) = replaced(vhost_url, bound_queue("q", TTL), wait_s=20, on_step=leave)
    assert leaving.is_set()
    assert done.moved == 10


REFUSED: dict[str, tuple[dict[str, Any], Queue, str]] = {
    "a stream": ({"arguments": {"x-queue-type": "stream"}}, Queue("q"), "is a stream"),
    "deleted with its last consumer": ({"auto_delete": True}, Queue("q"), "last consumer"),
    "a limit below its length": ({}, Queue("q", arguments={"x-max-length": 3}), r"holds 5 messages.*room for 3"),
    "a limit in bytes": ({}, Queue("q", arguments={"x-max-length-bytes": 4}), r"holds \d bytes.*room for 4"),
    "nonsense": ({}, Queue("q", arguments={"x-max-length": "many"}), "cannot be declared again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_entities_that_cannot_be_replaced_stay_unchanged(
    vhost_url: str, vhost_channel: BlockingChannel, case: str
) -> None:
    old, new, why = REFUSED[case]
    vhost_channel.queue_declare("q", **{"durable": True, **old})
    bind(vhost_url, "q")
    for _ in range(5):
        vhost_channel.basic_publish("amq.topic", "a.b", b"x")
    wait_until(lambda: ready(vhost_url, "q") == 5)
    topology = replace(bound_queue("q", {}), queues=(new,))
    with pytest.raises(PropertyMismatch) as refused:
        replaced(vhost_url, topology)
    assert re.search(why, str(refused.value))
    assert left_over(vhost_url, "q") == []
    assert ready(vhost_url, "q") == 5
    vhost_channel.queue_declare("q", **{"durable": True, **old})


def test_a_queue_of_another_connection_is_refused(vhost_url: str, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("q", exclusive=True)
    conflict = Step("queue", "q", Outcome.CONFLICT)
    with links(vhost_url) as both, pytest.raises(PropertyMismatch, match="exclusive to another connection"):
        replace_entities(*both, bound_queue("q", TTL), [conflict], pauses=SHORT)


def test_a_quorum_queue_is_replaced_also_if_its_type_is_not_known(
    vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    declare(vhost_url, "q", x_queue_type="quorum")
    vhost_channel.basic_publish("", "q", b"x")
    wait_until(lambda: ready(vhost_url, "q") == 1)
    conflict = Step("queue", "q", Outcome.CONFLICT)
    with links(vhost_url) as both:
        (done,) = replace_entities(*both, bound_queue("q", TTL), [conflict], pauses=SHORT)
    assert done.moved == 1
    vhost_channel.queue_declare("q", durable=True, arguments=TTL)


def test_a_queue_that_is_published_to_around_its_bindings_is_put_back_with_every_message(
    vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    fill(vhost_channel, vhost_url, "q", 300)
    stop, confirmed = Stop(), Counter[bytes]()

    def publish() -> None:
        numbers = (rmqkit.Message(b"around %d" % number, "q") for number in range(1_000_000))
        with rmqkit.connect(vhost_url) as connection:
            connection.publish(
                numbers,
                options=rmqkit.PublishOptions(rate=300),
                stop=stop,
                on_settled=lambda _, message, fate: confirmed.update([message.body] if fate is Fate.CONFIRMED else []),
            )

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        wait_until(lambda: len(confirmed) > 10)
        with pytest.raises(PropertyMismatch, match="bypassing its bindings, through the default exchange;"):
            replaced(vhost_url, bound_queue("q", TTL))
    finally:
        stop.request()
        thread.join()
    assert left_over(vhost_url, "q") == []
    vhost_channel.confirm_delivery()  # RabbitMQ counts a queue's messages ahead of those on their way to it
    vhost_channel.basic_publish("amq.topic", "a.b", b"bound", mandatory=True)
    found = Counter(body for body, _, _ in drained(vhost_channel, "q"))
    assert found == confirmed + Counter([b"bound", *(b"%d" % number for number in range(300))])


def test_a_stop_ends_between_two_steps_and_another_run_resumes(vhost_url: str, vhost_channel: BlockingChannel) -> None:
    fill(vhost_channel, vhost_url, "q", 500)
    wanted = bound_queue("q", TTL)
    for word in ("moving 500 messages to", "deleting it and"):
        stop = Stop()
        (done,) = replaced(
            vhost_url, wanted, stop=stop, on_step=lambda step, word=word, stop=stop: word in step and stop.request()
        )
        assert not done.finished
        assert is_begun(vhost_url, wanted)
    (done,) = replaced(vhost_url, wanted)
    assert done == ReplaceResult("queue", "q", moved=500)
    assert not is_begun(vhost_url, wanted)
    assert [body for body, _, _ in drained(vhost_channel, "q")] == [b"%d" % number for number in range(500)]


def test_a_file_changed_back_puts_everything_back(vhost_url: str, vhost_channel: BlockingChannel) -> None:
    fill(vhost_channel, vhost_url, "q", 500)
    stop = Stop()
    replaced(vhost_url, bound_queue("q", TTL), stop=stop, on_step=lambda step: "deleting it" in step and stop.request())
    vhost_channel.basic_publish("amq.topic", "a.b", b"meanwhile")
    wait_until(lambda: waiting(vhost_url, "q.rmqkit.new-messages") == 1)
    assert ready(vhost_url, "q") == 0
    (done,) = replaced(vhost_url, bound_queue("q", {}))
    assert done.moved == 501
    vhost_channel.basic_publish("amq.topic", "a.b", b"later")
    wait_until(lambda: ready(vhost_url, "q") == 502)
    bodies = [body for body, _, _ in drained(vhost_channel, "q")]
    assert bodies == [*(b"%d" % number for number in range(500)), b"meanwhile", b"later"]
    assert left_over(vhost_url, "q") == []


def test_two_runs_at_a_time_are_one_too_many(
    vhost_url: str, vhost_channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmqkit.deploy.replace.session._LOCKED_S", 0.2)
    fill(vhost_channel, vhost_url, "q", 1)
    with links(vhost_url) as (consuming, publishing):
        first = ReplaceSession(consuming, publishing, Stop(), lambda _: None, SHORT)
        first.lock()
        with pytest.raises(PropertyMismatch, match="another run"):
            replaced(vhost_url, bound_queue("q", TTL))
        first.unlock()
    assert len(replaced(vhost_url, bound_queue("q", TTL))) == 1


def test_a_lock_that_is_released_late_is_waited_for_at_each_step(vhost_url: str) -> None:
    with links(vhost_url) as (consuming, publishing), links(vhost_url) as lost:
        ReplaceSession(*lost, Stop(), lambda _: None, SHORT).lock()
        release = threading.Timer(0.5, lost[0].close)
        release.start()
        ReplaceSession(consuming, publishing, Stop(), lambda _: None, SHORT).declare(Queue("q"))
        release.join()
    assert ready(vhost_url, "q") == 0


def test_an_exchange_changes_its_type_and_no_confirmed_message_misses_one_of_its_queues(
    vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    vhost_channel.exchange_declare("x", "direct", durable=True)
    queues = [f"q{number}" for number in range(8)]
    for queue in queues:
        declare(vhost_url, queue)
        vhost_channel.queue_bind(queue, "x", "k")
    vhost_channel.exchange_bind("x", "amq.fanout", "")
    declare(vhost_url, "extra")
    vhost_channel.queue_bind("extra", "x", "k")
    topology = Topology(
        exchanges=(Exchange("x", "topic"),),
        bindings=(*(Binding("x", queue, routing_key="k") for queue in queues), Binding("amq.fanout", "x", "exchange")),
    )
    stop, confirmed, republished = Stop(), set[bytes](), []

    def publish() -> None:
        number = 0
        while not stop.requested:  # a run ends when the exchange is gone for a moment
            first, number = number, number + 100_000
            messages = (rmqkit.Message(b"%d" % each, "k", "x") for each in range(first, number))
            ending = Stop()

            def settled(_: int, message: rmqkit.Message, fate: Fate, ending: Stop = ending) -> None:
                if fate is Fate.CONFIRMED:
                    confirmed.add(message.body)
                if fate is not Fate.CONFIRMED or stop.requested:
                    ending.request()

            with rmqkit.connect(vhost_url) as connection:
                options = rmqkit.PublishOptions(rate=1000)
                report = connection.publish(messages, check=False, stop=ending, on_settled=settled, options=options)
                republished.append(report.republished)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        wait_until(lambda: len(confirmed) > 100)
        extra = [Binding("x", "extra", routing_key="k")]
        # On a busy machine a message is routed for longer than the tests' usual pause.
        done = replaced(vhost_url, topology, extra_bindings=extra, pauses=Pauses(on_disk_s=0))
        assert done == (ReplaceResult("exchange", "x"),)
        reached = len(confirmed)
        wait_until(lambda: len(confirmed) > reached + 100)
    finally:
        stop.request()
        thread.join()
    for queue in (*queues, "extra"):
        found = Counter(body for body, _, _ in drained(vhost_channel, queue))
        assert confirmed <= found.keys()
        assert found.total() - len(found) <= sum(republished)
    vhost_channel.exchange_declare("x", "topic", durable=True)
    vhost_channel.basic_publish("amq.fanout", "k", b"through two exchanges")
    wait_until(lambda: ready(vhost_url, "extra") == 1)
    assert left_over(vhost_url, "x") == []


def test_a_move_to_a_queue_that_is_full_ends_with_every_message_once(
    vhost_url: str, vhost_channel: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "PAUSE_S", 0.01)
    fill(vhost_channel, vhost_url, "q", 50)
    declare(vhost_url, "full", x_max_length=20, x_overflow="reject-publish")
    vhost_channel.queue_bind("full", "amq.fanout")
    with links(vhost_url) as (_, publishing), pytest.raises(NotConfirmed, match="rejected them 5 times"):
        list(Drain(publishing, "q", stashed_in("amq.fanout")).run())
    wait_until(lambda: ready(vhost_url, "q") + ready(vhost_url, "full") == 50)
    bodies = [body for queue in ("full", "q") for body, _, _ in drained(vhost_channel, queue)]
    assert sorted(bodies, key=int) == [b"%d" % number for number in range(50)]


def test_a_move_to_an_exchange_without_a_queue_leaves_every_message_where_it_is(
    vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    fill(vhost_channel, vhost_url, "q", 50)
    with links(vhost_url) as (_, publishing), pytest.raises(Unroutable):
        list(Drain(publishing, "q", stashed_in("amq.fanout")).run())
    wait_until(lambda: ready(vhost_url, "q") == 50)
