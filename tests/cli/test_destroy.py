"""`rmqkit destroy` against a real RabbitMQ."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.terminal import terminal

ORDERS = """
exchanges:
  orders: {type: topic}
queues:
  billing: {}
  stock: {type: quorum}
bindings:
  - {source: orders, destination: billing, routing_key: "order.#"}
  - {source: amq.topic, destination: stock, routing_key: "#"}
policies:
  limit: {pattern: ^billing, definition: {max-length: 9}}
"""


@pytest.fixture
def applied(live: Run, topology: Path) -> Path:
    done = live("apply", topology)
    assert done.returncode == 0, done.stderr
    return topology


@pytest.fixture
def in_use(applied: Path, vhost_channel: BlockingChannel) -> Path:
    """Leave two messages and one more, unacknowledged, in `billing`; `stock` has a consumer."""
    vhost_channel.confirm_delivery()
    for _ in range(3):
        vhost_channel.basic_publish("", "billing", b"x")
    assert vhost_channel.basic_get("billing")[0]
    vhost_channel.basic_consume("stock", lambda *_: None)
    return applied


def outcomes(live: Run, file: Path) -> set[str]:
    return {each["outcome"] for each in json.loads(live("plan", file, "--json").stdout)["entities"]}


def test_destroy_deletes_the_topology_and_nothing_else(
    live: Run, applied: Path, vhost_channel: BlockingChannel
) -> None:
    vhost_channel.queue_declare("theirs", durable=True)
    done = live("destroy", applied)
    assert done.returncode == 0
    assert [line.split()[1:4] for line in done.stdout.splitlines()[1:]] == [
        ["deleted", "exchange", "orders"],
        ["deleted", "queue", "billing"],
        ["deleted", "queue", "stock"],
        ["deleted", "binding", "orders"],
        ["deleted", "binding", "amq.topic"],
        ["deleted", "policy", "limit"],
    ]
    assert "6 deleted" in done.stderr
    assert outcomes(live, applied) == {"create"}
    assert "theirs" in live("export").stdout


def test_destroy_is_idempotent(live: Run, applied: Path) -> None:
    assert live("destroy", applied).returncode == 0
    again = live("destroy", applied, "--json")
    assert again.returncode == 0
    assert {each["outcome"] for each in json.loads(again.stdout)["entities"]} == {"absent"}


def test_a_dry_run_deletes_nothing(live: Run, applied: Path) -> None:
    done = live("destroy", "--dry-run", applied)
    assert done.returncode == 0
    assert "deleted" not in done.stdout + done.stderr
    assert done.stdout.count("delete ") == 6
    assert outcomes(live, applied) == {"unchanged"}


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_queue_in_use_prevents_deletion(
    live: Run, applied: Path, vhost_channel: BlockingChannel, dry_run: list[str]
) -> None:
    vhost_channel.confirm_delivery()
    for _ in range(2):
        vhost_channel.basic_publish("", "billing", b"x")
    vhost_channel.basic_consume("stock", lambda *_: None)
    done = live("destroy", applied, *dry_run)
    assert (done.returncode, done.stdout) == (5, "")
    assert "2 queues hold messages or have consumers; nothing was deleted" in done.stderr
    assert f"{applied}:5:3: queue 'billing' has 2 messages" in done.stderr
    assert f"{applied}:6:3: queue 'stock' has 1 consumer" in done.stderr
    assert "--force" in done.stderr
    error = json.loads(live("destroy", applied, *dry_run, "--json").stdout)
    assert [problem["line"] for problem in error["problems"]] == [5, 6]
    assert outcomes(live, applied) == {"unchanged"}


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_an_undeclared_binding_prevents_deletion(
    live: Run, applied: Path, vhost_channel: BlockingChannel, dry_run: list[str]
) -> None:
    vhost_channel.queue_declare("theirs", durable=True)
    vhost_channel.queue_bind("theirs", "orders", "theirs")
    done = live("destroy", applied, *dry_run)
    assert (done.returncode, done.stdout) == (5, "")
    assert (
        f"{applied}:3:3: exchange 'orders' has a binding this topology does not declare: orders -> theirs [theirs]"
        in done.stderr
    )
    assert outcomes(live, applied) == {"unchanged"}
    assert live("destroy", "--force", applied).returncode == 0
    assert outcomes(live, applied) == {"create"}


def test_force_deletes_queues_in_use_and_says_how_many_messages_went(live: Run, in_use: Path) -> None:
    would = live("destroy", "--force", "--dry-run", in_use).stdout
    assert re.search("queue +billing +with 2 messages and 1 unacknowledged message", would), would
    assert re.search("queue +stock +with 1 consumer", would), would
    done = live("destroy", "--force", in_use)
    assert done.returncode == 0
    assert re.search("deleted +queue +billing +with 2 messages and 1 unacknowledged or delayed message", done.stdout)
    assert outcomes(live, in_use) == {"create"}


@pytest.mark.parametrize(
    ("typed", "words", "code"), [("y", [], 0), ("yes", [], 0), ("n", [], 2), ("", [], 2), (None, ["--yes"], 0)]
)
def test_force_asks_on_a_terminal_before_a_message_is_deleted(
    typed: str | None, words: list[str], code: int, *, live: Run, in_use: Path, broker: Broker, vhost_url: str
) -> None:
    env = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url}
    with terminal("destroy", "--force", *words, in_use, env=env) as screen:
        if typed is not None:
            asked = screen.read(lambda shown: "[y/N] " in shown)
            assert "'billing' with 2 messages and 1 unacknowledged message" in " ".join(asked.split())
            assert outcomes(live, in_use) == {"unchanged"}
            screen.type(f"{typed}\n")
        ended, shown = screen.end()
    assert ended == code, shown
    assert ("[y/N]" in shown) == (typed is not None)
    assert ("canceled; nothing was deleted" in shown) == bool(code)
    assert outcomes(live, in_use) == ({"unchanged"} if code else {"create"})


@pytest.mark.unguessed_api
def test_without_the_http_api_no_policy_is_destroyed_and_a_queue_only_by_force(
    live: Run, applied: Path, vhost_channel: BlockingChannel
) -> None:
    refused = live("destroy", applied, RMQKIT_API_URL="")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "policies need RabbitMQ's HTTP API" in refused.stderr
    applied.write_text(ORDERS.partition("policies:")[0])
    unseen = live("destroy", applied, RMQKIT_API_URL="")
    assert unseen.returncode == 5
    assert "unacknowledged messages cannot be seen; nothing was deleted" in unseen.stderr
    assert live("destroy", applied, "--force", RMQKIT_API_URL="").returncode == 0
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        vhost_channel.queue_declare("billing", passive=True)
