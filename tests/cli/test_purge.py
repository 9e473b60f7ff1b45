"""`rmqkit purge` against a real RabbitMQ."""

from __future__ import annotations

import json

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.queues import drain, fill
from tests.support.terminal import terminal
from tests.support.versions import peeking_is_not_counted
from tests.support.wait import wait_for_queue

KINDS = pytest.mark.parametrize("kind", ["classic", "quorum"])


@pytest.fixture
def filled(vhost_channel: BlockingChannel, request: pytest.FixtureRequest) -> BlockingChannel:
    """Five messages in `parked`, the first of them unacknowledged."""
    kind = request.node.callspec.params.get("kind", "classic") if hasattr(request.node, "callspec") else "classic"
    vhost_channel.queue_declare("parked", durable=True, arguments={"x-queue-type": kind})
    fill(vhost_channel, "parked", 5)
    assert vhost_channel.basic_get("parked")[2] == b"0 "
    return vhost_channel


@KINDS
def test_purge_deletes_the_ready_messages_and_no_unacknowledged_one(
    live: Run, filled: BlockingChannel, kind: str
) -> None:
    done = live("purge", "parked", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Deleted 4 messages from queue 'parked'.\n")
    filled.basic_nack(1, requeue=True)
    wait_for_queue(filled, "parked", ready=1)
    assert drain(filled, "parked") == [b"0 "], kind


@KINDS
def test_a_filtered_purge_deletes_only_the_messages_that_match(live: Run, filled: BlockingChannel, kind: str) -> None:
    done = live("purge", "parked", "--filter", "body|int % 2 == 1", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["purged"], report["unmatched"], report["ready"]) == (2, 2, 4)
    wait_for_queue(filled, "parked", ready=2)
    assert drain(filled, "parked") == [b"2 ", b"4 "], kind


def test_a_dry_run_counts_and_deletes_nothing(live: Run, filled: BlockingChannel) -> None:
    done = live("purge", "parked", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "Would delete 4 messages from queue 'parked'; 1 unacknowledged stays.\n"
    filtered = live("purge", "parked", "--dry-run", "--filter", "body|int > 3")
    assert "Would delete 1 message from queue 'parked'; 3 do not match" in filtered.stderr
    assert json.loads(live("purge", "parked", "--dry-run", "--json").stdout)["purged"] == 4
    wait_for_queue(filled, "parked", ready=4)


def test_without_a_terminal_and_yes_purge_is_refused(live: Run, filled: BlockingChannel) -> None:
    done = live("purge", "parked")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Would delete 4 messages from queue 'parked'" in done.stderr
    assert "Add --yes." in done.stderr
    wait_for_queue(filled, "parked", ready=4)


def test_a_filter_dead_letters_no_message_that_stays_unless_it_is_forced(
    live: Run, vhost_channel: BlockingChannel, broker: Broker
) -> None:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1}
    vhost_channel.queue_declare("orders", durable=True, arguments=arguments)
    sent = fill(vhost_channel, "orders", 2)
    free = peeking_is_not_counted(broker)
    for extra in (("--yes",), ("--yes",), ("--dry-run",)):
        done = live("purge", "orders", "--filter", "false", *extra)
        assert (done.returncode, "is dropped or dead-lettered after" in done.stderr) == (
            (0, False) if free else (2, True)
        )
        wait_for_queue(vhost_channel, "orders", ready=2)
    done = live("purge", "orders", "--filter", "false", "--yes", "--force")
    assert done.stderr == "Deleted 0 messages from queue 'orders'; 2 do not match.\n"
    wait_for_queue(vhost_channel, "orders", ready=2)
    assert drain(vhost_channel, "orders") == sent
    assert live("purge", "orders", "--force").returncode == 2


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("y", 0)])
def test_on_a_terminal_purge_asks(
    broker: Broker, vhost_url: str, filled: BlockingChannel, answer: str, code: int
) -> None:
    env = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url}
    with terminal("purge", "parked", env=env) as screen:
        screen.read(lambda shown: "[y/N]" in shown)
        screen.type(f"{answer}\n")
        assert screen.end()[0] == code
    wait_for_queue(filled, "parked", ready=4 if code else 0)


def test_a_stream_and_a_missing_queue_are_refused(live: Run, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("log", durable=True, arguments={"x-queue-type": "stream"})
    for extra in ((), ("--filter", "true")):
        done = live("purge", "log", "--yes", *extra)
        assert (done.returncode, "is a stream" in done.stderr) == (2, True)
    assert live("purge", "nowhere", "--yes").returncode == 5
    assert live("purge", "log", "--filter", "((", "--yes").returncode == 2


@pytest.mark.unguessed_api
def test_purge_needs_no_http_api(live: Run, filled: BlockingChannel) -> None:
    done = live("purge", "parked", "--dry-run", RMQKIT_API_URL="")
    assert "unacknowledged messages, which are kept, cannot be counted" in done.stderr
    assert live("purge", "parked", "--yes", RMQKIT_API_URL="").returncode == 0
    wait_for_queue(filled, "parked", ready=0)
