"""The broker is killed, or the network cut, under the threads and tasks of a service: nothing confirmed is lost."""

from __future__ import annotations

import random

import pytest

from rmqkit.node.node import Node
from tests.faults import scenarios_pipes as pipes
from tests.faults import scenarios_services as scenarios
from tests.faults.fault_run import FaultSetup

pytestmark = pytest.mark.usefixtures("leak_free")


@pytest.mark.fault(1)
def test_every_future_ends_and_nothing_is_lost_when_the_broker_is_killed_under_twenty_threads(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.killed_under_threads(node_setup, rng).violations == []


@pytest.mark.fault(5)
def test_every_future_ends_and_nothing_is_lost_when_the_connection_of_twenty_threads_is_cut_again_and_again(
    setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.cut_under_threads(setup, rng).violations == []


@pytest.mark.fault(1, 2)
def test_tasks_that_publish_and_consume_lose_nothing_when_the_broker_is_killed(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.killed_under_tasks(node_setup, rng).violations == []


@pytest.mark.fault(1, 2)
def test_tasks_that_pipe_from_queue_to_queue_lose_nothing_when_the_broker_is_killed(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert pipes.killed_under_piping_tasks(node_setup, rng).violations == []


@pytest.mark.fault(5)
def test_tasks_that_pipe_from_queue_to_queue_lose_nothing_when_their_connections_are_cut_again_and_again(
    setup: FaultSetup, rng: random.Random
) -> None:
    assert pipes.cut_under_piping_tasks(setup, rng).violations == []


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize("killed", ["source", "target"])
def test_forwarding_between_two_brokers_loses_nothing_and_keeps_the_order_when_one_is_killed(
    node: Node, node_setup: FaultSetup, setup: FaultSetup, rng: random.Random, killed: str
) -> None:
    here, there = (node_setup, setup) if killed == "source" else (setup, node_setup)
    assert pipes.forwarded(here, there, node, rng).violations == []
