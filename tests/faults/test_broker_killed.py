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
from tests.faults.fault_run import Ground, Progress, meanwhile, publish, restart_after_kill
from tests.faults.ledger import Ledger
from tests.support.queues import ready

OpenBooks = Callable[[], Ledger]
pytestmark = pytest.mark.usefixtures("leak_free")


@pytest.mark.parametrize("_round", range(2))
def test_1_killed_while_publishing_at_random_moments_the_unconfirmed_is_published_again_in_order(
    node_ground: Ground, dice: random.Random, _round: int
) -> None:
    result = scenarios.killed_while_publishing(node_ground, dice)
    assert result.violations == []
    assert result.report.republished > 0


def test_2_killed_while_consuming_everything_is_handled_and_old_tags_are_never_acknowledged(
    node_ground: Ground, dice: random.Random
) -> None:
    assert scenarios.killed_while_consuming(node_ground, dice).violations == []


def test_3_connections_closed_by_the_operator_while_publishing_and_consuming(
    node_ground: Ground, dice: random.Random
) -> None:
    result = scenarios.connections_closed(node_ground, dice)
    assert result.violations == []
    assert result.report.republished > 0


def test_3_the_application_stopped_and_started_while_publishing_and_consuming(
    node_ground: Ground, dice: random.Random
) -> None:
    assert scenarios.application_stopped(node_ground, dice).violations == []


def test_3_an_outage_longer_than_the_idle_timeout_does_not_count_as_idle(node: Node, on_node: OpenBooks) -> None:
    ledger, progress = on_node(), Progress()

    def strike() -> None:
        progress.reaches(50)
        restart_after_kill(node)

    with rmqkit.connect(node.url) as connection:
        publish(connection, ledger, ledger.messages(range(1000)), Progress())
        with meanwhile(strike), connection.consume(ledger.queue, prefetch=20, idle_timeout_s=1) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                progress.step()
                if progress.done == 60:
                    time.sleep(0.5)  # the blow falls while this one is handled
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []


def test_31_what_was_confirmed_before_a_restart_is_there_for_a_consumer_that_comes_after_it(
    node: Node, on_node: OpenBooks
) -> None:
    ledger, amount = on_node(), 5000
    with rmqkit.connect(node.url) as connection:
        assert publish(connection, ledger, ledger.messages(range(amount)), Progress()).complete
    node.restart()
    with rmqkit.connect(node.url) as connection, connection.consume(ledger.queue, count=amount) as consumer:
        for delivery in consumer:
            ledger.handle(delivery)
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []
    assert [each.body for each in ledger.handled] == [each.body for each in Ledger("").messages(range(amount))]


def test_4_a_broker_frozen_for_less_than_the_heartbeat_is_waited_for(node_ground: Ground, dice: random.Random) -> None:
    result = scenarios.frozen(node_ground, dice)
    assert result.violations == []
    assert result.report.republished == 0
    assert result.report.seconds < 15


def test_4_a_broker_frozen_for_longer_than_the_heartbeat_is_left_and_found_again(
    node_ground: Ground, dice: random.Random
) -> None:
    result = scenarios.frozen_for_long(node_ground, dice)
    assert result.violations == []
    assert result.report.republished > 0
    assert result.report.seconds < 30


def test_a_connection_with_two_urls_goes_on_with_the_other_broker(
    node: Node, own_node: Callable[[], Node], on_node: OpenBooks
) -> None:
    ledger, progress, other = on_node(), Progress(), own_node()
    with BlockingConnection(URLParameters(other.url)) as witness:
        witness.channel().queue_declare(ledger.queue, durable=True)

    def strike() -> None:
        progress.reaches(3000)
        other.kill()

    with rmqkit.connect(other.url, node.url) as connection, meanwhile(strike):
        report = publish(connection, ledger, ledger.messages(range(40_000)), progress)
    assert report.complete
    ledger.drain(node.url)
    other.start()
    ledger.drain(other.url)
    assert ledger.violations(report, ordered=False) == []
