"""Moving messages on a live broker: back to where they came from, or to a target; what stays, stays in its place."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pika
import pytest
from pika import BasicProperties, URLParameters
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Connection, Delivery, Exchange, Replay, Stop, Target
from rmqkit.amqp.frames import LazyOrigin, encode_nack
from rmqkit.errors import NotFound
from rmqkit.handlers.forwarder import Forwarder
from rmqkit.messaging import held_deliveries, publish_window, queue_browser
from rmqkit.messaging.message_rewrite import USER_ID, Destination, destination_for
from rmqkit.messaging.move import MovePass
from rmqkit.messaging.unconfirmed import Transferred
from rmqkit.payload.death_headers import DIED
from rmqkit.payload.field_table import decode_properties, encode_properties
from rmqkit.settings import load_settings
from rmqkit.stop import StoppedAtOnce
from tests.conftest import Broker
from tests.support.queues import declare, drain, drain_messages, ready
from tests.support.wait import wait_until

KEYS = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "parked"}


@pytest.fixture
def pika_channel(vhost_url: str) -> Iterator[BlockingChannel]:
    """A channel of plain pika, on a virtual host with a queue `work`, bound to amq.topic; its dead go to `parked`."""
    declare(vhost_url, "work", **KEYS)
    declare(vhost_url, "parked")
    with pika.BlockingConnection(URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        channel.queue_bind("work", "amq.topic", "order.#")
        yield channel


@pytest.fixture
def connection(vhost_url: str, pika_channel: BlockingChannel) -> Iterator[Connection]:  # noqa: ARG001 - its queues
    with rmqkit.connect(vhost_url) as connection:
        yield connection


def killed(channel: BlockingChannel, url: str, amount: int, queue: str = "work", **properties: Any) -> None:
    """Publish messages, and reject them."""
    for number in range(amount):
        channel.basic_publish("amq.topic", f"order.{number % 2}", b"%d" % number, BasicProperties(**properties))
    before = ready(url, "parked")
    wait_until(lambda: ready(url, queue) == amount)
    for _ in range(amount):
        method, _, _ = channel.basic_get(queue)
        channel.basic_reject(method.delivery_tag, requeue=False)
    wait_until(lambda: ready(url, "parked") == before + amount)


def drained(channel: BlockingChannel, queue: str) -> list[tuple[bytes, str, str, dict[str, Any]]]:
    """Empty a queue; return bodies, exchanges, routing keys and properties."""

    def given(properties: BasicProperties) -> dict[str, Any]:
        return {name: value for name, value in vars(properties).items() if value is not None}

    received = drain_messages(channel, queue)
    return [(each.body, each.method.exchange, each.method.routing_key, given(each.properties)) for each in received]


def is_even(delivery: Delivery) -> bool:
    return int(delivery.body) % 2 == 0


def test_dead_letters_go_back_to_the_queue_they_died_in_and_to_no_other_with_their_history_set_aside(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    declare(vhost_url, "audit")
    pika_channel.queue_bind("audit", "amq.topic", "#")
    sent: dict[str, Any] = {
        "headers": {"mine": [1, {"a": 25}], "CC": ["audit"]},
        "message_id": "m",
        "priority": 3,
        "type": "t",
    }
    killed(pika_channel, vhost_url, 3, **sent)
    pika_channel.queue_purge("audit")
    report = connection.move("parked")
    assert (report.moved, report.stayed) == (3, {})
    assert report.redelivered in (0, 3)  # RabbitMQ 4.3 delivers every dead letter as redelivered
    found = drained(pika_channel, "work")
    assert [body for body, *_ in found] == [b"0", b"1", b"2"]
    assert ready(vhost_url, "parked") == ready(vhost_url, "audit") == 0
    for number, (_, exchange, key, properties) in enumerate(found):
        died = properties["headers"].pop(DIED)
        assert (exchange, key) == ("", "work")
        assert properties == sent | {"headers": {"mine": [1, {"a": 25}], "CC": [f"order.{number % 2}"]}}
        assert died[0]["routing-keys"] == [f"order.{number % 2}", "audit"]


def test_to_the_exchange_dead_letters_are_published_as_they_were_at_first(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    killed(pika_channel, vhost_url, 2, headers={"CC": ["order.copy"]})
    declare(vhost_url, "copies")
    pika_channel.queue_bind("copies", "amq.topic", "order.copy")
    assert connection.move("parked", Replay.EXCHANGE).moved == 2
    assert [found[:3] for found in drained(pika_channel, "work")] == [
        (b"0", "amq.topic", "order.0"),
        (b"1", "amq.topic", "order.1"),
    ]
    assert ready(vhost_url, "copies") == 2


def test_a_message_that_died_repeatedly_returns_to_the_queue_it_died_in_last(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    declare(vhost_url, "graves", x_max_length=10)
    declare(vhost_url, "short", x_message_ttl=1, x_dead_letter_exchange="", x_dead_letter_routing_key="graves")
    killed(pika_channel, vhost_url, 1)
    assert connection.move("parked", Target("", "short")).moved == 1
    wait_until(lambda: ready(vhost_url, "graves") == 1)
    (group,) = connection.move("graves", dry_run=True).groups
    assert (group.reason, group.queue, group.target) == ("expired", "short", Target("", "short"))
    (group,) = connection.move("graves", Replay.EXCHANGE, dry_run=True).groups
    assert group.target == Target("amq.topic", "order.0")


def test_a_message_that_went_back_can_die_and_go_back_as_often_as_you_like(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    """With its x-death header it would be taken for one in a cycle, and dropped, by RabbitMQ before 4.0."""
    declare(vhost_url, "hurry", x_message_ttl=1, x_dead_letter_exchange="", x_dead_letter_routing_key="parked")
    pika_channel.basic_publish("", "hurry", b"again", BasicProperties(delivery_mode=2))
    for _ in range(3):
        wait_until(lambda: ready(vhost_url, "parked") == 1)
        assert connection.move("parked").moved == 1
    wait_until(lambda: ready(vhost_url, "parked") == 1)
    assert [each["count"] for each in drained(pika_channel, "parked")[0][3]["headers"]["x-death"]] == [1]


@pytest.mark.parametrize("to", [Replay.QUEUE, Target("", "billing")], ids=["to-origin", "to-queue"])
def test_a_message_that_went_back_is_dead_lettered_with_its_own_key_however_often(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection, to: Replay | Target
) -> None:
    pika_channel.exchange_declare("dlx", "topic")
    declare(vhost_url, "billing", x_dead_letter_exchange="dlx")
    pika_channel.queue_bind("billing", "amq.topic", "order.#")
    pika_channel.queue_unbind("work", "amq.topic", "order.#")
    pika_channel.queue_bind("parked", "dlx", "order.#")
    killed(pika_channel, vhost_url, 1, "billing")
    for _ in range(3):
        assert connection.move("parked", to).moved == 1
        wait_until(lambda: ready(vhost_url, "billing") == 1)
        method, _, _ = pika_channel.basic_get("billing")
        pika_channel.basic_reject(method.delivery_tag, requeue=False)
        wait_until(lambda: ready(vhost_url, "parked") == 1)
    assert connection.move("parked", Replay.EXCHANGE).moved == 1
    assert [found[:3] for found in drained(pika_channel, "billing")] == [(b"0", "amq.topic", "order.0")]


def test_a_key_that_is_the_name_of_another_queue_brings_no_copy_there(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    killed(pika_channel, vhost_url, 1)
    declare(vhost_url, "order.0")
    assert connection.move("parked").moved == 1
    assert (drain(pika_channel, "work"), ready(vhost_url, "order.0")) == ([b"0"], 0)


@pytest.mark.parametrize(("pattern", "stays"), [("order.#", "would"), ("#", "")])
def test_a_message_stays_if_its_key_cannot_be_kept_and_no_queue_would_receive_its_next_dead_letter(
    vhost_url: str, pika_channel: BlockingChannel, broker: Broker, pattern: str, stays: str
) -> None:
    """A CC header with the name of a queue would bring a copy there."""
    pika_channel.exchange_declare("dlx", "topic")
    declare(vhost_url, "billing", x_dead_letter_exchange="dlx")
    declare(vhost_url, "order.0")
    pika_channel.queue_bind("billing", "amq.topic", "order.#")
    pika_channel.queue_bind("parked", "dlx", pattern)
    killed(pika_channel, vhost_url, 1, "billing")
    with rmqkit.connect(settings=rmqkit.load_settings([vhost_url], api_url="http://127.0.0.1:1")) as unknowing:
        (reason,) = unknowing.move("parked").stayed
    assert "'order.0', the name of another queue, would be lost" in reason
    assert reason.endswith("its next dead letter might reach no queue")
    with rmqkit.connect(settings=rmqkit.load_settings([vhost_url], api_url=broker.api_url)) as knowing:
        report = knowing.move("parked")
    assert [reason.split()[-4] for reason in report.stayed] == [stays] * bool(stays)
    assert report.moved == ready(vhost_url, "billing") == (not stays)


@pytest.mark.parametrize("how", ["move", "move to exchange", "forward"])
def test_a_message_that_is_sent_on_is_not_dropped_where_it_expires_into_a_queue_it_expired_in(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection, how: str
) -> None:
    dead = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "hurry"}
    declare(vhost_url, "delay", x_message_ttl=50, **dead)
    declare(vhost_url, "hurry", x_message_ttl=50, **KEYS)
    pika_channel.queue_bind("delay", "amq.direct", "delay")
    pika_channel.basic_publish("", "hurry", b"again")
    wait_until(lambda: ready(vhost_url, "parked") == 1)
    if how == "forward":
        forwarder = Forwarder(rmqkit.connect(vhost_url), "", "delay")
        rmqkit.handle(connection, "parked", forwarder, count=1)
        forwarder.close()
    else:
        target = Target("", "delay") if how == "move" else Target("amq.direct", "delay")
        assert connection.move("parked", target).moved == 1
    wait_until(lambda: ready(vhost_url, "parked") == 1, "the message was dropped")
    (group,) = connection.move("parked", dry_run=True).groups
    assert (group.reason, group.queue) == ("expired", "hurry")


def test_a_message_that_was_moved_on_can_still_be_moved_to_its_origin(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    declare(vhost_url, "kept")
    killed(pika_channel, vhost_url, 2)
    assert connection.move("parked", Target("", "kept")).moved == 2
    assert connection.move("kept", Replay.EXCHANGE, limit=1).moved == 1
    assert connection.move("kept").moved == 1
    assert [found[1:3] for found in drained(pika_channel, "work")] == [("amq.topic", "order.0"), ("", "work")]


def test_a_forwarded_message_is_not_routed_by_its_cc_header(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    declare(vhost_url, "other")
    pika_channel.basic_publish("amq.topic", "order.1", b"x", BasicProperties(headers={"CC": ["parked"], "mine": 1}))
    wait_until(lambda: ready(vhost_url, "work") == 1)
    forwarder = Forwarder(rmqkit.connect(vhost_url), "", "other")
    rmqkit.handle(connection, "work", forwarder, count=1)
    forwarder.close()
    assert [each.properties.headers for each in drain_messages(pika_channel, "other")] == [{"mine": 1}]
    assert ready(vhost_url, "parked") == 0


@pytest.mark.parametrize("way", ["move", "forward"])
def test_a_copy_has_no_delivery_counts_of_the_quorum_queue_that_it_left(
    way: str, vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    declare(vhost_url, "quorum", x_queue_type="quorum")
    declare(vhost_url, "other")
    pika_channel.basic_publish("", "quorum", b"x", BasicProperties(headers={"mine": 1}))
    for requeue in (pika_channel.basic_nack, pika_channel.basic_reject):
        wait_until(lambda: ready(vhost_url, "quorum") == 1)
        method, _, _ = pika_channel.basic_get("quorum")
        requeue(method.delivery_tag, requeue=True)
    wait_until(lambda: ready(vhost_url, "quorum") == 1)
    if way == "move":
        assert connection.move("quorum", Target("", "other")).moved == 1
    else:
        forwarder = Forwarder(rmqkit.connect(vhost_url), "", "other")
        rmqkit.handle(connection, "quorum", forwarder, count=1)
        forwarder.close()
    assert [each.properties.headers for each in drain_messages(pika_channel, "other")] == [{"mine": 1}]


def test_a_queue_is_drained_into_another_byte_for_byte_with_the_marks_of_death(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    declare(vhost_url, "other")
    killed(pika_channel, vhost_url, 2, content_type="text/plain", expiration="600000", headers={"mine": "x"})
    connection.publish(rmqkit.Message(size * b"\x00\xff", "parked") for size in (0, 1, 65_532, 65_536, 200_000))
    before = drained(pika_channel, "parked")
    killed(pika_channel, vhost_url, 2, content_type="text/plain", expiration="600000", headers={"mine": "x"})
    connection.publish(rmqkit.Message(size * b"\x00\xff", "parked") for size in (0, 1, 65_532, 65_536, 200_000))
    assert connection.move("parked", Target("", "other")).moved == 7
    after = drained(pika_channel, "other")

    def without_time(found: list[tuple[bytes, str, str, dict[str, Any]]]) -> list[Any]:
        for *_, properties in found:
            headers = properties.get("headers", {})
            headers |= {DIED: headers.pop("x-death")} if "x-death" in headers else {}
            for death in headers.get(DIED, ()):
                del death["time"]
        return [(body, properties) for body, _, _, properties in found]

    assert without_time(after) == without_time(before)


def test_an_exchange_gets_messages_with_their_own_keys_or_with_the_one_that_is_named(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    declare(vhost_url, "all")
    pika_channel.queue_bind("all", "amq.direct", "parked")
    pika_channel.queue_bind("all", "amq.direct", "named")
    connection.publish(rmqkit.Message(b"%d" % number, "parked") for number in range(3))
    assert connection.move("parked", Exchange("amq.direct"), limit=2).moved == 2
    assert connection.move("parked", Target("amq.direct", "named")).moved == 1
    assert [found[2] for found in drained(pika_channel, "all")] == ["parked", "parked", "named"]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_unmatched_messages_stay_in_place_however_many(vhost_url: str, connection: Connection, kind: str) -> None:
    amount = 3 * held_deliveries.PREFETCH + 7
    declare(vhost_url, "long", x_queue_type=kind)
    connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(amount))
    report = connection.move("long", Target("", "work"), matches=lambda delivery: delivery.body.endswith(b"9"))
    assert report.moved + report.unmatched == report.scanned == report.ready == amount
    assert report.redelivered == 0
    wait_until(lambda: ready(vhost_url, "long") == report.unmatched)
    stayed, moved = drain(vhost_url, "long"), drain(vhost_url, "work")
    assert Counter(stayed + moved) == Counter(b"%d" % number for number in range(amount))
    assert all(body.endswith(b"9") for body in moved)
    assert (stayed, moved) == (sorted(stayed, key=int), sorted(moved, key=int))


@pytest.mark.parametrize("work", ["move", "purge"])
def test_unmatched_messages_of_a_classic_queue_are_requeued_in_one_step(
    vhost_url: str, pika_channel: BlockingChannel, broker: Broker, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """In many steps, each took longer than the one before: minutes for 500,000 messages."""
    steps: list[int] = []
    encode = encode_nack
    monkeypatch.setattr(held_deliveries, "encode_nack", lambda *args, **kw: (steps.append(1), encode(*args, **kw))[1])
    declare(vhost_url, "long")
    with rmqkit.connect(settings=load_settings((vhost_url,), api_url=broker.api_url, environ={})) as connection:
        connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(2000))
        if work == "move":
            assert connection.move("long", Target("", "work"), matches=lambda _: False).unmatched == 2000
        else:
            assert connection.purge("long", matches=lambda _: False).unmatched == 2000
    wait_until(lambda: ready(vhost_url, "long") == 2000)
    assert drain(pika_channel, "long") == [b"%d" % number for number in range(2000)]
    assert steps == []


def test_a_dry_run_of_a_classic_queue_holds_no_more_messages_that_were_requeued_before(
    vhost_url: str, pika_channel: BlockingChannel, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    monkeypatch.setattr(queue_browser, "hold_returned", lambda _: held.append(1))
    declare(vhost_url, "long")
    with rmqkit.connect(settings=load_settings((vhost_url,), api_url=broker.api_url, environ={})) as connection:
        connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(2000))
        connection.peek("long", limit=2000)
        assert connection.move("long", Target("", "work"), dry_run=True, limit=10).moved == 10
    wait_until(lambda: ready(vhost_url, "long") == 2000)
    assert drain(pika_channel, "long") == [b"%d" % number for number in range(2000)]
    assert held == []


def test_a_move_ends_after_one_pass_when_messages_return_as_fast_as_they_leave(
    vhost_url: str, connection: Connection
) -> None:
    declare(vhost_url, "bouncing", x_max_length=0, **KEYS)
    connection.publish(rmqkit.Message(b"%d" % number, "parked") for number in range(500))
    report = connection.move("parked", Target("", "bouncing"))
    assert report.moved == report.scanned == 500
    wait_until(lambda: ready(vhost_url, "parked") == 500)


def test_a_limit_is_exact_and_a_dry_run_reports_the_same_and_changes_nothing(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    killed(pika_channel, vhost_url, 20)
    dry = connection.move("parked", matches=is_even, limit=5, dry_run=True)
    (group,) = dry.groups
    assert (group.messages, group.reason, group.queue, group.exchange) == (5, "rejected", "work", "amq.topic")
    assert (group.routing_keys, group.target) == (("order.0",), Target("", "work"))
    assert group.oldest is not None
    wait_until(lambda: ready(vhost_url, "parked") == 20)
    wet = connection.move("parked", matches=is_even, limit=5)
    assert (dry.moved, dry.scanned) == (wet.moved, wet.scanned) == (5, 9)
    assert wet.redelivered == 5
    assert drain(vhost_url, "work") == [b"0", b"2", b"4", b"6", b"8"]
    wait_until(lambda: ready(vhost_url, "parked") == 15)
    assert [int(body) for body in drain(vhost_url, "parked")] == [1, 3, 5, 7, *range(9, 20)]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize(("limit", "held"), [(None, 1000), (10, 1000), (3000, 3000)])
def test_a_dry_run_of_a_long_queue_takes_only_its_first_messages_and_keeps_their_order(
    vhost_url: str, connection: Connection, kind: str, limit: int | None, held: int
) -> None:
    declare(vhost_url, "long", x_queue_type=kind)
    connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(5000))
    seen: list[int] = []

    def look(delivery: Delivery) -> bool:
        if delivery.body.endswith(b"0"):
            seen.append(connection.queue_state("long").ready)
        return True

    report = connection.move("long", Target("", "work"), matches=look, limit=limit, rate=1, dry_run=True)
    assert report.ready == 5000
    assert report.moved <= (limit or 1000)
    assert min(seen) >= 5000 - held
    wait_until(lambda: ready(vhost_url, "long") == 5000)
    assert drain(vhost_url, "long") == [b"%d" % number for number in range(5000)]


def test_a_dry_run_returns_the_messages_it_has_no_time_to_inspect(vhost_url: str, connection: Connection) -> None:
    connection.publish(rmqkit.Message(b"%d" % number, "parked") for number in range(1000))

    def look(_: Delivery) -> bool:
        return not threading.Event().wait(0.02)  # a slow filter: 20 s for all of them

    report = connection.move("parked", Target("", "work"), matches=look, dry_run=True)
    assert 0 < report.scanned < 1000
    wait_until(lambda: ready(vhost_url, "parked") == 1000)
    assert drain(vhost_url, "parked") == [b"%d" % number for number in range(1000)]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_unmatched_messages_of_a_partial_move_stay_in_front_of_the_rest(
    vhost_url: str, connection: Connection, kind: str
) -> None:
    declare(vhost_url, "long", x_queue_type=kind)
    connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(3000))
    report = connection.move("long", Target("", "work"), matches=is_even, limit=50)
    assert report.moved == 50
    wait_until(lambda: ready(vhost_url, "long") == 2950)
    left = [int(body) for body in drain(vhost_url, "long")]
    assert sorted(left) == [*range(1, 99, 2), *range(99, 3000)]
    if kind == "classic":  # a quorum queue gets them back consumer by consumer
        assert sorted(left[:49]) == [*range(1, 99, 2)]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("returned", [30, 400])
@pytest.mark.parametrize("way", ["move", "copy", "move the matching", "stop"])
def test_the_rest_keeps_its_order_although_messages_were_returned_earlier(
    vhost_url: str, connection: Connection, kind: str, returned: int, way: str
) -> None:
    declare(vhost_url, "long", x_queue_type=kind)
    connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(400))
    with connection.browse("long", limit=returned, force=True) as browser:
        assert len(list(browser)) == returned
    wait_until(lambda: ready(vhost_url, "long") == 400)
    stop = Stop()

    def matches(delivery: Delivery) -> bool:
        if way == "stop" and delivery.body == b"3":
            stop.request()
        return way != "move the matching" or is_even(delivery)

    call = partial(connection.copy, force=True) if way == "copy" else connection.move
    report = call("long", Target("", "work"), limit=None if way == "stop" else 3, matches=matches, stop=stop)
    wait_until(lambda: ready(vhost_url, "long") == 400 - report.moved * (way != "copy"))
    moved, rest = ([int(body) for body in drain(vhost_url, name)] for name in ("work", "long"))
    assert (moved, rest) == (sorted(moved), sorted(rest))


@pytest.mark.parametrize("at_once", [False, True])
def test_the_rest_of_a_quorum_queue_keeps_its_order_if_a_move_is_interrupted(
    vhost_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    monkeypatch.setattr(held_deliveries, "PREFETCH", 500)
    declare(vhost_url, "long", x_queue_type="quorum")
    connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(2000))
    stop = Stop()

    acknowledge = MovePass.acknowledge

    def interrupted(session: MovePass, confirmed: list[Transferred]) -> None:
        acknowledge(session, confirmed)
        if int(confirmed[-1].delivery.body) > 600:
            stop.request()

    def stop_at_once(*_: object, **__: object) -> None:
        raise StoppedAtOnce  # as a second signal does

    monkeypatch.setattr(MovePass, "acknowledge", interrupted)
    if at_once:
        monkeypatch.setattr(held_deliveries.HeldDeliveries, "requeue", stop_at_once)
    with suppress(StoppedAtOnce):
        connection.move("long", Target("", "work"), rate=3000, stop=stop)
    wait_until(lambda: ready(vhost_url, "long") + ready(vhost_url, "work") >= 2000)
    moved, rest = ([int(body) for body in drain(vhost_url, name)] for name in ("work", "long"))
    assert (moved, rest) == (sorted(moved), sorted(rest))
    assert {*moved, *rest} == {*range(2000)}


def test_messages_whose_origin_was_deleted_stay_and_the_others_are_moved(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    killed(pika_channel, vhost_url, 3)
    declare(vhost_url, "gone", **KEYS)
    pika_channel.queue_bind("gone", "amq.topic", "order.#")
    killed(pika_channel, vhost_url, 3, queue="gone")
    pika_channel.queue_purge("work")
    pika_channel.queue_delete("gone")
    pika_channel.basic_publish("", "parked", b"never died")
    wait_until(lambda: ready(vhost_url, "parked") == 7)
    report = connection.move("parked")
    assert report.moved == 3
    assert report.stayed == {"there is no queue 'gone'": 3, "no x-death header names its origin": 1}
    wait_until(lambda: ready(vhost_url, "parked") == 4)


def test_unroutable_messages_stay_and_the_others_are_moved(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    killed(pika_channel, vhost_url, 1000)
    pika_channel.queue_unbind("work", "amq.topic", "order.#")
    pika_channel.queue_bind("work", "amq.topic", "order.1")
    report = connection.move("parked", Replay.EXCHANGE)
    assert (report.moved, sum(report.stayed.values())) == (500, 500)
    wait_until(lambda: ready(vhost_url, "parked") == 500)
    assert drain(vhost_url, "work") == [b"%d" % number for number in range(1, 1000, 2)]
    assert drain(vhost_url, "parked") == [b"%d" % number for number in range(0, 1000, 2)]


def test_messages_refused_by_a_full_queue_are_retried_and_then_stay(
    vhost_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_window, "PAUSE_S", 0.01)
    declare(vhost_url, "full", x_max_length=20, x_overflow="reject-publish")
    connection.publish(rmqkit.Message(b"%d" % number, "parked") for number in range(100))
    report = connection.move("parked", Target("", "full"))
    assert report.stayed == {"queue 'full' rejects messages: it is full or unavailable": 100 - report.moved}
    assert 20 <= report.moved < 100
    wait_until(lambda: ready(vhost_url, "parked") == 100 - report.moved)
    found = drain(vhost_url, "full") + drain(vhost_url, "parked")
    assert Counter(found) == Counter(b"%d" % number for number in range(100))


def test_a_stop_finishes_messages_in_progress_and_each_is_in_one_queue(vhost_url: str, connection: Connection) -> None:
    connection.publish(rmqkit.Message(b"%d" % number, "parked") for number in range(2000))
    stop = Stop()
    threading.Timer(0.3, stop.request).start()
    report = connection.move("parked", Target("", "work"), rate=1000, stop=stop)
    assert report.interrupted
    assert 0 < report.moved < 2000
    wait_until(lambda: ready(vhost_url, "parked") == 2000 - report.moved)
    assert drain(vhost_url, "work") + drain(vhost_url, "parked") == [b"%d" % number for number in range(2000)]


def test_a_foreign_user_id_waits_in_a_header_because_the_broker_would_refuse_it() -> None:
    origin = LazyOrigin("", "", "parked", encode_properties(rmqkit.Properties(user_id="them", headers={"a": 1})))
    find = destination_for(Target("", "work"))
    assert find(origin, "them") == Destination("", "work", origin.header)
    way = find(origin, "us")
    assert isinstance(way, Destination)
    properties, _ = decode_properties(way.header)
    assert (properties.user_id, properties.headers) == (None, {"a": 1, USER_ID: "them"})


def test_no_queue_is_an_error_and_an_empty_one_is_none(connection: Connection) -> None:
    assert connection.move("parked").ready == 0
    with pytest.raises(NotFound, match="nowhere"):
        connection.move("nowhere")


def test_messages_for_an_exchange_deleted_during_a_move_stay_and_others_are_moved(
    vhost_url: str, pika_channel: BlockingChannel, connection: Connection
) -> None:
    pika_channel.exchange_declare("short-lived", "fanout", durable=True)
    pika_channel.queue_bind("work", "short-lived")
    connection.publish(rmqkit.Message(b"%d" % number, "parked") for number in range(1000))
    warnings: list[str] = []

    def delete(looked: int, _blocked: str) -> None:
        if looked and not warnings:
            warnings.append("deleted")
            pika_channel.exchange_delete("short-lived")

    report = connection.move(
        "parked", Exchange("short-lived"), rate=1000, on_progress=delete, on_warning=warnings.append
    )
    assert sum(report.stayed.values()) > 0
    assert set(report.stayed) == {"there is no exchange 'short-lived'"}
    assert "NOT_FOUND" in warnings[1]
    wait_until(lambda: ready(vhost_url, "parked") == sum(report.stayed.values()))
    # What was published when the channel was closed over the exchange is in both queues.
    assert len(set(drain(vhost_url, "work") + drain(vhost_url, "parked"))) == 1000
