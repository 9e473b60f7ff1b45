"""One run of a fault: its setup, its helpers and its result.

A scenario is a function that takes a FaultSetup and a seeded source of random numbers, which choose its moments, and
returns a Result. The tests run each scenario once or a few times; `long_run` runs them for hours. Every broken promise
is an entry of `Result.violations`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika

import rmqkit
from rmqkit import Fate, Message, PublishReport, Verdict
from rmqkit.node.node import Node
from tests.conftest import Broker
from tests.faults.ledger import FaultLedger
from tests.support.nodes import wait_until_on_disk
from tests.support.queues import consumers, declare, ready
from tests.support.wait import wait_until

Program = subprocess.Popen[bytes]
DeclareLedger = Callable[..., FaultLedger]  # with the arguments of its queue
IDLE_TIMEOUT_S = 90.0  # longer than any outage, also on a busy machine


@dataclass
class FaultSetup:
    """A broker to inject a fault into, a folder for files, and the broker's node if the fault may kill it."""

    broker: Broker
    folder: Path
    own_node: Node | None = None
    queues: list[str] = field(default_factory=list)
    exchanges: list[str] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)

    @classmethod
    def of_node(cls, node: Node, folder: Path) -> FaultSetup:
        """Set up a fault on a node that it may kill."""
        return cls(Broker(node.url, node.status().management_url.replace("://", "://guest:guest@")), folder, node)

    @property
    def url(self) -> str:
        return self.broker.url

    @property
    def node(self) -> Node:
        assert self.own_node is not None, "this fault needs its own node"
        return self.own_node

    def declare_queue(self, **arguments: Any) -> str:
        """Declare a durable queue with a unique name; write the arguments' names with underscores for dashes."""
        self.queues.append(f"faults-{uuid.uuid4().hex[:12]}")
        declare(self.url, self.queues[-1], **arguments)
        self.wait_until_on_disk()
        return self.queues[-1]

    def declare_ledger(self, padding: int = 100, **arguments: Any) -> FaultLedger:
        """Declare such a queue; return its ledger."""
        return FaultLedger(self.declare_queue(**arguments), padding)

    def wait_until_on_disk(self) -> None:
        """Wait until everything declared survives the death of the node."""
        if self.own_node is not None:
            wait_until_on_disk(self.own_node)

    def start(self, *arguments: object, stdout: Any = subprocess.PIPE, stdin: Any = subprocess.DEVNULL) -> Program:
        """Start `rmqkit` in the folder, with its state there."""
        command = [sys.executable, "-m", "rmqkit", *map(str, arguments)]
        own = {"RMQKIT_URL": self.url, "RMQKIT_API_URL": self.broker.api_url, "XDG_STATE_HOME": str(self.folder)}
        streams = {"stdin": stdin, "stdout": stdout, "stderr": subprocess.PIPE}
        self.programs.append(subprocess.Popen(command, cwd=self.folder, env=os.environ | own, bufsize=0, **streams))
        return self.programs[-1]

    def get_from_api(self, path: str) -> Any:
        """Get JSON from RabbitMQ's HTTP API; {} in the path stands for the virtual host."""
        return json.loads(self.broker.api("GET", path.format(urlsplit(self.url).path[1:] or "%2F")))

    def kill_programs(self) -> None:
        """Kill the programs that a failure left running."""
        for program in self.programs:
            program.kill()
            with program:
                pass

    def clean_up(self) -> None:
        """Delete the queues, exchanges and files of the run."""
        self.kill_programs()
        if self.own_node is not None:
            self.own_node.start()  # a failure may have left it dead
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            channel = connection.channel()
            for queue in self.queues:
                channel.queue_delete(queue)
            for exchange in self.exchanges:
                channel.exchange_delete(exchange)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Result:
    """The outcome of a run; `violations` is empty if it kept every promise.

    `duplicated` counts the copies beyond the first, which are allowed if they were reported. `recovery_s` is the
    longest pause between two settled messages, or the duration of the run after a killed one; None if not measured.
    """

    messages: int
    violations: list[str]
    lost: int = 0
    duplicated: int = 0
    unknown: int = 0
    recovery_s: float | None = None
    report: PublishReport = field(default_factory=PublishReport)


def compare_bodies(
    sent: Sequence[bytes],
    received: Sequence[bytes],
    *,
    duplicates_max: int,
    violations: list[str],
    recovery_s: float | None = None,
) -> Result:
    """Check a program that does not report the fate of each message: all bodies arrived, no others, few twice."""
    lost, strangers = set(sent) - set(received), set(received) - set(sent)
    duplicates = len(received) - len(set(received))
    if lost:
        violations.append(f"lost: {len(lost)} messages: {sorted(lost)[:5]}")
    if strangers:
        violations.append(f"unexpected: {len(strangers)} messages were never sent: {sorted(strangers)[:5]}")
    if duplicates > duplicates_max:
        violations.append(f"duplicates: {duplicates}, but at most {duplicates_max} are allowed")
    return Result(len(sent), violations, len(lost), duplicates, recovery_s=recovery_s)


def leaked_secrets(errors: bytes) -> list[str]:
    """Check that a program's standard error shows neither the password nor a body."""
    found = re.search(rb"guest:guest|[0-9a-f]{64}", errors)
    return [f"secret: {errors!r}"] if found else []


class Progress:
    """Counts the steps of one thread for another that waits for them, and measures the longest pause."""

    def __init__(self) -> None:
        self.done = 0
        self.pause_s = 0.0
        self._last_s = 0.0

    def step(self) -> None:
        now_s = time.monotonic()
        if self._last_s:
            self.pause_s = max(self.pause_s, now_s - self._last_s)
        self._last_s = now_s
        self.done += 1

    def wait_for(self, amount: int) -> None:
        """Wait until that many steps were taken."""
        wait_until(lambda: self.done >= amount, lambda: f"no progress beyond {self.done}")


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """Run a function on a thread while the block runs; join the thread, and raise its error."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failures.append(exc)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()  # the test's own time limit ends it
        if failures:
            raise failures[0]


def publish(
    connection: rmqkit.Connection, ledger: FaultLedger, messages: Iterable[Message], progress: Progress, **options: Any
) -> PublishReport:
    """Publish messages of a ledger; record each fate, and count it as progress."""

    def settled(index: int, message: Message, fate: Fate) -> None:
        ledger.settled(index, message, fate)
        progress.step()

    return connection.publish(messages, check=False, on_settled=settled, **options)


def check_published(
    setup: FaultSetup, ledger: FaultLedger, report: PublishReport, progress: Progress, **checks: Any
) -> Result:
    """Drain the queue and check a run that published: every message has to be confirmed."""
    ledger.drain(setup.url)
    violations = ledger.violations(report, **checks)
    if not report.complete:
        violations.append(f"progress: not complete: {report}")
    counts = {"lost": len(ledger.lost), "duplicated": ledger.duplicates, "unknown": report.unknown}
    return Result(report.published, violations, **counts, recovery_s=progress.pause_s, report=report)


def check_consumed(setup: FaultSetup, ledger: FaultLedger, progress: Progress, report: PublishReport) -> Result:
    """Check a run that consumed; no consumer is left, so `ready` counts every message in the queue."""
    violations = ledger.consumer_violations(ready(setup.url, ledger.queue), 0, report.republished)
    counts = {"lost": len(ledger.lost), "duplicated": ledger.duplicates, "unknown": report.unknown}
    return Result(report.published, violations, **counts, recovery_s=progress.pause_s, report=report)


def publish_and_consume(
    setup: FaultSetup,
    url: str,
    inject: Callable[[threading.Event, Progress], None],
    amount: int,
    rate: float,
    **arguments: Any,
) -> Result:
    """Publish and consume at the same time through a URL; `inject` runs until both are done and its event is set."""
    ledger, done, progress = setup.declare_ledger(**arguments), threading.Event(), Progress()
    reports: list[PublishReport] = []

    def consume(connection: rmqkit.Connection) -> None:
        missing = {message.body for message in FaultLedger(ledger.queue, ledger.padding).messages(range(amount))}
        with connection.consume(ledger.queue, prefetch=200, idle_timeout_s=IDLE_TIMEOUT_S) as consumer:
            for batch in consumer.batches():
                for delivery in batch:
                    ledger.handle(delivery)
                    missing.discard(delivery.body)
                    progress.step()
                consumer.settle(batch, Verdict.ACK)
                if not missing:
                    return

    with ExitStack() as running:
        running.enter_context(in_background(lambda: inject(done, progress)))
        running.callback(done.set)
        publishing, consuming = (running.enter_context(rmqkit.connect(url)) for _ in range(2))
        running.enter_context(in_background(lambda: consume(consuming)))
        options, messages = rmqkit.PublishOptions(rate=rate), ledger.messages(range(amount))
        reports.append(publishing.publish(messages, options=options, on_settled=ledger.settled))
    handle_rest(setup.url, ledger)
    return check_consumed(setup, ledger, progress, reports[0])


def handle_rest(url: str, ledger: FaultLedger) -> None:
    """Handle the messages whose last acknowledgement was lost with its connection: they are delivered once more."""
    wait_until(lambda: consumers(url, ledger.queue) == 0)  # the broker requeues when it notices the loss
    with rmqkit.connect(url) as connection:
        while count := ready(url, ledger.queue):
            for delivery in connection.consume(ledger.queue, count=count):
                ledger.handle(delivery)


def io_threads() -> list[str]:
    """Return the names of the threads of rmqkit's connections."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rmqkit-io")]


def open_files() -> set[str]:
    """Return the open file descriptors of this process."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder's own, closed by now
            found.add(f"{link.name} -> {link.readlink()}")
    return found
