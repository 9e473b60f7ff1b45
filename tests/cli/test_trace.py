"""`rmqkit trace`: the messages of a virtual host, decoded and compared with the routes that are predicted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import COMMAND, Run
from tests.support.queues import open_channel
from tests.support.wait import wait_until

SHOP = """
exchanges: {orders: {type: topic}}
queues: {billing: {}, audit: {}}
bindings:
  - {source: orders, destination: billing, routing_key: "order.*.paid"}
  - {source: orders, destination: audit, routing_key: "#"}
"""
Tracing = Callable[[], bool]


@pytest.fixture
def vhost(vhost_url: str) -> str:
    return urlsplit(vhost_url).path.removeprefix("/")


@pytest.fixture
def is_traced(broker: Broker, vhost: str) -> Tracing:
    return lambda: bool(json.loads(broker.api("GET", f"vhosts/{vhost}"))["tracing"])


@pytest.fixture
def shop(live: Run, tmp_path: Path) -> Path:
    """The topology file, applied."""
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    assert live("apply", file).returncode == 0
    return file


@pytest.fixture
def shop_channel(vhost_url: str, shop: Path) -> Iterator[BlockingChannel]:
    assert shop
    with open_channel(vhost_url) as channel:
        yield channel


@pytest.fixture
def environment(broker: Broker, vhost_url: str, tmp_path: Path) -> dict[str, str]:
    state = str(tmp_path / "state")
    return os.environ | {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url, "XDG_STATE_HOME": state}


@pytest.fixture
def start(environment: Mapping[str, str], is_traced: Tracing, tmp_path: Path) -> Callable[..., Any]:
    """Start `rmqkit trace`, and wait until it traces."""

    @contextmanager
    def started(*arguments: object, **more: Any) -> Iterator[subprocess.Popen[str]]:
        (tmp_path / "err").write_text("")
        with (tmp_path / "err").open("a") as err:
            words = [*COMMAND, "trace", *map(str, arguments)]
            settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": err, "env": environment, "text": True}
            process = subprocess.Popen(words, **settings | more)
        try:
            wait_until(
                lambda: is_traced() and "Tracing" in (tmp_path / "err").read_text(),
                lambda: f"not traced: {(tmp_path / 'err').read_text()}",
            )
            yield process
        finally:
            process.kill()
            process.communicate()

    return started


def traced(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines()]


def test_published_and_delivered_messages_are_shown_with_their_queues_and_their_publisher(
    start: Any, shop_channel: BlockingChannel, is_traced: Tracing
) -> None:
    with start("--json", "-n", "4") as process:
        headers = {"CC": ["order.us.paid"], "BCC": ["hidden"], "n": 1}
        given = pika.BasicProperties(headers=headers, timestamp=1700000000, message_id="m1", delivery_mode=2)
        shop_channel.basic_publish("orders", "order.eu", b"hello", given)
        wait_until(lambda: (got := shop_channel.basic_get("billing", auto_ack=True))[0] and got)
        shop_channel.basic_publish("", "nowhere", b"")
        shop_channel.basic_publish("", "audit", b"")
        published, delivered, lost, direct = traced(process)
    assert process.returncode == 0
    assert published["event"] == "published"
    assert published["queues"] == published["prediction"]["queues"] == ["audit", "billing"]
    assert published["routing_keys"] == ["order.eu", "order.us.paid", "hidden"]
    assert (published["user"], published["channel"]) == ("guest", 1)
    assert " -> " in published["connection"]
    message = published["message"]
    assert (message["exchange"], message["routing_key"], message["body"]) == ("orders", "order.eu", "hello")
    assert (message["headers"], message["timestamp"]) == (headers, "2023-11-14T22:13:20Z")
    assert (message["message_id"], message["delivery_mode"]) == ("m1", 2)
    assert (delivered["event"], delivered["queues"], delivered["message"]["body"]) == (
        "delivered",
        ["billing"],
        "hello",
    )
    assert "BCC" not in delivered["message"]["headers"]
    assert (lost["queues"], lost["prediction"]) == (["nowhere"], None)  # RabbitMQ reports the key as the queue
    assert direct["queues"] == ["audit"]
    assert not is_traced()


def test_a_message_that_takes_another_way_than_predicted_is_highlighted_and_fails_the_check(
    start: Any, shop: Path, shop_channel: BlockingChannel, tmp_path: Path
) -> None:
    shop_channel.queue_declare("spy", auto_delete=True)
    shop_channel.queue_bind("spy", "orders", "order.#")
    shop_channel.queue_unbind("audit", "orders", "#")
    with start("--topology", shop, "--check", "-n", "2") as process:
        shop_channel.basic_publish("orders", "order.eu.paid", b"")
        shop_channel.basic_get("spy", auto_ack=True)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 9
    first, second = out.splitlines()[1:]
    assert first.split()[:4] == ["published", "orders", "order.eu.paid", "billing,"]
    assert first.endswith("! not routed to audit; unexpectedly routed to spy")
    assert second.endswith("! unexpectedly delivered from spy")
    assert "2 messages: 1 published, 1 delivered; 2 differences from" in (tmp_path / "err").read_text()


def test_bindings_that_change_meanwhile_are_no_differences(start: Any, shop_channel: BlockingChannel) -> None:
    with start("--check", "-n", "2", "--json") as process:
        shop_channel.queue_declare("new")
        shop_channel.queue_bind("new", "orders", "order.new")
        shop_channel.basic_publish("orders", "order.new", b"")
        shop_channel.basic_publish("orders", "order.eu.paid", b"")
        first, _ = traced(process)
    assert (process.returncode, first["prediction"]["queues"]) == (0, ["audit", "new"])


def test_messages_are_selected_and_replayed_as_envelopes(
    start: Any, live: Run, shop_channel: BlockingChannel, tmp_path: Path
) -> None:
    wanted = ("-e", "orders", "-q", "billing", "--filter", "body.n > 1")
    with start(*wanted, "--format", "envelope", "-n", "1") as process:
        shop_channel.basic_publish("orders", "order.eu", b'{"n": 3}')
        shop_channel.basic_publish("", "billing", b'{"n": 3}')
        shop_channel.basic_publish("orders", "order.eu.paid", b'{"n": 1}')
        shop_channel.basic_publish("orders", "order.eu.paid", b'{"n": 2}')
        out, _ = process.communicate(timeout=60)
    (tmp_path / "envelopes").write_text(out)
    shop_channel.queue_purge("billing")
    replayed = live("publish", "--envelopes", tmp_path / "envelopes")
    assert replayed.returncode == 0, replayed.stderr
    assert shop_channel.basic_get("billing", auto_ack=True)[2] == b'{"n": 2}'


def test_tracing_is_switched_off_by_the_next_run_after_a_kill(
    start: Any, is_traced: Tracing, broker: Broker, vhost: str
) -> None:
    kept = {"description": "the shop", "tags": ["production"]}
    broker.api("PUT", f"vhosts/{vhost}", json.dumps(kept).encode())
    with start("--json") as process:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert is_traced()
    with start("--json") as first, start("--json") as second:
        first.send_signal(signal.SIGINT)
        assert first.wait(30) == 130
        assert is_traced()  # for the second one
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 143
    assert not is_traced()
    found = json.loads(broker.api("GET", f"vhosts/{vhost}"))
    assert {name: found[name] for name in kept} == kept


def test_tracing_that_was_on_stays_on(live: Run, broker: Broker, vhost: str, is_traced: Tracing) -> None:
    broker.api("PUT", f"vhosts/{vhost}", b'{"tracing": true}')
    for more in ((), ("--no-switch",)):
        assert live("trace", "--idle-timeout", "0.1", *more).returncode == 0
        assert is_traced()


def test_a_trace_continues_on_a_new_connection_and_switches_tracing_on_again(
    start: Any, broker: Broker, shop_channel: BlockingChannel, is_traced: Tracing, tmp_path: Path
) -> None:
    vhost = shop_channel.connection._impl.params.virtual_host
    with start("--json", "-n", "1") as process:
        broker.api("PUT", f"vhosts/{vhost}", b'{"tracing": false}')  # as after a restart of the broker

        def close() -> bool:
            found = json.loads(broker.api("GET", f"vhosts/{vhost}/connections"))
            names = [each["name"] for each in found if "rmqkit" in str(each.get("client_properties"))]
            for name in names:
                broker.api("DELETE", f"connections/{name.replace(' ', '%20').replace('>', '%3E')}")
            return bool(names)

        wait_until(close)
        wait_until(lambda: is_traced() and "reconnected" in (tmp_path / "err").read_text())
        shop_channel.basic_publish("orders", "order.eu", b"after")
        (message,) = traced(process)
    assert message["message"]["body"] == "after"


def test_messages_beyond_the_buffer_are_dropped_and_counted(
    start: Any, shop_channel: BlockingChannel, tmp_path: Path
) -> None:
    body, count = b"x" * 2000, 3000
    with start("-e", "orders", "--json", "--buffer", "1000") as process:
        for _ in range(count):  # nobody reads the output: 64 KiB of it fill the pipe
            shop_channel.basic_publish("orders", "none", body)
        shop_channel.basic_get("audit")  # all have been published
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    seen, err = len(out.splitlines()), (tmp_path / "err").read_text()
    assert 0 < seen < count
    dropped = int(err.split(" dropped")[0].rsplit(maxsplit=1)[-1].replace(",", ""))
    assert 0 < dropped <= count - seen


def test_a_user_who_may_not_switch_tracing_on_is_told_how(live: Run, broker: Broker, vhost: str) -> None:
    user = f"user-{vhost}"
    broker.api("PUT", f"users/{user}", b'{"password": "pw", "tags": "monitoring"}')
    broker.api("PUT", f"permissions/{vhost}/{user}", b'{"configure": ".*", "write": ".*", "read": ".*"}')
    where = urlsplit(broker.url)
    own = {
        "RMQKIT_URL": f"amqp://{user}:pw@{where.hostname}:{where.port}/{vhost}",
        "RMQKIT_API_URL": broker.api_url.replace("guest:guest@", ""),
    }
    try:
        refused = live("trace", **own)
        assert refused.returncode == 5
        assert "lacks the tag administrator" in refused.stderr
        assert f"have `rabbitmqctl trace_on -p {vhost}` run and add --no-switch" in refused.stderr
        assert "could not be switched off" not in refused.stderr
        assert live("trace", "--no-switch", "--idle-timeout", "0.1", **own).returncode == 0
    finally:
        broker.api("DELETE", f"users/{user}")


def test_json_and_envelopes_are_one_or_the_other(live: Run) -> None:
    assert live("trace", "--json", "--format", "envelope").returncode == 2
