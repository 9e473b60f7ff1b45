"""`rmqkit copy`, and `move` to another broker: here, to another virtual host over a connection of its own."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Delivery, Target
from rmqkit.messaging import queue_browser
from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.proxy import Proxy
from tests.support.queues import declare, drain, drain_messages, fill, ready
from tests.support.versions import version
from tests.support.wait import wait_for_queue, wait_until

Channel = BlockingChannel


@pytest.fixture
def other_url(broker: Broker) -> Iterator[str]:
    """The URL of another virtual host, which stands for another broker, with the queue `orders`."""
    name = f"other-{uuid.uuid4().hex[:12]}"
    broker.api("PUT", f"vhosts/{name}")
    url = urlsplit(broker.url)._replace(path=f"/{name}").geturl()
    declare(url, "orders")
    yield url
    broker.api("DELETE", f"vhosts/{name}")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_copies_are_made_in_order_and_the_messages_stay_as_they_are(
    live: Run, vhost_channel: Channel, kind: str
) -> None:
    declare(vhost_channel, "orders", x_queue_type=kind)
    declare(vhost_channel, "copies")
    given = BasicProperties(delivery_mode=2, headers={"n": 1}, priority=3, message_id="m")
    sent = [b"%d" % number for number in range(300)]
    for body in sent:
        vhost_channel.basic_publish("", "orders", body, given)
    wait_for_queue(vhost_channel, "orders", ready=300)
    done = live("copy", "orders", "--to-queue", "copies", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["copied"]) == (0, 300)
    assert report["side_effects"].startswith(("marked as redelivered", "counted as delivered"))
    wait_for_queue(vhost_channel, "orders", ready=300)
    copies = drain_messages(vhost_channel, "copies")
    assert [each.body for each in copies] == sent
    properties = [each.properties for each in copies]
    assert {(each.headers["n"], each.priority, each.message_id) for each in properties} == {(1, 3, "m")}
    assert drain(vhost_channel, "orders") == sent


def test_a_limit_and_a_filter_choose_the_copies(live: Run, vhost_channel: Channel) -> None:
    declare(vhost_channel, "orders")
    declare(vhost_channel, "copies")
    vhost_channel.queue_bind("copies", "amq.topic", "copy.#")
    for number in range(20):
        vhost_channel.basic_publish("", "orders", b'{"n": %d}' % number)
    wait_for_queue(vhost_channel, "orders", ready=20)
    words = ("--to-exchange", "amq.topic", "-r", "copy.1", "--filter", "body.n % 2 == 1", "-n", 3)
    done = live("copy", "orders", *words)
    assert (done.returncode, done.stderr[:17]) == (0, "Copied 3 messages")
    wait_for_queue(vhost_channel, "orders", ready=20)
    assert [json.loads(body)["n"] for body in drain(vhost_channel, "copies")] == [1, 3, 5]
    assert [json.loads(body)["n"] for body in drain(vhost_channel, "orders")] == [*range(20)]


def test_messages_are_copied_and_then_moved_to_another_broker_byte_for_byte(
    live: Run, vhost_channel: Channel, other_url: str
) -> None:
    declare(vhost_channel, "orders")
    bodies = [b"", b"\x00\xff", b"x" * 300_000, *(b"%d" % number for number in range(500))]
    for body in bodies:
        vhost_channel.basic_publish("", "orders", body, BasicProperties(delivery_mode=2, headers={"raw": b"\xff"}))
    wait_for_queue(vhost_channel, "orders", ready=len(bodies))
    assert live("copy", "orders", "--to-url", other_url).returncode == 0
    wait_for_queue(vhost_channel, "orders", ready=len(bodies))
    assert drain(other_url, "orders") == bodies
    done = live("move", "orders", "--to-url", other_url)
    assert (done.returncode, done.stderr[:18]) == (0, "Moved 503 messages")
    assert ready(vhost_channel, "orders") == 0
    moved = drain_messages(other_url, "orders")
    assert [each.body for each in moved] == bodies
    assert {each.properties.headers["raw"] for each in moved} == {b"\xff"}


def test_what_the_other_broker_does_not_take_stays(
    live: Run, vhost_channel: Channel, other_url: str, broker: Broker
) -> None:
    declare(vhost_channel, "orders")
    sent = fill(vhost_channel, "orders", 10)
    done = live("move", "orders", "--to-url", other_url, "--to-queue", "nowhere")
    assert (done.returncode, "there is no queue 'nowhere'" in done.stderr) == (6, True)
    declare(other_url, "full", x_max_length=0, x_overflow="reject-publish")
    done = live("move", "orders", "--to-url", other_url, "--to-exchange", "amq.fanout")
    assert done.returncode == 6  # nothing is bound there
    done = live("move", "orders", "--to-url", "amqp://127.0.0.1:1")
    assert done.returncode == 4
    low = urlsplit(other_url)
    user = f"u{low.path[-8:]}"
    broker.api("PUT", f"users/{user}", b'{"password": "secret", "tags": ""}')
    broker.api("PUT", f"permissions{low.path}/{user}", b'{"configure": "", "write": "", "read": ""}')
    url = low._replace(netloc=f"{user}:secret@{low.hostname}:{low.port}").geturl()
    for command in ("move", "copy"):
        done = live(command, "orders", "--to-url", url)
        assert (done.returncode, "write permission on exchange 'amq.default'" in done.stderr) == (5, True), done.stderr
    broker.api("DELETE", f"users/{user}")
    wait_for_queue(vhost_channel, "orders", ready=10)
    assert drain(vhost_channel, "orders") == sent


@pytest.mark.parametrize("way", ["to", "from"])
def test_no_message_is_lost_where_a_connection_breaks_during_a_move(vhost_url: str, other_url: str, way: str) -> None:
    sent = [b"%d" % number for number in range(3000)]
    declare(vhost_url, "orders")
    with Proxy(other_url if way == "to" else vhost_url) as proxy:
        urls = (vhost_url, proxy.url) if way == "to" else (proxy.url, other_url)
        with rmqkit.connect(urls[0]) as source, rmqkit.connect(urls[1]) as target:
            source.publish(rmqkit.Message(body, "orders") for body in sent)
            warnings: list[str] = []
            cut = threading.Event()

            def reset_midway(delivery: Delivery) -> bool:
                if delivery.body == b"1500" and not cut.is_set():
                    cut.set()
                    proxy.reset()
                return True

            target_queue = Target("", "orders")
            source.move("orders", target_queue, broker=target, matches=reset_midway, on_warning=warnings.append)
    assert warnings
    wait_until(lambda: ready(vhost_url, "orders") == 0)
    found = Counter(drain(other_url, "orders"))
    assert found.keys() == set(sent)


def test_a_delivery_limit_is_not_used_up_by_copies(live: Run, vhost_channel: Channel, broker: Broker) -> None:
    declare(vhost_channel, "orders", x_queue_type="quorum", x_delivery_limit=1)
    declare(vhost_channel, "copies")
    sent = fill(vhost_channel, "orders", 3)
    for _ in range(4):
        done = live("copy", "orders", "--to-queue", "copies")
        assert done.returncode == (0 if version(broker) >= (4, 3) else 2)
        wait_for_queue(vhost_channel, "orders", ready=3)
    assert drain(vhost_channel, "orders") == sent


def test_bad_usage_copies_nothing(
    live: Run, vhost_channel: Channel, vhost_url: str, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(vhost_channel, "orders")
    declare(vhost_channel, "events", x_queue_type="stream")
    declare(vhost_channel, "copies")
    fill(vhost_channel, "orders", 5)
    for words, said in (
        (["orders"], "name a target"),
        (["orders", "--to-queue", "orders"], "already in queue 'orders'"),
        (["orders", "--to-url", vhost_url], "already in queue 'orders'"),
        (["orders", "--to-queue", "a", "--to-exchange", "b"], "use only one of"),
        (["orders", "-r", "key", "--to-url", other_url], "--to-exchange"),
        (["events", "--to-queue", "copies"], "--offset first"),
    ):
        done = live("copy", *words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    monkeypatch.setattr(queue_browser, "MOST", 4)
    done = live("copy", "orders", "--to-queue", "copies")
    assert (done.returncode, "--limit 5" in done.stderr) == (2, True)
    assert live("copy", "nowhere", "--to-queue", "copies").returncode == 5
    assert (ready(vhost_channel, "copies"), ready(vhost_channel, "orders")) == (0, 5)
