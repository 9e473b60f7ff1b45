"""`rmqkit apply` against a real RabbitMQ."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import Run, outcomes, rmqkit
from tests.support.versions import version

ORDERS = """
exchanges:
  orders: {type: topic}
queues:
  billing: {}
  stock: {arguments: {x-max-length: 10}}
bindings:
  - {source: orders, destination: billing, routing_key: "order.#"}
publish: {exchange: orders, routing_key: order.eu}
"""


@pytest.fixture
def run(vhost_url: str, tmp_path: Path) -> Run:
    """Run `rmqkit` on a virtual host of its own, with a state folder of its own."""
    env = {"RMQKIT_URL": vhost_url, "XDG_STATE_HOME": str(tmp_path / "state")}

    def run(*arguments: object, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return rmqkit(*arguments, stdin=stdin, env=env | more)

    return run


def test_applying_says_that_an_exclusive_queue_does_not_last(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "exclusive.yaml"
    file.write_text("queues: {mine: {exclusive: true}}")
    for command in ("plan", "apply", "apply"):
        assert "mine  exclusive: deleted with the connection that declares it" in run(command, file).stdout


@pytest.mark.unguessed_api
def test_applying_lists_the_changes_and_is_idempotent(run: Run, topology: Path, vhost_channel: BlockingChannel) -> None:
    first = run("apply", topology)
    assert first.returncode == 0
    assert [line.split() for line in first.stdout.splitlines()] == [
        ["action", "kind", "name", "remarks"],
        ["+", "created", "exchange", "orders"],
        ["+", "created", "queue", "billing"],
        ["+", "created", "queue", "stock"],
        ["+", "declared", "binding", "orders", "->", "billing", "[order.#]"],
    ]
    assert "3 created, 1 declared" in first.stderr
    assert "guest:***@" in first.stderr
    assert "now publishes to exchange 'orders', routing key 'order.eu'." in first.stderr
    second = run("apply", topology)
    assert second.returncode == 0
    assert [line.split()[:2] for line in second.stdout.splitlines()[1:]] == [["+", "declared"]]
    assert "1 declared, 3 unchanged" in second.stderr
    vhost_channel.confirm_delivery()  # else the count may be asked for before it is in the queue
    vhost_channel.basic_publish("orders", "order.eu.paid", b"x")
    assert vhost_channel.queue_declare("billing", passive=True).method.message_count == 1


def test_the_topology_applied_last_is_saved_or_a_warning_is_printed(run: Run, topology: Path, tmp_path: Path) -> None:
    assert run("apply", "--dry-run", topology).returncode == 0
    assert not (tmp_path / "state").exists()
    assert run("apply", topology).returncode == 0
    (kept,) = (tmp_path / "state").rglob("*.json")
    assert json.loads(kept.read_text())["publish"] == {"exchange": "orders", "routing_key": "order.eu"}
    assert "guest" not in kept.read_text()
    unwritable = run("apply", topology, XDG_STATE_HOME="/dev/null")
    assert unwritable.returncode == 0
    assert "warning: " in unwritable.stderr


def test_a_dry_run_changes_nothing(run: Run, topology: Path, vhost_channel: BlockingChannel) -> None:
    done = run("apply", "--dry-run", topology)
    assert done.returncode == 0
    assert "create" in done.stdout
    assert "created" not in done.stdout + done.stderr
    assert "Nothing was changed" in done.stderr
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        vhost_channel.queue_declare("billing", passive=True)


@pytest.mark.unguessed_api
def test_the_report_is_json_when_asked_for(run: Run, topology: Path) -> None:
    expected = {"exchange orders": "create", "queue billing": "create", "queue stock": "create"}
    done = run("apply", "--json", topology)
    assert outcomes(done) == {**expected, "binding orders -> billing [order.#]": "declare"}
    assert json.loads(done.stdout)["applied"] is True
    assert done.stderr == ""


@pytest.mark.unguessed_api
def test_every_conflict_is_listed_and_nothing_is_changed(
    run: Run, topology: Path, vhost_channel: BlockingChannel
) -> None:
    vhost_channel.queue_declare("billing", durable=False)
    vhost_channel.exchange_declare("orders", "fanout", durable=True)
    done = run("apply", topology)
    assert (done.returncode, done.stdout) == (5, "")
    assert f"{topology}:5:" in done.stderr
    assert "durable: false on the broker, true in the topology" in done.stderr
    assert f"{topology}:3:" in done.stderr
    assert "type: fanout on the broker, topic in the topology" in done.stderr
    error = json.loads(run("apply", topology, "--json").stdout)
    assert error["error"] == "PropertyMismatch"
    assert {problem["line"] for problem in error["problems"]} == {3, 5}
    assert {each["outcome"] for each in error["report"]["entities"]} == {"conflict", "create", "declare"}
    planned = run("apply", topology, "--dry-run")
    assert planned.returncode == 5
    assert "conflict" in planned.stdout
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        vhost_channel.queue_declare("stock", passive=True)


def test_a_refused_feature_exits_with_5_and_names_the_queue_and_its_line(
    run: Run, tmp_path: Path, broker: Broker
) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text("queues:\n  good: {}\n  bad: {arguments: {x-queue-master-locator: min-masters}}\n")
    done = run("apply", file)
    if version(broker) < (4, 3):
        assert done.returncode == 0
        return
    assert (done.returncode, done.stdout) == (5, "")
    assert "queue 'bad': refused by the broker: 541" in done.stderr
    assert f"{file}:3:" in done.stderr


def test_an_invalid_topology_fails_without_a_broker(run: Run, topology: Path) -> None:
    topology.write_text(ORDERS.replace("destination: billing", "destination: biling"))
    done = run("apply", topology, RMQKIT_URL="amqp://127.0.0.1:1/")
    assert (done.returncode, done.stdout) == (2, "")
    assert "biling" in done.stderr
    assert f"{topology}:8:" in done.stderr


def test_a_topology_is_read_from_standard_input(run: Run) -> None:
    assert outcomes(run("apply", "-", "--json", stdin="queues: {q: {}}"))["queue q"] == "create"


def test_a_refused_login_exits_with_4_and_hides_the_password(run: Run, topology: Path, broker_url: str) -> None:
    place = broker_url.rpartition("@")[2]
    wrong = run("apply", topology, "--url", f"amqp://guest:c4n4ry@{place}")
    assert (wrong.returncode, wrong.stdout) == (4, "")
    assert "c4n4ry" not in wrong.stderr
    assert "error: " in wrong.stderr


def test_a_missing_virtual_host_exits_with_5_and_is_named(run: Run, topology: Path) -> None:
    missing = run("apply", topology, "--vhost", "no such one")
    assert (missing.returncode, missing.stdout) == (5, "")
    assert "no such one" in missing.stderr or "no%20such%20one" in missing.stderr


def test_the_error_for_a_refused_connection_explains_how_to_start_a_broker(run: Run, topology: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # not listening
        done = run("apply", topology, RMQKIT_URL=f"amqp://127.0.0.1:{nobody.getsockname()[1]}/")
    assert (done.returncode, done.stdout) == (4, "")
    assert "rmqkit broker start" in done.stderr
    assert "docker run" in done.stderr


def test_a_topology_with_delay_declares_the_queues_of_delayed_messages(live: Run, tmp_path: Path) -> None:
    """In one line of the plan; a publisher then declares nothing but the last queue."""
    file = tmp_path / "reminders.yaml"
    file.write_text("queues: {reminders: {type: quorum}}\ndelay: true\n")
    planned = live("plan", file).stdout
    assert [line.split()[:4] for line in planned.splitlines()[1:]] == [
        ["+", "create", "queue", "rmqkit.delay.*"],
        ["+", "create", "queue", "reminders"],
    ]
    assert "74 created" in live("apply", file).stderr
    assert "74 unchanged" in live("apply", file).stderr
    published = live("publish", "reminders", "x", "--delay", "1s")
    assert (published.returncode, "declaring" in published.stderr) == (0, False)
    assert live("consume", "reminders", "-n", "1", "--idle-timeout", "30").stdout == "x\n"
    assert "rmqkit.delay.*" in live("status", file).stdout
    exported = live("export")
    assert (exported.stdout, exported.stderr) == ("queues:\n  reminders: {type: quorum}\n\ndelay: true\n", "")
