"""`rmqkit move`: its output, its refusals, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.queues import declare, drain, fill
from tests.support.versions import peeking_is_not_counted
from tests.support.wait import wait_for_queue

Channel = BlockingChannel


@pytest.fixture
def dead(vhost_channel: Channel) -> Channel:
    """A queue `parked` with two messages that were rejected in `billing`, one that expired in `stock`, one alive."""
    parked = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "parked"}
    vhost_channel.queue_declare("parked", durable=True)
    vhost_channel.queue_declare("billing", durable=True, arguments=parked)
    vhost_channel.queue_declare("stock", durable=True, arguments=parked)
    vhost_channel.queue_bind("billing", "amq.topic", "order.*")
    for key in ("order.eu", "order.us"):
        vhost_channel.basic_publish("amq.topic", key, b'{"total": %d}' % (9 if key == "order.us" else 8))
    wait_for_queue(vhost_channel, "billing", ready=2)
    for _ in range(2):
        method, _, _ = vhost_channel.basic_get("billing")
        vhost_channel.basic_reject(method.delivery_tag, requeue=False)
    vhost_channel.basic_publish("", "stock", b"late", BasicProperties(expiration="1"))
    wait_for_queue(vhost_channel, "parked", ready=3)
    vhost_channel.basic_publish("", "parked", b"\x1b[31mnever died")
    wait_for_queue(vhost_channel, "parked", ready=4)
    return vhost_channel


def test_a_dry_run_shows_how_messages_died_and_where_they_would_go_and_changes_nothing(
    live: Run, dead: Channel
) -> None:
    done = live("move", "parked", "--dry-run")
    assert done.returncode == 6
    header, *rows = [line.split() for line in done.stdout.splitlines()]
    assert header[:2] == ["messages", "reason"]
    assert sorted(row[:5] for row in rows) == [
        ["1", "-", "-", "(default)", "parked"],
        ["1", "expired", "stock", "(default)", "stock"],
        ["1", "rejected", "billing", "amq.topic", "order.eu"],
        ["1", "rejected", "billing", "amq.topic", "order.us"],
    ]
    assert "Would move 3 messages" in done.stderr
    assert "1 stays: no x-death header" in done.stderr
    wait_for_queue(dead, "parked", ready=4)


def test_a_filter_sees_how_a_message_died_and_its_body(live: Run, dead: Channel) -> None:
    expression = "death.reason == 'rejected' and death.queue == 'billing' and death.age < 600 and body.total == 9"
    done = live("move", "parked", "--filter", expression)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("Moved 1 message in ")
    assert "3 do not match" in done.stderr
    assert len(drain(dead, "billing")) == 1
    wait_for_queue(dead, "parked", ready=3)


def test_messages_without_an_origin_stay_with_exit_code_6_and_the_rest_is_moved(live: Run, dead: Channel) -> None:
    dead.queue_delete("stock")
    done = live("move", "parked", "--json")
    assert done.returncode == 6
    report = json.loads(done.stdout)
    assert (report["ready"], report["scanned"], report["moved"], report["dry_run"]) == (4, 4, 2, False)
    assert report["stayed"] == {"there is no queue 'stock'": 1, "no x-death header names its origin": 1}
    wait_for_queue(dead, "parked", ready=2)


def test_all_messages_go_to_the_named_queue_or_exchange(live: Run, dead: Channel) -> None:
    assert live("move", "parked", "--to-exchange", "amq.topic", "-r", "order.back", "-n", "1").returncode == 0
    wait_for_queue(dead, "billing", ready=1)
    assert live("move", "parked", "--to-queue", "stock").returncode == 0
    wait_for_queue(dead, "stock", ready=3)
    done = live("move", "parked", "--to-origin", "exchange")
    assert (done.returncode, done.stderr[:17]) == (0, "Moved 0 messages ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to-queue", "a", "--to-exchange", "b"), "use only one of --to-origin, --to-queue, --to-exchange"),
        (("--to-queue", "parked"), "already"),
        (("-r", "key"), "--to-exchange"),
        (("--filter", "deth.reason"), "'deth' is not known"),
        (("--to-origin", "nowhere"), "nowhere"),
        (("--limit", "0"), "--limit"),
    ],
)
def test_bad_usage_moves_nothing(live: Run, arguments: tuple[str, ...], said: str) -> None:
    done = live("move", "parked", *arguments)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_delivery_limit_is_not_used_up_by_a_filter(live: Run, vhost_channel: Channel, broker: Broker) -> None:
    declare(vhost_channel, "orders", x_queue_type="quorum", x_delivery_limit=1)
    declare(vhost_channel, "other")
    sent = fill(vhost_channel, "orders", 3)
    line = ("move", "orders", "--to-queue", "other", "--filter", "routing_key == 'none'")
    safe = peeking_is_not_counted(broker)
    for _ in range(4):
        done = live(*line)
        assert (done.returncode, "may harm" in done.stderr) == ((0, False) if safe else (2, True)), done.stderr
        wait_for_queue(vhost_channel, "orders", ready=3)
    assert drain(vhost_channel, "orders") == sent
    fill(vhost_channel, "orders", 3)
    assert live(*line, "--force").returncode == 0
    assert live("move", "orders", "--to-queue", "other", "--force").returncode == 2


def test_a_queue_that_does_not_exist_is_refused(live: Run) -> None:
    done = live("move", "nowhere")
    assert done.returncode == 5
    assert "queue 'nowhere'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "fate"),
    [
        ({"x_max_length": 2}, "the oldest messages are dropped"),
        ({"x_max_length": 2, "x_dead_letter_exchange": "amq.fanout"}, "the oldest messages are dead-lettered"),
        ({"x_max_length": 2, "x_queue_type": "quorum"}, "the oldest messages are dropped"),
        ({"x_max_length": 3}, ""),
        ({"x_max_length": 2, "x_overflow": "reject-publish"}, ""),
    ],
)
def test_a_target_that_will_not_keep_all_messages_is_reported(
    live: Run, vhost_channel: Channel, tmp_path: Path, arguments: dict[str, Any], fate: str
) -> None:
    file = tmp_path / "orders.jsonl"
    declare(vhost_channel, "orders")
    fill(vhost_channel, "orders", 3)
    assert live("snapshot", "orders", file).returncode == 0
    said = f"queue 'small' may have no room for 3 messages: it keeps at most 2 messages; beyond that, {fate}"
    for command in (("restore", file, "--queue"), ("copy", "orders", "--to-queue"), ("move", "orders", "--to-queue")):
        declare(vhost_channel, "small", **arguments)
        done = live(*command, "small")
        assert ("may have no room" in done.stderr, said in done.stderr) == (bool(fate), bool(fate)), done.stderr
        vhost_channel.queue_delete("small")


def test_a_limit_in_bytes_of_the_target_is_reported(live: Run, vhost_channel: Channel) -> None:
    declare(vhost_channel, "small", x_max_length_bytes=1)
    declare(vhost_channel, "orders")
    fill(vhost_channel, "orders", 1)
    done = live("move", "orders", "--to-queue", "small", "--dry-run")
    assert "may have no room for 1 message: it keeps at most 1 byte; beyond that" in done.stderr
    assert live("move", "orders", "--to-queue", "nowhere").returncode == 6
