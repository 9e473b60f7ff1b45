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
from itertools import pairwise
from pathlib import Path
from string import Template
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

Item = tuple[str, str]  # the kind of a message, by its headers or routing key, and its body
ENVELOPES = ("--format", "json")  # shows a demo the properties of messages
_TERMINATE_S = 10.0
_COMMENT_COLUMN = 50
_PUBLISH_S = 2  # at $rate: long enough for readers and consumers to start, or be killed, meanwhile
_STALLED_S = 30.0  # without a new line of output; a step usually takes a second or two


class DemoBroker(NamedTuple):
    """The URLs of a broker's AMQP and HTTP API, and a folder that may be written to."""

    url: str
    api_url: str
    folder: Path


@dataclass(frozen=True, slots=True)
class DemoResult:
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
        self._is_wanted = True
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

    def printed(self) -> list[Any]:
        """Return the lines printed so far, decoded from JSON."""
        return [json.loads(line) for line in self.lines()]

    def check(self) -> None:
        """Raise HandlerError if the process has failed."""
        if self._is_wanted and self._process.poll():
            raise HandlerError(f"{self.name} ended with exit code {self._process.returncode}: {self.stderr.strip()}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Terminate the process, as a service manager would; with SIGKILL, as a power failure would."""
        self._is_wanted = False
        self._process.send_signal(number)
        try:
            self._process.wait(_TERMINATE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class DemoRunner:
    """Run one demo: a broker, a connection to it, and the processes that run until the block ends.

    The methods from `run` to `kill` are the steps of `patterns.yaml`. `processes` has those that were started, by name.
    """

    def __init__(self, pattern: Pattern, broker: DemoBroker, count: int | None, workers: int | None) -> None:
        self.pattern, self.broker = pattern, broker
        self.count, self.workers = count or pattern.count, workers or pattern.workers or 1
        self.connection = connect(settings=load_settings([broker.url], api_url=broker.api_url))
        self.processes: dict[str, DemoProcess] = {}
        self.reports: dict[str, dict[str, int]] = {}  # of `publish`, by kind of message
        self.expected: dict[str, set[Item]] = {}  # by reader
        count, half = self.count, self.count // 2
        rate = max(count // _PUBLISH_S, 1)
        self._amounts = {"count": count, "half": half, "rest": count - half, "third": count // 3, "rate": rate}
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

    def run_demo(self) -> DemoResult:
        """Apply the pattern's topology, take the steps of its demo, and return the result."""
        self._apply()
        for step in self.pattern.steps:
            (verb, subject), *details = step.items()
            getattr(self, verb)(subject, **dict(details))
        module, _, function = self.pattern.result.partition(":")
        result: Callable[[DemoRunner], DemoResult] = getattr(import_module(f"rmqkit.cli.demos.{module}"), function)
        return result(self)

    def _apply(self) -> None:
        """Apply the topology, with shorter delays if the pattern asks for them, and show how much it declares."""
        file = f"topologies/{self.pattern.topology}.yaml"
        if self.pattern.shorten:
            long, short = self.pattern.shorten
            source, file = file, f"{self.pattern.topology}.yaml"
            text = (self.broker.folder / source).read_text("utf-8")
            (self.broker.folder / file).write_text(text.replace(long, short), "utf-8")
            self.note(f"$ sed 's/{long}/{short}/' {source} >{file}")
        self.topology = load(self.broker.folder / file)
        amounts = {"exchange": len(self.topology.exchanges), "queue": len(self.topology.queues)}
        self.run(f"apply {file}", ", ".join(plural(amount, kind) for kind, amount in amounts.items() if amount))

    def run(self, command: str, comment: str, *, hidden: Sequence[str] = ()) -> bytes:
        """Show and run an `rmqkit`, and return its output; raise HandlerError if it fails. `hidden` is not shown."""
        self.show(command, comment)
        return self._run(command, *hidden)

    def publish(self, options: str, to: Sequence[str] = ()) -> None:
        """Publish `count` messages that these readers are to get, and no other reader; show their outcome."""
        command = self._filled(f"publish {options} -n $count".replace("  ", " "))
        report = json.loads(self._run(command, "--json"))
        self.show(command, ", ".join(f"{report[name]:,} {name}" for name in ("confirmed", "returned") if report[name]))
        words = shlex.split(options)
        kind = " ".join(value for flag, value in pairwise(words) if flag in ("-H", "-r", "--priority"))
        kind = kind or str(self.topology.publish and self.topology.publish.exchange)
        self.reports[kind] = report
        for name in to:
            self.expected.setdefault(name, set()).update((kind, str(number)) for number in range(self.count))

    def start(self, command: str, name: str, comment: str = "", *, hidden: Sequence[str] = ()) -> DemoProcess:
        """Start an `rmqkit` that runs until it is ended; show it if it has a comment.

        It appends to the output of an earlier one with its name.
        """
        command = self._filled(command)
        with _signals_deferred():
            process = DemoProcess(name, _command(command, *hidden), self.broker.folder, self._environment)
            self.processes[name] = process
        if comment:
            self.show(command, comment)
        return process

    def read(self, command: str, comment: str = "", name: str = "") -> None:
        """Start a reader, for the first time or again, which prints envelopes; it is named after its queue."""
        process = self.start(command, name or command.rpartition(" ")[2], comment or name, hidden=ENVELOPES)
        if command.startswith("subscribe"):
            self.wait_until(lambda: "Subscribed" in process.stderr)

    def share(self, command: str, name: str, shown: str = "", comments: Sequence[str] = ()) -> None:
        """Start the processes that share the work of a queue, numbered from 1, and wait until all of them consume.

        With comments they start one after another, and each is shown; the last comment is that of all further ones.
        """
        queue = command.split()[1]
        for number in range(1, self.workers + 1):
            self.start(command, f"{name} {number}", comments[min(number, len(comments)) - 1] if comments else "")
            if comments:
                self._wait_for_consumers(queue)
        self._wait_for_consumers(queue)
        if not comments:
            self.show(shown or command, f"{self.workers} {name} processes, ready")

    def wait(self, lines: Mapping[str, str]) -> None:
        """Wait until each of these processes has printed its number of lines."""
        expected = {self.processes[name]: int(self._filled(number)) for name, number in lines.items()}
        self.wait_until(lambda: all(len(process.lines()) >= number for process, number in expected.items()))

    def interrupt(self, name: str, comment: str) -> None:
        """End a process, as Ctrl-C does."""
        self.processes[name].end()
        self.note("^C", comment)

    def kill(self, name: str, comment: str) -> None:
        """Kill a process, and show it, unless no other shares its work."""
        if self.workers > 1:
            process = self.processes[name]
            process.end(signal.SIGKILL)
            self.note(f"$ kill -9 {process.pid}", comment)

    def end(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.end()

    def show(self, command: str, comment: str = "") -> None:
        """Show a command as the user would type it, and its outcome in a comment."""
        self.note(f"$ rmqkit {command}", comment)

    def note(self, command: str, comment: str = "") -> None:
        """Show a command, or a key that was pressed."""
        remark = output.paint(output.safe(f" # {comment}"), "dim", sys.stderr) if comment else ""
        output.note(f"{output.safe(command):<{_COMMENT_COLUMN}}{remark}".rstrip())

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds, and return whether it does; give up when the processes print nothing new.

        Raises HandlerError if one of them fails.
        """
        printed, since_s = 0, time.monotonic()
        while not condition():
            for process in self.processes.values():
                process.check()
            if (now := sum(len(process.lines()) for process in self.processes.values())) != printed:
                printed, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > _STALLED_S:
                return False  # the result shows the missing messages
            time.sleep(0.02)
        return True

    def wait_until_empty(self, *queues: str) -> None:
        """Wait until the last messages of queues are delivered."""
        self.wait_until(lambda: all(self.connection.queue_state(queue).ready == 0 for queue in queues))

    def _wait_for_consumers(self, queue: str) -> None:
        self.wait_until(lambda: self.connection.queue_state(queue).consumers >= len(self.processes))

    def _filled(self, text: str) -> str:
        return Template(text).substitute(self._amounts)

    def _run(self, command: str, *hidden: str) -> bytes:
        arguments, nothing = _command(command, *hidden), subprocess.DEVNULL
        done = subprocess.run(  # noqa: S603 - rmqkit itself
            arguments, cwd=self.broker.folder, env=self._environment, stdin=nothing, capture_output=True, check=False
        )
        if done.returncode:
            raise HandlerError(f"rmqkit {command}: exit code {done.returncode}: {done.stderr.decode()}")
        return done.stdout


def _command(command: str, *hidden: str) -> list[str]:
    return [sys.executable, "-m", "rmqkit", *shlex.split(command), *hidden]


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
