"""`rmqkit delete` against a real RabbitMQ."""

from __future__ import annotations

import json

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.queues import fill
from tests.support.terminal import terminal
from tests.support.wait import wait_until

KINDS = pytest.mark.parametrize("kind", ["classic", "quorum"])


@pytest.fixture
def orders(broker: Broker, vhost_channel: BlockingChannel, vhost_url: str) -> BlockingChannel:
    """Exchange `orders`, which feeds `billing` twice; `stock` has it as the target of its dead letters."""
    vhost_channel.exchange_declare("orders", "topic", durable=True)
    vhost_channel.exchange_declare("audit", "fanout", durable=True, arguments={"alternate-exchange": "orders"})
    vhost_channel.queue_declare("billing", durable=True)
    vhost_channel.queue_declare("stock", durable=True, arguments={"x-dead-letter-exchange": "orders"})
    for key in ("a", "b"):
        vhost_channel.queue_bind("billing", "orders", key)
    policy = {"pattern": "^billing", "definition": {"max-length": 9}, "apply-to": "queues"}
    broker.api("PUT", f"policies/{vhost_url.rpartition('/')[2]}/limit", json.dumps(policy).encode())
    fill(vhost_channel, "billing", 3)
    assert vhost_channel.basic_get("billing")[0]
    return vhost_channel


def exists(channel: BlockingChannel, queue: str) -> bool:
    with channel.connection.channel() as probe:
        try:
            probe.queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
    return True


def deleted(stdout: str) -> list[tuple[str, str]]:
    return [(each["kind"], each["name"]) for each in json.loads(stdout)["entities"]]


def test_the_plan_of_a_queue_shows_everything_that_goes_with_it(live: Run, orders: BlockingChannel) -> None:
    done = live("delete", "queue", "billing", "--dry-run")
    assert done.returncode == 0, done.stderr
    _, queue, *bindings = done.stdout.splitlines()
    assert queue.split()[:4] == ["-", "delete", "queue", "billing"]
    assert queue.endswith("2 messages and 1 unacknowledged message; policy 'limit' stays")
    assert [each.split(None, 3)[3] for each in bindings] == ["orders -> billing [a]", "orders -> billing [b]"]
    assert "Nothing was changed" in done.stderr
    assert exists(orders, "billing")


def test_delete_deletes_a_queue_with_its_messages_and_bindings(live: Run, orders: BlockingChannel) -> None:
    done = live("delete", "queue", "billing", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert deleted(done.stdout) == [
        ("queue", "billing"),
        ("binding", "orders -> billing [a]"),
        ("binding", "orders -> billing [b]"),
    ]
    assert json.loads(done.stdout)["entities"][0]["note"] == "with 2 messages and 1 unacknowledged or delayed message"
    assert not exists(orders, "billing")
    assert exists(orders, "stock")
    again = live("delete", "queue", "billing", "--yes")
    assert (again.returncode, again.stderr) == (5, "error: queue 'billing' does not exist\n")


def test_counts_that_may_be_out_of_date_are_not_shown_as_facts(live: Run, vhost_channel: BlockingChannel) -> None:
    """A stream counts its messages every five seconds, even for a passive declare, and none when it is deleted."""
    vhost_channel.queue_declare("events", durable=True, arguments={"x-queue-type": "stream"})
    vhost_channel.queue_declare("jobs", durable=True, arguments={"x-queue-type": "quorum"})
    vhost_channel.confirm_delivery()
    for _ in range(3):
        vhost_channel.basic_publish("", "events", b"x")

    def note(*arguments: str) -> str:
        return str(json.loads(live("delete", "queue", *arguments, "--json").stdout)["entities"][0]["note"])

    assert note("jobs", "--dry-run") == "empty (counts may be 5 s old)"
    assert note("events", "--dry-run").endswith(" (counts may be 5 s old)")
    wait_until(lambda: note("events", "--dry-run") == "3 messages (counts may be 5 s old)")
    assert note("events", "--yes") == "with 3 messages (counts may be 5 s old)"


def test_without_a_terminal_and_yes_delete_is_refused(live: Run, orders: BlockingChannel) -> None:
    for command in (["queue", "billing"], ["exchange", "orders"], ["binding", "orders", "billing"]):
        done = live("delete", *command)
        assert done.returncode == 2
        assert "Add --yes." in done.stderr
    assert exists(orders, "billing")


@pytest.mark.parametrize(("answer", "code"), [("no", 2), ("yes", 0)])
def test_on_a_terminal_delete_shows_the_plan_and_asks(
    broker: Broker, vhost_url: str, orders: BlockingChannel, answer: str, code: int
) -> None:
    env = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url}
    with terminal("delete", "queue", "billing", env=env) as screen:
        assert "2 messages" in screen.read(lambda shown: "[y/N]" in shown)
        screen.type(f"{answer}\n")
        assert screen.end()[0] == code
    assert exists(orders, "billing") == bool(code)


@KINDS
def test_a_condition_keeps_a_queue_in_use(live: Run, vhost_channel: BlockingChannel, kind: str) -> None:
    vhost_channel.queue_declare("held", durable=True, arguments={"x-queue-type": kind})
    fill(vhost_channel, "held", 1)
    with vhost_channel.connection.channel() as consuming:
        consuming.basic_consume("held", lambda *_: None)
        unused = live("delete", "queue", "held", "--if-unused", "--yes")
        assert (unused.returncode, "has 1 consumer; nothing was deleted" in unused.stderr) == (5, True)
        empty = live("delete", "queue", "held", "--if-empty", "--yes")
        assert (empty.returncode, "unacknowledged message" in empty.stderr) == (5, True), empty.stderr
    full = live("delete", "queue", "held", "--if-empty", "--if-unused", "--yes")
    assert (full.returncode, "has 1 message" in full.stderr) == (5, True)
    assert live("delete", "queue", "held", "--if-unused", "--yes").returncode == 0
    assert not exists(vhost_channel, "held")


@pytest.mark.unguessed_api
def test_without_the_http_api_if_empty_is_refused_and_the_rest_says_what_is_unseen(
    live: Run, orders: BlockingChannel
) -> None:
    empty = live("delete", "queue", "stock", "--if-empty", "--yes", RMQKIT_API_URL="")
    assert (empty.returncode, "unacknowledged messages cannot be seen" in empty.stderr) == (5, True)
    done = live("delete", "queue", "stock", "--dry-run", RMQKIT_API_URL="")
    assert "Unacknowledged messages, bindings and policies cannot be seen" in done.stderr
    assert "no ready messages" in done.stdout
    assert live("delete", "queue", "stock", "--yes", RMQKIT_API_URL="").returncode == 0
    assert not exists(orders, "stock")
    assert live("delete", "binding", "orders", "billing", "--yes", RMQKIT_API_URL="").returncode == 4


def test_the_plan_of_an_exchange_shows_bindings_and_what_loses_its_messages(live: Run, orders: BlockingChannel) -> None:
    done = live("delete", "exchange", "orders", "--dry-run", "--json")
    assert deleted(done.stdout)[0] == ("exchange", "orders")
    assert len(deleted(done.stdout)) == 3
    assert json.loads(done.stdout)["entities"][0]["note"] == (
        "dead letters of queue 'stock' would be lost; unroutable messages of exchange 'audit' would be lost"
    )
    used = live("delete", "exchange", "orders", "--if-unused", "--yes")
    assert (used.returncode, "406" in used.stderr) == (5, True), used.stderr
    assert live("delete", "exchange", "orders", "--yes").returncode == 0
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        orders.exchange_declare("orders", passive=True)


def test_bindings_are_deleted_by_key_or_all(live: Run, orders: BlockingChannel) -> None:
    one = live("delete", "binding", "orders", "billing", "-r", "a", "--yes", "--json")
    assert deleted(one.stdout) == [("binding", "orders -> billing [a]")]
    again = live("delete", "binding", "orders", "billing", "-r", "a", "--yes")
    assert (again.returncode, "does not exist" in again.stderr) == (5, True)
    orders.exchange_bind("audit", "orders", "a")
    assert deleted(live("delete", "binding", "orders", "audit", "--to-exchange", "--yes", "--json").stdout) == [
        ("binding", "orders -> audit [a]")
    ]
    assert len(deleted(live("delete", "binding", "orders", "billing", "--yes", "--json").stdout)) == 1
    orders.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        orders.basic_publish("orders", "b", b"x", mandatory=True)


@pytest.mark.parametrize("name", ["amq.topic", ""])
def test_an_exchange_of_rabbitmq_itself_is_refused(live: Run, name: str) -> None:
    done = live("delete", "exchange", name, "--yes")
    expected = f"error: exchange {name!r} is RabbitMQ's own, which nobody can delete\n"
    assert (done.returncode, done.stderr) == (2, expected)
