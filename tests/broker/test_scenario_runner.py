"""Scenarios on a real RabbitMQ: they agree with the offline router, touch nothing else, and leave nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import rmqkit
from rmqkit.stop import StopRequested
from rmqkit.topology.file.scenarios import Scenario, load
from rmqkit.topology.scenario_check import judge, offline
from tests.conftest import Broker
from tests.support.queues import declare, open_channel, ready

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("topologies/*.test.yaml"), *ROOT.glob("tests/cases/scenarios/*.test.yaml")])
ORDERS = """
exchanges: {orders: {type: topic}}
queues: {billing: {}, audit: {}}
bindings:
  - {source: orders, destination: billing, routing_key: "order.#"}
  - {source: orders, destination: audit, routing_key: "#"}
  - {source: orders, destination: theirs, destination_type: exchange, routing_key: theirs}
external: {exchanges: [theirs]}
publish: {exchange: orders, routing_key: order}
"""
Left = Callable[[], list[str]]


@pytest.fixture
def left(broker: Broker, vhost_url: str) -> Left:
    """Name all queues and exchanges of the test's virtual host, but for those it began with."""
    vhost = urlsplit(vhost_url).path[1:]

    def left() -> list[str]:
        found = [json.loads(broker.api("GET", f"{kind}/{vhost}")) for kind in ("queues", "exchanges")]
        names = [each["name"] for kind in found for each in kind]
        return [name for name in names if name and not name.startswith("amq.")]

    return left


def scenarios(folder: Path, cases: str, topology: str = ORDERS) -> tuple[Scenario, ...]:
    (folder / "orders.yaml").write_text(topology)
    (folder / "orders.test.yaml").write_text(f"topology: orders.yaml\nscenarios:\n{cases}")
    return load(folder / "orders.test.yaml")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_broker_and_router_agree_on_every_case(file: Path, vhost_url: str, left: Left) -> None:
    with rmqkit.connect(vhost_url) as connection, connection.scenario_runner() as runner:
        for scenario in load(file):
            for case in scenario.cases:
                assert (scenario.name, runner.observe(scenario, case)) == (scenario.name, offline(scenario, case))
        assert left()
    assert left() == []


def test_unexpected_and_missing_copies_are_reported(vhost_url: str, tmp_path: Path, left: Left) -> None:
    lines = "  a: {expect: [billing]}\n  b: {publish: {exchange: orders, routing_key: x}, expect: [billing, audit]}\n"
    lines += (
        "  c: {publish: {exchange: orders, routing_key: theirs}, expect: [audit]}\n  d: {expect: [audit, billing]}\n"
    )
    with rmqkit.connect(vhost_url) as connection, connection.scenario_runner() as runner:
        results = [judge(scenario, runner.observe) for scenario in scenarios(tmp_path, lines)]
    assert [[problem.message for problem in result.problems] for result in results] == [
        ["expected 'billing', but it reached 'audit', 'billing'"],
        ["expected 'audit', 'billing', but it reached 'audit'"],
        ["expected 'audit', but it reached 'audit', \"external exchange 'theirs'\""],
        [],
    ]
    assert left() == []


def test_queues_of_the_same_names_receive_no_messages(vhost_url: str) -> None:
    names = ["work", "task.one", "quorum", "rest", "no such queue"]
    with open_channel(vhost_url) as channel:
        for name in names:
            declare(channel, name)
        channel.exchange_declare("in", "fanout", durable=True)
        channel.queue_bind("rest", "in")
        channel.queue_bind("rest", "amq.topic", "#")
        with rmqkit.connect(vhost_url) as ours, ours.scenario_runner() as runner:
            for scenario in load(ROOT / "tests/cases/scenarios/everything.test.yaml"):
                runner.observe(scenario, scenario.cases[-1])
        assert {name: ready(channel, name) for name in names} == dict.fromkeys(names, 0)


def test_a_refused_topology_is_an_error_and_is_cleaned_up(vhost_url: str, tmp_path: Path, left: Left) -> None:
    topology = ORDERS.replace("type: topic", "type: x-not-there")
    (scenario,) = scenarios(tmp_path, "  a: {expect: [billing]}\n", topology)
    with (
        rmqkit.connect(vhost_url) as connection,
        pytest.raises(rmqkit.BrokerError, match="x-not-there"),
        connection.scenario_runner() as runner,
    ):
        judge(scenario, runner.observe)
    assert left() == []


def test_a_stop_ends_the_run_and_cleans_up(vhost_url: str, tmp_path: Path, left: Left) -> None:
    (scenario,) = scenarios(tmp_path, "  a: {expect: [billing, audit]}\n")
    stop = rmqkit.Stop()

    def rehearse() -> None:
        with rmqkit.connect(vhost_url) as connection, connection.scenario_runner(stop=stop) as runner:
            runner.observe(scenario, scenario.cases[0])
            assert left()
            stop.request()
            runner.observe(scenario, scenario.cases[0])

    with pytest.raises(StopRequested):
        rehearse()
    assert left() == []


def test_an_unreadable_policy_matters_only_where_it_applies(vhost_url: str, tmp_path: Path) -> None:
    policy = "policies: {odd: {pattern: '[[:alpha:]]', definition: {dead-letter-exchange: orders}}}\n"
    lines = "  a: {expect: [billing, audit]}\n"
    lines += "  b: {expect: [billing, audit], then: [{queue: billing, when: rejected, expect: []}]}\n"
    plain, leaving = scenarios(tmp_path, lines, ORDERS + policy)
    with rmqkit.connect(vhost_url) as connection, connection.scenario_runner() as runner:
        for observe in (offline, runner.observe):
            assert judge(plain, observe).problems == ()
            (problem,) = judge(leaving, observe).problems
            assert "policy 'odd' applies to 'billing' is unknown" in problem.advice
        assert judge(plain, runner.observe).notes[0].endswith("because of the pattern of policy 'odd'")


def test_reject_publish_dlx_is_checked_offline_with_a_note(vhost_url: str, tmp_path: Path) -> None:
    topology = """
queues:
  full: {arguments: {x-max-length: 1, x-overflow: reject-publish-dlx, x-dead-letter-exchange: dead}}
  rest: {}
exchanges: {dead: {type: fanout}}
bindings: [{source: dead, destination: rest}]
publish: {routing_key: full}
"""
    lines = "  a: {expect: [full], then: [{queue: full, when: maxlen, expect: [rest]}]}\n"
    (scenario,) = scenarios(tmp_path, lines, topology)
    with rmqkit.connect(vhost_url) as connection, connection.scenario_runner() as runner:
        result = judge(scenario, runner.observe)
    assert (result.problems, len(result.notes)) == ((), 1)
    assert result.notes[0].endswith("checked offline only, because of reject-publish-dlx")
