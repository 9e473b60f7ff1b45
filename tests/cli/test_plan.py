"""`rmqkit plan`, and `rmqkit apply --prune`, where RabbitMQ's HTTP API shows everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.cli import Run, outcomes

ORDERS = """
exchanges:
  orders: {type: topic}
queues:
  shop.billing: {}
bindings:
  - {source: orders, destination: shop.billing, routing_key: "order.#"}
policies:
  shop.limit: {pattern: ^shop, definition: {max-length: 9}}
scope: [shop.*]
"""
AUDIT = """
queues:
  shop.audit: {type: quorum}
bindings:
  - {source: orders, destination: shop.audit, routing_key: "#"}
external: {exchanges: [orders]}
"""


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    file = tmp_path / "orders.yaml"
    file.write_text(ORDERS)
    return file


def test_a_plan_changes_nothing_and_apply_carries_it_out(live: Run, orders: Path) -> None:
    first = live("plan", orders, "--json")
    assert (first.returncode, first.stderr) == (0, "")
    assert json.loads(first.stdout)["applied"] is False
    assert outcomes(first) == {
        "exchange orders": "create",
        "queue shop.billing": "create",
        "binding orders -> shop.billing [order.#]": "create",
        "policy shop.limit": "create",
    }
    assert outcomes(live("plan", orders, "--json")) == outcomes(first)
    assert outcomes(live("apply", orders, "--json")) == outcomes(first)
    assert set(outcomes(live("plan", orders, "--json")).values()) == {"unchanged"}
    assert set(outcomes(live("apply", orders, "--json")).values()) == {"unchanged"}


def test_a_policy_that_differs_is_changed(live: Run, orders: Path) -> None:
    live("apply", orders)
    orders.write_text(ORDERS.replace("max-length: 9", "max-length: 8").replace("{pattern", "{priority: 2, pattern"))
    planned = live("plan", orders)
    assert planned.returncode == 0
    (line,) = [line for line in planned.stdout.splitlines() if "policy" in line]
    assert line.startswith("~ change ")
    assert "priority: 0 on the broker, 2 in the topology; max-length: 9 on the broker, 8 in the topology" in line
    assert "1 changed" in live("apply", orders).stderr
    assert set(outcomes(live("plan", orders, "--json")).values()) == {"unchanged"}


def test_the_detailed_exit_code_distinguishes_changes_and_conflicts(
    live: Run, orders: Path, vhost_channel: BlockingChannel
) -> None:
    assert live("plan", "--detailed-exit-code", orders).returncode == 3
    live("apply", orders)
    assert live("plan", "--detailed-exit-code", orders).returncode == 0
    vhost_channel.queue_declare("shop.old")  # an extra alone is nothing to do, unless it is to be pruned
    assert live("plan", "--detailed-exit-code", orders).returncode == 0
    assert live("plan", "--detailed-exit-code", "--prune", orders).returncode == 3
    orders.write_text(ORDERS.replace("shop.billing: {}", "shop.billing: {type: quorum}"))
    conflict = live("plan", "--detailed-exit-code", orders)
    assert conflict.returncode == 5
    assert "x-queue-type: classic on the broker, quorum in the topology" in conflict.stdout
    assert live("plan", orders).returncode == 5


def test_several_files_are_one_topology(live: Run, orders: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.yaml"
    audit.write_text(AUDIT)
    done = live("apply", orders, audit, "--prune", "--json")
    assert set(outcomes(done).values()) == {"create"}
    assert set(outcomes(live("plan", audit, orders, "--json")).values()) == {"unchanged"}
    alone = outcomes(live("plan", orders, "--json"))
    assert {name for name, outcome in alone.items() if outcome == "extra"} == {
        "queue shop.audit",
        "binding orders -> shop.audit [#]",
    }


def test_pruning_deletes_extras_within_the_scope_only(live: Run, orders: Path, vhost_channel: BlockingChannel) -> None:
    live("apply", orders)
    vhost_channel.queue_declare("shop.old", durable=True)
    vhost_channel.queue_bind("shop.old", "orders", "#")
    vhost_channel.queue_bind("shop.billing", "amq.topic", "stray")
    vhost_channel.exchange_declare("shop.gone", "fanout")
    vhost_channel.exchange_bind("amq.fanout", "orders", "theirs")
    vhost_channel.queue_declare("theirs", durable=True)
    vhost_channel.queue_bind("theirs", "orders", "theirs")
    vhost_channel.queue_declare("shop.reply", exclusive=True)
    extra = {
        "exchange shop.gone",
        "queue shop.old",
        "binding amq.topic -> shop.billing [stray]",
        "binding orders -> shop.old [#]",
    }
    planned = outcomes(live("plan", orders, "--json"))
    assert {name for name, outcome in planned.items() if outcome == "extra"} == extra
    assert {name for name, outcome in outcomes(live("apply", orders, "--json")).items() if outcome == "extra"} == extra
    pruned = live("apply", "--prune", orders)
    assert pruned.returncode == 0, pruned.stderr
    assert "4 deleted" in pruned.stderr
    assert set(outcomes(live("plan", orders, "--json")).values()) == {"unchanged"}
    left = live("export").stdout.replace("{type: classic}", "{}")  # RabbitMQ 4 writes the type out
    assert "theirs: {}" in left
    assert "{source: orders, destination: theirs, routing_key: theirs}" in left
    assert "destination: amq.fanout" in left
    assert "shop.old" not in left
    vhost_channel.queue_declare("shop.reply", passive=True, exclusive=True)  # would close the channel


def test_pruning_refuses_queues_in_use_unless_forced(live: Run, orders: Path, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("shop.full", durable=True)
    vhost_channel.queue_declare("shop.read", durable=True)
    vhost_channel.queue_declare("shop.idle", durable=True)
    vhost_channel.confirm_delivery()
    vhost_channel.basic_publish("", "shop.full", b"x")
    vhost_channel.basic_consume("shop.read", lambda *_: None)
    refused = live("apply", "--prune", orders)
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "queue 'shop.full' has 1 message" in refused.stderr
    assert "queue 'shop.read' has 1 consumer" in refused.stderr
    assert "shop.idle" not in refused.stderr
    planned = outcomes(live("plan", orders, "--json"))
    assert planned["queue shop.billing"] == "create"
    assert planned["queue shop.idle"] == "extra"
    assert live("apply", "--prune", "--force", orders).returncode == 0
    assert set(outcomes(live("plan", orders, "--json")).values()) == {"unchanged"}


def test_a_scope_of_everything_spares_the_brokers_own_entities(
    live: Run, vhost_channel: BlockingChannel, tmp_path: Path
) -> None:
    vhost_channel.queue_declare("")
    vhost_channel.queue_declare("mine", exclusive=True)
    vhost_channel.queue_declare("old", durable=True)
    file = tmp_path / "all.yaml"
    file.write_text('queues: {q: {}}\nscope: ["*"]\n')
    done = live("apply", "--prune", file, "--json")
    assert outcomes(done) == {"queue q": "create", "queue old": "delete"}
    assert "1 exclusive queue, with bindings, 1 broker-owned queue" in live("export").stderr


@pytest.mark.unguessed_api
def test_without_the_http_api_a_plan_is_partial_and_pruning_refused(live: Run, orders: Path) -> None:
    planned = live("plan", orders, RMQKIT_API_URL="")
    assert planned.returncode == 0
    assert "Bindings, policies, extras" in planned.stderr
    assert [line.split()[1] for line in planned.stdout.splitlines()[1:]] == ["create", "create", "declare", "declare"]
    for arguments in (("apply", "--prune", orders), ("apply", orders)):
        refused = live(*arguments, RMQKIT_API_URL="")
        assert (refused.returncode, refused.stdout) == (4, "")
        assert "nothing was changed" in refused.stderr
    assert set(outcomes(live("plan", orders, "--json")).values()) == {"create"}
