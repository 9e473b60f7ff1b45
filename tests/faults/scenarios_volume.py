"""Many messages, several consumers, several queues (17, 30, 32)."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pika

import rmqkit
from rmqkit import Message, Verdict
from rmqkit.report import Fate
from tests.faults.fault_run import FaultSetup, Program, Progress, Result, in_background, publish
from tests.faults.ledger import FaultLedger
from tests.support.queues import ready
from tests.support.wait import wait_until

SLOWLY, QUICKLY = 100, 1000  # prefetch
MOST_KIB = 120_000  # of memory, however many messages there are


def three_consumers(setup: FaultSetup, rng: random.Random, amount: int = 1_000_000) -> Result:
    """Let three empty a long queue, one of them slow, one killed: the dead one's messages move on."""
    queue, progress = setup.declare_queue(), Progress()
    with rmqkit.connect(setup.url) as connection:
        connection.publish(Message(b"%d" % number, queue) for number in range(amount))
    violations, slow, go = [], list[bytes](), threading.Event()
    timeout_s = 50 + amount / 2000

    def be_slow() -> None:
        with rmqkit.connect(setup.url) as own, own.consume(queue, prefetch=SLOWLY, idle_timeout_s=3) as consumer:
            for batch in consumer.batches():
                assert go.wait(90)
                for delivery in batch:
                    slow.append(delivery.body)
                    progress.step()
                    consumer.settle((delivery,), Verdict.ACK)
                    threading.Event().wait(0.005)

    outs = [setup.folder / name for name in ("first", "victim")]
    with in_background(be_slow):
        wait_until(lambda: ready(setup.url, queue) == amount - SLOWLY)  # so many and no more are held by a slow one
        first, victim = (_consume(setup, queue, out) for out in outs)
        go.set()
        when = rng.randrange(1, amount // 3)
        wait_until(lambda: _lines(outs[1]) >= when or victim.poll() is not None, timeout_s=timeout_s)
        victim.kill()
        victim.communicate()
        kib = _peak_kib(first)
        _, errors = first.communicate(timeout=timeout_s)
    if first.returncode:
        violations.append(f"progress: exit code {first.returncode}: {errors!r}")
    if kib > MOST_KIB:
        violations.append(f"leak: {kib} KiB of memory")
    seen = [*slow, *(line for out in outs for line in out.read_bytes().split(b"\n")[:-1])]
    if ready(setup.url, queue):
        violations.append("handling: some are left")
    return _counted(amount, seen, violations)


def _consume(setup: FaultSetup, queue: str, out: Path) -> Program:
    with out.open("wb") as file:
        return setup.start("consume", queue, "--prefetch", QUICKLY, "--idle-timeout", 3, stdout=file)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _peak_kib(program: Program) -> int:
    status = Path(f"/proc/{program.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def _counted(amount: int, seen: list[bytes], violations: list[str]) -> Result:
    """Check that every number was seen, and at most a prefetch of them, the victim's, twice."""
    lost, twice = amount - len(set(seen)), len(seen) - len(set(seen))
    if lost:
        violations.append(f"handling: {lost} were never handled")
    if twice > QUICKLY:
        violations.append(f"handling: {twice} were handled twice")
    return Result(amount, violations, lost, twice)


def fanout_with_one_full(
    setup: FaultSetup, rng: random.Random, *, emptied: bool | None = None, queues: int = 4
) -> Result:
    """Publish to many queues, one of them full: what it refuses is refused as a whole, and doubles in the others.

    With `emptied` the full one is emptied as soon as the run has said so, and all is confirmed in the end.
    """
    emptied = rng.random() < 0.5 if emptied is None else emptied
    exchange, room = f"{setup.declare_queue()}.fanout", rng.randrange(100, 300)
    amount = room + rng.randrange(room // 4, room // 2)  # what is refused has room once it is emptied
    setup.exchanges.append(exchange)
    full = setup.declare_ledger(x_max_length=room, x_overflow="reject-publish")
    every = [full, *(setup.declare_ledger() for _ in range(queues))]
    with pika.BlockingConnection(pika.URLParameters(setup.url)) as pika_connection:
        pika_connection.channel().exchange_declare(exchange, "fanout", durable=True)
        for each in every:
            pika_connection.channel().queue_bind(each.queue, exchange)
    progress, said, warned = Progress(), list[str](), threading.Event()

    def warn(text: str) -> None:
        said.append(text)
        warned.set()

    def empty() -> None:
        assert warned.wait(90), "nothing was said"
        while emptied and progress.done < amount:
            full.drain(setup.url)

    source = FaultLedger(exchange, padding=100)
    messages = (Message(each.body, "", exchange, each.properties) for each in source.messages(range(amount)))
    with rmqkit.connect(setup.url) as connection, in_background(empty):
        report = publish(connection, source, messages, progress, on_warning=warn)
    violations, lost, twice = [], 0, 0
    for each in every:
        each.sent, each.fates, each.padding = source.sent, source.fates, source.padding
        each.drain(setup.url)
        violations += [f"{each.queue}: {what}" for what in each.violations(report, ordered=False)]
        lost, twice = lost + len(each.lost), twice + each.duplicates
    given_up = source.ids(Fate.NACKED)
    if emptied == bool(given_up):
        violations.append(
            f"failures: {len(given_up)} were given up, of a queue that was {'' if emptied else 'not '}emptied"
        )
    if len(said) != 1 or "any other queue" not in said[0]:
        violations.append(f"it was to say once that others get them again, and said {said}")
    if twice > report.republished * queues or not twice:
        violations.append(
            f"duplicates: {twice} copies more, and {report.republished} were republished to {queues} queues"
        )
    return Result(amount, violations, lost, twice, report.unknown, progress.pause_s, report)


def one_in_ten_unbound(setup: FaultSetup, rng: random.Random, amount: int = 100_000) -> Result:
    """Publish with keys of which one in ten, about, is bound to nothing: each return is tied to its own message."""
    ledger, progress = setup.declare_ledger(), Progress()
    unbound = set(rng.sample(range(amount), amount // 10))

    def stream() -> Iterator[Message]:
        for number, message in enumerate(ledger.messages(range(amount))):
            yield replace(message, routing_key="nobody.is.bound.here") if number in unbound else message

    with rmqkit.connect(setup.url) as connection:
        report = publish(connection, ledger, stream(), progress)
    ledger.drain(setup.url)
    violations = ledger.violations(report)
    if ledger.ids(Fate.RETURNED) != unbound:
        violations.append(f"failures: {report.returned} were returned, and not the {len(unbound)} that are unbound")
    return Result(amount, violations, len(ledger.lost), ledger.duplicates, report.unknown, progress.pause_s, report)
