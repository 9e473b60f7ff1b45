"""A handler that always fails: so many tries at the rate of the delays, then parked with the reason (23)."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from tests.support.queues import drain, ready
from tests.support.wait import wait_until

DELAYS_S = (0.1, 0.3, 0.1)
TOPOLOGY = """
exchanges: {shop: {type: topic}}
queues:
  orders: {TYPE retry: {delays: [100ms, 300ms, 100ms], then: parked}}
  parked: {}
bindings: [{source: shop, destination: orders, routing_key: "order.#"}]
"""
HANDLERS = """
from rmqkit import Verdict
def fail(delivery):
    raise ValueError("no such customer")
def reject(delivery):
    return Verdict.REJECT
"""
Consume = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def consume(tmp_path: Path, vhost_url: str) -> Iterator[Consume]:
    """Start `rmqkit consume` in a folder and with a state of its own."""
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "handlers.py").write_text(HANDLERS)
    environment = os.environ | {"RMQKIT_URL": vhost_url, "XDG_STATE_HOME": str(tmp_path)}

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rmqkit", "consume", *map(str, arguments)]
        started.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(params=["", "type: quorum,"], ids=["classic", "quorum"])
def topology(request: pytest.FixtureRequest, tmp_path: Path, vhost_url: str) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(TOPOLOGY.replace("TYPE", request.param))
    with rmqkit.connect(vhost_url) as connection:
        connection.apply(rmqkit.load(path))
    return path


@pytest.fixture
def channel(vhost_url: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        yield connection.channel()


def publish(url: str, count: int) -> list[bytes]:
    with rmqkit.connect(url) as connection:
        connection.publish(rmqkit.Message(b"%d" % number, "order.eu", "shop") for number in range(count))
    return [b"%d" % number for number in range(count)]


def command(tmp_path: Path, code: int) -> str:
    return shlex.join(["sh", "-c", f"date +%s.%N >> {tmp_path}/calls; exit {code}"])


@pytest.mark.fault(23)
def test_a_command_that_always_fails_is_run_at_the_rate_of_the_delays_and_no_more_often(
    consume: Consume, topology: Path, vhost_url: str, tmp_path: Path, channel: BlockingChannel
) -> None:
    sent = publish(vhost_url, 5)
    process = consume("orders", "--exec", command(tmp_path, 7), "--topology", topology, "--idle-timeout", 3, "--json")
    wait_until(lambda: ready(vhost_url, "parked") == len(sent), timeout_s=40)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    calls = [float(line) for line in (tmp_path / "calls").read_text().split()]
    assert len(calls) == len(sent) * (len(DELAYS_S) + 1)
    assert calls[-1] - calls[0] >= sum(DELAYS_S)
    report = json.loads(stderr[stderr.index("{\n") :])
    assert (report["retried"], report["parked"], report["failed"]) == (15, 5, 0)
    assert stderr.count("the command ended with exit code 7; its message is retried after 100ms, 300ms, 100ms") == 1
    assert [ready(vhost_url, each.name) for each in rmqkit.load(topology).queues] == [0, 0, 0, 5]
    _, properties, body = channel.basic_get("parked")
    died = properties.headers.pop("x-rmqkit-death")
    assert [each["queue"] for each in died] == [f"orders.retry.{delay}ms" for delay in (100, 300, 100)]
    assert (body in sent, properties.delivery_mode) == (True, 2)
    assert properties.headers == {
        "x-rmqkit-queue": "orders",
        "x-rmqkit-attempts": 4,
        "x-rmqkit-reason": "the command ended with exit code 7",
        "x-rmqkit-exchange": "shop",
        "x-rmqkit-routing-key": "order.eu",
    }


@pytest.mark.fault(23)
@pytest.mark.parametrize("topology", [""], indirect=True, ids=["classic"])
@pytest.mark.parametrize("outcome", [("fail", 4, "no such customer"), ("reject", 1, "rejected it")])
def test_a_function_that_raises_is_retried_and_a_message_it_rejects_is_parked_at_once(
    consume: Consume, topology: Path, vhost_url: str, channel: BlockingChannel, outcome: tuple[str, int, str]
) -> None:
    function, tries, reason = outcome
    publish(vhost_url, 1)
    process = consume("orders", "--handler", f"handlers:{function}", "--topology", topology, "--count", tries)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 8, stderr
    assert "no such customer" not in stderr  # what an exception says may be the message's own text
    _, properties, _ = channel.basic_get("parked")
    assert properties.headers["x-rmqkit-attempts"] == tries
    assert properties.headers["x-rmqkit-reason"].endswith(reason)


@pytest.mark.fault(23)
@pytest.mark.parametrize("topology", ["type: quorum,"], indirect=True, ids=["quorum"])
def test_a_consumer_killed_at_any_moment_of_its_failures_loses_nothing(
    consume: Consume, topology: Path, vhost_url: str, tmp_path: Path
) -> None:
    sent = publish(vhost_url, 20)
    calls = tmp_path / "calls"
    calls.touch()
    for number in (5, 30):
        process = consume("orders", "--exec", command(tmp_path, 1), "--topology", topology)
        wait_until(lambda number=number: len(calls.read_text().split()) >= number)  # type: ignore[misc]
        process.kill()
        process.wait()
    consume("orders", "--exec", command(tmp_path, 1), "--topology", topology)
    wait_until(lambda: ready(vhost_url, "parked") >= len(sent), timeout_s=40)
    wait_until(lambda: all(ready(vhost_url, each.name) == 0 for each in rmqkit.load(topology).queues[:3]))
    assert set(drain(vhost_url, "parked")) == set(sent)


@pytest.mark.fault(23)
def test_without_retry_and_dead_letters_the_first_warning_is_that_a_failure_stops_the_run(
    consume: Consume, vhost_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("queues:\n  orders: {}\n  kept: {arguments: {x-dead-letter-exchange: amq.fanout}}\n")
    with rmqkit.connect(vhost_url) as connection:
        connection.apply(rmqkit.load(path))
    for queue, warned in (("orders", True), ("kept", False)):
        process = consume(queue, "--exec", "false", "--topology", path, "--idle-timeout", 0)
        _, stderr = process.communicate(timeout=90)
        assert stderr.startswith("warning: consuming stops at the first message that fails: queue 'orders'") == warned


@pytest.mark.fault(23)
@pytest.mark.parametrize("topology", [""], indirect=True, ids=["classic"])
def test_without_its_waiting_queues_a_consumer_does_not_begin(
    consume: Consume, topology: Path, vhost_url: str, channel: BlockingChannel
) -> None:
    publish(vhost_url, 1)
    channel.queue_delete("orders.retry.300ms")
    process = consume("orders", "--exec", "false", "--topology", topology)
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, "orders.retry.300ms" in stderr) == (5, True), stderr
    assert ready(vhost_url, "orders") == 1


@pytest.mark.fault(23)
@pytest.mark.parametrize("topology", [""], indirect=True, ids=["classic"])
def test_a_parked_message_that_is_moved_back_is_retried_from_the_start(
    consume: Consume, topology: Path, vhost_url: str, channel: BlockingChannel
) -> None:
    publish(vhost_url, 1)
    consume("orders", "--exec", "false", "--topology", topology, "--count", 4).communicate(timeout=90)
    with rmqkit.connect(vhost_url) as connection:
        (group,) = connection.move("parked", dry_run=True).groups
        assert (group.reason, group.queue, group.exchange, group.routing_keys) == (
            "failed",
            "orders",
            "shop",
            ("order.eu",),
        )
        assert connection.move("parked").moved == 1
    consume("orders", "--exec", "false", "--topology", topology, "--count", 4).communicate(timeout=90)
    _, properties, _ = channel.basic_get("parked")
    headers = properties.headers
    assert (headers["x-rmqkit-attempts"], headers["x-rmqkit-exchange"]) == (4, "shop")


@pytest.mark.fault(23)
def test_each_of_several_workers_parks_invalid_messages_at_once(
    consume: Consume, vhost_url: str, tmp_path: Path, channel: BlockingChannel
) -> None:
    (tmp_path / "order.json").write_text('{"type": "string"}')
    path = tmp_path / "shop.yaml"
    contract = "contract: {format: json, schema: order.json},"
    path.write_text(TOPOLOGY.replace("TYPE", contract))
    with rmqkit.connect(vhost_url) as connection:
        connection.apply(rmqkit.load(path))
    sent = publish(vhost_url, 6)  # numbers, and no strings
    process = consume("orders", "--exec", "true", "--topology", path, "--workers", 2, "--idle-timeout", 1, "--json")
    _, stderr = process.communicate(timeout=90)
    report = json.loads(stderr[stderr.index("{\n") :])
    assert (process.returncode, report["invalid"], report["retried"], report["parked"]) == (8, 6, 0, 0)
    assert ready(vhost_url, "parked") == len(sent)
    _, properties, _ = channel.basic_get("parked")
    assert "breaks the rule type" in properties.headers["x-rmqkit-reason"]
