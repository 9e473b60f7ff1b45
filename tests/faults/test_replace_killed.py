"""Applying and replacing recover when rmqkit or the broker is killed at any step."""

from __future__ import annotations

import json
import random
from typing import Any
from urllib.parse import urlsplit

import pytest

from rmqkit.model import Binding
from tests.conftest import Broker
from tests.faults import scenarios_topology as scenarios
from tests.faults.fault_run import FaultSetup
from tests.faults.scenarios_topology import CLASSIC, KINDS, MOST_STEPS, QUORUM
from tests.support.replace_process import EXCHANGE

STRIDE = 4
ROUNDS = [*((KINDS, first) for first in range(1, STRIDE + 1)), ((QUORUM, CLASSIC), 4)]


def live_bindings(broker: Broker, url: str) -> list[Binding]:
    """Return every binding of a virtual host, as RabbitMQ's HTTP API tells them."""
    found = json.loads(broker.api("GET", f"bindings/{urlsplit(url).path[1:]}"))
    return [
        Binding(each["source"], each["destination"], each["destination_type"], each["routing_key"], each["arguments"])
        for each in found
    ]


@pytest.fixture
def vhost_setup(vhost_url: str, setup: FaultSetup) -> FaultSetup:
    """Set up a fault on a fresh virtual host: a replacement records its progress under a fixed name."""
    setup.broker = Broker(vhost_url, setup.broker.api_url)
    return setup


@pytest.mark.fault(34)
@pytest.mark.unguessed_api
def test_the_broker_matches_the_file_after_apply_is_killed_at_each_step_and_run_again(
    setup: FaultSetup, rng: random.Random
) -> None:
    """Each run does one more step than those before it, and is killed then."""
    assert scenarios.killed_applying(setup, rng, steps=[1] * 7, size=3).violations == []


@pytest.mark.fault(34)
def test_two_applies_at_once_both_succeed(setup: FaultSetup, rng: random.Random) -> None:
    assert scenarios.applied_twice_at_once(setup, rng).violations == []


@pytest.mark.fault(34)
def test_the_broker_matches_the_file_after_it_is_killed_under_an_apply_that_is_run_again(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.broker_killed_applying(node_setup, rng).violations == []


@pytest.mark.fault(34)
@pytest.mark.parametrize(("kinds", "first"), ROUNDS)
def test_a_replacement_killed_at_any_step_and_run_again_loses_nothing(
    vhost_setup: FaultSetup, rng: random.Random, kinds: tuple[dict[str, Any], dict[str, Any]], first: int
) -> None:
    """Every step is one of some round's: a round kills one process at its step, then lets another finish."""
    broker, url = vhost_setup.broker, vhost_setup.url

    def see() -> list[Binding]:
        return live_bindings(broker, url) if first % 2 else []

    result = scenarios.killed_replacing(vhost_setup, rng, range(first, MOST_STEPS, STRIDE), kinds, see)
    assert result.violations == []
    (queue,) = vhost_setup.queues
    sources = [(each.source, each.destination) for each in live_bindings(broker, url) if each.source]
    assert sources == [(EXCHANGE, queue)]


@pytest.mark.fault(34)
def test_a_replacement_killed_while_moving_duplicates_only_messages_in_flight(
    vhost_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.killed_replacing_in_mid_move(vhost_setup, rng).violations == []


@pytest.mark.fault(34)
@pytest.mark.parametrize("step_begins", ["moving", "deleting it"])
def test_a_replacement_run_again_after_the_broker_is_killed_loses_nothing(
    node_setup: FaultSetup, rng: random.Random, step_begins: str
) -> None:
    assert scenarios.broker_killed_replacing(node_setup, rng, step_begins).violations == []
