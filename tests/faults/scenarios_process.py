"""rmqkit itself is stopped or killed: publishing, consuming, moving, also when the broker dies under it (26, 27)."""

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
    Books,
    Ground,
    Program,
    Progress,
    Result,
    meanwhile,
    publish,
    published,
    restart_after_kill,
    told_secrets,
)
from tests.faults.ledger import body
from tests.support.queues import drain, ready
from tests.support.wait import wait_until

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WINDOW = rmqkit.PublishOptions().window


def interrupted_publishing(
    ground: Ground, dice: random.Random, number: signal.Signals | None = None, amount: int = 60_000
) -> Result:
    """What was sent is confirmed, and the report says how far it came."""
    queue = ground.queue()
    code, out, errors = _interrupted(
        ground.start("publish", "-q", queue, "-n", amount, "--json"),
        dice,
        number := number or dice.choice(SIGNALS),
        lambda: ready(ground.url, queue) > 0,
    )
    found = drain(ground.url, queue)
    trouble = told_secrets(errors) + _odd(code, number, errors)
    counted = json.loads(out)["confirmed"] if out.strip() else 0  # else it had not begun
    if counted != len(found) or (code == 0 and counted != amount):
        trouble.append(f"I3: {len(found)} are there, the report says {counted}, the exit code is {code}")
    expected = [b"%d" % index for index in range(len(found))]
    if found != expected:
        trouble.append("I5: what is there is not the beginning of the input")
    return Books(expected, found).result(0, trouble, None)


def interrupted_consuming(
    ground: Ground, dice: random.Random, number: signal.Signals | None = None, amount: int = 60_000
) -> Result:
    """What was printed is acknowledged, and nothing else."""
    queue, sent, out = ground.queue(), [b"%d" % index for index in range(amount)], ground.folder / "out"
    _fill(ground, queue, sent)
    with out.open("wb") as file:
        program = ground.start("consume", queue, "--prefetch", 100, stdout=file)
    number = number or dice.choice(SIGNALS)
    code, _, errors = _interrupted(program, dice, number, lambda: out.stat().st_size > 0)
    seen = [*out.read_bytes().splitlines(), *drain(ground.url, queue)]
    trouble = told_secrets(errors) + _odd(code or 128, number, errors)
    if seen != sent:
        trouble.append("I7: what was printed and what is left is not what was sent, in its order")
    return Books(sent, seen).result(0, trouble, None)


def _interrupted(
    program: Program, dice: random.Random, number: signal.Signals, is_at_work: Callable[[], bool]
) -> tuple[int, bytes, bytes]:
    """Interrupt a program at work, as a rule, and while it begins one time in five."""
    if dice.random() < 0.8:
        wait_until(is_at_work)
        time.sleep(dice.uniform(0, 0.5))  # the moment itself is what is tested
    else:
        time.sleep(dice.uniform(0.25, 1.6))
    program.send_signal(number)
    out, errors = program.communicate(timeout=30)
    return program.returncode, out, errors


def _odd(code: int, number: int, errors: bytes) -> list[str]:
    """Tell of an exit code that is none of a signal's: 128 and its number, or its own while Python starts."""
    return [] if code in (0, 128 + number, -number) else [f"exit code {code}: {errors!r}"]


def _fill(ground: Ground, queue: str, sent: list[bytes]) -> None:
    with rmqkit.connect(ground.url) as connection:
        connection.publish(rmqkit.Message(each, queue) for each in sent)


def killed_publishing(ground: Ground, dice: random.Random, lines: int = 60_000, kills: int = 3) -> Result:
    """Kill `publish --resume` again and again, and let the last one finish: no line is missing."""
    queue, sent = ground.queue(), [body(number) for number in range(lines)]
    (ground.folder / "lines").write_bytes(b"".join(line + b"\n" for line in sent))
    trouble: list[str] = []
    killed = 0

    def settled() -> int:
        state = ground.folder / "state"
        return int(json.loads(state.read_bytes())["settled"]["n"]) if state.exists() else 0

    def run() -> Program:
        return ground.start("publish", "-q", queue, "--lines", "lines", "--resume", "state", "--json")

    for _ in range(kills):
        begun, program = settled(), run()
        goal = begun + dice.randrange(lines // kills)
        wait_until(lambda goal=goal, program=program: settled() >= goal or program.poll() is not None, timeout_s=40)  # type: ignore[misc]
        program.kill()
        _, errors = program.communicate()
        killed += program.returncode < 0
        trouble += told_secrets(errors)
        if settled() < begun:
            trouble.append(f"I3: it went back from {begun} to {settled()}")
    assert killed, "no run was killed: nothing was tested"
    out, trouble_at_last, took_s = _finished(run())
    trouble += trouble_at_last
    told = json.loads(out)
    if told["resumed"]["skipped"] + told["confirmed"] != lines:
        trouble.append(f"I3: it does not add up to {lines}: {told}")
    return Books(sent, drain(ground.url, queue)).result(killed * (SAVE_EVERY + WINDOW), trouble, took_s)


def killed_consuming(
    ground: Ground, dice: random.Random, how: str = "", amount: int = 20_000, prefetch: int = 500
) -> Result:
    """Kill a consumer that prints, or saves, in mid-work: what it did not put out is still queued."""
    how, sent = how or dice.choice(("print", "save")), [body(number) for number in range(amount)]
    queue, out, kept = ground.queue(), ground.folder / "out", ground.folder / "kept"
    _fill(ground, queue, sent)

    def came() -> int:
        return len(list(kept.glob("*.properties.json"))) if how == "save" else out.read_bytes().count(b"\n")

    goal = dice.randrange(1, 1500 if how == "save" else amount // 2)
    with out.open("wb") as file:
        more = ("--save-to", kept) if how == "save" else ()
        program = ground.start("consume", queue, "--prefetch", prefetch, *more, stdout=file)
    wait_until(lambda: (how != "save" or kept.exists()) and came() >= goal)
    program.kill()
    _, errors = program.communicate()
    wait_until(lambda: _consumers(ground, queue) == 0)
    if how == "save":  # the one with the body comes first, under its own name, whole
        seen = [
            (kept / json.loads(each.read_bytes())["body_file"]).read_bytes() for each in kept.glob("*.properties.json")
        ]
    else:
        seen = out.read_bytes().split(b"\n")[:-1]
    return Books(sent, [*seen, *drain(ground.url, queue)]).result(prefetch, told_secrets(errors), None)


def _consumers(ground: Ground, queue: str) -> int:
    with rmqkit.connect(ground.url) as connection:
        return connection.queue_state(queue).consumers


def killed_moving(ground: Ground, dice: random.Random, kind: str = "", amount: int = 4000, kills: int = 3) -> Result:
    """Kill `move` again and again, and let the last one finish."""
    source, target = ground.books(x_queue_type=kind or dice.choice(("classic", "quorum"))), ground.queue()
    with rmqkit.connect(ground.url) as connection:
        report = publish(connection, source, source.messages(range(amount)), Progress())
    arguments = ("move", source.queue, "--to-queue", target, "--rate", "10000", "--json")
    trouble: list[str] = []
    for turn in range(kills):
        program, goal = ground.start(*arguments), dice.randrange(turn * amount // 5, (turn + 1) * amount // 5)
        wait_until(lambda goal=goal: ready(ground.url, target) > goal)  # type: ignore[misc]
        assert program.poll() is None, "it ended too early to be killed"
        program.kill()
        trouble += told_secrets(program.communicate()[1])
    out, trouble_at_last, took_s = _finished(ground.start(*arguments))
    twice = json.loads(out)["redelivered"]
    if twice > kills * MOVING:
        trouble_at_last.append(f"I4: {twice} were redelivered")
    # What a killed run had moved for the second time, and acknowledged, it could not tell any more.
    result = _moved(ground, source, target, report, twice + (kills - 1) * MOVING)
    return replace(result, violations=[*result.violations, *trouble, *trouble_at_last], recovery_s=took_s)


def broker_killed_moving(ground: Ground, dice: random.Random, amount: int = 4000) -> Result:
    """Kill the broker under a move, which goes on by itself.

    The queues are classic ones: a quorum queue of RabbitMQ 3.10 on a single node may be without a leader for minutes.
    """
    source, target, progress = ground.books(), ground.queue(), Progress()
    when = dice.randrange(amount // 2)
    warnings: list[str] = []

    def hear(looked: int, _blocked: str) -> None:
        progress.step()
        progress.done = looked

    def strike() -> None:
        progress.reaches(when)
        restart_after_kill(ground.node)

    with rmqkit.connect(ground.url) as connection:
        report = publish(connection, source, source.messages(range(amount)), Progress())
        options: dict[str, Any] = {"rate": 3000, "on_progress": hear, "on_warning": warnings.append}
        with meanwhile(strike):
            done = connection.move(source.queue, Target("", target), **options)
    result = _moved(ground, source, target, report, done.redelivered)
    if len(warnings) != 1:
        result.violations.append(f"I9: one warning was due: {warnings}")
    if done.moved - amount > done.redelivered:
        result.violations.append(f"I4: {done.moved} were moved, {done.redelivered} of them redelivered")
    return replace(result, recovery_s=progress.pause_s)


def _moved(ground: Ground, ledger: Any, target: str, report: rmqkit.PublishReport, twice: int) -> Result:
    """Check what is in the target, once the source is empty; what may be there twice counts as published again."""
    wait_until(lambda: ready(ground.url, ledger.queue) == 0)
    ledger.queue = target
    return published(ground, ledger, replace(report, republished=twice), Progress(), ordered=False)


def _finished(program: Program) -> tuple[bytes, list[str], float]:
    """Wait for a run that is to end well; return what it printed, what was wrong, and its seconds."""
    started_s = time.monotonic()
    out, errors = program.communicate(timeout=50)
    assert program.returncode == 0, errors
    return out, told_secrets(errors), time.monotonic() - started_s
