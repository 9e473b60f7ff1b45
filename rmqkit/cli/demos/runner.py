"""Run a demo: a private broker, `rmqkit` processes that are shown as they start, and a connection to watch them.

Its result compares the published messages with the received ones: lost, duplicated, unexpected.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Self

from rmqkit.cli import output
from rmqkit.cli.demos import Pattern
from rmqkit.connection import connect
from rmqkit.errors import HandlerError
from rmqkit.node.cluster import Cluster, ClusterStatus
from rmqkit.node.node import Node
from rmqkit.node.reaper import reap_when_done
from rmqkit.plural import plural
from rmqkit.settings import load_settings
from rmqkit.topology.examples import find
from rmqkit.topology.file.loader import load

ENVELOPES = ("--format", "json")  # shows a demo the properties of messages
_TERMINATE_S = 10.0
_COMMENT_COLUMN = 50
_STALLED_S = 30.0  # without a new line of output; a step usually takes a second or two


class DemoBroker(NamedTuple):
    """The URLs of a broker's AMQP and HTTP API, and a folder that may be written to."""

    url: str
    api_url: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a demo: whether all promises were kept, tables for people, and numbers for programs."""

    complete: bool
    text: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """The number of received messages, and their differences from the expected ones."""

    received: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0

    @property
    def complete(self) -> bool:
        """Return whether every message was received, and no other; a duplicate is no loss."""
        return not self.lost and not self.unexpected

    @property
    def faults(self) -> dict[str, int]:
        """Return the differences by name."""
        return {name: number for name, number in asdict(self).items() if name != "received"}


def totals(counts: Mapping[str, int], remarks: Mapping[str, str]) -> str:
    """Draw a table of totals, some with a remark."""
    return output.table([(name, f"{number:,}", remarks.get(name, "")) for name, number in counts.items()])


def count_deliveries(received: Iterable[Hashable], expected: Collection[Hashable]) -> DeliveryCount:
    """Compare the received messages with those expected once each."""
    counts, wanted = Counter(received), set(expected)
    total, different = counts.total(), counts.keys()
    return DeliveryCount(total, len(wanted - different), total - len(different), len(different - wanted))


@contextmanager
def private_broker(*, clustered: bool = False) -> Iterator[DemoBroker]:
    """Run a node, or a cluster of three, while the block runs; its folder is removed even if this process is killed."""
    with reap_when_done(Path(tempfile.mkdtemp(prefix="rmqkit-demo-"))) as folder:
        started_s = time.monotonic()
        output.note(f"Starting a private RabbitMQ {'cluster of three nodes' if clustered else 'node'} ...")
        broker = Cluster(folder / "cluster") if clustered else Node(folder / "node")
        status = broker.start(port=0)
        nodes = status.nodes if isinstance(status, ClusterStatus) else (status,)
        ports = f"port{'s' * clustered} {', '.join(str(node.port) for node in nodes)}"
        output.note(f"RabbitMQ {nodes[0].version} is ready on {ports} after {time.monotonic() - started_s:.1f} s.")
        yield DemoBroker(status.url, nodes[0].management_url, folder)


class DemoProcess:
    """An `rmqkit` in the background that prints to a file; only whole lines count, as it may be killed."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._stdout, self._stderr = folder / f"{name}.out", folder / f"{name}.err"
        self._lines: list[bytes] = []
        self._bytes_read = 0
        with self._stdout.open("ab") as out, self._stderr.open("ab") as err:
            self._process = subprocess.Popen(  # noqa: S603 - rmqkit itself
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.pid = self._process.pid

    @property
    def stderr(self) -> str:
        """Return the text written to standard error so far."""
        return self._stderr.read_text("utf-8", "replace")

    def lines(self) -> list[bytes]:
        """Return the lines printed so far, reading only the new ones."""
        with self._stdout.open("rb") as printed:
            printed.seek(self._bytes_read)
            whole, newline, _ = printed.read().rpartition(b"\n")
        self._bytes_read += len(whole + newline)
        self._lines += whole.split(b"\n") if newline else []
        return self._lines

    def check(self) -> None:
        """Raise HandlerError if the process has ended."""
        if self._process.poll() is not None:
            raise HandlerError(f"{self.name} ended with exit code {self._process.returncode}: {self.stderr.strip()}")

    def kill(self) -> None:
        """Kill the process, as a power failure would."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Terminate the process, as a service manager would."""
        self._process.terminate()
        try:
            self._process.wait(_TERMINATE_S)
        except subprocess.TimeoutExpired:
            self.kill()


class DemoRunner:
    """Run one demo: a broker, a connection to it, and the processes that run until the block ends."""

    def __init__(self, pattern: Pattern, broker: DemoBroker, count: int | None, workers: int | None) -> None:
        self.pattern, self.broker = pattern, broker
        self.count, self.workers = count or pattern.count, workers or pattern.workers or 1
        self.connection = connect(settings=load_settings([broker.url], api_url=broker.api_url))
        self._processes: list[DemoProcess] = []
        self._environment = {
            **os.environ,
            "RMQKIT_URL": broker.url,  # not in the arguments, which every user of the machine can see
            "RMQKIT_API_URL": broker.api_url,
            "XDG_STATE_HOME": str(broker.folder / "state"),
        }
        examples = broker.folder / "topologies"
        if not examples.is_symlink():
            examples.symlink_to(find("work").parent)  # so that the commands shown are those that run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _signals_deferred():
            self.end()
            self.connection.close()

    def run_demo(self) -> Result:
        """Run the pattern's demo."""
        module, _, function = self.pattern.demo.partition(":")
        demo: Callable[[DemoRunner], Result] = getattr(import_module(f"rmqkit.cli.demos.{module}"), function)
        return demo(self)

    def apply(self, file: str = "") -> None:
        """Apply a topology file, that of the pattern by default, and show how much it declares."""
        file = file or f"topologies/{self.pattern.topology}.yaml"
        topology = load(self.broker.folder / file)
        amounts = {"exchange": len(topology.exchanges), "queue": len(topology.queues)}
        declared = (plural(amount, kind) for kind, amount in amounts.items() if amount)
        self.run("apply", file, comment=", ".join(declared))

    def publish(self, *arguments: str) -> dict[str, Any]:
        """Publish `count` messages, show their outcome, and return the report."""
        arguments = (*arguments, "-n", str(self.count))
        report: dict[str, Any] = json.loads(self._run("publish", *arguments, "--json"))
        outcomes = (f"{report[name]:,} {name}" for name in ("confirmed", "returned") if report[name])
        self.show("publish", *arguments, comment=", ".join(outcomes))
        return report

    def run(self, *arguments: str, hidden: Sequence[str] = (), comment: str = "") -> bytes:
        """Show and run an `rmqkit`, and return its output; raise HandlerError if it fails."""
        self.show(*arguments, comment=comment)
        return self._run(*arguments, *hidden)

    def start(
        self, name: str, *arguments: str, hidden: Sequence[str] = (), comment: str = "", **variables: str
    ) -> DemoProcess:
        """Start an `rmqkit` that runs until it is ended; it is shown if it has a comment.

        It appends to the output of an earlier one with its name. `hidden` arguments are not shown; `variables` are
        added to its environment.
        """
        environment, command = self._environment | variables, _command(*arguments, *hidden)
        with _signals_deferred():
            self._processes.append(DemoProcess(name, command, self.broker.folder, environment))
        if comment:
            self.show(*arguments, comment=comment)
        return self._processes[-1]

    def start_workers(self, name: str, command: str, queue: str, *options: str) -> list[DemoProcess]:
        """Start the processes that share the work of a queue, numbered from 1, and wait until all of them consume."""
        workers = [
            self.start(f"{name} {number}", command, queue, *options, RMQKIT_DEMO_WORKER=str(number))
            for number in range(1, self.workers + 1)
        ]
        self.wait_for_consumers(queue, *workers)
        self.show(command, queue, *(["..."] if options else []), comment=f"{len(workers)} {name} processes, ready")
        return workers

    def end(self, *processes: DemoProcess) -> None:
        """End processes; all of them if none is named."""
        for process in processes or self._processes:
            process.end()

    def kill(self, process: DemoProcess, comment: str) -> None:
        """Kill a process, and show it."""
        process.kill()
        self.note(f"$ kill -9 {process.pid}", comment)

    def show(self, *arguments: str, comment: str = "") -> None:
        """Show a command as the user would type it, and its outcome in a comment."""
        self.note(f"$ rmqkit {shlex.join(arguments)}", comment)

    def note(self, command: str, comment: str = "") -> None:
        """Show a command, or a key that was pressed."""
        remark = output.paint(output.safe(f" # {comment}"), "dim", sys.stderr) if comment else ""
        output.note(f"{output.safe(command):<{_COMMENT_COLUMN}}{remark}".rstrip())

    def wait(self, condition: Callable[[], bool], *processes: DemoProcess) -> bool:
        """Wait until a condition holds, and return whether it does; give up when the processes print nothing new.

        Raises HandlerError if one of them ends.
        """
        printed, since_s = 0, time.monotonic()
        while not condition():
            for process in processes:
                process.check()
            if (now := sum(len(process.lines()) for process in processes)) != printed:
                printed, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > _STALLED_S:
                return False  # the result shows what is missing
            time.sleep(0.02)
        return True

    def wait_for_consumers(self, queue: str, *processes: DemoProcess) -> None:
        """Wait until a queue has as many consumers as there are processes."""
        self.wait(lambda: self.connection.queue_state(queue).consumers >= len(processes), *processes)

    def wait_for_lines(self, expected: Mapping[DemoProcess, int]) -> None:
        """Wait until each process has printed its number of lines."""
        self.wait(lambda: all(len(each.lines()) >= number for each, number in expected.items()), *expected)

    def _run(self, *arguments: str) -> bytes:
        done = subprocess.run(  # noqa: S603 - rmqkit itself
            _command(*arguments),
            cwd=self.broker.folder,
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
def _signals_deferred() -> Iterator[None]:
    """Defer signals until the block ends, so that no process is left behind; child processes get them."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, lambda number, _: received.append(number)) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in received[:1]:
            signal.raise_signal(number)
