"""`rmqkit check` against a real RabbitMQ."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.cli import health_text
from rmqkit.cli.health_text import Check, Level, Metric
from rmqkit.node.node import Node
from tests.conftest import Broker
from tests.support.cli import Run, rmqkit
from tests.support.queues import fill
from tests.support.versions import version
from tests.support.wait import wait_until

ORDERS = "queues: {billing: {}, stock: {type: quorum}}\n"


def results(done: Any) -> dict[str, tuple[str, str]]:
    """Return the level and the message of each check, by its name and queue."""
    checks = json.loads(done.stdout)["checks"]
    return {f"{each['name']} {each['queue']}".strip(): (each["level"], each["message"]) for each in checks}


def publish(channel: BlockingChannel, queue: str, age_s: float | None) -> None:
    channel.confirm_delivery()
    timestamp = None if age_s is None else int(time.time() - age_s)
    channel.basic_publish("", queue, b"x", pika.BasicProperties(timestamp=timestamp, delivery_mode=2))


def test_a_broker_that_is_well_passes_every_check(live: Run, topology: Path) -> None:
    assert live("apply", topology).returncode == 0
    done = live("check", topology, "--json")
    assert done.returncode == 0, done.stdout
    assert list(results(done)) == ["connection", "alarms", "nodes", "listeners", "quorum", "drift"]
    assert {level for level, _ in results(done).values()} == {"ok"}
    text = live("check", topology)
    assert (text.returncode, [line.split()[:2] for line in text.stdout.splitlines()]) == (
        0,
        [["ok", name] for name in results(done)],
    )


def test_drift_and_limits_are_critical(live: Run, topology: Path, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("billing", durable=True)
    fill(vhost_channel, "billing", 2)
    done = live("check", topology, "--queue", "b*", "--max-ready=1", "--min-consumers=1", "--json")
    assert done.returncode == 9
    assert results(done)["drift"] == ("critical", f"1 create: see `rmqkit plan {topology}`")
    assert results(done)["queue billing"] == ("critical", "2 ready, more than 1; 0 consumers, fewer than 1")
    limits = ("--max-ready=2", "--min-consumers=0", "--max-unacked=0")
    assert live("check", "--queue", "billing", *limits).returncode == 0
    missing = live("check", "--queue", "nowhere", "--queue", "n*", "--json")
    assert (missing.returncode, results(missing)["queue nowhere"]) == (9, ("critical", "does not exist"))
    assert results(missing)["queue n*"] == ("unknown", "no queue matches")
    assert vhost_channel.basic_get("billing")[0]
    wait_until(lambda: live("check", "--queue", "billing", "--max-unacked=0").returncode == 9)


def test_the_age_of_the_oldest_message_is_told_where_it_can_be(
    live: Run, broker: Broker, vhost_channel: BlockingChannel
) -> None:
    for kind in ("classic", "quorum", "stream"):
        vhost_channel.queue_declare(kind, durable=True, arguments={"x-queue-type": kind})
        publish(vhost_channel, kind, 1000)
        publish(vhost_channel, kind, 0)
    vhost_channel.queue_declare("none", durable=True)
    publish(vhost_channel, "none", None)
    vhost_channel.queue_declare("milliseconds", durable=True)
    publish(vhost_channel, "milliseconds", -1e12)
    vhost_channel.queue_declare("empty", durable=True)
    queues = [f"--queue={name}" for name in ("classic", "quorum", "stream", "none", "milliseconds", "empty")]
    found: dict[str, tuple[str, str]] = {}

    def is_known() -> bool:  # the HTTP API knows the first message after some seconds
        found.update(results(live("check", *queues, "--max-age=15m", "--json")))
        return found["queue classic"][0] == "critical"

    wait_until(is_known, lambda: str(found))
    assert found["queue classic"][1].startswith("oldest message 1,0")
    assert found["queue stream"][1].startswith("oldest message 1,0")
    if version(broker) >= (4, 3):
        assert found["queue quorum"][1].startswith("oldest message 1,0")
    else:
        assert found["queue quorum"] == (
            "unknown",
            "age of the oldest message: before RabbitMQ 4.3, peeking into a quorum queue counts as a delivery",
        )
    assert found["queue none"] == ("unknown", "age of the oldest message: it has no timestamp")
    assert found["queue milliseconds"] == ("unknown", "age of the oldest message: its timestamp is in the future")
    assert live("why", "milliseconds").returncode == 0
    assert found["queue empty"][0] == "ok"
    assert live("check", "--queue=classic", "--queue=stream", "--max-age=2h").returncode == 0


def test_without_a_connection_the_cause_is_the_only_result(live: Run, broker_url: str) -> None:
    away = live("check", "--json", RMQKIT_URL="amqp://127.0.0.1:1")
    assert (away.returncode, results(away)["connection"][0]) == (4, "critical")
    refused = live("check", "-u", broker_url.replace("guest:guest", "guest:wrong"))
    assert (refused.returncode, refused.stdout.split()[:2]) == (4, ["critical", "login"])
    assert live("check", "--nagios", RMQKIT_URL="amqp://127.0.0.1:1").returncode == 2


@pytest.mark.unguessed_api
def test_without_the_http_api_its_checks_are_unknown(live: Run, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("billing", durable=True)
    done = live("check", "--queue=billing", "--max-unacked=1", "--max-age=1m", "--json", RMQKIT_API_URL="")
    assert done.returncode == 9
    assert results(done)["http_api"][0] == "unknown"
    level, message = results(done)["queue billing"]
    assert (level, "unacknowledged messages need the HTTP API" in message) == ("unknown", True)
    assert live("check", "--nagios", RMQKIT_API_URL="").returncode == 3


@pytest.mark.parametrize(
    "options",
    [("--json", "--nagios"), ("--max-ready=1",), ("--queue=x", "--max-age=5"), ("--queue=x", "--max-ready=x")],
)
def test_bad_usage_is_refused(options: tuple[str, ...], live: Run) -> None:
    done = live("check", *options)
    assert done.returncode == 2


def test_nagios_and_prometheus_get_their_formats(live: Run, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("billing", durable=True)
    words = ("check", "--queue=billing", "--min-consumers=1")
    nagios = live(*words, "--nagios")
    assert nagios.returncode == 2
    first, *others = nagios.stdout.splitlines()
    assert first.startswith(
        "RABBITMQ CRITICAL - queue billing: 0 consumers, fewer than 1 | 'billing ready_messages'=0;;"
    )
    assert "'billing consumers'=0;;1:" in first
    assert len(others) == 6
    metrics = live(*words, "--prometheus").stdout.splitlines()
    assert 'rmqkit_check_level{check="queue",queue="billing"} 2' in metrics
    assert 'rmqkit_queue_ready_messages{queue="billing"} 0' in metrics


def test_an_alarm_is_critical(node: Node) -> None:
    api_url = node.status().management_url.replace("://", "://guest:guest@")
    env = {"RMQKIT_URL": node.url, "RMQKIT_API_URL": api_url}
    assert node.ctl("set_vm_memory_high_watermark", "0.00001").returncode == 0
    try:
        wait_until(lambda: results(rmqkit("check", "--json", env=env))["alarms"][0] == "critical")
        wait_until(lambda: f"memory on {node.name}" in rmqkit("check", env=env).stdout)
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.4")


def test_a_failed_check_counts_for_more_than_an_unknown_one_and_labels_are_escaped() -> None:
    checks = [Check(name, level, name, 'a"|b\n') for name, level in (("one", Level.UNKNOWN), ("two", Level.CRITICAL))]
    assert health_text.worst(checks) is Level.CRITICAL
    assert health_text.worst(checks[:1]) is Level.UNKNOWN
    assert health_text.worst([]) is Level.OK
    assert 'queue="a\\"|b\\n"' in health_text.as_metrics(checks)
    shown = health_text.as_nagios([Check("q", Level.OK, "1 | 2", "it's", (Metric("n", 1),))])
    assert shown.splitlines()[0] == "RABBITMQ OK - 1 checks passed | 'it''s n'=1;;"


def test_large_numbers_are_written_in_full_and_a_bar_in_the_name_of_a_queue_does_not_end_a_text() -> None:
    checks = [Check("queue", Level.OK, "", "a|b", (Metric("ready_messages", 10_000_001, 10_000_000),))]
    assert 'rmqkit_queue_ready_messages{queue="a|b"} 10000001' in health_text.as_metrics(checks)
    first = "RABBITMQ OK - 1 checks passed | 'a/b ready_messages'=10000001;;10000000"
    assert health_text.as_nagios(checks).splitlines()[0] == first
