"""What a demo has to work with: a broker, and processes of `rmqkit` there, which are shown as they are started."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from rmqkit.cli import output
from rmqkit.connection import connect
from rmqkit.errors import HandlerError
from rmqkit.node.node import Node
from rmqkit.node.reaper import reap_when_done
from rmqkit.settings import load_settings
from rmqkit.topology.examples import find
from rmqkit.topology.file.loader import load

ENVELOPES = ("--format", "json")  # by which a demo tells messages apart
_GRACE_S = 10.0
_COMMENT_COLUMN = 50
_PATIENCE_S = 20.0  # with what usually takes a second or two


class DemoBroker(NamedTuple):
    """A broker: its AMQP and HTTP API, a folder that may be written to, and its nodes if they are ours to break."""

    url: str
    api_url: str
    folder: Path
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a demo: whether all promises were kept, tables for people, and numbers for programs."""

    complete: bool
    text: str
    numbers: Mapping[str, Any]


@contextmanager
def private_node() -> Iterator[DemoBroker]:
    """Run a node while the block runs; its folder goes with it, even if we are killed."""
    with reap_when_done(Path(tempfile.mkdtemp(prefix="rmqkit-demo-"))) as folder:
        started_s = time.monotonic()
        output.note("Starting a private RabbitMQ node ...")
        node = Node(folder / "node")
        status = node.start(port=0)
        took_s = time.monotonic() - started_s
        output.note(f"RabbitMQ {status.version} is ready on port {status.port} after {took_s:.1f} s.")
        yield DemoBroker(status.url, status.management_url, folder, (node,))


class DemoProcess:
    """An `rmqkit` that runs meanwhile and prints to a file; only whole lines count, for it may be killed."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._printed, self._said = folder / f"{name}.out", folder / f"{name}.err"
        self._seen_bytes = self._seen = 0
        with self._printed.open("ab") as out, self._said.open("ab") as err:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def said(self) -> str:
        """Return what went to standard error so far."""
        return self._said.read_text("utf-8", "replace")

    def lines(self) -> list[bytes]:
        """Return the lines that were printed so far."""
        return self._printed.read_bytes().split(b"\n")[:-1]

    def count(self) -> int:
        """Return how many lines were printed so far, reading only what is new."""
        with self._printed.open("rb") as printed:
            printed.seek(self._seen_bytes)
            new = printed.read()
        self._seen_bytes += len(new)
        self._seen += new.count(b"\n")
        return self._seen

    def check(self) -> None:
        """Raise HandlerError if it has ended."""
        if self._process.poll() is not None:
            raise HandlerError(f"{self.name} ended with exit code {self._process.returncode}: {self.said.strip()}")

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End it as a service manager would."""
        self._process.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()


class DemoRunner:
    """A broker, a connection to it, and what runs there until the block ends.

    `count` and `workers` are the amounts that the demo is asked for.
    """

    def __init__(self, place: DemoBroker, count: int, workers: int = 1) -> None:
        self.place, self.count, self.workers = place, count, workers
        self.connection = connect(settings=load_settings([place.url], api_url=place.api_url))
        self._processes: list[DemoProcess] = []
        self._environment = {
            **os.environ,
            "RMQKIT_URL": place.url,  # not in the arguments, which everybody can see
            "RMQKIT_API_URL": place.api_url,
            "XDG_STATE_HOME": str(place.folder / "state"),
        }
        link = place.folder / "topologies"
        if not link.is_symlink():
            link.symlink_to(find("work").parent)  # so that what is shown is what is run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _put_off():
            self.end()
            self.connection.close()

    def apply(self, file: str) -> None:
        """Apply a topology file, and say how much it declares."""
        topology = load(self.place.folder / file)
        amounts = {"exchange": len(topology.exchanges), "queue": len(topology.queues)}
        declared = (f"{amount} {kind}{'s' * (amount > 1)}" for kind, amount in amounts.items() if amount)
        self.run("apply", file, comment=", ".join(declared))

    def publish(self, *arguments: str) -> dict[str, Any]:
        """Publish, show what became of the messages, and return the report."""
        report: dict[str, Any] = json.loads(self._finish("publish", *arguments, "--json"))
        fates = {name: report[name] for name in ("confirmed", "returned") if report[name]}
        self.show("publish", *arguments, comment=", ".join(f"{number:,} {fate}" for fate, number in fates.items()))
        return report

    def run(self, *arguments: str, unseen: Sequence[str] = (), comment: str = "") -> bytes:
        """Show an `rmqkit`, run it to its end, and return what it printed; raise HandlerError if it fails."""
        self.show(*arguments, comment=comment)
        return self._finish(*arguments, *unseen)

    def start(
        self, name: str, *arguments: str, unseen: Sequence[str] = (), comment: str = "", **variables: str
    ) -> DemoProcess:
        """Start an `rmqkit` that runs until it is ended, or the block is; it is shown if there is a comment on it.

        It goes on with the output of one of its name. `unseen` are arguments that are not shown, and `variables` are of
        its environment.
        """
        with _put_off():
            process = DemoProcess(
                name, _command(*arguments, *unseen), self.place.folder, {**self._environment, **variables}
            )
            self._processes.append(process)
        if comment:
            self.show(*arguments, comment=comment)
        return process

    def end(self, *processes: DemoProcess) -> None:
        """End processes; all of them, if none is named."""
        for process in processes or self._processes:
            process.end()

    def show(self, *arguments: str, comment: str = "") -> None:
        """Show a command as the user would type it, and in a comment what came of it."""
        self.note(f"$ rmqkit {shlex.join(arguments)}", comment)

    def note(self, command: str, comment: str = "") -> None:
        """Show a command, or a key that was pressed."""
        remark = output.paint(output.safe(f" # {comment}"), "dim", sys.stderr) if comment else ""
        output.note(f"{output.safe(command):<{_COMMENT_COLUMN}}{remark}".rstrip())

    def wait(self, condition: Callable[[], bool], *processes: DemoProcess) -> bool:
        """Wait until a condition holds, and return whether it does; give up when the processes print nothing any more.

        Raises HandlerError if one of them ends.
        """
        seen, since_s = 0, time.monotonic()
        while not condition():
            for process in processes:
                process.check()
            if (now := sum(process.count() for process in processes)) != seen:
                seen, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > _PATIENCE_S:
                return False  # the tables tell what is missing
            time.sleep(0.02)
        return True

    def wait_for_consumers(self, queue: str, *processes: DemoProcess) -> None:
        """Wait until the broker has as many consumers of a queue as there are processes."""
        self.wait(lambda: self.connection.queue_state(queue).consumers >= len(processes), *processes)

    def wait_for_lines(self, expected: Mapping[DemoProcess, int]) -> None:
        """Wait until the processes have printed so many lines each."""
        self.wait(lambda: all(each.count() >= number for each, number in expected.items()), *expected)

    def _finish(self, *arguments: str) -> bytes:
        done = subprocess.run(  # noqa: S603 - our own command
            _command(*arguments),
            cwd=self.place.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise HandlerError(f"rmqkit {shlex.join(arguments)}: exit code {done.returncode}: {done.stderr.decode()}")
        return done.stdout


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rmqkit", *arguments]


@contextmanager
def _put_off() -> Iterator[None]:
    """Put SIGINT and SIGTERM off until the block is done, so that no process is forgotten; children get them."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came[:1]:
            signal.raise_signal(number)
