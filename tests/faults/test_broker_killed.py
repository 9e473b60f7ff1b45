"""The broker is killed with -9 and restarted, frozen, stopped: nothing confirmed is lost, nothing hangs ."""

from __future__ import annotations

import random
import threading

import pytest

import rmqkit
from rmqkit.node.node import Node
from tests.conftest import Namespace
from tests.faults import scenarios_broker as scenarios
from tests.faults.fault_run import DeclareLedger, FaultSetup, Progress, in_background, publish
from tests.faults.ledger import FaultLedger
from tests.support.nodes import wait_until_on_disk
from tests.support.queues import declare, ready

pytestmark = pytest.mark.usefixtures("leak_free")


@pytest.mark.fault(1)
@pytest.mark.parametrize("_round", range(2))
def test_unconfirmed_messages_are_republished_in_order_when_the_broker_is_killed_while_publishing(
    node_setup: FaultSetup, rng: random.Random, _round: int
) -> None:
    result = scenarios.killed_while_publishing(node_setup, rng)
    assert result.violations == []
    assert result.report.republished > 0


@pytest.mark.fault(2)
def test_every_message_is_handled_when_the_broker_is_killed_while_consuming(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.killed_while_consuming(node_setup, rng).violations == []


@pytest.mark.fault(3)
def test_nothing_is_lost_when_an_operator_closes_all_connections_again_and_again(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    result = scenarios.connections_closed(node_setup, rng)
    assert result.violations == []
    assert result.report.republished + result.duplicated > 0  # a connection was closed while messages were in flight


@pytest.mark.fault(3)
def test_nothing_is_lost_when_the_brokers_application_is_stopped_and_started(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.application_stopped(node_setup, rng).violations == []


@pytest.mark.fault(3)
def test_an_outage_does_not_count_towards_the_idle_timeout(node: Node, node_ledger: DeclareLedger) -> None:
    ledger, killed = node_ledger(), threading.Event()
    wait_until_on_disk(node)

    def restart() -> None:
        assert killed.wait(90)
        node.start()

    with rmqkit.connect(node.url) as connection:
        publish(connection, ledger, ledger.messages(range(1000)), Progress())
        with in_background(restart), connection.consume(ledger.queue, prefetch=20, idle_timeout_s=3) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                if len(ledger.handled) == 60:
                    node.kill()
                    killed.set()
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []


@pytest.mark.fault(31)
def test_confirmed_messages_survive_a_restart_of_the_broker(node: Node, node_ledger: DeclareLedger) -> None:
    ledger, amount = node_ledger(), 5000
    with rmqkit.connect(node.url) as connection:
        assert publish(connection, ledger, ledger.messages(range(amount)), Progress()).complete
    node.restart()
    with rmqkit.connect(node.url) as connection, connection.consume(ledger.queue, count=amount) as consumer:
        for delivery in consumer:
            ledger.handle(delivery)
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []
    assert [each.body for each in ledger.handled] == [each.body for each in FaultLedger("").messages(range(amount))]


@pytest.mark.fault(4)
def test_publishing_waits_for_a_broker_frozen_for_less_than_the_heartbeat(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    result = scenarios.frozen(node_setup, rng)
    assert result.violations == []
    assert result.report.republished == 0


@pytest.mark.fault(4)
def test_publishing_reconnects_to_a_broker_frozen_for_longer_than_the_heartbeat(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    result = scenarios.frozen_for_long(node_setup, rng)
    assert result.violations == []
    assert result.report.republished > 0


def test_a_connection_with_two_urls_fails_over_to_the_other_broker(
    node: Node, node_ledger: DeclareLedger, broker_url: str, namespace: Namespace
) -> None:
    ledger, progress = node_ledger(), Progress()
    namespace.queues.append(ledger.queue)
    declare(broker_url, ledger.queue)
    wait_until_on_disk(node)

    def inject() -> None:
        progress.wait_for(3000)
        node.kill()

    with rmqkit.connect(node.url, broker_url) as connection, in_background(inject):
        report = publish(connection, ledger, ledger.messages(range(40_000)), progress)
    assert report.complete
    ledger.drain(broker_url)
    node.start()
    ledger.drain(node.url)
    assert ledger.violations(report, ordered=False) == []
