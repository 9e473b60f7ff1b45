"""Applying and replacing are killed at every step, rmqkit by itself and the broker under it: 34."""

from __future__ import annotations

import json
import random
from typing import Any
from urllib.parse import urlsplit

import pytest

from rmqkit.model import Binding
from tests.conftest import Broker
from tests.faults import scenarios_declare as scenarios
from tests.faults.replacing import EXCHANGE
from tests.faults.rounds import Ground
from tests.faults.scenarios_declare import CLASSIC, KINDS, MOST_STEPS, QUORUM

STRIDE = 4
ROUNDS = [*((KINDS, first) for first in range(1, STRIDE + 1)), ((QUORUM, CLASSIC), 4)]
pytestmark = pytest.mark.timeout(150)  # a process or a broker is started for every blow


def live_bindings(broker: Broker, url: str) -> list[Binding]:
    """Return every binding of a virtual host, as RabbitMQ's HTTP API tells them."""
    found = json.loads(broker.api("GET", f"bindings/{urlsplit(url).path[1:]}"))
    return [
        Binding(each["source"], each["destination"], each["destination_type"], each["routing_key"], each["arguments"])
        for each in found
    ]


@pytest.fixture
def vhost_ground(vhost_url: str, ground: Ground) -> Ground:
    """A virtual host of its own: replacing notes what it does under a name that is fixed."""
    ground.broker = Broker(vhost_url, ground.broker.api_url)
    return ground


@pytest.mark.unguessed_api
def test_34_applying_killed_after_each_step_and_run_again_is_as_the_file_says(
    ground: Ground, dice: random.Random
) -> None:
    """Each run does one more step than those before it, and is killed then."""
    assert scenarios.killed_applying(ground, dice, steps=[1] * 7, size=3).violations == []


def test_34_two_that_apply_at_once_both_succeed(ground: Ground, dice: random.Random) -> None:
    assert scenarios.applied_twice_at_once(ground, dice).violations == []


def test_34_the_broker_killed_while_a_topology_is_applied_is_as_the_file_says_after_the_next_run(
    node_ground: Ground, dice: random.Random
) -> None:
    assert scenarios.broker_killed_applying(node_ground, dice).violations == []


@pytest.mark.parametrize(("kinds", "first"), ROUNDS)
def test_34_rmqkit_killed_at_a_step_of_a_replacement_and_run_again_loses_nothing(
    vhost_ground: Ground, dice: random.Random, kinds: tuple[dict[str, Any], dict[str, Any]], first: int
) -> None:
    """Every step is one of some round's: a round kills one process at its step, then lets another finish."""
    broker, url = vhost_ground.broker, vhost_ground.url

    def see() -> list[Binding]:
        return live_bindings(broker, url) if first % 2 else []

    result = scenarios.killed_replacing(vhost_ground, dice, range(first, MOST_STEPS, STRIDE), kinds, see)
    assert result.violations == []
    (queue,) = vhost_ground.queues
    sources = [(each.source, each.destination) for each in live_bindings(broker, url) if each.source]
    assert sources == [(EXCHANGE, queue)]


def test_34_rmqkit_killed_while_it_moves_messages_may_double_those_on_their_way_and_no_others(
    vhost_ground: Ground, dice: random.Random
) -> None:
    assert scenarios.killed_replacing_in_mid_move(vhost_ground, dice).violations == []


@pytest.mark.parametrize("blow", ["moving", "deleting it"])
def test_34_the_broker_killed_at_a_step_of_a_replacement_and_rmqkit_run_again_loses_nothing(
    node_ground: Ground, dice: random.Random, blow: str
) -> None:
    assert scenarios.broker_killed_replacing(node_ground, dice, blow).violations == []
