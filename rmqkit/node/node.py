"""A private RabbitMQ node: no root needed, data of its own, every listener on loopback only.

Three processes belong to a node, and only those that are known by id and start time are ever signalled: the Erlang VM,
its helper (which ends with it), and an `epmd`, Erlang's port mapper, of our own on a port of its own. The nodes of a
cluster (`rmqkit.node.cluster`) share one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import platformdirs

from rmqkit.errors import NodeError
from rmqkit.node import installation
from rmqkit.node.installation import Identity
from rmqkit.node.ports import NO_PORTS, Ports, choose, listens, taken
from rmqkit.node.process import NO_PROCESS, Process, spawn, uninterrupted, wait_until
from rmqkit.node.readiness import accepts_logins

__all__ = ["Node", "NodeStatus", "default_folder"]

STOP_GRACE_S = 30.0  # RabbitMQ 3.10 needs 6: its statistics collector waits for an answer that does not come
_LOG_LINES = 12  # of a failed start


def default_folder() -> Path:
    """Return where `rmqkit broker` keeps its node."""
    return Path(platformdirs.user_state_dir("rmqkit", appauthor=False)) / "broker"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What can be said of a node; `pid` is 0 and `version` may be empty when it does not run."""

    name: str
    running: bool
    port: int
    url: str
    management_url: str
    version: str
    pid: int
    folder: Path
    log: Path


@dataclass(frozen=True, slots=True)
class NodeState:
    """What outlives the command that started the node, as JSON in its folder."""

    ports: Ports
    version: str = ""
    broker: Process = NO_PROCESS
    epmd: Process = NO_PROCESS


class Node:
    """The RabbitMQ node that lives in `folder`: its data, its log, its cookie, and what we remember of it."""

    def __init__(self, folder: Path | None = None, *, identity: Identity | None = None) -> None:
        self.folder = (folder or default_folder()).absolute()
        self.log = self.folder / "log" / "broker.log"
        self._identity = identity or Identity(self.folder / "home")

    @property
    def name(self) -> str:
        """Return what Erlang, and `rabbitmqctl -n`, call the node."""
        return self._identity.name

    def start(self, port: int | None = None, timeout_s: float = 60.0) -> NodeStatus:
        """Start the node, and return once it accepts logins; a node that runs already stays as it is.

        `port` is the AMQP port; without one it is the one used last, 5672 or any that is free, in this order, and with
        0 none of RabbitMQ's well-known ports is used. Raise NodeError, having left nothing running, when RabbitMQ is
        not installed, the port is taken, the node ends by itself or takes longer than `timeout_s`.
        """
        with locked(self.folder):
            runs = self._recall().broker.alive()
            try:
                self.launch(port)
                self.await_login(timeout_s)  # of one that runs too: its start may have been cut short
            except BaseException:  # an interrupt too: leave nothing behind
                if not runs:
                    self._end(self._recall(), grace_s=0.0)
                raise
            return self.status()

    def launch(self, port: int | None = None, avoid: Collection[int] = ()) -> Ports:
        """Start the node's processes, unless they run, and return at once; `avoid` are ports of others, not to be used.

        Of a node of a cluster, the port mapper is the cluster's. Raise NodeError as `start` does.
        """
        memory = self._recall()
        if memory.broker.alive():
            if port and port != memory.ports.amqp:
                raise NodeError(
                    f"the node runs already, on port {memory.ports.amqp}",
                    advice=f"Move it: `rmqkit broker stop`, then `rmqkit broker start --port {port}`.",
                )
            return memory.ports
        memory.epmd.end()  # of a node that was killed
        found, me = installation.find(), self._identity
        ports = choose(port, memory.ports, turn=me.turn, epmd=me.epmd, avoid=avoid)
        self._write_files(ports)
        env = installation.environment(self.folder, me, ports)
        memory = NodeState(ports)
        if not me.epmd:
            with uninterrupted():
                memory = replace(memory, epmd=spawn(found.mapper(ports.epmd), env, self.folder / "log" / "epmd.log"))
                self._remember(memory)
            await_mapper(ports.epmd)
        with uninterrupted():
            broker = spawn([found.scripts / "rabbitmq-server"], env, self.folder / "log" / "start.log")
            self._remember(replace(memory, broker=broker))
        return ports

    def await_login(self, timeout_s: float) -> None:
        """Wait until the node accepts logins; raise NodeError, with the end of its log, when it does not."""
        memory = self._recall()
        deadline = time.monotonic() + timeout_s
        ended_or_listens = lambda: not memory.broker.alive() or listens(memory.ports.amqp)  # noqa: E731
        while time.monotonic() < deadline and memory.broker.alive():
            wait_until(ended_or_listens, deadline - time.monotonic())
            if accepts_logins(memory.ports.amqp) and listens(memory.ports.management):
                self._remember(replace(memory, version=self._version()))
                return
            time.sleep(0.05)
        what = f"did not accept logins within {timeout_s:g} s" if memory.broker.alive() else "ended while starting"
        raise NodeError(f"the RabbitMQ node {what}", advice=self._last_words())

    def stop(self) -> bool:
        """Stop the node, and return whether one ran; what does not end by itself is killed after 30 seconds."""
        with locked(self.folder):
            memory = self._recall()
            ran = memory.broker.alive()
            self._end(memory, STOP_GRACE_S)
            return ran

    def kill(self) -> None:
        """Kill the node at once, as a power cut would; what is durable must survive it."""
        memory = self._recall()
        memory.broker.end()
        wait_until(lambda: not taken(memory.ports.amqp), 5.0)  # or the next start would find it taken, and move

    def discard(self) -> None:
        """Kill the node and remove its folder: for a node that nobody needs any more."""
        with locked(self.folder):
            self._end(self._recall(), grace_s=0.0)
            shutil.rmtree(self.folder)

    def restart(self) -> NodeStatus:
        """Stop the node and start it on the same port."""
        port = self._recall().ports.amqp
        self.stop()
        return self.start(port or None)

    def status(self) -> NodeStatus:
        """Return what is known of the node, without asking it."""
        memory = self._recall()
        running = memory.broker.alive()
        return NodeStatus(
            name=self.name,
            running=running,
            port=memory.ports.amqp,
            url=f"amqp://guest:guest@127.0.0.1:{memory.ports.amqp}/" if memory.ports.amqp else "",
            management_url=f"http://127.0.0.1:{memory.ports.management}/" if memory.ports.management else "",
            version=memory.version,
            pid=memory.broker.pid if running else 0,
            folder=self.folder,
            log=self.log,
        )

    @property
    def nodes(self) -> tuple[Node]:
        """Return the node itself: it is what a cluster has more of."""
        return (self,)

    @property
    def started_s(self) -> float:
        """Return when the node was started last, in seconds since the epoch; 0 if never."""
        return self._memory_file.stat().st_mtime if self._memory_file.exists() else 0.0

    @property
    def url(self) -> str:
        """Return the node's AMQP URL; empty when it was never started."""
        return self.status().url

    @property
    def pid(self) -> int:
        """Return the process id of the node; 0 when it does not run."""
        return self.status().pid

    def ctl(self, *arguments: str, capture: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `rabbitmqctl` for this node; with `capture` its output is in the result, else it goes to the terminal."""
        return subprocess.run(  # noqa: S603 - RabbitMQ's own script, and no shell
            [installation.find().scripts / "rabbitmqctl", *arguments],
            env=installation.environment(self.folder, self._identity, self._recall().ports),
            capture_output=capture,
            text=True,
            check=False,
        )

    def _last_words(self) -> str:
        """Return the last log lines of a failed start, and where there are more."""
        for log in (self.folder / "log" / "start.log", self.log):
            lines = [line for line in _read(log).splitlines() if line.strip()]
            if lines:
                return "\n".join([*(f"  {line}" for line in lines[-_LOG_LINES:]), f"The whole log: {log}"])
        return f"It left no log in {self.log.parent}."

    def _version(self) -> str:
        """Return the version that the log names last."""
        named: list[str] = re.findall(r"Starting RabbitMQ (\S+)", _read(self.log))
        return named[-1] if named else ""

    def _end(self, memory: NodeState, grace_s: float) -> None:
        memory.broker.end(grace_s)
        memory.epmd.end()

    def _write_files(self, ports: Ports) -> None:
        """Write the node's configuration; the cookie is made once, for its owner's eyes only."""
        for folder in ("data", "log", "conf.d"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        for name, content in installation.configuration(self._identity, ports).items():
            (self.folder / name).write_text(content)
        self._identity.home.mkdir(exist_ok=True)
        cookie = self._identity.home / ".erlang.cookie"
        with suppress(FileExistsError), open(os.open(cookie, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:  # noqa: PTH123
            file.write(secrets.token_hex(16))

    @property
    def _memory_file(self) -> Path:
        return self.folder / "node.json"

    def _recall(self) -> NodeState:
        try:
            kept = json.loads(self._memory_file.read_text())
            return NodeState(
                Ports(**kept["ports"]), kept["version"], Process(**kept["broker"]), Process(**kept["epmd"])
            )
        except (OSError, ValueError, KeyError, TypeError):  # never started, or not by us
            return NodeState(NO_PORTS)

    def _remember(self, memory: NodeState) -> None:
        new = self._memory_file.with_suffix(".new")
        new.write_text(json.dumps(asdict(memory), indent=2))
        new.replace(self._memory_file)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one command at a time start or stop what lives in a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise NodeError(f"the node's folder {folder} cannot be used: {error}") from error


def await_mapper(port: int) -> None:
    """Wait until Erlang's port mapper answers."""
    if not wait_until(lambda: listens(port), 10.0):
        raise NodeError(f"Erlang's port mapper, `epmd`, does not answer on port {port}")


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
