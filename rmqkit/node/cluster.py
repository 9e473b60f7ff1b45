"""Several private nodes that are one cluster: what a rack of machines would be, on one.

Each node has a folder in the cluster's, and ports of its own; they share the cookie and one `epmd`, which tells each
where the others are. They find the first one by RabbitMQ's own peer discovery, by its name
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
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from rmqkit.errors import NodeError
from rmqkit.node import installation
from rmqkit.node.installation import Identity
from rmqkit.node.node import Node, NodeStatus, await_mapper, default_folder, locked
from rmqkit.node.ports import free
from rmqkit.node.process import NO_PROCESS, Process, spawn, uninterrupted, wait_until

__all__ = ["Cluster", "ClusterStatus", "last_started"]

SIZE = 3
_JOIN_S = 15.0  # from logins that are accepted to nodes that all see each other
_API_S = 2.0
_PATIENCE_S = 45.0  # with a node that starts, before it is killed and started again
_TRIES = 3


def last_started() -> Node | Cluster:
    """Return the user's own broker: the one that runs, or else was started last."""
    node, cluster = Node(), Cluster()
    if node.pid:
        return node
    return cluster if any(each.pid for each in cluster.nodes) or cluster.started_s > node.started_s else node


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What can be said of a cluster; `nodes` are in the order of their names, `running` is true of all of them."""

    running: bool
    url: str
    nodes: tuple[NodeStatus, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What outlives the command that started the cluster, as JSON in its folder; `formed` once it was whole."""

    size: int = 0
    epmd_port: int = 0
    epmd: Process = NO_PROCESS
    formed: bool = False


class Cluster:
    """The RabbitMQ cluster that lives in `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or default_folder().with_name("cluster")).absolute()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes, whether they run or not; none if the cluster was never started."""
        memory = self._recall()
        names = [f"rmqkit-{number}@127.0.0.1" for number in range(1, memory.size + 1)]
        home, epmd = self.folder / "home", memory.epmd_port
        return tuple(
            Node(
                self.folder / name.partition("@")[0],
                identity=Identity(home, name, tuple(dict.fromkeys((names[0], name))), turn, epmd),
            )
            for turn, name in enumerate(names)
        )

    @property
    def started_s(self) -> float:
        """Return when the cluster was started last, in seconds since the epoch; 0 if never."""
        return self._memory_file.stat().st_mtime if self._memory_file.exists() else 0.0

    @property
    def url(self) -> str:
        """Return the AMQP URLs of all nodes, separated by commas."""
        return ",".join(node.url for node in self.nodes)

    def start(self, size: int | None = None, port: int | None = None, timeout_s: float = 120.0) -> ClusterStatus:
        """Start the nodes that do not run, and return once all accept logins and see each other.

        `size` is how many there are, 3 unless given, and never changes. `port` is the first node's, the others have
        those that follow; with None and 0 as for a single node. Raise NodeError, having left nothing running that did
        not run before, when a node fails, it takes longer than `timeout_s`, or the cluster has another size.
        """
        with locked(self.folder):
            memory = self._recall()
            size = size or memory.size or SIZE
            if memory.size not in (0, size):
                raise NodeError(
                    f"the cluster has {memory.size} nodes, and keeps them",
                    advice=f"For another number remove it, with its data: rm -r {self.folder}",
                )
            ran = {node.name for node in self.nodes if node.pid}
            try:
                self._start(replace(memory, size=size), port, timeout_s)
            except BaseException:  # an interrupt too: leave nothing behind
                self._end(node for node in self.nodes if node.name not in ran)
                raise
            return self.status()

    def stop(self) -> bool:
        """Stop all nodes at once, and return whether one ran; a node that does not end by itself is killed."""
        with locked(self.folder), ThreadPoolExecutor() as pool:
            ran = any(list(pool.map(Node.stop, self.nodes)))
            self._end(())
            return ran

    def discard(self) -> None:
        """Kill all nodes and remove the cluster's folder."""
        with locked(self.folder):
            self._end(self.nodes)
            shutil.rmtree(self.folder)

    def status(self) -> ClusterStatus:
        """Return what is known of the nodes, without asking them."""
        nodes = tuple(node.status() for node in self.nodes)
        return ClusterStatus(bool(nodes) and all(node.running for node in nodes), self.url, nodes, self.folder)

    def leader(self, queue: str, vhost: str = "/") -> str:
        """Return the name of the node that leads a quorum queue, as those say that answer; empty if none does."""
        path = f"queues/{quote(vhost, safe='')}/{quote(queue, safe='')}"
        views = (_ask(node, path) for node in self.nodes)
        return next((str(view["leader"]) for view in views if isinstance(view, dict) and view.get("leader")), "")

    def _start(self, memory: ClusterState, port: int | None, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        if not memory.epmd.alive():
            memory = self._launch_mapper(memory)
        nodes = self.nodes
        if not memory.formed:
            for node in nodes:
                shutil.rmtree(node.folder / "data", ignore_errors=True)  # half a cluster would not go on
            self._bring_up(nodes[:1], port, deadline)  # those that look for it while it starts would hold it up
        for _ in range(_TRIES):
            self._bring_up(nodes, port, deadline)
            if wait_until(lambda: len(self._together()) == memory.size, min(_JOIN_S, deadline - time.monotonic())):
                self._remember(replace(memory, formed=True))
                return
            together = self._together()  # a node that was cut off, or frozen, may need a restart to come back
            for node in nodes:
                if node.name not in together:
                    node.kill()
        raise NodeError(f"{len(together)} of {memory.size} nodes see each other", advice=f"Their logs: {self.folder}")

    def _bring_up(self, nodes: Sequence[Node], port: int | None, deadline: float) -> None:
        """Launch nodes, all together, and wait until they accept logins; what ends or hangs is launched again.

        One that was stopped early waits for those that were stopped late. RabbitMQ 3.10 nodes that boot at the same
        moment may trip over each other's feature flags, and end, or hang.
        """
        for tries_left in reversed(range(_TRIES)):
            used: set[int] = set()
            for turn, node in enumerate(nodes):
                used.update(astuple(node.launch(port + turn if port else port, avoid=used))[:-1])
            until = min(deadline, time.monotonic() + _PATIENCE_S)
            failures = [failure for node in nodes if (failure := _failure(node, until))]
            if not failures:
                return
            if not tries_left or time.monotonic() >= deadline:
                raise failures[0]
            port = None  # the nodes have theirs

    def _launch_mapper(self, memory: ClusterState) -> ClusterState:
        found, port = installation.find(), free(memory.epmd_port)
        with uninterrupted():
            epmd = spawn(found.mapper(port), {}, self.folder / "epmd.log")
            memory = replace(memory, epmd_port=port, epmd=epmd)
            self._remember(memory)
        await_mapper(port)
        return memory

    def _together(self) -> set[str]:
        """Return the names of the nodes that see each other: the most that one of them sees."""
        found = (_ask(node, "nodes?columns=name,running") for node in self.nodes)
        views = ({each["name"] for each in view if each.get("running")} for view in found if isinstance(view, list))
        return max(views, key=len, default=set())

    def _end(self, nodes: Iterable[Node]) -> None:
        """Kill nodes, and the port mapper once no node needs it."""
        for node in nodes:
            node.kill()
        if not any(node.pid for node in self.nodes):
            self._recall().epmd.end()

    @property
    def _memory_file(self) -> Path:
        return self.folder / "cluster.json"

    def _recall(self) -> ClusterState:
        try:
            kept = json.loads(self._memory_file.read_text())
            return ClusterState(**kept | {"epmd": Process(**kept["epmd"])})
        except (OSError, ValueError, KeyError, TypeError):  # never started, or not by us
            return ClusterState()

    def _remember(self, memory: ClusterState) -> None:
        new = self._memory_file.with_suffix(".new")
        new.write_text(json.dumps(asdict(memory), indent=2))
        new.replace(self._memory_file)


def _failure(node: Node, deadline: float) -> NodeError | None:
    """Wait until a node accepts logins; kill one that does not, and return why."""
    try:
        node.await_login(max(deadline - time.monotonic(), 0.1))
    except NodeError as exc:
        node.kill()
        return exc
    return None


def _ask(node: Node, path: str) -> Any:
    """Ask a node's HTTP API; None if it does not answer, or not with what was asked for."""
    status, login = node.status(), {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}
    api = http.client.HTTPConnection(urlsplit(status.management_url).netloc, timeout=_API_S)
    with closing(api), suppress(OSError, http.client.HTTPException, ValueError):
        api.request("GET", f"/api/{path}", headers=login)
        answer = api.getresponse()
        if answer.status == http.client.OK:
            return json.loads(answer.read())
    return None
