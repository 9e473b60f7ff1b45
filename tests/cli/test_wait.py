"""`rmqkit wait` against a real RabbitMQ."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.queues import consumers, fill, open_channel
from tests.support.terminal import terminal
from tests.support.wait import wait_until


@pytest.fixture
def orders(vhost_channel: BlockingChannel) -> BlockingChannel:
    vhost_channel.queue_declare("orders", durable=True)
    return vhost_channel


@pytest.fixture
def later(vhost_url: str, broker: Broker) -> Iterator[threading.Thread]:
    """Consume `orders` as soon as `rmqkit wait` has connected."""
    done = threading.Event()

    def consume() -> None:
        with open_channel(vhost_url) as channel:
            name = vhost_url.rpartition("/")[2]
            wait_until(lambda: name in broker.api("GET", "connections?columns=vhost,name").decode())
            channel.queue_declare("orders", durable=True)
            channel.basic_consume("orders", lambda *_: None)
            while not done.is_set():
                channel.connection.process_data_events(0.05)

    thread = threading.Thread(target=consume)
    yield thread
    done.set()
    thread.join()


def test_a_queue_without_messages_is_empty_and_one_with_an_unacknowledged_message_is_not(
    live: Run, orders: BlockingChannel
) -> None:
    done = live("wait", "orders", "--empty")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("Queue 'orders' has no messages after ")
    fill(orders, "orders", 1)
    full = live("wait", "orders", "--empty", "--timeout", "0")
    assert (full.returncode, full.stderr.partition(" after")[0]) == (9, "Timed out: queue 'orders' has 1 message")
    assert orders.basic_get("orders")[0]
    held = live("wait", "orders", "--empty", "--timeout", "0", "--json")
    assert held.returncode == 9
    report = json.loads(held.stdout)
    assert (report["met"], report["state"], report["unseen"]) == (False, "1 unacknowledged message", "")
    orders.basic_ack(1)
    assert live("wait", "orders", "--empty").returncode == 0


def test_consumers_do_not_keep_a_queue_from_being_empty(live: Run, orders: BlockingChannel) -> None:
    orders.basic_consume("orders", lambda *_: None)
    assert live("wait", "orders", "--empty").returncode == 0


def test_a_quorum_queue_counts_its_unacknowledged_messages(live: Run, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("quorum", durable=True, arguments={"x-queue-type": "quorum"})
    fill(vhost_channel, "quorum", 1)
    assert vhost_channel.basic_get("quorum")[0]
    done = live("wait", "quorum", "--empty", "--timeout", "0")
    assert (done.returncode, "has 1 unacknowledged message after" in done.stderr) == (9, True), done.stderr


def test_numbers_are_waited_for(live: Run, orders: BlockingChannel, later: threading.Thread) -> None:
    assert live("wait", "orders", "--consumers", "0", "--ready", "0").returncode == 0
    later.start()
    done = live("wait", "orders", "--consumers", "1")
    assert (done.returncode, "has 0 ready messages and 1 consumer after" in done.stderr) == (0, True)
    for option in ("--consumers=2", "--consumers=0", "--ready=1"):
        assert live("wait", "orders", option, "--timeout", "0").returncode == 9
    fill(orders, "orders", 0)
    assert consumers(orders, "orders") == 1


def test_a_queue_that_is_not_declared_yet_is_waited_for(live: Run, later: threading.Thread) -> None:
    missing = live("wait", "orders", "--consumers", "1", "--timeout", "0")
    assert (missing.returncode, "queue 'orders' has not been declared" in missing.stderr) == (9, True)
    later.start()
    assert live("wait", "orders", "--consumers", "1").returncode == 0
    assert live("wait", "nowhere", "--empty").returncode == 5


@pytest.mark.unguessed_api
def test_without_the_http_api_a_warning_says_what_cannot_be_seen(live: Run, orders: BlockingChannel) -> None:
    fill(orders, "orders", 1)
    assert orders.basic_get("orders")[0]
    done = live("wait", "orders", "--empty", RMQKIT_API_URL="")
    assert (done.returncode, "unacknowledged messages could not be counted" in done.stderr) == (0, True)
    assert live("wait", "orders", "--empty", RMQKIT_API_URL="http://127.0.0.1:1").returncode == 4


@pytest.mark.parametrize(
    "options", [(), ("--empty", "--ready", "1"), ("--consumers", "-1"), ("--empty", "--timeout=-1")]
)
def test_bad_usage_is_refused(options: tuple[str, ...], live: Run) -> None:
    assert live("wait", "orders", *options).returncode == 2


@pytest.mark.parametrize("condition", ["--empty", "--consumers=1"])
def test_ctrl_c_ends_the_wait(condition: str, broker: Broker, vhost_url: str, orders: BlockingChannel) -> None:
    fill(orders, "orders", 1)
    env = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url}
    name = vhost_url.rpartition("/")[2]
    with terminal("wait", "orders", condition, env=env) as screen:
        wait_until(lambda: broker.api("GET", "connections?columns=vhost").decode().count(name) >= 2)
        screen.process.send_signal(signal.SIGINT)
        code, shown = screen.end()
    assert (code, "Stopped: queue 'orders' has 1" in shown) == (130, True), shown
