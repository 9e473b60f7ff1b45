"""Applying and replacing are killed at every step, rmqkit by itself and the broker under it: 34."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import rmqkit
from rmqkit.deploy.replace.session import Pauses
from rmqkit.errors import BrokerError
from rmqkit.messaging.drain import PREFETCH
from rmqkit.model import Binding, Topology
from rmqkit.stop import Stop
from tests.faults.ledger import Ledger
from tests.faults.replacing import EXCHANGE, KEY, bind, bound_queue, killed_at, left_over, replaced, start, waiting
from tests.faults.rounds import Ground, Progress, Result, meanwhile, publish, published, restart_after_kill
from tests.faults.witness import within
from tests.versions import untyped

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


def topology_file(ground: Ground, exchanges: int, queues: int) -> Path:
    """Write a topology whose names nobody else uses; each queue has a binding."""
    name = ground.queue()
    ground.exchanges += (f"{name}.x{number}" for number in range(exchanges))
    ground.queues += (f"{name}.q{number}" for number in range(queues))
    lines = ["exchanges:", *(f"  {each}: {{type: topic}}" for each in ground.exchanges[-exchanges:])]
    lines += ["queues:", *(f"  {each}: {{arguments: {{x-max-length: 7}}}}" for each in ground.queues[-queues:])]
    lines += ["bindings:"]
    for number in range(queues):
        source = f"{name}.x{number % exchanges}"
        lines.append(f'  - {{source: {source}, destination: {name}.q{number}, routing_key: "k.{number}"}}')
    path = ground.folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def differences(ground: Ground, file: Path) -> list[str]:
    """Compare what RabbitMQ's HTTP API shows with the file: nothing is missing, nothing is there besides."""
    wanted, name = rmqkit.load(file), file.stem
    live = ground.get("definitions/{}")
    pairs = {
        "exchanges": [each.name for each in wanted.exchanges],
        "queues": [(each.name, each.arguments) for each in wanted.queues],
        "bindings": [(each.source, each.destination, each.routing_key) for each in wanted.bindings],
    }
    found = {
        "exchanges": [each["name"] for each in live["exchanges"]],
        "queues": [(each["name"], untyped(each["arguments"])) for each in live["queues"] if each["name"] != name],
        "bindings": [(each["source"], each["destination"], each["routing_key"]) for each in live["bindings"]],
    }
    return [
        f"{kind}: {len(ours)} are there, and not {len(expected)}, or others: {ours[:5]}"
        for kind, expected in pairs.items()
        if sorted(map(str, expected)) != sorted(map(str, ours := [each for each in found[kind] if name in str(each)]))
    ]


def killed_applying(ground: Ground, dice: random.Random, steps: Sequence[int] = (), size: int = 40) -> Result:
    """Kill a run that applies at a step, and the next ones too; the last one finishes: the broker is as the file."""
    file, entities = topology_file(ground, 2, size), 2 + 2 * size
    for step in steps or sorted(dice.sample(range(1, entities // 2), 2)):
        command = [sys.executable, "-c", APPLY, ground.url, str(file), str(step)]
        code = subprocess.run(command, cwd=ROOT, timeout=50, check=False).returncode
        assert code == -signal.SIGKILL, "it was not killed: nothing was tested"
    started_s = time.monotonic()
    with rmqkit.connect(ground.url) as connection:
        connection.apply(rmqkit.load(file))
    return Result(entities, differences(ground, file), recovery_s=time.monotonic() - started_s)


def applied_twice_at_once(ground: Ground, _dice: random.Random, size: int = 150) -> Result:
    """Let two apply the same file at the same time: both succeed, and it is there once."""
    file = topology_file(ground, 2, size)
    programs = [ground.start("apply", file) for _ in range(2)]
    ended = [(program.communicate(timeout=50)[1], program.returncode) for program in programs]
    trouble = [f"I9: exit code {code}: {errors!r}" for errors, code in ended if code]
    return Result(2 + 2 * size, trouble + differences(ground, file))


def broker_killed_applying(ground: Ground, dice: random.Random, size: int = 300) -> Result:
    """Kill the broker under a run that applies; that one, or the next, finishes."""
    file, progress, struck_s = topology_file(ground, 2, size), Progress(), 0.0
    when, topology = dice.randrange(size), rmqkit.load(file)

    def strike() -> None:
        nonlocal struck_s
        progress.reaches(when)
        struck_s = time.monotonic()
        restart_after_kill(ground.node)

    trouble: list[str] = []
    with meanwhile(strike):
        try:
            with rmqkit.connect(ground.url) as connection:
                connection.apply(topology, on_progress=lambda _done, _all: progress.step())
        except BrokerError as exc:
            if not str(exc):
                trouble.append("I9: an error without a word")
    with rmqkit.connect(ground.url) as connection:
        connection.apply(topology)
    return Result(2 + 2 * size, trouble + differences(ground, file), recovery_s=time.monotonic() - struck_s)


# Replacing.


class ExchangeLedger(Ledger):
    """The books of a queue that is published to through an exchange."""

    def messages(self, ids: Iterable[int]) -> Iterator[rmqkit.Message]:
        for message in super().messages(ids):
            yield replace(message, exchange=EXCHANGE, routing_key=KEY)


class Publishing:
    """A publisher on a thread of its own, until it is told to end."""

    def __init__(self, url: str, ledger: Ledger, rate: float) -> None:
        self._stop = Stop()
        self._url, self._ledger, self._rate = url, ledger, rate
        self.report = rmqkit.PublishReport()
        self.progress = Progress()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        options = rmqkit.PublishOptions(rate=self._rate)
        with rmqkit.connect(self._url) as connection:
            messages = self._ledger.messages(range(1_000_000))
            self.report = publish(connection, self._ledger, messages, self.progress, options=options, stop=self._stop)

    def __enter__(self) -> Self:
        self._thread.start()
        self.progress.reaches(50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.request()
        self._thread.join(20)
        assert not self._thread.is_alive()


CLASSIC, QUORUM = {"x-queue-type": "classic"}, {"x-queue-type": "quorum"}
KINDS = (CLASSIC, {**CLASSIC, "x-message-ttl": 600_000})
MOST_STEPS = 20


def killed_replacing(
    ground: Ground,
    dice: random.Random,
    steps: Sequence[int] = (),
    kinds: tuple[dict[str, Any], dict[str, Any]] = KINDS,
    see: Callable[[], Sequence[Binding]] = tuple,
) -> Result:
    """Kill runs that replace a queue at their steps, each finished by another, while a publisher goes on.

    `see` returns what a run sees with RabbitMQ's HTTP API, besides what it sees over AMQP alone.
    """
    ledger = ExchangeLedger(ground.queue(**{name.replace("-", "_"): value for name, value in kinds[0].items()}))
    bind(ground.url, ledger.queue)
    twice = rounds = 0
    with Publishing(ground.url, ledger, 500) as publishing:
        for step in steps or [dice.randrange(1, MOST_STEPS)]:
            rounds += 1
            wanted = kinds[rounds % 2]
            if not killed_at(step, ground.url, ledger.queue, wanted):
                break
            topology = bound_queue(ledger.queue, wanted)
            twice += sum(each.duplicates_max for each in replaced(ground.url, topology, extra_bindings=see()))
        else:
            assert not steps, "a replacement has more steps than that"
    assert not steps or rounds > 2, "nothing was tested"
    return _replaced(ground, ledger, publishing, twice)


def killed_replacing_in_mid_move(ground: Ground, dice: random.Random, amount: int = 8000) -> Result:
    """Kill a run that replaces a queue while it moves messages: those on their way, and no others, may double."""
    ledger, kept = ExchangeLedger(ground.queue(), padding=100), {"x-message-ttl": 600_000}
    bind(ground.url, ledger.queue)
    when = dice.randrange(amount // 2)
    with rmqkit.connect(ground.url) as connection:
        report = publish(connection, ledger, ledger.messages(range(amount)), Progress())
    with start(ground.url, ledger.queue, kept) as process:
        within(
            20,
            lambda: when < waiting(ground.url, f"{ledger.queue}.rmqkit.old-messages") < amount or process.poll() == 0,
        )
        process.kill()
    started_s = time.monotonic()
    done = replaced(ground.url, bound_queue(ledger.queue, kept), wait_s=10.0)  # the dead one may still seem to consume
    took_s, twice = time.monotonic() - started_s, sum(each.duplicates_max for each in done)
    result = published(ground, ledger, replace(report, republished=twice), Progress(), ordered=False)
    if twice > PREFETCH:
        result.violations.append(f"I4: {twice} may be there twice")
    return replace(result, recovery_s=took_s)


def broker_killed_replacing(ground: Ground, dice: random.Random, blow: str = "") -> Result:
    """Kill the broker at a step of a replacement, under a publisher, and run it again until it is done."""
    ledger, blow = (
        ExchangeLedger(ground.queue()),
        blow or dice.choice(("moving", "deleting it")),
    )  # how a step begins
    bind(ground.url, ledger.queue)
    ground.settle()
    wanted, struck = bound_queue(ledger.queue, {"x-message-ttl": 600_000}), []

    def strike(step: str) -> None:
        if not struck and f": {blow}" in step:
            struck.append(step)
            delay_s = dice.uniform(0.0, 0.2)
            threading.Timer(delay_s, lambda: struck.append(restart_after_kill(ground.node))).start()  # type: ignore[func-returns-value,arg-type]

    with Publishing(ground.url, ledger, 500) as publishing:
        twice = _replaced_in_the_end(ground, wanted, strike, struck)
    within(30, lambda: len(struck) == 2)
    result = _replaced(ground, ledger, publishing, twice)
    # Acknowledgements that a classic queue had not on its disk are forgotten, and nothing marks what comes again.
    return replace(result, violations=[each for each in result.violations if not each.startswith("I4")])


def _replaced_in_the_end(ground: Ground, wanted: Topology, strike: Any, struck: list[Any]) -> int:
    for _ in range(3):
        try:
            done = replaced(ground.url, wanted, pauses=Pauses(stale_s=0.3, quiet_s=0.3), on_step=strike)
        except BrokerError:
            within(30, lambda: len(struck) == 2)  # the broker is back
        else:
            return sum(each.duplicates_max for each in done)
    raise AssertionError("it does not come to its end")


def _replaced(ground: Ground, ledger: Ledger, publishing: Publishing, twice: int) -> Result:
    """Check I1 to I4 and I6; what a mover says may be there twice counts as published again."""
    report = replace(publishing.report, republished=publishing.report.republished + twice)
    result = published(ground, ledger, report, publishing.progress, ordered=False)
    if left := left_over(ground.url, ledger.queue):
        result.violations.append(f"I9: the replacement left {left}")
    return result
