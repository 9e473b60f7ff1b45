"""A private RabbitMQ node: it needs no root, has its own data, and listens on loopback only.

Three processes belong to a node: the Erlang VM, its helper (which ends with it), and a private `epmd`, Erlang's port
mapper, which the nodes of a cluster (`rmqkit.node.cluster`) share. Only processes known by id and start time are ever
signalled.
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
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from rmqkit.errors import NodeError
from rmqkit.node import installation
from rmqkit.node.installation import Identity
from rmqkit.node.ports import NO_PORTS, Ports, bind_error, choose, is_listening
from rmqkit.node.process import NO_PROCESS, Process, spawn, uninterrupted, wait_until
from rmqkit.node.readiness import accepts_logins

__all__ = ["Node", "NodeStatus", "default_folder"]

START_S = 180.0  # until logins are accepted; usually a few seconds, but a machine may be busy
STOP_GRACE_S = 30.0  # RabbitMQ 3.10 needs 6: its statistics collector waits in vain for an answer
_LOG_LINES = 12  # of a failed start


def default_folder() -> Path:
    """Return the folder of the node of `rmqkit broker`."""
    return Path(platformdirs.user_state_dir("rmqkit", appauthor=False)) / "broker"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The status of a node; `pid` is 0 and `version` may be empty when it is not running."""

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
    """The saved state of a node, as JSON in its folder."""

    ports: Ports
    version: str = ""
    broker: Process = NO_PROCESS
    epmd: Process = NO_PROCESS
    rabbitmq: str = ""  # the folder of its RabbitMQ; empty for the installed one


class StateFolder:
    """A folder with the saved state of a node or a cluster, as JSON in one file."""

    def __init__(self, folder: Path, state_file: str) -> None:
        self.folder = folder.absolute()
        self._state_file = self.folder / state_file

    @property
    def started_s(self) -> float:
        """Return the time of the last start in seconds since the epoch; 0 if never started."""
        return self._state_file.stat().st_mtime if self._state_file.exists() else 0.0

    def _save_state(self, state: Any) -> None:
        new = self._state_file.with_suffix(".new")
        new.write_text(json.dumps(asdict(state), indent=2))
        new.replace(self._state_file)


class Node(StateFolder):
    """The RabbitMQ node in `folder`: its data, log, cookie and saved state."""

    def __init__(self, folder: Path | None = None, *, identity: Identity | None = None) -> None:
        super().__init__(folder or default_folder(), "node.json")
        self.log = self.folder / "log" / "broker.log"
        self._identity = identity or Identity(self.folder / "home")

    @property
    def name(self) -> str:
        """Return the name of the node in Erlang and for `rabbitmqctl -n`."""
        return self._identity.name

    def start(self, port: int | None = None, timeout_s: float = START_S, rabbitmq: str = "") -> NodeStatus:
        """Start the node unless it is running, and return once it accepts logins.

        `port` is the AMQP port: by default the last one, 5672 or any free one, in this order; with 0 none of RabbitMQ's
        well-known ports is used. `rabbitmq` is the folder of a RabbitMQ: by default that of RMQKIT_RABBITMQ, the last
        one, or the installed one. Raises NodeError, leaving no process running, when there is no RabbitMQ, the port is
        in use, or the node exits or takes longer than `timeout_s`.
        """
        with locked(self.folder):
            was_running = self._load_state().broker.alive()
            try:
                self.launch(port, rabbitmq=rabbitmq)
                self.await_login(timeout_s)  # even if it was running: its start may have been interrupted
            except BaseException:  # an interrupt too: leave no process behind
                if not was_running:
                    self._end(self._load_state(), grace_s=0.0)
                raise
            return self.status()

    def launch(self, port: int | None = None, avoid: Collection[int] = (), rabbitmq: str = "") -> Ports:
        """Start the node's processes unless they are running, and return at once; `avoid` are reserved ports.

        A node of a cluster uses the port mapper of the cluster. Raises NodeError as `start` does.
        """
        state = self._load_state()
        if state.broker.alive():
            if port and port != state.ports.amqp:
                advice = f"To change it, run `rmqkit broker stop`, then `rmqkit broker start --port {port}`."
                raise NodeError(f"the node is already running on port {state.ports.amqp}", advice=advice)
            return state.ports
        state.epmd.end()  # of a node that was killed
        found, identity = installation.find(rabbitmq, state.rabbitmq), self._identity
        ports = choose(port, state.ports, index=identity.index, epmd=identity.epmd, avoid=avoid)
        self._write_files(ports)
        env = installation.environment(self.folder, identity, ports)
        state = NodeState(ports, rabbitmq=found.folder)
        if not identity.epmd:
            with uninterrupted():
                epmd = spawn(found.epmd_command(ports.epmd), env, self.folder / "log" / "epmd.log")
                state = replace(state, epmd=epmd)
                self._save_state(state)
            await_epmd(ports.epmd)
        with uninterrupted():
            broker = spawn([found.scripts / "rabbitmq-server"], env, self.folder / "log" / "start.log")
            self._save_state(replace(state, broker=broker))
        return ports

    def await_login(self, timeout_s: float) -> None:
        """Wait until the node accepts logins; raise NodeError, with the end of its log, when it does not."""
        state = self._load_state()
        deadline = time.monotonic() + timeout_s
        exited_or_listening = lambda: not state.broker.alive() or is_listening(state.ports.amqp)  # noqa: E731
        while time.monotonic() < deadline and state.broker.alive():
            wait_until(exited_or_listening, deadline - time.monotonic())
            if accepts_logins(state.ports.amqp) and is_listening(state.ports.management):
                self._save_state(replace(state, version=self._version()))
                return
            time.sleep(0.05)
        failure = f"did not accept logins within {timeout_s:g} s" if state.broker.alive() else "exited while starting"
        raise NodeError(f"the RabbitMQ node {failure}", advice=self._log_tail())

    def stop(self) -> bool:
        """Stop the node, killing it after 30 seconds, and return whether it was running."""
        with locked(self.folder):
            state = self._load_state()
            was_running = state.broker.alive()
            self._end(state, STOP_GRACE_S)
            return was_running

    def kill(self) -> None:
        """Kill the node at once, like a power cut: durable data must survive."""
        state = self._load_state()
        state.broker.end()
        wait_until(lambda: not bind_error(state.ports.amqp), 5.0)  # or the next start would choose another port

    def frozen(self) -> AbstractContextManager[None]:
        """Return a block during which the node does nothing, but keeps its connections."""
        return self._load_state().broker.frozen()

    def discard(self) -> None:
        """Kill the node and remove its folder."""
        with locked(self.folder):
            self._end(self._load_state(), grace_s=0.0)
            shutil.rmtree(self.folder)

    def restart(self) -> NodeStatus:
        """Stop the node and start it on the same port."""
        port = self._load_state().ports.amqp
        self.stop()
        return self.start(port or None)

    def status(self) -> NodeStatus:
        """Return the status of the node from its saved state and processes."""
        state = self._load_state()
        running = state.broker.alive()
        return NodeStatus(
            name=self.name,
            running=running,
            port=state.ports.amqp,
            url=f"amqp://guest:guest@127.0.0.1:{state.ports.amqp}/" if state.ports.amqp else "",
            management_url=f"http://127.0.0.1:{state.ports.management}/" if state.ports.management else "",
            version=state.version,
            pid=state.broker.pid if running else 0,
            folder=self.folder,
            log=self.log,
        )

    @property
    def nodes(self) -> tuple[Node]:
        """Return the node itself, as a cluster returns its nodes."""
        return (self,)

    @property
    def url(self) -> str:
        """Return the node's AMQP URL; empty if it was never started."""
        return self.status().url

    @property
    def pid(self) -> int:
        """Return the process id of the node; 0 if it is not running."""
        return self.status().pid

    def ctl(self, *arguments: str, capture: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `rabbitmqctl` for this node; without `capture` its output goes to the terminal."""
        state = self._load_state()
        return subprocess.run(  # noqa: S603 - RabbitMQ's own script, and no shell
            [installation.find_in(state.rabbitmq).scripts / "rabbitmqctl", *arguments],
            env=installation.environment(self.folder, self._identity, state.ports),
            capture_output=capture,
            text=True,
            check=False,
        )

    def _log_tail(self) -> str:
        """Return the last log lines of a failed start, and the path of the log."""
        for log in (self.folder / "log" / "start.log", self.log):
            lines = [line for line in _read(log).splitlines() if line.strip()]
            if lines:
                return "\n".join([*(f"  {line}" for line in lines[-_LOG_LINES:]), f"Full log: {log}"])
        return f"There is no log in {self.log.parent}."

    def _version(self) -> str:
        """Return the last version named in the log."""
        versions: list[str] = re.findall(r"Starting RabbitMQ (\S+)", _read(self.log))
        return versions[-1] if versions else ""

    def _end(self, state: NodeState, grace_s: float) -> None:
        state.broker.end(grace_s)
        state.epmd.end()

    def _write_files(self, ports: Ports) -> None:
        """Write the node's configuration, and create the cookie once, readable by its owner only."""
        for folder in ("data", "log", "conf.d"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        for name, content in installation.configuration(self._identity, ports).items():
            (self.folder / name).write_text(content)
        self._identity.home.mkdir(exist_ok=True)
        cookie = self._identity.home / ".erlang.cookie"
        with suppress(FileExistsError), open(os.open(cookie, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:  # noqa: PTH123
            file.write(secrets.token_hex(16))

    def _load_state(self) -> NodeState:
        try:
            saved = json.loads(self._state_file.read_text())
            processes = {name: Process(**saved[name]) for name in ("broker", "epmd")}
            return NodeState(**saved | {"ports": Ports(**saved["ports"])} | processes)
        except (OSError, ValueError, KeyError, TypeError):  # never started, or not by rmqkit
            return NodeState(NO_PORTS)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let only one command at a time start or stop the broker in a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise NodeError(f"the node's folder {folder} is unusable: {error}") from error


def await_epmd(port: int) -> None:
    """Wait until Erlang's port mapper listens."""
    if not wait_until(lambda: is_listening(port), 10.0):
        raise NodeError(f"Erlang's port mapper, `epmd`, does not answer on port {port}")


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
