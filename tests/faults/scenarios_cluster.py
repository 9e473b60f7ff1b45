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
from tests.faults.fault_run import Ground, Progress, Result, freeze, stream_through
from tests.support.wait import wait_until

HEARTBEAT = "?heartbeat=1"  # or a frozen node is given up after half a minute


class ClusterGround(Ground):
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


Strike = Callable[[ClusterGround, str], None]


def through(ground: ClusterGround, dice: random.Random, strike: Strike, *, several: bool = True) -> Result:
    """Publish and consume at once, through the node that leads the queue, and strike on the way.

    With several URLs the other nodes are known as well.
    """
    amount = 8000
    when = dice.randrange(amount // 3)
    ground.home = dice.choice(ground.cluster.nodes)
    url = ground.urls(ground.home) if several else ground.url + HEARTBEAT

    def struck(_done: threading.Event, progress: Progress) -> None:
        progress.reaches(when)
        try:
            strike(ground, ground.queues[-1])
        finally:
            ground.cluster.start()

    result = stream_through(ground, url, struck, amount, 6000, x_queue_type="quorum")
    if not result.report.complete:
        result.violations.append(f"I9: not complete: {replace(result.report, failures=())}")
    return result


def leader_killed(ground: ClusterGround, dice: random.Random) -> Result:
    """Kill the leader: another one takes over, with two of three nodes."""

    def strike(ground: ClusterGround, queue: str) -> None:
        before = ground.leader(queue)
        before.kill()
        wait_until(lambda: ground.cluster.leader(queue) not in ("", before.name), "nobody takes over")

    return through(ground, dice, strike)


def leader_frozen(ground: ClusterGround, dice: random.Random, seconds: float = 0.0) -> Result:
    """Freeze the leader for less than anybody notices, or until its connections and its peers have given it up."""
    seconds = seconds or dice.choice((2, 12))
    return through(ground, dice, lambda ground, queue: freeze(ground.leader(queue), seconds))


def leader_cut_off(ground: ClusterGround, dice: random.Random, seconds: float = 0.0) -> Result:
    """Let the leader and its peers refuse each other, so that it leads no majority, and make peace again."""
    seconds = seconds or dice.uniform(1, 10)

    def strike(ground: ClusterGround, queue: str) -> None:
        with cut_off(ground.leader(queue), ground.cluster):
            threading.Event().wait(seconds)

    return through(ground, dice, strike)


def own_node_killed(ground: ClusterGround, dice: random.Random) -> Result:
    """Kill the only node we know: the others cannot help, until it is back."""
    return through(ground, dice, lambda ground, queue: ground.leader(queue).kill(), several=False)


def two_of_three_killed(ground: ClusterGround, dice: random.Random, *, several: bool | None = None) -> Result:
    """Kill the leader and one more: nothing is confirmed without a majority, and all goes on once they are back."""
    several = dice.random() < 0.5 if several is None else several

    def strike(ground: ClusterGround, queue: str) -> None:
        leader = ground.leader(queue)
        other = dice.choice([node for node in ground.cluster.nodes if node.name != leader.name])
        for node in (leader, other):
            node.kill()
        threading.Event().wait(2)

    return through(ground, dice, strike, several=several)


def without_leader(ground: ClusterGround, dice: random.Random, seconds: float = 2.0) -> Result:
    """End the queue's members on two nodes, which go on themselves: nobody leads it until they are back."""

    def strike(ground: ClusterGround, queue: str) -> None:
        leader = ground.leader(queue)
        nodes = [leader, dice.choice([node for node in ground.cluster.nodes if node.name != leader.name])]
        member = f"(quorum_queues, {{'%2F_{queue}', node()}})"
        for node in nodes:
            assert _eval(node, f"ra:stop_server{member}") == "ok"
        threading.Event().wait(seconds)
        for node in nodes:
            assert _eval(node, f"ra:restart_server{member}") == "ok"

    return through(ground, dice, strike)


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
