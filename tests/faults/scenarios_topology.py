"""Kill rmqkit or the broker at every step of applying and replacing (34)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rmqkit
from rmqkit.deploy.replace.session import Pauses
from rmqkit.errors import BrokerError
from rmqkit.messaging.drain import PREFETCH
from rmqkit.model import Binding, Topology
from rmqkit.stop import Stop
from tests.faults.fault_run import FaultSetup, Progress, Result, check_published, in_background, publish
from tests.faults.ledger import FaultLedger
from tests.support.nodes import kill_and_restart
from tests.support.replace_process import (
    EXCHANGE,
    KEY,
    bind,
    bound_queue,
    killed_at,
    left_over,
    replaced,
    start,
    waiting,
)
from tests.support.versions import untyped
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
APPLY = """
import os, signal, sys
import rmqkit

url, file, step = sys.argv[1:]

def die(done, _all):
    if done == int(step):
        os.kill(os.getpid(), signal.SIGKILL)

with rmqkit.connect(url) as connection:
    connection.apply(rmqkit.load(file), on_progress=die)
"""

# Applying.


def topology_file(setup: FaultSetup, exchanges: int, queues: int) -> Path:
    """Write a topology with unique names; each queue has a binding."""
    name = setup.declare_queue()
    setup.exchanges += (f"{name}.x{number}" for number in range(exchanges))
    setup.queues += (f"{name}.q{number}" for number in range(queues))
    lines = ["exchanges:", *(f"  {each}: {{type: topic}}" for each in setup.exchanges[-exchanges:])]
    lines += ["queues:", *(f"  {each}: {{arguments: {{x-max-length: 7}}}}" for each in setup.queues[-queues:])]
    lines += ["bindings:"]
    for number in range(queues):
        source = f"{name}.x{number % exchanges}"
        lines.append(f'  - {{source: {source}, destination: {name}.q{number}, routing_key: "k.{number}"}}')
    path = setup.folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def differences(setup: FaultSetup, file: Path) -> list[str]:
    """Compare the broker with the file, through RabbitMQ's HTTP API: nothing is missing, nothing else exists."""
    wanted, name = rmqkit.load(file), file.stem
    live = setup.get_from_api("definitions/{}")
    pairs: dict[str, list[Any]] = {
        "exchanges": [each.name for each in wanted.exchanges],
        "queues": [(each.name, each.arguments) for each in wanted.queues],
        "bindings": [(each.source, each.destination, each.routing_key) for each in wanted.bindings],
    }
    found: dict[str, list[Any]] = {
        "exchanges": [each["name"] for each in live["exchanges"]],
        "queues": [(each["name"], untyped(each["arguments"])) for each in live["queues"] if each["name"] != name],
        "bindings": [(each["source"], each["destination"], each["routing_key"]) for each in live["bindings"]],
    }
    return [
        f"{kind}: {len(ours)} are there, and not {len(expected)}, or others: {ours[:5]}"
        for kind, expected in pairs.items()
        if sorted(map(str, expected)) != sorted(map(str, ours := [each for each in found[kind] if name in str(each)]))
    ]


def killed_applying(setup: FaultSetup, rng: random.Random, steps: Sequence[int] = (), size: int = 40) -> Result:
    """Kill a run that applies at a step, and the next ones too; the last one finishes: the broker is as the file."""
    file, entities = topology_file(setup, 2, size), 2 + 2 * size
    for step in steps or sorted(rng.sample(range(1, entities // 2), 2)):
        command = [sys.executable, "-c", APPLY, setup.url, str(file), str(step)]
        code = subprocess.run(command, cwd=ROOT, timeout=50, check=False).returncode
        assert code == -signal.SIGKILL, "it was not killed: nothing was tested"
    started_s = time.monotonic()
    with rmqkit.connect(setup.url) as connection:
        connection.apply(rmqkit.load(file))
    return Result(entities, differences(setup, file), recovery_s=time.monotonic() - started_s)


def applied_twice_at_once(setup: FaultSetup, _rng: random.Random, size: int = 150) -> Result:
    """Let two apply the same file at the same time: both succeed, and it is there once."""
    file = topology_file(setup, 2, size)
    programs = [setup.start("apply", file) for _ in range(2)]
    ended = [(program.communicate(timeout=90)[1], program.returncode) for program in programs]
    violations = [f"progress: exit code {code}: {errors!r}" for errors, code in ended if code]
    return Result(2 + 2 * size, violations + differences(setup, file))


def broker_killed_applying(setup: FaultSetup, rng: random.Random, size: int = 300) -> Result:
    """Kill the broker under a run that applies; that one, or the next, finishes."""
    file, progress, killed_s = topology_file(setup, 2, size), Progress(), 0.0
    when, topology = rng.randrange(size), rmqkit.load(file)

    def inject() -> None:
        nonlocal killed_s
        progress.wait_for(when)
        killed_s = time.monotonic()
        kill_and_restart(setup.node)

    violations: list[str] = []
    with in_background(inject):
        try:
            with rmqkit.connect(setup.url) as connection:
                connection.apply(topology, on_progress=lambda _done, _all: progress.step())
        except BrokerError as exc:
            if not str(exc):
                violations.append("progress: an error without a message")
    with rmqkit.connect(setup.url) as connection:
        connection.apply(topology)
    return Result(2 + 2 * size, violations + differences(setup, file), recovery_s=time.monotonic() - killed_s)


# Replacing.


class ExchangeLedger(FaultLedger):
    """The ledger of a queue that is published to through an exchange."""

    def messages(self, ids: Iterable[int]) -> Iterator[rmqkit.Message]:
        for message in super().messages(ids):
            yield replace(message, exchange=EXCHANGE, routing_key=KEY)


@dataclass
class Publishing:
    """A publisher on a thread: its report, once it ended, and its progress."""

    report: rmqkit.PublishReport = field(default_factory=rmqkit.PublishReport)
    progress: Progress = field(default_factory=Progress)


@contextmanager
def publishing_to(url: str, ledger: FaultLedger, rate: float) -> Iterator[Publishing]:
    """Publish on a thread while the block runs."""
    publisher, stop = Publishing(), Stop()

    def run() -> None:
        options, messages = rmqkit.PublishOptions(rate=rate), ledger.messages(range(1_000_000))
        with rmqkit.connect(url) as connection:
            publisher.report = publish(connection, ledger, messages, publisher.progress, options=options, stop=stop)

    with in_background(run):
        try:
            publisher.progress.wait_for(50)
            yield publisher
        finally:
            stop.request()


CLASSIC, QUORUM = {"x-queue-type": "classic"}, {"x-queue-type": "quorum"}
KINDS = (CLASSIC, {**CLASSIC, "x-message-ttl": 600_000})
MOST_STEPS = 20


def killed_replacing(
    setup: FaultSetup,
    rng: random.Random,
    steps: Sequence[int] = (),
    kinds: tuple[dict[str, Any], dict[str, Any]] = KINDS,
    see: Callable[[], Sequence[Binding]] = tuple,
) -> Result:
    """Kill runs that replace a queue at their steps, each finished by another, while a publisher goes on.

    `see` returns what a run sees with RabbitMQ's HTTP API, besides what it sees over AMQP alone.
    """
    ledger = ExchangeLedger(setup.declare_queue(**{name.replace("-", "_"): value for name, value in kinds[0].items()}))
    bind(setup.url, ledger.queue)
    twice = rounds = 0
    with publishing_to(setup.url, ledger, 500) as publishing:
        for step in steps or [rng.randrange(1, MOST_STEPS)]:
            rounds += 1
            wanted = kinds[rounds % 2]
            if not killed_at(step, setup.url, ledger.queue, wanted):
                break
            topology = bound_queue(ledger.queue, wanted)
            twice += sum(each.duplicates_max for each in replaced(setup.url, topology, extra_bindings=see()))
        else:
            assert not steps, "a replacement has more steps than that"
    assert not steps or rounds > 2, "nothing was tested"
    return _replaced(setup, ledger, publishing, twice)


def killed_replacing_in_mid_move(setup: FaultSetup, rng: random.Random, amount: int = 8000) -> Result:
    """Kill a run that replaces a queue while it moves messages: those on their way, and no others, may double."""
    ledger, kept = ExchangeLedger(setup.declare_queue(), padding=100), {"x-message-ttl": 600_000}
    bind(setup.url, ledger.queue)
    when = rng.randrange(amount // 2)
    with rmqkit.connect(setup.url) as connection:
        report = publish(connection, ledger, ledger.messages(range(amount)), Progress())
    with start(setup.url, ledger.queue, kept) as process:
        wait_until(
            lambda: when < waiting(setup.url, f"{ledger.queue}.rmqkit.old-messages") < amount or process.poll() == 0
        )
        process.kill()
    started_s = time.monotonic()
    done = replaced(setup.url, bound_queue(ledger.queue, kept), wait_s=10.0)  # the dead one may still seem to consume
    took_s, twice = time.monotonic() - started_s, sum(each.duplicates_max for each in done)
    result = check_published(setup, ledger, replace(report, republished=twice), Progress(), ordered=False)
    if twice > PREFETCH:
        result.violations.append(f"duplicates: {twice} may be there twice")
    return replace(result, recovery_s=took_s)


def broker_killed_replacing(setup: FaultSetup, rng: random.Random, step_begins: str = "") -> Result:
    """Kill the broker at a step of a replacement, under a publisher, and run it again until it is done."""
    ledger, step_begins = ExchangeLedger(setup.declare_queue()), step_begins or rng.choice(("moving", "deleting it"))
    bind(setup.url, ledger.queue)
    setup.wait_until_on_disk()
    wanted, killed = bound_queue(ledger.queue, {"x-message-ttl": 600_000}), []

    def inject(step: str) -> None:
        if not killed and f": {step_begins}" in step:
            killed.append(step)
            delay_s = rng.uniform(0.0, 0.2)
            threading.Timer(delay_s, lambda: killed.append(kill_and_restart(setup.node))).start()  # type: ignore[arg-type]

    with publishing_to(setup.url, ledger, 500) as publishing:
        twice = _replace_until_done(setup, wanted, inject, killed)
    wait_until(lambda: len(killed) == 2)
    result = _replaced(setup, ledger, publishing, twice)
    # Acknowledgements that a classic queue had not on its disk are forgotten, and nothing marks what comes again.
    return replace(result, violations=[each for each in result.violations if not each.startswith("duplicates")])


def _replace_until_done(setup: FaultSetup, wanted: Topology, inject: Any, killed: list[Any]) -> int:
    for _ in range(3):
        try:
            done = replaced(setup.url, wanted, pauses=Pauses(stale_s=0.3, quiet_s=0.3), on_step=inject)
        except BrokerError:
            wait_until(lambda: len(killed) == 2)  # the broker is back
        else:
            return sum(each.duplicates_max for each in done)
    raise AssertionError("the replacement does not finish")


def _replaced(setup: FaultSetup, ledger: FaultLedger, publishing: Publishing, twice: int) -> Result:
    """Check every promise but `order`; possible duplicates that a replacement reports count as republished."""
    report = replace(publishing.report, republished=publishing.report.republished + twice)
    result = check_published(setup, ledger, report, publishing.progress, ordered=False)
    if left := left_over(setup.url, ledger.queue):
        result.violations.append(f"progress: the replacement left {left}")
    return result
