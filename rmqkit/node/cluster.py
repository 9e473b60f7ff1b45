"""A cluster of private nodes on one machine.

Each node has its folder within the cluster's and its own ports; all share the cookie and one `epmd`, which tells each
where the others are. They find the first node by its name, with RabbitMQ's own peer discovery
(https://www.rabbitmq.com/docs/cluster-formation#peer-discovery-classic-config).
"""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from rmqkit.errors import NodeError
from rmqkit.node import installation
from rmqkit.node.installation import Identity
from rmqkit.node.node import START_S, Node, NodeStatus, StateFolder, await_epmd, default_folder, locked
from rmqkit.node.ports import free
from rmqkit.node.process import NO_PROCESS, Process, spawn, uninterrupted, wait_until

__all__ = ["Cluster", "ClusterStatus", "last_started"]

SIZE = 3
_JOIN_S = 15.0  # from accepting logins until all nodes see each other
_API_S = 2.0
_ASK_EVERY_S = 0.2  # each node about all of them, which costs them time while they start
_ONE_START_S = 60.0  # before a starting node is killed and started again
_TRIES = 3


def last_started() -> Node | Cluster:
    """Return the user's private broker: the running one, or else the one started last."""
    node, cluster = Node(), Cluster()
    if node.pid:
        return node
    return cluster if any(each.pid for each in cluster.nodes) or cluster.started_s > node.started_s else node


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The status of a cluster: its nodes in the order of their names; `running` if all of them are."""

    running: bool
    url: str
    nodes: tuple[NodeStatus, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The saved state of a cluster, as JSON in its folder; `formed` once it was complete."""

    size: int = 0
    epmd_port: int = 0
    epmd: Process = NO_PROCESS
    formed: bool = False
    rabbitmq: str = ""  # the folder of its RabbitMQ; empty for the installed one


class Cluster(StateFolder):
    """The RabbitMQ cluster in `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder or default_folder().with_name("cluster"), "cluster.json")

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes, running or not; none if the cluster was never started."""
        state = self._load_state()
        names = [f"rmqkit-{number}@127.0.0.1" for number in range(1, state.size + 1)]
        home, epmd = self.folder / "home", state.epmd_port
        return tuple(
            Node(
                self.folder / name.partition("@")[0],
                identity=Identity(home, name, tuple(dict.fromkeys((names[0], name))), index, epmd),
            )
            for index, name in enumerate(names)
        )

    @property
    def url(self) -> str:
        """Return the AMQP URLs of all nodes, separated by commas."""
        return ",".join(node.url for node in self.nodes)

    def start(
        self, size: int | None = None, port: int | None = None, timeout_s: float = START_S, rabbitmq: str = ""
    ) -> ClusterStatus:
        """Start the nodes that are not running, and return once all accept logins and see each other.

        `size` is the number of nodes, 3 by default, and never changes. `port` is the first node's; the others use the
        following ones; None and 0, and `rabbitmq`, mean the same as for a single node. Raises NodeError, leaving only
        the processes that ran before, when a node fails, starting takes longer than `timeout_s`, or the cluster has
        another size.
        """
        with locked(self.folder):
            state = self._load_state()
            size = size or state.size or SIZE
            if state.size not in (0, size):
                advice = f"For another size, delete it with its data: `rm -r {self.folder}`."
                raise NodeError(f"the cluster has {state.size} nodes, which cannot be changed", advice=advice)
            were_running = {node.name for node in self.nodes if node.pid}
            try:
                found = installation.find(rabbitmq, state.rabbitmq)
                self._start(replace(state, size=size, rabbitmq=found.folder), port, timeout_s)
            except BaseException:  # an interrupt too: leave no process behind
                self._end(node for node in self.nodes if node.name not in were_running)
                raise
            return self.status()

    def stop(self) -> bool:
        """Stop all nodes in parallel, killing those that do not exit, and return whether one was running."""
        with locked(self.folder), ThreadPoolExecutor() as pool:
            was_running = any(list(pool.map(Node.stop, self.nodes)))
            self._end(())
            return was_running

    def discard(self) -> None:
        """Kill all nodes and remove the cluster's folder."""
        with locked(self.folder):
            self._end(self.nodes)
            shutil.rmtree(self.folder)

    def status(self) -> ClusterStatus:
        """Return the status of the nodes from their saved states and processes."""
        nodes = tuple(node.status() for node in self.nodes)
        return ClusterStatus(bool(nodes) and all(node.running for node in nodes), self.url, nodes, self.folder)

    def leader(self, queue: str, vhost: str = "/") -> str:
        """Return the name of the node that leads a quorum queue; empty if no node knows it."""
        path = f"queues/{quote(vhost, safe='')}/{quote(queue, safe='')}"
        views = (_get(node, path) for node in self.nodes)
        return next((str(view["leader"]) for view in views if isinstance(view, dict) and view.get("leader")), "")

    def _start(self, state: ClusterState, port: int | None, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        if not state.epmd.alive():
            state = self._launch_epmd(state)
        nodes = self.nodes
        if not state.formed:
            for node in nodes:
                shutil.rmtree(node.folder / "data", ignore_errors=True)  # half a cluster cannot resume
            # Nodes that try to discover the first one while it starts would delay it.
            self._bring_up(nodes[:1], port, deadline, state.rabbitmq)
        for _ in range(_TRIES):
            self._bring_up(nodes, port, deadline, state.rabbitmq)
            left_s = min(_JOIN_S, deadline - time.monotonic())
            if wait_until(lambda: len(self._members()) == state.size, left_s, pause_s=_ASK_EVERY_S):
                self._save_state(replace(state, formed=True))
                return
            members = self._members()  # a node that was partitioned or frozen may need a restart to rejoin
            for node in nodes:
                if node.name not in members:
                    node.kill()
        message = f"only {len(members)} of {state.size} nodes see each other"
        raise NodeError(message, advice=f"See the logs in {self.folder}.")

    def _bring_up(self, nodes: Sequence[Node], port: int | None, deadline: float, rabbitmq: str) -> None:
        """Launch nodes together and wait until they accept logins; nodes that exit or hang are launched again.

        A node that was stopped early waits for those that were stopped late. RabbitMQ 3.10 nodes that boot at the same
        moment may conflict over feature flags, and exit or hang.
        """
        for tries_left in reversed(range(_TRIES)):
            used: set[int] = set()
            for index, node in enumerate(nodes):
                used.update(astuple(node.launch(port + index if port else port, used, rabbitmq))[:-1])
            start_deadline = min(deadline, time.monotonic() + _ONE_START_S)
            failures = []
            for node in nodes:
                try:
                    node.await_login(max(start_deadline - time.monotonic(), 0.1))
                except NodeError as exc:
                    node.kill()
                    failures.append(exc)
            if not failures:
                return
            if not tries_left or time.monotonic() >= deadline:
                raise failures[0]
            port = None  # the nodes keep theirs

    def _launch_epmd(self, state: ClusterState) -> ClusterState:
        found, port = installation.find_in(state.rabbitmq), free(state.epmd_port)
        with uninterrupted():
            epmd = spawn(found.epmd_command(port), {}, self.folder / "epmd.log")
            state = replace(state, epmd_port=port, epmd=epmd)
            self._save_state(state)
        await_epmd(port)
        return state

    def _members(self) -> set[str]:
        """Return the names of the nodes that see each other: the largest set that one node sees."""
        found = (_get(node, "nodes?columns=name,running") for node in self.nodes)
        views = ({each["name"] for each in view if each.get("running")} for view in found if isinstance(view, list))
        return max(views, key=len, default=set())

    def _end(self, nodes: Iterable[Node]) -> None:
        """Kill nodes, and the port mapper once no node is running."""
        for node in nodes:
            node.kill()
        if not any(node.pid for node in self.nodes):
            self._load_state().epmd.end()

    def _load_state(self) -> ClusterState:
        try:
            saved = json.loads(self._state_file.read_text())
            return ClusterState(**saved | {"epmd": Process(**saved["epmd"])})
        except (OSError, ValueError, KeyError, TypeError):  # never started, or not by rmqkit
            return ClusterState()


def _get(node: Node, path: str) -> Any:
    """Get a resource from a node's HTTP API; None if the node does not answer or refuses."""
    status, login = node.status(), {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}
    api = http.client.HTTPConnection(urlsplit(status.management_url).netloc, timeout=_API_S)
    with closing(api), suppress(OSError, http.client.HTTPException, ValueError):
        api.request("GET", f"/api/{path}", headers=login)
        answer = api.getresponse()
        if answer.status == http.client.OK:
            return json.loads(answer.read())
    return None
