"""A cluster of three loses one node, or two: quorum queues lose nothing, whatever happens to their leader (35)."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import rmqkit
from rmqkit.node.cluster import Cluster
from tests.faults import scenarios_cluster as scenarios
from tests.faults.scenarios_cluster import ClusterGround
from tests.support.proxy import Proxy
from tests.support.queues import declare

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("leak_free")]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes for the session, which one test at a time hurts; each leaves them running."""
    shared = Cluster(Path(os.environ["RMQKIT_TEST_FOLDER"]) / "cluster")
    with shared.folder.with_suffix(".turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        shared.start(port=0)  # the first one
        yield shared


@pytest.fixture
def ground(cluster: Cluster, tmp_path: Path) -> Iterator[ClusterGround]:
    ground = ClusterGround(cluster, tmp_path / "round")
    yield ground
    ground.clear()


def test_35_killed_the_leader_is_followed_by_another_and_nothing_is_lost(
    ground: ClusterGround, dice: random.Random
) -> None:
    assert scenarios.leader_killed(ground, dice).violations == []


def test_35_frozen_for_longer_than_its_peers_and_its_clients_bear_the_leader_is_left_and_nothing_is_lost(
    ground: ClusterGround, dice: random.Random
) -> None:
    assert scenarios.leader_frozen(ground, dice, 12).violations == []


def test_35_cut_off_from_its_peers_the_leader_confirms_nothing_that_is_lost(
    ground: ClusterGround, dice: random.Random
) -> None:
    assert scenarios.leader_cut_off(ground, dice, 5).violations == []


def test_35_without_a_majority_and_without_the_only_node_that_is_known_all_is_waited_for(
    ground: ClusterGround, dice: random.Random
) -> None:
    assert scenarios.two_of_three_killed(ground, dice, several=False).violations == []


def test_35_a_queue_that_nobody_leads_is_waited_for_while_its_nodes_are_well(
    ground: ClusterGround, dice: random.Random
) -> None:
    assert scenarios.without_leader(ground, dice).violations == []


def test_35_of_several_urls_the_one_that_was_lost_is_tried_last(broker_url: str, queue_name: str) -> None:
    declare(broker_url, queue_name)
    message = rmqkit.Message(b"x", queue_name)
    with Proxy(broker_url) as one, Proxy(broker_url) as other, rmqkit.connect(one.url, other.url) as connection:
        assert connection.publish(message).confirmed == 1
        tried = one.accepted
        one.up.blackhole = True  # as a frozen node would: it takes who comes, and does not answer
        one.reset()
        assert connection.publish(message).confirmed == 1
        assert (one.accepted, other.accepted) == (tried, 1)
