"""`--metrics-port` and `rmqkit.prometheus`: what a scraper reads."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from prometheus_client import CollectorRegistry, generate_latest

import rmqkit
from rmqkit import Delivery, Message, Properties, Stop
from rmqkit.prometheus import Metrics
from tests.support.cli import Start
from tests.support.cli import rmqkit as command
from tests.support.queues import declare, fill, ready
from tests.support.wait import wait_for_queue, wait_until


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def scrape(port: int) -> str:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())
    return ""


def values(text: str, name: str) -> dict[str, float]:
    """Return the values of a metric, by the values of its labels, in their order."""
    found = re.findall(rf"^{name}\{{(.*?)\}} (\S+)$", text, re.MULTILINE)
    return {",".join(re.findall(r'"(.*?)"', labels)): float(value) for labels, value in found}


@pytest.mark.parametrize("workers", [1, 2])
def test_consume_serves_the_metrics_of_all_its_processes_until_it_ends(
    start: Start, channel: BlockingChannel, queue: str, port: int, workers: int
) -> None:
    fill(channel, queue, 20)
    process = start(queue, "--metrics-port", port, "--workers", workers, "--prefetch", 2, "--exec", "true")
    outcomes = "rmqkit_consumed_messages_total"
    wait_until(lambda: values(scrape(port), outcomes) == {f"ack,{queue}": 20}, lambda: scrape(port))
    wait_until(lambda: values(scrape(port), "rmqkit_connection_events_total").get("connected", 0) >= workers)
    text = scrape(port)
    assert values(text, "rmqkit_received_messages_total") == {f"{queue},no": 20}
    assert values(text, "rmqkit_handler_seconds_count") == {f"done,{queue}": 20}
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    assert ready(channel, queue) == 0


@pytest.mark.parametrize(
    "line", ["consume {0}", "consume {0} --workers 2", "serve {0} --exec cat", "subscribe amq.topic"]
)
def test_a_port_that_is_in_use_is_an_error_and_nothing_is_consumed(
    line: str, broker_url: str, channel: BlockingChannel, queue: str
) -> None:
    fill(channel, queue, 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = command(*line.format(queue).split(), "--metrics-port", port, env={"RMQKIT_URL": broker_url})
    assert done.returncode == 2
    assert f"error: --metrics-port {port}: address already in use" in done.stderr
    assert ready(channel, queue) == 1


@pytest.mark.parametrize("name", ["serve", "subscribe"])
def test_serve_and_subscribe_have_metrics(name: str, broker_url: str, queue: str, port: int, tmp_path: Path) -> None:
    arguments = ["serve", queue, "--exec", "cat"] if name == "serve" else ["subscribe", "amq.topic", "-r", queue]
    process = subprocess.Popen(
        [sys.executable, "-m", "rmqkit", *arguments, "--metrics-port", str(port)],
        env={"RMQKIT_URL": broker_url, "XDG_STATE_HOME": str(tmp_path), "PATH": "/bin:/usr/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: values(scrape(port), "rmqkit_connection_events_total"))
        with rmqkit.connect(broker_url) as client:
            if name == "serve":
                assert client.call(Message(b"hello", queue)).body == b"hello"
            else:
                wait_until(lambda: not client.publish(Message(b"x", queue, "amq.topic"), check=False).failures)
        label = queue if name == "serve" else "temporary"
        wait_until(lambda: values(scrape(port), "rmqkit_consumed_messages_total").get(f"ack,{label}"))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_program_keeps_metrics_in_a_registry_of_its_own(broker_url: str, queue_name: str) -> None:
    declare(broker_url, queue_name)
    registry = CollectorRegistry()

    def handle(delivery: Delivery) -> None:
        if delivery.body == b"bad":
            raise ValueError("secret")

    stop = Stop()
    with rmqkit.connect(broker_url, hooks=Metrics(registry)) as connection:
        old = Properties(timestamp=datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2))
        connection.publish([Message(b"good", queue_name, properties=old), Message(b"bad", queue_name)])
        connection.publish(Message(b"lost", f"no {queue_name}"), check=False)
        rmqkit.handle(
            connection, queue_name, handle, count=2,
            failed=rmqkit.FailurePolicy.REJECT, on_failure=lambda _, __: None,
        )  # fmt: skip
        connection.serve(queue_name)(lambda request: request.body)
        server = threading.Thread(target=connection.run, kwargs={"stop": stop})
        server.start()
        assert connection.call(Message(b"hello", queue_name)).body == b"hello"
        stop.request()
        server.join()
    text = generate_latest(registry).decode()
    assert values(text, "rmqkit_published_messages_total") == {",confirmed": 4, ",returned": 1}  # and the reply
    assert values(text, "rmqkit_publish_seconds_count") == {"": 4}
    assert values(text, "rmqkit_call_seconds_count") == {"": 1}
    assert values(text, "rmqkit_consumed_messages_total") == {f"ack,{queue_name}": 2, f"reject,{queue_name}": 1}
    assert values(text, "rmqkit_handler_seconds_count") == {f"done,{queue_name}": 2, f"failed,{queue_name}": 1}
    assert values(text, "rmqkit_time_in_queue_seconds_count") == {queue_name: 1}
    assert 7200 <= values(text, "rmqkit_time_in_queue_seconds_sum")[queue_name] < 7260
    assert values(text, "rmqkit_connection_events_total") == {"connected": 2}
    assert "secret" not in text


def test_redelivered_messages_are_counted(broker_url: str, channel: BlockingChannel, queue: str) -> None:
    registry = CollectorRegistry()
    channel.basic_publish("", queue, b"x", pika.BasicProperties())
    wait_for_queue(channel, queue, ready=1)
    with rmqkit.connect(broker_url, hooks=Metrics(registry)) as connection:
        for _ in range(2):
            for _delivery in connection.consume(queue, count=1):
                break
    text = generate_latest(registry).decode()
    assert values(text, "rmqkit_received_messages_total") == {f"{queue},no": 1, f"{queue},yes": 1}
