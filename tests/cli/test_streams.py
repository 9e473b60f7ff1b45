"""Streams: a consumer begins at its offset, and resumes there after a lost connection."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Message, PropertyMismatch
from rmqkit.options import Offset
from tests.conftest import Namespace
from tests.support.cli import rmqkit as run
from tests.support.proxy import Proxy


@pytest.fixture
def stream(channel: BlockingChannel, queue_name: str, broker_url: str) -> str:
    """A stream of the numbers 0 to 199."""
    channel.queue_declare(queue_name, durable=True, arguments={"x-queue-type": "stream"})
    with rmqkit.connect(broker_url) as connection:
        connection.publish(Message(b"%d" % number, queue_name) for number in range(200))
    return queue_name


def test_a_stream_is_read_from_the_given_offset(stream: str, broker_url: str) -> None:
    begins: dict[Offset, bytes] = {"first": b"0", 42: b"42", "1h": b"0"}
    begins[datetime.now(UTC) - timedelta(hours=1)] = b"0"
    with rmqkit.connect(broker_url) as connection:
        for offset, expected in begins.items():
            (delivery,) = connection.consume(stream, offset=offset, count=1)
            assert (delivery.body, delivery.properties.headers) == (expected, {"x-stream-offset": int(expected)})


@pytest.mark.parametrize("offset", ["first", 10])
def test_after_a_lost_connection_a_stream_resumes_where_it_was(stream: str, broker_url: str, offset: Offset) -> None:
    warnings: list[str] = []
    with Proxy(broker_url) as proxy, rmqkit.connect(proxy.url) as connection:
        consumer = connection.consume(stream, offset=offset, prefetch=20, on_warning=warnings.append, idle_timeout_s=20)
        proxy.down.cut_after = 10_000  # bytes: less than the half of all
        numbers = []
        for delivery in consumer:
            numbers.append(int(delivery.body))
            if numbers[-1] == 199:
                break
    begin = 0 if offset == "first" else 10
    assert sorted(set(numbers)) == list(range(begin, 200))  # none is left out
    assert [each.startswith("reconnected: ") for each in warnings] == [False, True], warnings  # lost, then reconnected
    assert len(numbers) - len(set(numbers)) <= 40, "it began again"  # what was under way, twice


def test_an_offset_is_refused_for_other_queues(queue: str, broker_url: str) -> None:
    with rmqkit.connect(broker_url) as connection, pytest.raises(PropertyMismatch, match="x-stream-offset") as caught:
        connection.consume(queue, offset="first").subscribe()
    assert "Only streams have offsets" in caught.value.advice


def test_a_filter_reads_past_unmatched_messages_in_a_stream(stream: str, environment: dict[str, str]) -> None:
    only = ("--filter", "body == 150", "--prefetch", 10, "-n", 1)
    done = run("consume", stream, "--offset", "0", *only, env=environment)
    assert (done.returncode, done.stdout) == (0, "150\n"), done.stderr


def test_a_stream_is_read_with_no_ack_too(stream: str, environment: dict[str, str]) -> None:
    done = run("consume", stream, "--offset", "0", "--no-ack", "-n", 3, env=environment)
    assert (done.returncode, done.stdout) == (0, "0\n1\n2\n"), done.stderr


@pytest.mark.parametrize("more", [["first", "--workers", "2"], ["soon"], ["-1"]])
def test_contradictory_options_of_a_stream_are_a_usage_error(more: list[str], environment: dict[str, str]) -> None:
    assert run("consume", "events", "--offset", *more, env=environment).returncode == 2


@pytest.mark.parametrize("several", ["--workers", "--channels"])
def test_several_consumers_would_each_receive_all_of_a_stream(
    stream: str, environment: dict[str, str], several: str
) -> None:
    done = run("consume", stream, several, 2, "--idle-timeout", 1, env=environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert f"queue '{stream}' is a stream: every consumer would receive all of its messages" in done.stderr


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_a_stream_cannot_be_moved(stream: str, environment: dict[str, str], dry_run: tuple[str, ...]) -> None:
    started_s = time.monotonic()
    done = run("move", stream, "--to-queue", "elsewhere", *dry_run, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"queue '{stream}' is a stream: acknowledging removes no message, so none can be moved" in done.stderr
    assert time.monotonic() - started_s < 10  # it waited so long for messages


def test_other_queue_types_are_not_streams(
    queue: str, channel: BlockingChannel, namespace: Namespace, broker_url: str
) -> None:
    quorum = namespace.queue("quorum")
    channel.queue_declare(quorum, durable=True, arguments={"x-queue-type": "quorum"})
    for name in (queue, quorum):
        channel.basic_publish("", name, b"x")
    with rmqkit.connect(broker_url) as connection:
        for name in (queue, quorum):
            assert not connection.is_stream(name)
            (delivery,) = connection.consume(name, count=1)
            assert not delivery.redelivered
        assert not connection.is_stream("rmqkit.no.such.queue")
