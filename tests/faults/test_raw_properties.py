"""Properties, headers and routing keys of any bytes arrive as they were sent, on every path."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Delivery, Exchange, Queue, Replay, Retry, Stop, Target, Topology
from rmqkit.handlers.forwarder import Forwarder
from rmqkit.payload.death_headers import COUNTS, DIED, FAILURE
from rmqkit.payload.field_table import join_header, split_header
from tests.support import raw_properties
from tests.support.cli import rmqkit as run
from tests.support.raw_properties import UUID, Raw, RawProperties, odd_messages, properties, random_messages, short
from tests.support.wait import wait_until

SEED = 12
NUMBER = int(os.environ.get("RMQKIT_TEST_EXAMPLES", "60"))
ADDED = {*FAILURE, *COUNTS, "x-rmqkit-exchange", "x-rmqkit-routing-key", DIED, "x-death"}
SHOP = Topology(queues=(Queue("work", retry=Retry((1, 1), "parked")), Queue("parked"), Queue("other")))


@pytest.fixture
def pika_channel(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingChannel]:
    """A channel of pika that leaves properties as they are."""
    monkeypatch.setitem(spec.props, spec.BasicProperties.INDEX, RawProperties)
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as opened:
        channel = opened.channel()
        yield channel


@pytest.fixture
def connection(vhost_url: str, pika_channel: BlockingChannel) -> Iterator[rmqkit.Connection]:
    with rmqkit.connect(vhost_url) as opened:
        opened.apply(SHOP)
        pika_channel.queue_bind("work", "amq.topic", "#")
        pika_channel.queue_bind("other", "amq.fanout")
        yield opened


@pytest.fixture
def sent(pika_channel: BlockingChannel, connection: rmqkit.Connection) -> list[Raw]:  # noqa: ARG001 - its queues
    """The messages in queue work, in order, as RabbitMQ delivers them: 4.3 drops a header that is there twice."""
    seed = random.Random().randrange(1 << 32) if "RMQKIT_TEST_EXAMPLES" in os.environ else SEED
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    messages = [*odd_messages(), *random_messages(random.Random(seed), NUMBER)]
    pika_channel.queue_declare("control")
    pika_channel.queue_bind("control", "amq.topic", "#")
    raw_properties.publish(pika_channel, messages, "amq.topic")
    wait_until(lambda: raw_properties.ready(pika_channel, "work") == len(messages))
    delivered = raw_properties.drain(pika_channel, "control")
    pika_channel.queue_delete("control")
    return delivered


def stripped(messages: list[Raw]) -> list[Raw]:
    """Return messages without the headers that RabbitMQ and rmqkit add; dead-lettering changes the order of headers."""
    result = []
    for each in messages:
        parts, headers = split_header(each.header)
        kept = [(name, value) for name, value in headers if name not in ADDED and not name.startswith("x-first-")]
        kept = [(name, value) for name, value in kept if not name.startswith("x-last-")]
        result.append(each._replace(header=join_header(parts, sorted(kept))))
    return result


def keyless(messages: list[Raw]) -> list[Raw]:
    return [each._replace(routing_key=b"") for each in messages]


@pytest.mark.parametrize("exchange", ["", "amq.fanout"])
def test_forwarded_messages_keep_every_byte(
    vhost_url: str, pika_channel: BlockingChannel, connection: rmqkit.Connection, sent: list[Raw], exchange: str
) -> None:
    forwarder = Forwarder(rmqkit.connect(vhost_url), exchange, None if exchange else "other")
    rmqkit.handle(connection, "work", forwarder, count=len(sent))
    forwarder.close()
    found = raw_properties.drain(pika_channel, "other")
    assert found == sent if exchange else keyless(found) == keyless(sent)


@pytest.mark.parametrize("to", [Target("", "other"), Exchange("amq.fanout")])
def test_moved_messages_keep_every_byte(
    pika_channel: BlockingChannel, connection: rmqkit.Connection, sent: list[Raw], to: Target | Exchange
) -> None:
    assert connection.move("work", to).moved == len(sent)
    found = raw_properties.drain(pika_channel, "other")
    assert found == sent if isinstance(to, Exchange) else keyless(found) == keyless(sent)


def test_messages_moved_between_quorum_queues_keep_every_byte(
    pika_channel: BlockingChannel, connection: rmqkit.Connection, sent: list[Raw]
) -> None:
    """A void header and a message without a delivery mode among them; RabbitMQ changes the order of headers there."""
    for name in ("first", "second"):
        pika_channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    raw_properties.publish(pika_channel, [each._replace(routing_key=b"first") for each in sent], "")
    wait_until(lambda: raw_properties.ready(pika_channel, "first") == len(sent))
    assert connection.move("first", Target("", "second")).moved == len(sent)
    wait_until(lambda: raw_properties.ready(pika_channel, "second") == len(sent))
    found = raw_properties.drain(pika_channel, "second")
    assert sorted(keyless(stripped(found))) == sorted(keyless(stripped(sent)))


def test_dead_letters_return_to_their_exchange_with_their_key(
    pika_channel: BlockingChannel, connection: rmqkit.Connection, sent: list[Raw]
) -> None:
    pika_channel.queue_declare(
        "mortal", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "parked"}
    )
    pika_channel.queue_bind("mortal", "amq.topic", "#")
    raw_properties.drain(pika_channel, "work")
    raw_properties.publish(pika_channel, sent, "amq.topic")
    wait_until(lambda: raw_properties.ready(pika_channel, "mortal") == len(sent))
    raw_properties.drain(pika_channel, "work")
    for _ in sent:
        method, _, _ = pika_channel.basic_get("mortal")
        pika_channel.basic_reject(method.delivery_tag, requeue=False)
    pika_channel.queue_delete("mortal")
    wait_until(lambda: raw_properties.ready(pika_channel, "parked") == len(sent))
    assert connection.move("parked", Replay.EXCHANGE).moved == len(sent)
    assert stripped(raw_properties.drain(pika_channel, "work")) == stripped(sent)


def test_messages_that_fail_are_retried_and_parked_with_every_byte(
    pika_channel: BlockingChannel, connection: rmqkit.Connection, sent: list[Raw]
) -> None:
    def fail(_: Delivery) -> None:
        raise ValueError("no")

    report = rmqkit.handle(
        connection, "work", fail, topology=SHOP, count=3 * len(sent), on_failure=lambda *_: None, on_warning=print
    )
    assert (report.parked, report.retried) == (len(sent), 2 * len(sent))
    found = raw_properties.drain(pika_channel, "parked")
    assert sorted(keyless(stripped(found))) == sorted(keyless(stripped(sent)))
    assert connection.publish(rmqkit.Message(b"the end", "parked")).confirmed
    raw_properties.publish(pika_channel, found, "amq.topic")  # and from there back to where they were first published
    wait_until(lambda: raw_properties.ready(pika_channel, "work") == len(sent))
    assert connection.move("work", Replay.EXCHANGE, limit=len(sent)).moved == len(sent)
    assert sorted(stripped(raw_properties.drain(pika_channel, "work"))) == sorted(stripped(sent))


@pytest.mark.parametrize("folder", [False, True])
def test_recorded_messages_are_published_again_with_every_byte(
    vhost_url: str, pika_channel: BlockingChannel, sent: list[Raw], tmp_path: Path, *, folder: bool
) -> None:
    record = tmp_path / "record"
    how = ("--save-to", record) if folder else ("--format", "json")
    done = run("consume", "work", "-u", vhost_url, "-n", len(sent), *how)
    assert done.returncode == 0, done.stderr
    if not folder:
        record.write_text(done.stdout)
    done = run("publish", "-u", vhost_url, "--envelopes", record)
    assert done.returncode == 0, done.stderr
    assert raw_properties.drain(pika_channel, "work") == sent


@pytest.mark.parametrize("returns", ["the body", "the body and the properties"])
def test_a_server_answers_any_bytes_with_the_same_correlation_id_and_lives_on(
    pika_channel: BlockingChannel, connection: rmqkit.Connection, sent: list[Raw], returns: str
) -> None:
    raw_properties.drain(pika_channel, "work")
    ids = [UUID, *(size * bytes((byte,)) for size in (1, 85, 86, 255) for byte in (0, 0x80, 0xC3, 0xFF))]
    requests = [Raw(b"work", properties(reply_to=short(b"other"), correlation_id=short(each)), each) for each in ids]
    for each in sent:
        parts, headers = split_header(each.header)
        parts |= {"reply_to": short(b"other"), "correlation_id": short(each.body)}
        requests.append(Raw(b"work", join_header(parts, headers), each.body))
    raw_properties.publish(pika_channel, requests, "")
    stop, ends = Stop(), threading.Thread(target=lambda: connection.run(stop=stop))
    connection.serve("work")(_echo_body if returns == "the body" else _echo_message)
    ends.start()
    try:
        wait_until(lambda: raw_properties.ready(pika_channel, "other") == len(requests))
    finally:
        stop.request()
        ends.join()
    replies = raw_properties.drain(pika_channel, "other")
    for reply in replies:
        assert split_header(reply.header)[0]["correlation_id"] == short(reply.body)
    if returns != "the body":
        assert keyless(replies) == keyless(requests)


def _echo_body(request: Delivery) -> bytes:
    return request.body


def _echo_message(request: Delivery) -> rmqkit.Message:
    return rmqkit.Message(request.body, properties=request.properties)
