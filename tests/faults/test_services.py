"""The broker is killed, or the network cut, under the threads and tasks of a service: nothing confirmed is lost."""

from __future__ import annotations

import random

import pytest

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
