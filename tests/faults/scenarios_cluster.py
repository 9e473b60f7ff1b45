"""Three nodes and a quorum queue: kill, freeze or cut off its leader, the only known node, or two of three nodes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rmqkit.node.cluster import Cluster
from rmqkit.node.node import Node
from tests.conftest import Broker
from tests.faults.fault_run import FaultSetup, Progress, Result, publish_and_consume
from tests.support.nodes import evaluate, freeze, wait_until_on_disk
from tests.support.wait import wait_until

HEARTBEAT = "?heartbeat=1"  # or a frozen node is given up after half a minute
ELECTION_S = 60.0


class ClusterSetup(FaultSetup):
    """A cluster whose nodes a fault may kill; queues are declared on `home`, which then leads them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.home = cluster.nodes[0]
        super().__init__(Broker(self.home.url, self.home.status().management_url), folder)

    @property
    def url(self) -> str:
        return self.home.url

    def wait_until_on_disk(self) -> None:
        for node in self.cluster.nodes:
            wait_until_on_disk(node)

    def leader(self, queue: str) -> Node:
        """Wait until a quorum queue has a leader; return its node."""
        name = ""

        def has_leader() -> bool:
            nonlocal name
            name = self.cluster.leader(queue)
            return name != ""

        wait_until(has_leader, f"queue {queue} has no leader", timeout_s=ELECTION_S)
        return self.node_of(name)

    def node_of(self, name: str) -> Node:
        return next(node for node in self.cluster.nodes if node.name == name)

    def urls(self, first: Node) -> str:
        """Return the URLs of all nodes, beginning with the one of `first`."""
        others = (node.url for node in self.cluster.nodes if node.name != first.name)
        return ",".join(url + HEARTBEAT for url in (first.url, *others))


Injection = Callable[[ClusterSetup, str], None]


def through(setup: ClusterSetup, rng: random.Random, inject: Injection, *, several: bool = True) -> Result:
    """Publish and consume through the node that leads the queue, and inject a fault on the way.

    With `several`, the URLs name the other nodes too.
    """
    amount = 8000
    when = rng.randrange(amount // 3)
    setup.home = rng.choice(setup.cluster.nodes)
    url = setup.urls(setup.home) if several else setup.url + HEARTBEAT

    def inject_on_the_way(_done: threading.Event, progress: Progress) -> None:
        progress.wait_for(when)
        try:
            inject(setup, setup.queues[-1])
        finally:
            setup.cluster.start()

    result = publish_and_consume(setup, url, inject_on_the_way, amount, 6000, x_queue_type="quorum")
    if not result.report.complete:
        result.violations.append(f"progress: not complete: {replace(result.report, failures=())}")
    return result


def leader_killed(setup: ClusterSetup, rng: random.Random) -> Result:
    """Kill the leader: the other two nodes elect another one."""

    def inject(setup: ClusterSetup, queue: str) -> None:
        before = setup.leader(queue)
        before.kill()
        others = {node.name for node in setup.cluster.nodes} - {before.name}
        wait_until(lambda: setup.cluster.leader(queue) in others, "no node takes over", timeout_s=ELECTION_S)

    return through(setup, rng, inject)


def leader_frozen(setup: ClusterSetup, rng: random.Random, seconds: float = 0.0) -> Result:
    """Freeze the leader for less than anything notices, or until its connections and its peers have given it up."""
    seconds = seconds or rng.choice((2, 12))
    return through(setup, rng, lambda setup, queue: freeze(setup.leader(queue), seconds))


def leader_cut_off(setup: ClusterSetup, rng: random.Random, seconds: float = 0.0) -> Result:
    """Make the leader and its peers refuse each other, so that it leads no majority, and then accept each other."""
    seconds = seconds or rng.uniform(1, 10)

    def inject(setup: ClusterSetup, queue: str) -> None:
        with cut_off(setup.leader(queue), setup.cluster):
            threading.Event().wait(seconds)

    return through(setup, rng, inject)


def own_node_killed(setup: ClusterSetup, rng: random.Random) -> Result:
    """Kill the only node whose URL is known: the other nodes cannot help until it is back."""
    return through(setup, rng, lambda setup, queue: setup.leader(queue).kill(), several=False)


def two_of_three_killed(setup: ClusterSetup, rng: random.Random, *, several: bool | None = None) -> Result:
    """Kill the leader and one more node: without a majority nothing is confirmed until they are back."""
    several = rng.random() < 0.5 if several is None else several

    def inject(setup: ClusterSetup, queue: str) -> None:
        leader = setup.leader(queue)
        other = rng.choice([node for node in setup.cluster.nodes if node.name != leader.name])
        for node in (leader, other):
            node.kill()
        threading.Event().wait(2)

    return through(setup, rng, inject, several=several)


def without_leader(setup: ClusterSetup, rng: random.Random, seconds: float = 2.0) -> Result:
    """Stop the queue's members on two nodes that keep running: the queue has no leader until the members are back."""

    def inject(setup: ClusterSetup, queue: str) -> None:
        leader = setup.leader(queue)
        nodes = [leader, rng.choice([node for node in setup.cluster.nodes if node.name != leader.name])]
        member = f"(quorum_queues, {{'%2F_{queue}', node()}})"
        try:
            for node in nodes:
                assert evaluate(node, f"ra:stop_server{member}") == "ok"
            threading.Event().wait(seconds)
        finally:  # or the queue can neither be drained nor deleted
            restarted = [evaluate(node, f"ra:restart_server{member}") for node in nodes]
        assert all("ok" in each or "already_started" in each for each in restarted), restarted

    return through(setup, rng, inject)


@contextmanager
def cut_off(node: Node, cluster: Cluster) -> Iterator[None]:
    """Cut a node off from its peers while the block runs: it demands another cookie, which none of them has."""
    peers = "[" + ",".join(f"'{each.name}'" for each in cluster.nodes if each.name != node.name) + "]"
    try:
        evaluate(node, f"[begin erlang:set_cookie(N, wrong), erlang:disconnect_node(N) end || N <- {peers}]")
        wait_until(lambda: evaluate(node, "nodes()") == "[]", "the node still sees its peers")
        yield
    finally:
        evaluate(node, f"[erlang:set_cookie(N, erlang:get_cookie()) || N <- {peers}]")
