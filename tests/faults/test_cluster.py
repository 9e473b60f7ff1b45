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
from tests.faults.scenarios_cluster import ClusterSetup
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
def setup(cluster: Cluster, tmp_path: Path) -> Iterator[ClusterSetup]:
    setup = ClusterSetup(cluster, tmp_path / "round")
    yield setup
    setup.clean_up()


@pytest.mark.fault(35)
def test_killed_the_leader_is_followed_by_another_and_nothing_is_lost(setup: ClusterSetup, rng: random.Random) -> None:
    assert scenarios.leader_killed(setup, rng).violations == []


@pytest.mark.fault(35)
def test_frozen_for_longer_than_its_peers_and_its_clients_bear_the_leader_is_left_and_nothing_is_lost(
    setup: ClusterSetup, rng: random.Random
) -> None:
    assert scenarios.leader_frozen(setup, rng, 12).violations == []


@pytest.mark.fault(35)
def test_cut_off_from_its_peers_the_leader_confirms_nothing_that_is_lost(
    setup: ClusterSetup, rng: random.Random
) -> None:
    assert scenarios.leader_cut_off(setup, rng, 5).violations == []


@pytest.mark.fault(35)
def test_without_a_majority_and_without_the_only_node_that_is_known_all_is_waited_for(
    setup: ClusterSetup, rng: random.Random
) -> None:
    assert scenarios.two_of_three_killed(setup, rng, several=False).violations == []


@pytest.mark.fault(35)
def test_a_queue_that_nobody_leads_is_waited_for_while_its_nodes_are_well(
    setup: ClusterSetup, rng: random.Random
) -> None:
    assert scenarios.without_leader(setup, rng).violations == []


@pytest.mark.fault(35)
def test_of_several_urls_the_one_that_was_lost_is_tried_last(broker_url: str, queue_name: str) -> None:
    declare(broker_url, queue_name)
    message = rmqkit.Message(b"x", queue_name)
    with Proxy(broker_url) as one, Proxy(broker_url) as other, rmqkit.connect(one.url, other.url) as connection:
        assert connection.publish(message).confirmed == 1
        tried = one.accepted
        one.up.blackhole = True  # as a frozen node would: it takes who comes, and does not answer
        one.reset()
        assert connection.publish(message).confirmed == 1
        assert (one.accepted, other.accepted) == (tried, 1)
