"""`rmqkit connections` and `rmqkit consumers` against a real RabbitMQ."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.clients import client, holder
from tests.support.contexts import write_contexts
from tests.support.queues import fill
from tests.support.terminal import terminal
from tests.support.wait import wait_until


@pytest.fixture
def orders(vhost_channel: BlockingChannel) -> BlockingChannel:
    vhost_channel.queue_declare("orders", durable=True)
    fill(vhost_channel, "orders", 5)
    return vhost_channel


def listed(live: Run, *arguments: object, count: int) -> list[dict[str, Any]]:
    """Return the connections once so many are listed with the names of their clients."""
    found: list[dict[str, Any]] = []

    def is_complete() -> bool:
        found[:] = json.loads(live("connections", *arguments, "--json").stdout)["connections"]
        return len([each for each in found if each["client_name"]]) == count

    wait_until(is_complete, lambda: str(found))
    return found


def test_connections_show_who_is_connected_from_where_and_with_which_client(live: Run, vhost_url: str) -> None:
    with (
        client(vhost_url, lambda _: None, "billing worker"),
        client(vhost_url, lambda channel: channel.connection.channel(), "stock worker"),
    ):
        known = [(1, "running"), (2, "running")]
        wait_until(lambda: [(each["channels"], each["state"]) for each in listed(live, "*worker", count=2)] == known)
        (first, second) = listed(live, "*worker", count=2)
        assert (first["client_name"], second["client_name"]) == ("billing worker", "stock worker")
        assert (first["user"], first["client"], first["version"]) == (
            "guest",
            "Pika Python Client Library",
            pika.__version__,
        )
        assert (first["tls"], first["state"], first["vhost"]) == (False, "running", vhost_url.rpartition("/")[2])
        assert [each["client_name"] for each in listed(live, "stock*", count=1)] == ["stock worker"]
        header, row = live("connections", "stock*").stdout.splitlines()
        assert header.split() == ["name", "from", "user", "client", "channels", "in", "B/s", "out", "B/s", "open"]
        assert re.fullmatch(r"stock worker +127.0.0.1:\d+ +guest +Pika Python Client Library \S+ +2 .*", row)
        header, *rows = live("connections", "stock*", "--all-vhosts").stdout.splitlines()
        assert (header.split()[1], first["vhost"] in "".join(rows)) == ("vhost", True)
    assert live("connections", "none*").stderr.startswith("0 connections.")


def test_a_connection_is_closed_with_a_reason(live: Run, vhost_url: str) -> None:
    name = f"worker {vhost_url[-6:]}"
    with client(vhost_url, lambda _: None, name) as one, client(vhost_url, lambda _: None, name) as other:
        places = [f"{each['host']}:{each['port']}" for each in listed(live, name, count=2)]
        several = live("connections", "--close", name)
        assert (several.returncode, several.stderr.splitlines()) == (
            2,
            [
                f"error: 2 connections have the name {name!r}; none was closed",
                f"  Choose one by its address: {', '.join(places)}",
            ],
        )
        done = live("connections", "--close", places[0], "--reason", "stuck since 9:40")
        assert done.returncode == 0
        assert done.stderr == f"Closed the connection {name!r} of user 'guest' from {places[0]}.\n"
        wait_until(lambda: len(one) + len(other) == 1)
        (error,) = one + other
        assert isinstance(error, pika.exceptions.ConnectionClosedByBroker)
        assert (error.reply_code, "stuck since 9:40" in error.reply_text) == (320, True)
    missing = live("connections", "--close", name + "?")
    assert (missing.returncode, "does not exist" in missing.stderr) == (5, True)
    assert live("connections", "--close", "x", "--reason", "a\nb").returncode == 2


def test_on_a_protected_context_closing_a_connection_needs_its_name(
    live: Run, vhost_url: str, broker: Broker, tmp_path: Path
) -> None:
    shop = {"url": vhost_url, "api_url": broker.api_url, "protected": True}
    config = write_contexts(tmp_path / "config", shop=shop)
    with client(vhost_url, lambda _: None, f"worker {vhost_url[-6:]}") as errors:
        (found,) = listed(live, f"worker {vhost_url[-6:]}", count=1)
        line = ("connections", "--close", f"{found['host']}:{found['port']}")
        for yes in ((), ("--yes",)):
            done = live(*line, *yes, **config)
            assert (done.returncode, "Confirm it with --yes shop." in done.stderr) == (2, True), done.stderr
        assert not errors
        assert live("connections", **config).returncode == 0
        assert live(*line, "--yes", "shop", **config).returncode == 0
        wait_until(lambda: errors)


def test_consumers_show_what_each_holds(live: Run, vhost_url: str, orders: BlockingChannel) -> None:
    with client(vhost_url, holder("orders", prefetch=2), "slow"), client(vhost_url, holder("orders", 100), "idle"):
        found: list[dict[str, Any]] = []

        def is_complete() -> bool:
            found[:] = json.loads(live("consumers", "orders", "--json").stdout)["consumers"]
            held = [(each["connection"]["client_name"], each["unacknowledged"]) for each in found]
            return held == [("idle", 3), ("slow", 2)]

        wait_until(is_complete, lambda: str(found))
        assert [each["prefetch"] for each in found] == [100, 2]
        done = live("consumers", "orders")
        header, idle, slow = done.stdout.splitlines()
        assert header.split() == ["consumer", "name", "from", "client", "prefetch", "unacked", "out/s", "ack/s"]
        assert (slow.endswith("  full"), idle.endswith("  full")) == (True, False)
        assert done.stderr.startswith("2 consumers of queue 'orders'.")
    assert orders.is_open
    assert live("consumers", "nowhere").stderr.startswith(
        "error: queue 'nowhere': refused by the broker: 404 NOT_FOUND - no queue"
    )


def test_a_single_active_consumer_and_its_substitute_are_told_apart(
    live: Run, vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    vhost_channel.queue_declare("single", durable=True, arguments={"x-single-active-consumer": True})
    with client(vhost_url, holder("single"), "first"), client(vhost_url, holder("single"), "second"):
        wait_until(lambda: live("consumers", "single").stdout.count("waiting (single active consumer)") == 1)


def test_without_acknowledgements_a_consumer_is_marked(live: Run, vhost_url: str, orders: BlockingChannel) -> None:
    with client(vhost_url, holder("orders", auto_ack=True)):
        wait_until(lambda: "no acknowledgements" in live("consumers", "orders").stdout)
    assert orders.is_open


@pytest.mark.unguessed_api
def test_both_need_the_http_api(live: Run) -> None:
    for words in (["connections"], ["consumers", "x"]):
        assert live(*words, RMQKIT_API_URL="").returncode == 4


def test_the_tables_fit_a_terminal(broker: Broker, vhost_url: str, orders: BlockingChannel) -> None:
    env = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url}
    with client(vhost_url, holder("orders", consumer_tag="t" * 90), "n" * 90):
        vhost = vhost_url.rpartition("/")[2]
        wait_until(lambda: b"consumer_tag" in broker.api("GET", f"consumers/{vhost}"))
        for words in (["connections"], ["consumers", "orders"]):
            with terminal(*words, env=env) as screen:
                code, shown = screen.end()
            plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
            assert code == 0
            assert all(len(line.rstrip()) <= 80 for line in plain.splitlines()), plain
    assert orders.is_open
