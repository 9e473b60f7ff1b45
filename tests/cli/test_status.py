"""`rmqkit status` against a real RabbitMQ."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.cli import broker_tables, output
from rmqkit.cli.commands import status
from rmqkit.report import QueueStatus
from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.proxy import Proxy
from tests.support.queues import open_channel
from tests.support.terminal import terminal
from tests.support.versions import version
from tests.support.wait import wait_until

ORDERS = """
queues:
  billing: {}
  stock: {type: quorum}
  gone: {}
"""
Watch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def filled(vhost_channel: BlockingChannel) -> None:
    """Leave three messages in `billing`, one of them out for delivery, and a queue of somebody else."""
    vhost_channel.queue_declare("billing", durable=True)
    vhost_channel.queue_declare("stock", durable=True, arguments={"x-queue-type": "quorum"})
    vhost_channel.queue_declare("theirs", durable=True)
    vhost_channel.confirm_delivery()
    for _ in range(3):
        vhost_channel.basic_publish("", "billing", b"x")
    assert vhost_channel.basic_get("billing")[0]
    vhost_channel.basic_consume("stock", lambda *_: None)


@pytest.fixture
def watch(broker: Broker, vhost_url: str) -> Iterator[Watch]:
    """Start `rmqkit status --watch --json`, twice a second."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, url: str = vhost_url) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from rmqkit.cli import main; main()", "status", "--watch", "--interval=0.5"]
        env = os.environ | {"RMQKIT_URL": url, "RMQKIT_API_URL": broker.api_url}
        full = [*command, "--json", *map(str, arguments)]
        started.append(subprocess.Popen(full, env=env, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def on(broker: Broker, url: str) -> dict[str, str]:
    return {"RMQKIT_URL": url, "RMQKIT_API_URL": broker.api_url}


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    return dict(json.loads(process.stdout.readline()))


@pytest.mark.usefixtures("filled")
def test_the_counts_of_declared_queues_are_current(live: Run, topology: Path) -> None:
    done = live("status", topology)
    assert done.returncode == 5  # a queue is missing
    header, *rows = [row.split() for row in done.stdout.splitlines()]
    assert header == ["queue", "type", "ready", "unacked", "consumers", "in/s", "out/s"]
    assert [row[0] for row in rows] == ["billing", "stock", "gone"]
    assert (rows[0][1], rows[0][2], rows[0][4]) == ("classic", "2", "0")
    assert rows[0][-2:] == ["no", "consumers"]
    assert (rows[1][1], rows[1][2], rows[1][4]) == ("quorum", "0", "1")
    assert rows[2] == ["gone", "-", "missing"]
    assert done.stderr.startswith("3 queues: 2 ready, ")
    assert "1 to create: see `rmqkit plan" in done.stderr


@pytest.mark.usefixtures("filled")
def test_drift_is_counted_by_kind_and_is_not_an_error(live: Run, topology: Path) -> None:
    topology.write_text(
        "queues: {billing: {arguments: {x-max-length: 5}}, stock: {type: quorum}}\n"
        "policies: {new: {pattern: ^x, definition: {max-length: 1}}}\n"
        "scope: [their*]\n"
    )
    done = live("status", topology, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["drift"] == {"create": 1, "change": 0, "conflict": 1, "extra": 1}
    assert [(each["name"], each["ready"]) for each in report["queues"]] == [("billing", 2), ("stock", 0)]
    said = live("status", topology).stderr
    assert [each.partition(":")[0] for each in said.splitlines()] == [
        "2 queues",
        "1 to create",
        "1 in conflict",
        "1 extra",
    ]


@pytest.mark.usefixtures("filled")
def test_without_a_file_all_queues_are_shown(live: Run) -> None:
    deadline = time.monotonic() + 20
    while True:
        queues = {each["name"]: each for each in json.loads(live("status", "--json").stdout)["queues"]}
        seen = [queues.get("billing", {}).get(name) for name in ("ready", "unacknowledged", "consumers", "state")]
        if seen == [2, 1, 0, "running"]:
            break
        assert time.monotonic() < deadline, queues
    assert list(queues) == ["billing", "stock", "theirs"]
    assert "up to 5 s old" in live("status").stderr


@pytest.mark.usefixtures("filled")
@pytest.mark.unguessed_api
def test_without_the_http_api_only_ready_and_consumers_are_shown(live: Run, topology: Path) -> None:
    done = live("status", topology, RMQKIT_API_URL="")
    assert done.returncode == 5
    assert [row.split() for row in done.stdout.splitlines()][1:] == [
        ["billing", "-", "2", "-", "0", "-", "-", "no", "consumers"],
        ["stock", "-", "0", "-", "1", "-", "-"],
        ["gone", "-", "missing"],
    ]
    assert "unacknowledged messages and rates" in done.stderr
    assert "Bindings, policies" in done.stderr
    alone = live("status", RMQKIT_API_URL="")
    assert (alone.returncode, alone.stdout) == (4, "")
    assert "pass a topology file" in alone.stderr
    named = live("status", topology, RMQKIT_API_URL="http://127.0.0.1:1")
    assert (named.returncode, named.stdout) == (4, "")


def test_an_exclusive_queue_of_another_connection_is_shown(
    live: Run, topology: Path, vhost_channel: BlockingChannel
) -> None:
    vhost_channel.queue_declare("billing", exclusive=True)
    topology.write_text("queues: {billing: {exclusive: true, durable: false}}")
    (queue,) = json.loads(live("status", topology, "--json").stdout)["queues"]
    assert (queue["name"], queue["ready"], queue["type"]) == ("billing", 0, "classic")


@pytest.mark.usefixtures("filled")
def test_queues_are_selected_by_patterns_and_sorted(live: Run, topology: Path, vhost_channel: BlockingChannel) -> None:
    def names(*arguments: object) -> list[str]:
        return [each["name"] for each in json.loads(live("status", "--json", *arguments).stdout)["queues"]]

    assert names("*i*", "--sort", "name") == ["billing", "theirs"]
    assert names(topology, "s*", "b*") == ["billing", "stock"]
    assert names(topology, "--sort", "name") == ["billing", "gone", "stock"]
    vhost_channel.basic_publish("", "stock", b"x")
    wait_until(lambda: names(topology, "--sort", "busy")[0] == "billing")


@pytest.mark.parametrize("letter", ["q", "\u961f"])  # one of two columns
def test_the_table_fits_the_terminal_with_names_of_any_length(
    letter: str, broker: Broker, vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    for number in range(60):
        vhost_channel.queue_declare(f"{number:02}-{letter * 70}-{number:02}", durable=True)
    with terminal("status", "--sort", "name", env=on(broker, vhost_url), stderr=subprocess.DEVNULL) as screen:
        code, shown = screen.end()
    assert code == 0
    _, *rows = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert [(row[:2], row.split()[0][-2:]) for row in rows] == [(f"{each:02}", f"{each:02}") for each in range(60)]
    assert all(output.width(row) <= 80 for row in rows), shown


def test_a_named_queue_that_is_missing_fails(live: Run, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("orders", durable=True)
    done = live("status", "orders", "nope")
    assert done.returncode == 5
    assert [row.split()[0] for row in done.stdout.splitlines()[1:]] == ["orders", "nope"]
    assert done.stdout.splitlines()[2].endswith("missing")
    assert live("status", "ord*").returncode == live("status", "none*").returncode == 0


def test_all_virtual_hosts_are_shown_each_with_its_queues(
    live: Run, broker_url: str, vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    with open_channel(broker_url) as other:
        name = vhost_url.rpartition("/")[2]
        for channel in (vhost_channel, other):
            channel.queue_declare(name, durable=True)
        try:
            (header, *rows) = live("status", name, "--all-vhosts").stdout.splitlines()
        finally:
            other.queue_delete(name)
    assert header.split()[:3] == ["queue", "vhost", "type"]
    assert [row.split()[:2] for row in rows] == [[name, "/"], [name, name]]
    refused = live("status", "orders.yaml", "--all-vhosts")
    assert (refused.returncode, "declare one virtual host" in refused.stderr) == (2, True)


def test_messages_that_amqp_does_not_count_are_shown(live: Run, broker: Broker, vhost_channel: BlockingChannel) -> None:
    vhost_channel.confirm_delivery()
    late = {"x-overflow": "reject-publish", "x-dead-letter-strategy": "at-least-once", "x-dead-letter-exchange": ""}
    queues: dict[str, dict[str, Any]] = {"dead": late | {"x-dead-letter-routing-key": "missing"}}
    if version(broker) >= (4, 3):
        queues["delayed"] = {
            "x-delayed-retry-type": "all",
            "x-delayed-retry-min": 60_000,
            "x-delayed-retry-max": 60_000,
        }
    for queue, arguments in queues.items():
        vhost_channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"} | arguments)
        for _ in range(3):
            vhost_channel.basic_publish("", queue, b"x")
        for _ in range(3):
            method, _properties, _body = vhost_channel.basic_get(queue)
            vhost_channel.basic_reject(method.delivery_tag, requeue=queue == "delayed")
    wait_until(lambda: live("status").stdout.count("3 waiting") == len(queues))
    for each in json.loads(live("status", "--json").stdout)["queues"]:
        assert (each["ready"], each["unacknowledged"], each["waiting"]) == (0, 0, 3)


def test_remarks_are_in_the_last_column() -> None:
    def remark(**fields: Any) -> str:
        known = {"ready": 0, "consumers": 1, "published_per_s": 0.0, "delivered_per_s": 0.0} | fields
        return broker_tables.queue_remark(QueueStatus("q", **known))[0]

    assert remark() == remark(ready=5) == ""
    assert remark(ready=5, consumers=0) == "no consumers"
    assert remark(ready=5, waiting=1_234) == "1,234 waiting"
    assert remark(state="down") == "down"
    assert remark(ready=5, published_per_s=90.0, delivered_per_s=50.0) == "growing"
    assert remark(ready=5, published_per_s=90.0, delivered_per_s=89.0) == ""
    assert remark(ready=0, published_per_s=90.0) == ""


def test_numbers_are_right_aligned_and_unknown_values_are_dashes() -> None:
    queues = (QueueStatus("q", 1234567, 2), QueueStatus("long", 1, 30, "classic", "running", 7, 0, 1234.5, 0.25, 0.0))
    assert status._table(status.Status(queues)).splitlines() == [
        "queue  type         ready  unacked  consumers   in/s  out/s",
        "q      -        1,234,567        -          2      -      -",
        "long   classic          1        7         30  1,234    0.2  growing",
    ]


@pytest.mark.usefixtures("filled")
def test_watching_as_json_prints_a_line_per_refresh_until_ctrl_c(watch: Watch, topology: Path) -> None:
    process = watch(topology)
    looks = [line(process) for _ in range(3)]
    assert [look["queues"][0]["ready"] for look in looks] == [2, 2, 2]
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 130


def test_watching_ends_when_standard_output_is_closed(watch: Watch, topology: Path) -> None:
    process = watch(topology)
    line(process)
    assert process.stdout
    process.stdout.close()
    assert process.wait(90) == 0
    process.stdout = None  # for the fixture


def test_watching_survives_a_lost_connection_and_reports_it(watch: Watch, topology: Path, vhost_url: str) -> None:
    with Proxy(vhost_url) as proxy:
        process = watch(topology, url=proxy.url)
        line(process)
        proxy.reset()
        while "queues" not in line(process):
            pass
    while "error" not in (look := line(process)):
        pass
    assert look["error"] in ("Unreachable", "ConnectionLost")
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 130


def test_watching_without_a_terminal_or_json_is_refused(live: Run) -> None:
    done = live("status", "--watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json" in done.stderr


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_watching_on_a_terminal_redraws_the_table_until_it_is_stopped(
    number: signal.Signals, code: int, broker: Broker, vhost_url: str, topology: Path
) -> None:
    with terminal("status", "-w", "--interval", "0.2", topology, env=on(broker, vhost_url)) as screen:
        screen.read(until=lambda text: text.count("billing") >= 3)
        screen.process.send_signal(number)
        ended, shown = screen.end()
    assert ended == code
    assert "to create" in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is back
    assert "\x1b[2K" in shown  # in the place of the one before
    assert "Traceback" not in shown


def test_delayed_messages_are_counted_in_one_line_unless_their_queues_are_named(
    live: Run, vhost_channel: BlockingChannel
) -> None:
    vhost_channel.queue_declare("later", durable=True)
    for delay in ("1h", "2d"):
        assert live("publish", "later", "x", "--delay", delay).returncode == 0
    wait_until(lambda: "2 waiting" in live("status").stdout)
    queues = {each["name"]: each for each in json.loads(live("status", "--json").stdout)["queues"]}
    assert queues.keys() == {"later", "rmqkit.delay.*"}
    assert (queues["rmqkit.delay.*"]["ready"], queues["rmqkit.delay.*"]["waiting"]) == (0, 2)
    (named,) = json.loads(live("status", "rmqkit.delay.11", "--json").stdout)["queues"]
    assert (named["name"], named["ready"]) == ("rmqkit.delay.11", 1)
