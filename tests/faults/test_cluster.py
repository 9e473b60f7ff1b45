"""A cluster of three loses one node, or two: quorum queues lose nothing, whatever happens to their leader."""

from __future__ import annotations

import fcntl
import json
import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import rmqkit
from rmqkit.node.cluster import Cluster
from tests.faults import scenarios_cluster as scenarios
from tests.faults.scenarios_cluster import ClusterSetup
from tests.support.cli import rmqkit as rmqkit_command
from tests.support.nodes import evaluate
from tests.support.proxy import Proxy
from tests.support.queues import declare, open_channel
from tests.support.wait import wait_until

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("leak_free")]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Start three nodes for the session, which one test at a time may kill; each leaves them running."""
    shared = Cluster(Path(os.environ["RMQKIT_TEST_FOLDER"]) / "cluster")
    with shared.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shared.start(port=0)  # the first one
        yield shared


@pytest.fixture
def setup(cluster: Cluster, tmp_path: Path) -> Iterator[ClusterSetup]:
    setup = ClusterSetup(cluster, tmp_path / "run")
    yield setup
    setup.clean_up()


@pytest.mark.fault(35)
def test_when_the_leader_is_killed_another_takes_over_and_nothing_is_lost(
    setup: ClusterSetup, rng: random.Random
) -> None:
    assert scenarios.leader_killed(setup, rng).violations == []


@pytest.mark.fault(35)
def test_a_leader_frozen_for_longer_than_the_heartbeat_is_replaced_and_nothing_is_lost(
    setup: ClusterSetup, rng: random.Random
) -> None:
    assert scenarios.leader_frozen(setup, rng, 12).violations == []


@pytest.mark.fault(35)
def test_a_leader_cut_off_from_its_peers_confirms_nothing_that_is_lost(setup: ClusterSetup, rng: random.Random) -> None:
    assert scenarios.leader_cut_off(setup, rng, 5).violations == []


@pytest.mark.fault(35)
def test_publishing_waits_when_the_only_known_node_and_the_majority_are_killed(
    setup: ClusterSetup, rng: random.Random
) -> None:
    assert scenarios.two_of_three_killed(setup, rng, several=False).violations == []


@pytest.mark.fault(35)
def test_publishing_waits_for_a_queue_without_a_leader_while_its_nodes_run(
    setup: ClusterSetup, rng: random.Random
) -> None:
    assert scenarios.without_leader(setup, rng).violations == []


@pytest.mark.fault(35)
def test_the_url_of_a_lost_connection_is_tried_last(broker_url: str, queue_name: str) -> None:
    declare(broker_url, queue_name)
    message = rmqkit.Message(b"x", queue_name)
    with Proxy(broker_url) as one, Proxy(broker_url) as other, rmqkit.connect(one.url, other.url) as connection:
        assert connection.publish(message).confirmed == 1
        tried = one.accepted
        one.up.blackhole = True  # like a frozen node: it accepts connections and does not answer
        one.reset()
        assert connection.publish(message).confirmed == 1
        assert (one.accepted, other.accepted) == (tried, 1)


def test_why_and_check_name_the_nodes_that_are_offline(cluster: Cluster) -> None:
    home, *others = cluster.nodes
    env = {"RMQKIT_URL": home.url, "RMQKIT_API_URL": home.status().management_url.replace("://", "://guest:guest@")}
    queue = f"faults-{uuid.uuid4().hex[:12]}"
    member = f"(quorum_queues, {{'%2F_{queue}', node()}})"

    def codes() -> dict[str, str]:
        causes = json.loads(rmqkit_command("why", queue, "--json", env=env).stdout)["causes"]
        return {each["code"]: each["message"] for each in causes}

    def levels() -> dict[str, str]:
        done = rmqkit_command("check", "--json", env=env)
        return {each["name"]: each["level"] for each in json.loads(done.stdout)["checks"]}

    declare(home.url, queue, x_queue_type="quorum")
    try:
        wait_until(lambda: cluster.leader(queue) and not codes() and levels()["quorum"] == "ok")
        others[0].kill()
        wait_until(lambda: others[0].name in codes().get("member_offline", ""))
        wait_until(lambda: levels()["nodes"] == levels()["quorum"] == "critical")
        assert evaluate(others[1], f"ra:stop_server{member}") == "ok"  # a node without majority would pause
        wait_until(lambda: "2 of 3 members offline" in codes().get("no_majority", ""))
    finally:
        evaluate(others[1], f"ra:restart_server{member}")
        cluster.start()
        with open_channel(home.url) as channel:
            channel.queue_delete(queue)
