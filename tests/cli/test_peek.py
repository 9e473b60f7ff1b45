"""`rmqkit peek`: what it shows, that messages stay as they are, what it costs, and its bounds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Connection, Delivery
from rmqkit.messaging import move, peek, queue_browser
from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.queues import declare, drain, drain_messages, fill, open_channel, ready
from tests.support.versions import peeking_is_not_counted
from tests.support.wait import wait_for_queue, wait_until

Channel = BlockingChannel
Lines = Callable[..., list[str]]


@pytest.fixture
def connection(broker: Broker, vhost_url: str) -> Any:
    """A connection of the library that knows the HTTP API."""
    settings = rmqkit.load_settings([vhost_url], api_url=broker.api_url)
    with rmqkit.connect(settings=settings) as connection:
        yield connection


@pytest.fixture
def lines(live: Run) -> Callable[..., list[str]]:
    """Run `rmqkit peek` with a format for messages alone."""

    def run(*arguments: object) -> list[str]:
        done = live("peek", *arguments)
        assert done.returncode == 0
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("limit", [1, 10, 100])
def test_messages_are_shown_in_order_and_stay_in_order_however_often(
    lines: Lines, vhost_channel: Channel, kind: str, limit: int
) -> None:
    declare(vhost_channel, "orders", x_queue_type=kind)
    sent = fill(vhost_channel, "orders", 60)
    for _ in range(3):
        assert lines("orders", "-n", limit, "--format", "raw") == [each.decode() for each in sent[:limit]]
        wait_for_queue(vhost_channel, "orders", ready=60)
    assert drain(vhost_channel, "orders") == sent


def test_a_look_into_a_quorum_queue_counts_as_a_delivery_only_before_rabbitmq_4_3(
    live: Run, vhost_channel: Channel, broker: Broker
) -> None:
    declare(vhost_channel, "orders", x_queue_type="quorum")
    fill(vhost_channel, "orders", 3)
    for _ in range(2):
        done = live("peek", "orders")
        wait_for_queue(vhost_channel, "orders", ready=3)
    free = peeking_is_not_counted(broker)
    assert ("does not count toward the delivery limit" if free else "counted as delivered once more") in done.stderr
    counts = [
        (each.properties.headers or {}).get("x-delivery-count", 0) for each in drain_messages(vhost_channel, "orders")
    ]
    assert counts == ([0, 0, 0] if free else [2, 2, 2])


@pytest.mark.parametrize("by_policy", [False, True])
def test_no_look_dead_letters_a_message_unless_it_is_forced(
    live: Run, vhost_channel: Channel, vhost_url: str, broker: Broker, by_policy: bool
) -> None:
    limit = {} if by_policy else {"x_delivery_limit": 2}
    if by_policy:
        policy = {"pattern": "orders", "definition": {"delivery-limit": 2}, "apply-to": "queues"}
        broker.api("PUT", f"policies/{vhost_url.rpartition('/')[2]}/limit", json.dumps(policy).encode())
    declare(vhost_channel, "orders", x_queue_type="quorum", **limit)
    sent = fill(vhost_channel, "orders", 2)
    for _ in range(5):
        done = live("peek", "orders")
        if peeking_is_not_counted(broker):
            assert (done.returncode, "no, 2 left" in done.stdout or "yes, 2 left" in done.stdout) == (0, True)
        else:
            assert (done.returncode, done.stdout) == (2, "")
            assert "is dropped or dead-lettered after" in done.stderr
            assert "--force" in done.stderr
        wait_for_queue(vhost_channel, "orders", ready=2)
    assert live("peek", "orders", "--force").returncode == 0
    wait_for_queue(vhost_channel, "orders", ready=2)
    assert drain(vhost_channel, "orders") == sent


def test_a_queue_that_delays_what_is_returned_is_looked_into_only_if_forced(
    live: Run, vhost_channel: Channel, broker: Broker
) -> None:
    retry = {"x_delayed_retry_type": "returned", "x_delayed_retry_min": 60_000, "x_delayed_retry_max": 60_000}
    declare(vhost_channel, "orders", x_queue_type="quorum", **retry)
    fill(vhost_channel, "orders", 2)
    done = live("peek", "orders")
    if not peeking_is_not_counted(broker):  # it ignores these arguments
        assert done.returncode == 0
        return
    assert (done.returncode, "delay each message for 60000 ms" in done.stderr) == (2, True)
    assert ready(vhost_channel, "orders") == 2
    done = live("peek", "orders", "--force", "-n", 1)
    assert (done.returncode, "delayed for 60000 ms" in done.stderr) == (0, True)
    wait_for_queue(vhost_channel, "orders", ready=1)


def test_without_the_http_api_a_look_that_may_count_as_a_delivery_is_refused(
    live: Run, vhost_channel: Channel, broker: Broker
) -> None:
    vhost_channel.queue_declare("orders", durable=True)
    sent = fill(vhost_channel, "orders", 1)
    nowhere = {"RMQKIT_API_URL": "http://127.0.0.1:1"}
    done = live("peek", "orders", **nowhere)
    assert done.returncode == (0 if peeking_is_not_counted(broker) else 2)
    assert live("peek", "orders", "--force", **nowhere).returncode == 0
    wait_for_queue(vhost_channel, "orders", ready=1)
    assert drain(vhost_channel, "orders") == sent


def test_position_age_deaths_and_properties_are_shown(live: Run, vhost_channel: Channel) -> None:
    declare(vhost_channel, "parked")
    declare(vhost_channel, "billing", x_dead_letter_exchange="", x_dead_letter_routing_key="parked")
    given = BasicProperties(content_type="text/plain", timestamp=1_700_000_000, headers={"attempt": 1})
    vhost_channel.basic_publish("", "parked", b"\x1b[31mred", given)
    vhost_channel.basic_publish("", "billing", b"\xff\xfe")
    wait_for_queue(vhost_channel, "billing", ready=1)
    method, _, _ = vhost_channel.basic_get("billing")
    vhost_channel.basic_reject(method.delivery_tag, requeue=False)
    wait_for_queue(vhost_channel, "parked", ready=2)

    header, first, second = live("peek", "parked").stdout.splitlines()
    assert header.split() == ["#", "age", "bytes", "redelivered", "exchange", "routing", "key", "died", "body"]
    assert first.split()[:1] + first.split()[2:4] == ["1", "d", "8"]
    assert first.endswith("  -                    \\x1b[31mred")
    assert "rejected in billing" in second

    full = live("peek", "parked", "--full").stdout
    assert "header attempt: 1" in full
    assert "content_type: text/plain" in full
    assert "died: rejected in billing, once, first 0 s ago" in full or "died: rejected in billing, once" in full
    assert "(no text)" in full

    report = json.loads(live("peek", "parked", "--json").stdout)
    assert (report["type"], report["ready"], report["scanned"]) == ("classic", 2, 2)
    one, two = report["messages"]
    assert (one["position"], one["time"], one["deaths"]) == (1, "2023-11-14T22:13:20Z", [])
    assert one["envelope"]["headers"] == {"attempt": 1}
    assert (two["deaths"][0]["reason"], two["deaths"][0]["queue"]) == ("rejected", "billing")
    assert two["envelope"]["body_base64"] == "//4="


def test_envelopes_can_be_published_again(live: Run, lines: Lines, vhost_channel: Channel, tmp_path: Path) -> None:
    declare(vhost_channel, "orders")
    declare(vhost_channel, "other")
    vhost_channel.basic_publish("", "orders", b"\x00\xff", BasicProperties(headers={"n": 7}, delivery_mode=2))
    wait_for_queue(vhost_channel, "orders", ready=1)
    file = tmp_path / "one.jsonl"
    file.write_text("\n".join(lines("orders", "--format", "json")))
    assert live("publish", "-q", "other", "--envelopes", file).returncode == 0
    (copy,) = drain_messages(vhost_channel, "other")
    assert (copy.body, copy.properties.headers) == (b"\x00\xff", {"n": 7})


def test_a_filter_shows_what_matches_among_the_first_messages(live: Run, lines: Lines, vhost_channel: Channel) -> None:
    declare(vhost_channel, "orders")
    for number in range(50):
        vhost_channel.basic_publish("", "orders", b'{"n": %d}' % number)
    wait_for_queue(vhost_channel, "orders", ready=50)
    expression = "body.n % 10 == 9"
    assert lines("orders", "--filter", expression, "--format", "raw", "-n", 2) == ['{"n": 9}', '{"n": 19}']
    wait_for_queue(vhost_channel, "orders", ready=50)
    done = live("peek", "orders", "--filter", expression, "-n", 2)
    assert "Scanned 20 of 50 messages" in done.stderr
    assert "2 shown" in done.stderr
    wait_for_queue(vhost_channel, "orders", ready=50)
    done = live("peek", "orders", "--filter", "body.n > 40", "--scan", 40)
    assert (done.returncode, done.stdout, "Scanned 40 of 50" in done.stderr) == (0, "", True)
    wait_for_queue(vhost_channel, "orders", ready=50)
    assert [json.loads(body)["n"] for body in drain(vhost_channel, "orders")] == [*range(50)]


def test_a_stream_is_read_by_offset(live: Run, lines: Lines, connection: Connection, vhost_url: str) -> None:
    declare(vhost_url, "events", x_queue_type="stream")
    connection.publish(rmqkit.Message(b"%d" % number, "events") for number in range(20))
    for _ in range(2):
        done = live("peek", "events", "-n", 3, "--json")
        assert [each["position"] for each in json.loads(done.stdout)["messages"]] == [0, 1, 2]
    assert lines("events", "--offset", "17", "--format", "raw") == ["17", "18", "19"]
    matching = ("--filter", "headers['x-stream-offset'] > 7")
    assert lines("events", "--offset", "5", *matching, "-n", 1, "--format", "raw") == ["8"]
    scanned = "Scanned 10 messages of stream 'events', read by offset, which changes nothing.\n"
    assert live("peek", "events").stderr == scanned
    done = live("peek", "events", "--offset", "5", RMQKIT_API_URL="http://127.0.0.1:1")
    assert done.returncode == 0


def test_what_cannot_be_looked_into_is_refused_with_the_reason(
    live: Run, vhost_channel: Channel, vhost_url: str
) -> None:
    declare(vhost_channel, "orders", x_single_active_consumer=True)
    fill(vhost_channel, "orders", 1)
    assert live("peek", "orders").returncode == 0
    wait_for_queue(vhost_channel, "orders", ready=1)
    vhost_channel.queue_declare("mine", exclusive=True)
    declare(vhost_channel, "only")
    with open_channel(vhost_url) as other:
        other.basic_qos(prefetch_count=1)
        other.basic_consume("orders", lambda *_: None)
        other.basic_consume("only", lambda *_: None, exclusive=True)
        for queue in ("orders", "only"):
            vhost_channel.basic_publish("", queue, b"more")
            vhost_channel.basic_publish("", queue, b"more")
            wait_for_queue(vhost_channel, queue, ready=2 if queue == "orders" else 1, consumers=1)
        done = live("peek", "orders", "--force")
        assert (done.returncode, "single active consumer" in done.stderr) == (2, True)
        assert (live("peek", "only").returncode, live("peek", "mine").returncode) == (5, 5)
    assert live("peek", "nowhere").returncode == 5
    done = live("peek", "only", "--offset", "first")
    assert (done.returncode, "no offsets" in done.stderr) == (2, True)
    assert live("peek", "only", "--full", "--format", "raw").returncode == 2


def test_an_empty_queue_has_nothing_to_show(live: Run, vhost_channel: Channel) -> None:
    declare(vhost_channel, "orders")
    done = live("peek", "orders")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Scanned 0 of 0 messages in 'orders'.\n")


def test_if_nothing_is_delivered_the_reason_is_told_and_no_empty_snapshot_is_saved(
    live: Run, vhost_url: str, vhost_channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(vhost_channel, "only", x_queue_type="quorum", x_single_active_consumer=True)
    declare(vhost_channel, "other")
    fill(vhost_channel, "only", 5)
    vhost_channel.basic_qos(prefetch_count=2)
    vhost_channel.basic_consume("only", lambda *_: None)
    wait_for_queue(vhost_channel, "only", ready=3, consumers=1)
    without_api = ("--force", "--api-url", "http://127.0.0.1:1")
    done = live("snapshot", "only", tmp_path / "saved.jsonl", *without_api)
    assert done.returncode == 2
    assert "0 of 3 messages were read: RabbitMQ delivered no more for 10 s; nothing was saved" in done.stderr
    assert not list(tmp_path.iterdir())
    end = "0 of 3 messages in 'only': RabbitMQ delivered no more for 10 s. `rmqkit why only` may tell the cause.\n"
    assert live("peek", "only", *without_api).stderr.endswith(end)
    monkeypatch.setattr(move, "_LONGEST_IDLE_S", 1.0)
    with rmqkit.connect(settings=rmqkit.load_settings([vhost_url], api_url="http://127.0.0.1:1")) as connection:
        report = connection.copy("only", rmqkit.Target("", "other"), force=True)
    assert (report.moved, report.stayed) == (0, {"RabbitMQ delivered no more for 10 s": 3})
    assert ready(vhost_url, "only") == 3


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_messages_that_were_returned_before_keep_their_order_if_a_look_sees_only_the_first_of_them(
    connection: Connection, vhost_url: str, kind: str
) -> None:
    declare(vhost_url, "orders", x_queue_type=kind)
    sent = [b"%d" % number for number in range(100)]
    connection.publish(rmqkit.Message(body, "orders") for body in sent)
    for limit in (60, 5, 20, 1):
        report = connection.peek("orders", limit=limit)
        assert [each.delivery.body for each in report.messages] == sent[:limit]
        wait_until(lambda: ready(vhost_url, "orders") == 100)
    assert drain(vhost_url, "orders") == sent


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_of_a_long_queue_no_more_is_held_than_is_looked_at(connection: Connection, vhost_url: str, kind: str) -> None:
    declare(vhost_url, "long", x_queue_type=kind)
    connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(3000))
    least = 3000

    def is_late(delivery: Delivery) -> bool:
        nonlocal least
        if delivery.body.endswith(b"00"):
            least = min(least, connection.queue_state("long").ready)
        return False

    report = connection.peek("long", matches=is_late, scan=700)
    assert (report.messages, report.scanned) == ((), 700)
    assert least >= 2300
    wait_until(lambda: ready(vhost_url, "long") == 3000)
    assert drain(vhost_url, "long") == [b"%d" % number for number in range(3000)]


def test_a_look_with_many_consumers_ends_before_the_broker_would_mix_up_what_returns(
    connection: Connection, vhost_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_browser, "_PREFETCH", 5)
    declare(vhost_url, "orders", x_queue_type="quorum")
    sent = [b"%d" % number for number in range(300)]
    connection.publish(rmqkit.Message(body, "orders") for body in sent)
    with connection.browse("orders") as held:
        seen = [each.body for each in held]
    assert seen == sent[: len(seen)]
    assert (len(seen) == 300) is peeking_is_not_counted(broker)
    assert bool(held.cut_short) is not peeking_is_not_counted(broker)
    wait_until(lambda: ready(vhost_url, "orders") == 300)
    assert drain(vhost_url, "orders") == sent


def test_a_look_ends_in_time_and_after_so_many_bytes(
    connection: Connection, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(vhost_url, "orders")
    connection.publish(rmqkit.Message(b"%d" % number, "orders") for number in range(500))
    monkeypatch.setattr(peek, "HOLD_S", 0.2)
    report = connection.peek("orders", matches=lambda _: not threading.Event().wait(0.005), limit=500)
    assert 0 < report.scanned < 500
    assert report.seconds < 20
    assert report.cut_short == "the limit of 0.2 s was reached"
    wait_until(lambda: ready(vhost_url, "orders") == 500)
    monkeypatch.setattr(peek, "BODY_BYTES", 100)
    report = connection.peek("orders", limit=500)
    assert report.scanned < 500
    assert report.cut_short.endswith("MiB was reached")
    wait_until(lambda: ready(vhost_url, "orders") == 500)
    assert drain(vhost_url, "orders") == [b"%d" % number for number in range(500)]


def test_large_messages_arrive_few_at_a_time(
    connection: Connection, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumers of a look are given room for what is known of the size of the messages."""
    monkeypatch.setattr(peek, "BODY_BYTES", 40 * 1024 * 1024)
    declare(vhost_url, "large")
    body = bytes(16 * 1024 * 1024)
    connection.publish(rmqkit.Message(body, "large") for _ in range(4))
    report = connection.peek("large", limit=4)
    assert [len(each.delivery.body) for each in report.messages] == [len(body)] * 3
    wait_until(lambda: ready(vhost_url, "large") == 4)


def test_other_consumers_with_room_receive_a_message_first(connection: Connection, vhost_url: str) -> None:
    assert queue_browser._PRIORITY["x-priority"] < 0
    declare(vhost_url, "orders")
    with open_channel(vhost_url) as worker:
        got: list[bytes] = []
        worker.basic_qos(prefetch_count=100)
        worker.basic_consume("orders", lambda _c, _m, _p, body: got.append(body))
        connection.publish(rmqkit.Message(b"%d" % number, "orders") for number in range(20))
        wait_until(lambda: worker.connection.process_data_events(0) or len(got) == 20)
        assert connection.peek("orders").scanned == 0


def test_a_dry_run_of_a_move_is_refused_like_a_look(live: Run, vhost_channel: Channel, broker: Broker) -> None:
    declare(vhost_channel, "orders", x_queue_type="quorum", x_delivery_limit=1)
    sent = fill(vhost_channel, "orders", 2)
    for _ in range(4):
        done = live("move", "orders", "--to-exchange", "amq.fanout", "--dry-run")
        if peeking_is_not_counted(broker):
            assert (done.returncode, "Would move 2 messages" in done.stderr) == (0, True)
        else:
            assert (done.returncode, "is dropped or dead-lettered after" in done.stderr) == (2, True)
        wait_for_queue(vhost_channel, "orders", ready=2)
    assert live("move", "orders", "--to-exchange", "amq.fanout", "--dry-run", "--force").returncode == 0
    wait_for_queue(vhost_channel, "orders", ready=2)
    assert drain(vhost_channel, "orders") == sent
