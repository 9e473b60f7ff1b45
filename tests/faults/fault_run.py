"""One round of a fault: where it strikes, and what it came to.

A scenario is a function of a Ground and of dice, which decide on its moments, and returns a Result. The tests call it
once or a few times; `long_run` calls it for as long as it is told. What it may not do shows in `violations`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
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
from tests.faults.ledger import Ledger
from tests.support.queues import declare, ready

Program = subprocess.Popen[bytes]


@dataclass
class Ground:
    """Where a fault strikes: a broker, a folder for files, and the broker's node if it may be hurt."""

    broker: Broker
    folder: Path
    hurt: Node | None = None
    queues: list[str] = field(default_factory=list)
    exchanges: list[str] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)

    @classmethod
    def of_node(cls, node: Node, folder: Path) -> Ground:
        """Make the ground of a node that may be hurt."""
        return cls(Broker(node.url, node.status().management_url.replace("://", "://guest:guest@")), folder, node)

    @property
    def url(self) -> str:
        return self.broker.url

    @property
    def node(self) -> Node:
        assert self.hurt is not None, "this fault needs a node of its own"
        return self.hurt

    def queue(self, **arguments: Any) -> str:
        """Declare a durable queue that nobody else uses; the arguments' names have underscores for dashes."""
        self.queues.append(f"faults-{uuid.uuid4().hex[:12]}")
        declare(self.url, self.queues[-1], **arguments)
        self.settle()
        return self.queues[-1]

    def books(self, padding: int = 100, **arguments: Any) -> Ledger:
        """Declare such a queue, and open its books."""
        return Ledger(self.queue(**arguments), padding)

    def settle(self) -> None:
        """Let what was declared reach the disk of a node that may be killed: RabbitMQ writes it a little later."""
        if self.hurt is not None:
            assert self.hurt.ctl("eval", "mnesia:sync_log().").returncode == 0

    def start(self, *arguments: object, stdout: Any = subprocess.PIPE, stdin: Any = subprocess.DEVNULL) -> Program:
        """Start `rmqkit` in the folder, with a state of its own."""
        command = [sys.executable, "-m", "rmqkit", *map(str, arguments)]
        own = {"RMQKIT_URL": self.url, "RMQKIT_API_URL": self.broker.api_url, "XDG_STATE_HOME": str(self.folder)}
        streams = {"stdin": stdin, "stdout": stdout, "stderr": subprocess.PIPE}
        self.programs.append(subprocess.Popen(command, cwd=self.folder, env=os.environ | own, bufsize=0, **streams))
        return self.programs[-1]

    def get(self, path: str) -> Any:
        """Ask RabbitMQ's HTTP API about the virtual host; `path` has its name in the place of {}."""
        return json.loads(self.broker.api("GET", path.format(urlsplit(self.url).path[1:] or "%2F")))

    def end_programs(self) -> None:
        """End what a failure left running."""
        for program in self.programs:
            program.kill()
            with program:
                pass

    def clear(self) -> None:
        """Delete the round's queues and exchanges, and its files."""
        self.end_programs()
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            channel = connection.channel()
            for queue in self.queues:
                channel.queue_delete(queue)
            for exchange in self.exchanges:
                channel.exchange_delete(exchange)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Result:
    """What a round came to: `violations` are sentences, and there are to be none.

    `duplicated` counts copies beyond the first, which are no violation as long as they were told; `recovery_s` is the
    longest pause between two messages that were settled, or what the run after a killed one took; None: not measured.
    """

    messages: int
    violations: list[str]
    lost: int = 0
    duplicated: int = 0
    unknown: int = 0
    recovery_s: float | None = None
    report: PublishReport = field(default_factory=PublishReport)


@dataclass(frozen=True)
class Books:
    """What a program was given, and what was seen of it in the end: bodies, for runs whose fates nobody hears."""

    sent: Sequence[bytes]
    seen: Sequence[bytes]

    def result(self, most_twice: int, trouble: list[str], recovery_s: float | None) -> Result:
        """Check that all is there and nothing else, and no more than so many of them twice."""
        lost, strangers = set(self.sent) - set(self.seen), set(self.seen) - set(self.sent)
        twice = len(self.seen) - len(set(self.seen))
        if lost:
            trouble.append(f"I1: {len(lost)} are lost: {sorted(lost)[:5]}")
        if strangers:
            trouble.append(f"I2: {len(strangers)} were never sent: {sorted(strangers)[:5]}")
        if twice > most_twice:
            trouble.append(f"I4: {twice} are there twice, and {most_twice} may be")
        return Result(len(self.sent), trouble, len(lost), twice, recovery_s=recovery_s)


def told_secrets(errors: bytes) -> list[str]:
    """Look for the password and for bodies in what a program said (I11)."""
    found = re.search(rb"guest:guest|[0-9a-f]{64}", errors)
    return [f"I11: {errors!r}"] if found else []


class Progress:
    """Lets one thread wait until another has come so far, and knows its longest pause."""

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

    def reaches(self, amount: int) -> None:
        deadline = time.monotonic() + 20
        while self.done < amount:
            assert time.monotonic() < deadline, f"no progress beyond {self.done}"
            time.sleep(0.0005)


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Run something on a thread while the block runs, and wait for its end; its failure is the test's."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failures.append(exc)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join(50)
        assert not thread.is_alive()
        if failures:
            raise failures[0]


def publish(
    connection: rmqkit.Connection, ledger: Ledger, messages: Iterable[Message], progress: Progress, **options: Any
) -> PublishReport:
    """Publish what the ledger wrote; the progress counts messages whose fate is known."""

    def settled(index: int, message: Message, fate: Fate) -> None:
        ledger.settled(index, message, fate)
        progress.step()

    return connection.publish(messages, check=False, on_settled=settled, **options)


def published(ground: Ground, ledger: Ledger, report: PublishReport, progress: Progress, **checks: Any) -> Result:
    """Drain the queue, and check what was published: all of it has to be confirmed."""
    ledger.drain(ground.url)
    trouble = ledger.violations(report, **checks)
    if not report.complete:
        trouble.append(f"I9: not complete: {report}")
    counts = {"lost": len(ledger.lost), "duplicated": ledger.duplicates, "unknown": report.unknown}
    return Result(report.published, trouble, **counts, recovery_s=progress.pause_s, report=report)


def consumed(ground: Ground, ledger: Ledger, progress: Progress, report: PublishReport) -> Result:
    """Check what was consumed, when nobody consumes any more: ready is then all there is."""
    trouble = ledger.consumer_violations(ready(ground.url, ledger.queue), 0, report.republished)
    counts = {"lost": len(ledger.lost), "duplicated": ledger.duplicates, "unknown": report.unknown}
    return Result(report.published, trouble, **counts, recovery_s=progress.pause_s, report=report)


def stream_through(
    ground: Ground,
    url: str,
    strike: Callable[[threading.Event, Progress], None],
    amount: int,
    rate: float,
    **arguments: Any,
) -> Result:
    """Publish and consume at once through a URL while something strikes; it is told when both are done."""
    ledger, done, progress = ground.books(**arguments), threading.Event(), Progress()
    reports: list[PublishReport] = []

    def consume(connection: rmqkit.Connection) -> None:
        missing = {message.body for message in Ledger(ledger.queue, ledger.padding).messages(range(amount))}
        with connection.consume(ledger.queue, prefetch=200, idle_timeout_s=20) as consumer:
            for batch in consumer.batches():
                for delivery in batch:
                    ledger.handle(delivery)
                    missing.discard(delivery.body)
                    progress.step()
                consumer.settle(batch, Verdict.ACK)
                if not missing:
                    return

    with ExitStack() as running:
        running.enter_context(meanwhile(lambda: strike(done, progress)))
        running.callback(done.set)
        publishing, consuming = (running.enter_context(rmqkit.connect(url)) for _ in range(2))
        running.enter_context(meanwhile(lambda: consume(consuming)))
        options, messages = rmqkit.PublishOptions(rate=rate), ledger.messages(range(amount))
        reports.append(publishing.publish(messages, options=options, on_settled=ledger.settled))
    # The last acknowledgement may have been lost with its connection: then its messages come once more.
    with rmqkit.connect(ground.url) as connection, connection.consume(ledger.queue, idle_timeout_s=0.5) as consumer:
        for delivery in consumer:
            ledger.handle(delivery)
    return consumed(ground, ledger, progress, reports[0])


def io_threads() -> list[str]:
    """Return the threads of rmqkit's connections (I10)."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rmqkit-io")]


def open_files() -> set[str]:
    """Return what this process has open (I10)."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder's own, closed by now
            found.add(f"{link.name} -> {link.readlink()}")
    return found


def restart_after_kill(node: Node) -> None:
    node.kill()
    node.start()


def freeze(node: Node, seconds: float) -> None:
    """Stop the node's process, its connections standing; always let it go on."""
    os.kill(node.pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(node.pid, signal.SIGCONT)
