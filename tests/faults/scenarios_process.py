"""Stop or kill rmqkit while it publishes, consumes or moves, or the broker while it moves (26, 27)."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rmqkit
from rmqkit import Target
from rmqkit.messaging.held_deliveries import PREFETCH as MOVING
from rmqkit.payload.resume import SAVE_EVERY
from tests.faults.fault_run import (
    FaultSetup,
    Program,
    Progress,
    Result,
    check_published,
    compare_bodies,
    in_background,
    leaked_secrets,
    publish,
)
from tests.faults.ledger import body
from tests.support.nodes import kill_and_restart
from tests.support.queues import consumers, drain, ready
from tests.support.wait import wait_until

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WINDOW = rmqkit.PublishOptions().window


def interrupted_publishing(
    setup: FaultSetup, rng: random.Random, number: signal.Signals | None = None, amount: int = 60_000
) -> Result:
    """What was sent is confirmed, and the report says how far it came."""
    queue = setup.declare_queue()
    code, out, errors = _interrupted(
        setup.start("publish", "-q", queue, "-n", amount, "--json"),
        rng,
        number := number or rng.choice(SIGNALS),
        lambda: ready(setup.url, queue) > 0,
    )
    found = drain(setup.url, queue)
    violations = leaked_secrets(errors) + _unexpected_exit(code, number, errors)
    counted = json.loads(out)["confirmed"] if out.strip() else 0  # else it had not begun
    if counted != len(found) or (code == 0 and counted != amount):
        violations.append(f"accounting: {len(found)} are there, the report says {counted}, the exit code is {code}")
    expected = [b"%d" % index for index in range(len(found))]
    if found != expected:
        violations.append("order: what is there is not the beginning of the input")
    return compare_bodies(expected, found, duplicates_max=0, violations=violations)


def interrupted_consuming(
    setup: FaultSetup, rng: random.Random, number: signal.Signals | None = None, amount: int = 60_000
) -> Result:
    """What was printed is acknowledged, and nothing else."""
    queue, sent, out = setup.declare_queue(), [b"%d" % index for index in range(amount)], setup.folder / "out"
    _fill(setup, queue, sent)
    with out.open("wb") as file:
        program = setup.start("consume", queue, "--prefetch", 100, stdout=file)
    number = number or rng.choice(SIGNALS)
    code, _, errors = _interrupted(program, rng, number, lambda: out.stat().st_size > 0)
    seen = [*out.read_bytes().splitlines(), *drain(setup.url, queue)]
    violations = leaked_secrets(errors) + _unexpected_exit(code or 128, number, errors)
    if seen != sent:
        violations.append("handling: what was printed and what is left is not what was sent, in its order")
    return compare_bodies(sent, seen, duplicates_max=0, violations=violations)


def _interrupted(
    program: Program, rng: random.Random, number: signal.Signals, is_at_work: Callable[[], bool]
) -> tuple[int, bytes, bytes]:
    """Interrupt a program at work, as a rule, and while it begins one time in five."""
    if rng.random() < 0.8:
        wait_until(is_at_work)
        time.sleep(rng.uniform(0, 0.5))  # the moment itself is what is tested
    else:
        time.sleep(rng.uniform(0.25, 1.6))
    program.send_signal(number)
    out, errors = program.communicate(timeout=90)
    return program.returncode, out, errors


def _unexpected_exit(code: int, number: int, errors: bytes) -> list[str]:
    """Describe an exit code other than 128 and the number of a signal, or its negative while Python starts."""
    return [] if code in (0, 128 + number, -number) else [f"exit code {code}: {errors!r}"]


def _fill(setup: FaultSetup, queue: str, sent: list[bytes]) -> None:
    with rmqkit.connect(setup.url) as connection:
        connection.publish(rmqkit.Message(each, queue) for each in sent)


def killed_publishing(setup: FaultSetup, rng: random.Random, lines: int = 60_000, kills: int = 3) -> Result:
    """Kill `publish --resume` again and again, and let the last one finish: no line is missing."""
    queue, sent = setup.declare_queue(), [body(number) for number in range(lines)]
    (setup.folder / "lines").write_bytes(b"".join(line + b"\n" for line in sent))
    violations: list[str] = []
    killed = 0

    def settled() -> int:
        state = setup.folder / "state"
        return int(json.loads(state.read_bytes())["settled"]["n"]) if state.exists() else 0

    def run() -> Program:
        return setup.start("publish", "-q", queue, "--lines", "lines", "--resume", "state", "--json")

    for _ in range(kills):
        begun, program = settled(), run()
        goal = begun + rng.randrange(lines // kills)
        wait_until(lambda goal=goal, program=program: settled() >= goal or program.poll() is not None, timeout_s=40)  # type: ignore[misc]
        program.kill()
        _, errors = program.communicate()
        killed += program.returncode < 0
        violations += leaked_secrets(errors)
        if settled() < begun:
            violations.append(f"accounting: it went back from {begun} to {settled()}")
    assert killed, "no run was killed: nothing was tested"
    out, last_violations, took_s = _finished(run())
    violations += last_violations
    report = json.loads(out)
    if report["resumed"]["skipped"] + report["confirmed"] != lines:
        violations.append(f"accounting: it does not add up to {lines}: {report}")
    return compare_bodies(
        sent,
        drain(setup.url, queue),
        duplicates_max=killed * (SAVE_EVERY + WINDOW),
        violations=violations,
        recovery_s=took_s,
    )


def killed_consuming(
    setup: FaultSetup, rng: random.Random, how: str = "", amount: int = 20_000, prefetch: int = 500
) -> Result:
    """Kill a consumer that prints, or saves, in mid-work: what it did not put out is still queued."""
    how, sent = how or rng.choice(("print", "save")), [body(number) for number in range(amount)]
    queue, out, kept = setup.declare_queue(), setup.folder / "out", setup.folder / "kept"
    _fill(setup, queue, sent)

    def came() -> int:
        return len(list(kept.glob("*.properties.json"))) if how == "save" else out.read_bytes().count(b"\n")

    goal = rng.randrange(1, 1500 if how == "save" else amount // 2)
    with out.open("wb") as file:
        more = ("--save-to", kept) if how == "save" else ()
        program = setup.start("consume", queue, "--prefetch", prefetch, *more, stdout=file)
    wait_until(lambda: (how != "save" or kept.exists()) and came() >= goal)
    program.kill()
    _, errors = program.communicate()
    wait_until(lambda: consumers(setup.url, queue) == 0)
    if how == "save":  # the one with the body comes first, under its own name, whole
        seen = [
            (kept / json.loads(each.read_bytes())["body_file"]).read_bytes() for each in kept.glob("*.properties.json")
        ]
    else:
        seen = out.read_bytes().split(b"\n")[:-1]
    return compare_bodies(
        sent, [*seen, *drain(setup.url, queue)], duplicates_max=prefetch, violations=leaked_secrets(errors)
    )


def killed_moving(setup: FaultSetup, rng: random.Random, kind: str = "", amount: int = 4000, kills: int = 3) -> Result:
    """Kill `move` again and again, and let the last one finish."""
    source, target = setup.declare_ledger(x_queue_type=kind or rng.choice(("classic", "quorum"))), setup.declare_queue()
    with rmqkit.connect(setup.url) as connection:
        report = publish(connection, source, source.messages(range(amount)), Progress())
    arguments = ("move", source.queue, "--to-queue", target, "--rate", "10000", "--json")
    violations: list[str] = []
    for turn in range(kills):
        program, goal = setup.start(*arguments), rng.randrange(turn * amount // 5, (turn + 1) * amount // 5)
        wait_until(lambda goal=goal: ready(setup.url, target) > goal)  # type: ignore[misc]
        assert program.poll() is None, "it ended too early to be killed"
        program.kill()
        violations += leaked_secrets(program.communicate()[1])
    out, last_violations, took_s = _finished(setup.start(*arguments))
    twice = json.loads(out)["redelivered"]
    if twice > kills * MOVING:
        last_violations.append(f"duplicates: {twice} were redelivered")
    # What a killed run had moved for the second time, and acknowledged, it could not tell any more.
    result = _moved(setup, source, target, report, twice + (kills - 1) * MOVING)
    return replace(result, violations=[*result.violations, *violations, *last_violations], recovery_s=took_s)


def broker_killed_moving(setup: FaultSetup, rng: random.Random, amount: int = 4000) -> Result:
    """Kill the broker during a move, which resumes by itself.

    The queues are classic ones: a quorum queue of RabbitMQ 3.10 on a single node may be without a leader for minutes.
    """
    source, target, progress = setup.declare_ledger(), setup.declare_queue(), Progress()
    when = rng.randrange(amount // 2)
    warnings: list[str] = []

    def report_progress(inspected: int, _blocked: str) -> None:
        progress.step()
        progress.done = inspected

    def inject() -> None:
        progress.wait_for(when)
        kill_and_restart(setup.node)

    with rmqkit.connect(setup.url) as connection:
        report = publish(connection, source, source.messages(range(amount)), Progress())
        options: dict[str, Any] = {"rate": 3000, "on_progress": report_progress, "on_warning": warnings.append}
        with in_background(inject):
            done = connection.move(source.queue, Target("", target), **options)
    result = _moved(setup, source, target, report, done.redelivered)
    if len(warnings) != 1:
        result.violations.append(f"progress: one warning was due: {warnings}")
    if done.moved - amount > done.redelivered:
        result.violations.append(f"duplicates: {done.moved} were moved, {done.redelivered} of them redelivered")
    return replace(result, recovery_s=progress.pause_s)


def _moved(setup: FaultSetup, ledger: Any, target: str, report: rmqkit.PublishReport, twice: int) -> Result:
    """Check what is in the target, once the source is empty; what may be there twice counts as published again."""
    wait_until(lambda: ready(setup.url, ledger.queue) == 0)
    ledger.queue = target
    return check_published(setup, ledger, replace(report, republished=twice), Progress(), ordered=False)


def _finished(program: Program) -> tuple[bytes, list[str], float]:
    """Wait for a run that is to end well; return what it printed, what was wrong, and its seconds."""
    started_s = time.monotonic()
    out, errors = program.communicate(timeout=90)
    assert program.returncode == 0, errors
    return out, leaked_secrets(errors), time.monotonic() - started_s
