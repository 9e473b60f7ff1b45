"""Three nodes, a quorum queue, and what becomes of its leader, of our own node, and of two of three (35)."""

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
from tests.support.nodes import freeze
from tests.support.wait import wait_until

HEARTBEAT = "?heartbeat=1"  # or a frozen node is given up after half a minute


class ClusterSetup(FaultSetup):
    """A cluster whose nodes may be hurt; `home` is the one that queues are declared on, which then leads them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.home = cluster.nodes[0]
        super().__init__(Broker(self.home.url, self.home.status().management_url), folder)

    @property
    def url(self) -> str:
        return self.home.url

    def leader(self, queue: str) -> Node:
        """Wait until a quorum queue has a leader, and return its node."""
        wait_until(lambda: self.cluster.leader(queue) != "", lambda: f"queue {queue} has no leader")
        return self.node_of(self.cluster.leader(queue))

    def node_of(self, name: str) -> Node:
        return next(node for node in self.cluster.nodes if node.name == name)

    def urls(self, first: Node) -> str:
        """Return the URLs of all nodes, beginning with one of them."""
        others = (node.url for node in self.cluster.nodes if node.name != first.name)
        return ",".join(url + HEARTBEAT for url in (first.url, *others))


Injection = Callable[[ClusterSetup, str], None]


def through(setup: ClusterSetup, rng: random.Random, inject: Injection, *, several: bool = True) -> Result:
    """Publish and consume at once, through the node that leads the queue, and inject on the way.

    With several URLs the other nodes are known as well.
    """
    amount = 8000
    when = rng.randrange(amount // 3)
    setup.home = rng.choice(setup.cluster.nodes)
    url = setup.urls(setup.home) if several else setup.url + HEARTBEAT

    def struck(_done: threading.Event, progress: Progress) -> None:
        progress.wait_for(when)
        try:
            inject(setup, setup.queues[-1])
        finally:
            setup.cluster.start()

    result = publish_and_consume(setup, url, struck, amount, 6000, x_queue_type="quorum")
    if not result.report.complete:
        result.violations.append(f"progress: not complete: {replace(result.report, failures=())}")
    return result


def leader_killed(setup: ClusterSetup, rng: random.Random) -> Result:
    """Kill the leader: another one takes over, with two of three nodes."""

    def inject(setup: ClusterSetup, queue: str) -> None:
        before = setup.leader(queue)
        before.kill()
        wait_until(lambda: setup.cluster.leader(queue) not in ("", before.name), "nobody takes over")

    return through(setup, rng, inject)


def leader_frozen(setup: ClusterSetup, rng: random.Random, seconds: float = 0.0) -> Result:
    """Freeze the leader for less than anybody notices, or until its connections and its peers have given it up."""
    seconds = seconds or rng.choice((2, 12))
    return through(setup, rng, lambda setup, queue: freeze(setup.leader(queue), seconds))


def leader_cut_off(setup: ClusterSetup, rng: random.Random, seconds: float = 0.0) -> Result:
    """Let the leader and its peers refuse each other, so that it leads no majority, and make peace again."""
    seconds = seconds or rng.uniform(1, 10)

    def inject(setup: ClusterSetup, queue: str) -> None:
        with cut_off(setup.leader(queue), setup.cluster):
            threading.Event().wait(seconds)

    return through(setup, rng, inject)


def own_node_killed(setup: ClusterSetup, rng: random.Random) -> Result:
    """Kill the only node we know: the others cannot help, until it is back."""
    return through(setup, rng, lambda setup, queue: setup.leader(queue).kill(), several=False)


def two_of_three_killed(setup: ClusterSetup, rng: random.Random, *, several: bool | None = None) -> Result:
    """Kill the leader and one more: nothing is confirmed without a majority, and all goes on once they are back."""
    several = rng.random() < 0.5 if several is None else several

    def inject(setup: ClusterSetup, queue: str) -> None:
        leader = setup.leader(queue)
        other = rng.choice([node for node in setup.cluster.nodes if node.name != leader.name])
        for node in (leader, other):
            node.kill()
        threading.Event().wait(2)

    return through(setup, rng, inject, several=several)


def without_leader(setup: ClusterSetup, rng: random.Random, seconds: float = 2.0) -> Result:
    """End the queue's members on two nodes, which go on themselves: nobody leads it until they are back."""

    def inject(setup: ClusterSetup, queue: str) -> None:
        leader = setup.leader(queue)
        nodes = [leader, rng.choice([node for node in setup.cluster.nodes if node.name != leader.name])]
        member = f"(quorum_queues, {{'%2F_{queue}', node()}})"
        for node in nodes:
            assert _eval(node, f"ra:stop_server{member}") == "ok"
        threading.Event().wait(seconds)
        for node in nodes:
            assert _eval(node, f"ra:restart_server{member}") == "ok"

    return through(setup, rng, inject)


@contextmanager
def cut_off(node: Node, cluster: Cluster) -> Iterator[None]:
    """Cut a node off from its peers while the block runs: it wants another cookie of them, which none has."""
    peers = "[" + ",".join(f"'{each.name}'" for each in cluster.nodes if each.name != node.name) + "]"
    assert _eval(node, f"[begin erlang:set_cookie(N, wrong), erlang:disconnect_node(N) end || N <- {peers}]")
    try:
        assert _eval(node, "nodes()") == "[]"
        yield
    finally:
        _eval(node, f"[erlang:set_cookie(N, erlang:get_cookie()) || N <- {peers}]")


def _eval(node: Node, expression: str) -> str:
    done = node.ctl("-q", "eval", f"{expression}.")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
