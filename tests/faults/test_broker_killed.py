"""The broker is killed with -9 and restarted, frozen, stopped: nothing confirmed is lost, nothing hangs (1-4, 31)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from pika import URLParameters
from pika.adapters.blocking_connection import BlockingConnection

import rmqkit
from rmqkit.node.node import Node
from tests.faults import scenarios_broker as scenarios
from tests.faults.fault_run import DeclareLedger, FaultSetup, Progress, in_background, publish
from tests.faults.ledger import Ledger
from tests.support.nodes import kill_and_restart
from tests.support.queues import ready

pytestmark = pytest.mark.usefixtures("leak_free")


@pytest.mark.fault(1)
@pytest.mark.parametrize("_round", range(2))
def test_killed_while_publishing_at_random_moments_the_unconfirmed_is_published_again_in_order(
    node_setup: FaultSetup, rng: random.Random, _round: int
) -> None:
    result = scenarios.killed_while_publishing(node_setup, rng)
    assert result.violations == []
    assert result.report.republished > 0


@pytest.mark.fault(2)
def test_killed_while_consuming_everything_is_handled_and_old_tags_are_never_acknowledged(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.killed_while_consuming(node_setup, rng).violations == []


@pytest.mark.fault(3)
def test_connections_closed_by_the_operator_while_publishing_and_consuming(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    result = scenarios.connections_closed(node_setup, rng)
    assert result.violations == []
    assert result.report.republished > 0


@pytest.mark.fault(3)
def test_the_application_stopped_and_started_while_publishing_and_consuming(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.application_stopped(node_setup, rng).violations == []


@pytest.mark.fault(3)
def test_an_outage_longer_than_the_idle_timeout_does_not_count_as_idle(node: Node, node_ledger: DeclareLedger) -> None:
    ledger, progress = node_ledger(), Progress()

    def inject() -> None:
        progress.wait_for(50)
        kill_and_restart(node)

    with rmqkit.connect(node.url) as connection:
        publish(connection, ledger, ledger.messages(range(1000)), Progress())
        with in_background(inject), connection.consume(ledger.queue, prefetch=20, idle_timeout_s=1) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                progress.step()
                if progress.done == 60:
                    time.sleep(0.5)  # the blow falls while this one is handled
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []


@pytest.mark.fault(31)
def test_what_was_confirmed_before_a_restart_is_there_for_a_consumer_that_comes_after_it(
    node: Node, node_ledger: DeclareLedger
) -> None:
    ledger, amount = node_ledger(), 5000
    with rmqkit.connect(node.url) as connection:
        assert publish(connection, ledger, ledger.messages(range(amount)), Progress()).complete
    node.restart()
    with rmqkit.connect(node.url) as connection, connection.consume(ledger.queue, count=amount) as consumer:
        for delivery in consumer:
            ledger.handle(delivery)
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []
    assert [each.body for each in ledger.handled] == [each.body for each in Ledger("").messages(range(amount))]


@pytest.mark.fault(4)
def test_a_broker_frozen_for_less_than_the_heartbeat_is_waited_for(node_setup: FaultSetup, rng: random.Random) -> None:
    result = scenarios.frozen(node_setup, rng)
    assert result.violations == []
    assert result.report.republished == 0
    assert result.report.seconds < 15


@pytest.mark.fault(4)
def test_a_broker_frozen_for_longer_than_the_heartbeat_is_left_and_found_again(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    result = scenarios.frozen_for_long(node_setup, rng)
    assert result.violations == []
    assert result.report.republished > 0
    assert result.report.seconds < 30


def test_a_connection_with_two_urls_goes_on_with_the_other_broker(
    node: Node, own_node: Callable[[], Node], node_ledger: DeclareLedger
) -> None:
    ledger, progress, other = node_ledger(), Progress(), own_node()
    with BlockingConnection(URLParameters(other.url)) as witness:
        witness.channel().queue_declare(ledger.queue, durable=True)

    def inject() -> None:
        progress.wait_for(3000)
        other.kill()

    with rmqkit.connect(other.url, node.url) as connection, in_background(inject):
        report = publish(connection, ledger, ledger.messages(range(40_000)), progress)
    assert report.complete
    ledger.drain(node.url)
    other.start()
    ledger.drain(other.url)
    assert ledger.violations(report, ordered=False) == []
