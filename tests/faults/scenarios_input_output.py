"""Make the output or the input of a command fail (28, 29)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rmqkit
from tests.faults.fault_run import FaultSetup, Program, Result, compare_bodies, leaked_secrets
from tests.faults.ledger import body
from tests.support.queues import drain, ready
from tests.support.wait import wait_until

PREFETCH, AMOUNT = 100, 5000

# 28: the output.


def output_fails(setup: FaultSetup, rng: random.Random, how: str = "") -> Result:
    """Close the pipe, fill the disk, or stop reading and kill the consumer: unwritten messages stay queued."""
    how, sent = how or rng.choice(list(OUTPUTS)), [body(number, 200) for number in range(AMOUNT)]
    queue = setup.declare_queue()
    with rmqkit.connect(setup.url) as connection:
        connection.publish(rmqkit.Message(each, queue) for each in sent)
    out, violations = OUTPUTS[how](setup, rng, queue)
    seen = [*out, *drain(setup.url, queue)]
    # A consumer that is killed has no time to acknowledge the lines it has written.
    return compare_bodies(sent, seen, duplicates_max=PREFETCH if how == "a reader stops" else 0, violations=violations)


def _reader_leaves(setup: FaultSetup, rng: random.Random, queue: str) -> tuple[list[bytes], list[str]]:
    """Read some lines, and close the pipe: the rest of its content is lost, and counts as written."""
    program = setup.start("consume", queue, "--prefetch", PREFETCH, "--json")
    assert program.stdout is not None
    os.read(program.stdout.fileno(), rng.randrange(1, 50_000))
    program.stdout.close()
    program.stdout = None
    errors, violations = _failed(program)
    acknowledged = json.loads(errors[errors.index(b"{\n") :])["acknowledged"]
    wait_until(lambda: ready(setup.url, queue) == AMOUNT - acknowledged)  # what a pipe took, it took
    return [body(number, 200) for number in range(acknowledged)], violations


def _disk_fills_up(setup: FaultSetup, rng: random.Random, queue: str) -> tuple[list[bytes], list[str]]:
    """Print to a file that may not grow beyond some KiB: the last line may be half a line."""
    out, violations = _limited(setup, queue, rng.randrange(1, 900))
    return out.read_bytes().split(b"\n")[:-1], violations


def _disk_is_full(setup: FaultSetup, _rng: random.Random, queue: str) -> tuple[list[bytes], list[str]]:
    with Path("/dev/full").open("wb") as full:
        _, violations = _failed(setup.start("consume", queue, "--prefetch", PREFETCH, stdout=full))
    return [], violations


def _disk_of_saved_files_fills_up(setup: FaultSetup, rng: random.Random, queue: str) -> tuple[list[bytes], list[str]]:
    """Save a message, or a few, then one that is larger than a file may be."""
    few = rng.randrange(1, AMOUNT)
    bodies_before = drain(setup.url, queue)
    with rmqkit.connect(setup.url) as connection:
        large = (rmqkit.Message(b"x" * 200_000, queue) if n == few else None for n in range(AMOUNT))
        messages = [each for n, given in enumerate(large) for each in (given, rmqkit.Message(bodies_before[n], queue))]
        connection.publish(each for each in messages if each is not None)
    _, violations = _limited(setup, queue, 100, "--save-to", "kept")
    kept = [
        (setup.folder / "kept" / json.loads(each.read_bytes())["body_file"]).read_bytes()
        for each in (setup.folder / "kept").glob("*.properties.json")
    ]
    found = drain(setup.url, queue)
    if len(list((setup.folder / "kept").iterdir())) != 2 * len(kept):
        violations.append("damage: parts of files are left")
    if sum(len(each) == 200_000 for each in found) != 1:
        violations.append("lost: the large one is not there")
    return [*kept, *(each for each in found if len(each) < 200_000)], violations


def _reader_stops(setup: FaultSetup, rng: random.Random, queue: str) -> tuple[list[bytes], list[str]]:
    """Stop reading, and kill the consumer: what it acknowledged is in the pipe."""
    program = setup.start("consume", queue, "--prefetch", PREFETCH)
    assert program.stdout is not None
    got = os.read(program.stdout.fileno(), rng.randrange(1, 50_000))
    waiting = -1
    while waiting != (waiting := ready(setup.url, queue)):  # the consumer continues until the pipe is full
        pass
    program.kill()
    rest, errors = program.communicate()
    return (got + rest).split(b"\n")[:-1], leaked_secrets(errors)


def _commands_fail(setup: FaultSetup, rng: random.Random, queue: str) -> tuple[list[bytes], list[str]]:
    """Run commands whose output is closed at some moment: none of their messages fails for it."""
    program = setup.start("consume", queue, "--exec", "cat", "--prefetch", 5, "--json")
    assert program.stdout is not None
    os.read(program.stdout.fileno(), rng.randrange(1, 20_000))
    program.stdout.close()
    program.stdout = None
    errors, violations = _failed(program)
    report = json.loads(errors[errors.index(b"{\n") :])
    if report["failed"] or report["rejected"]:
        violations.append(f"handling: {report}")
    wait_until(lambda: ready(setup.url, queue) == AMOUNT - report["acknowledged"])
    return [body(number, 200) for number in range(report["acknowledged"])], violations


OUTPUTS: dict[str, Callable[[FaultSetup, random.Random, str], tuple[list[bytes], list[str]]]] = {
    "a reader leaves": _reader_leaves,
    "a reader stops": _reader_stops,
    "a disk fills up": _disk_fills_up,
    "a disk is full": _disk_is_full,
    "a disk of saved files fills up": _disk_of_saved_files_fills_up,
    "the reader of commands leaves": _commands_fail,
}


def _limited(setup: FaultSetup, queue: str, kib: int, *arguments: str) -> tuple[Path, list[str]]:
    """Consume where no file may have more than so many KiB: that stands in for a disk."""
    out = setup.folder / "out"
    rmqkit_consume = [sys.executable, "-m", "rmqkit", "consume", queue, "-u", setup.url, *arguments]
    command = ["bash", "-c", f'ulimit -f {kib}; exec "$@"', "bash", *rmqkit_consume, "--prefetch", str(PREFETCH)]
    with out.open("wb") as file:
        program = subprocess.Popen(command, cwd=setup.folder, stdout=file, stderr=subprocess.PIPE, bufsize=0)
    return out, _failed(program)[1]


def _failed(program: Program) -> tuple[bytes, list[str]]:
    """Wait for a program whose output failed; return what it said, and what is wrong with that."""
    _, errors = program.communicate(timeout=90)
    violations = leaked_secrets(errors)
    if program.returncode != 3:
        violations.append(f"progress: exit code {program.returncode}: {errors!r}")
    return errors, violations


# 29: the input.


def input_fails(setup: FaultSetup, rng: random.Random, how: str = "", amount: int = 2000) -> Result:
    """Cut the input anywhere, close it in mid-line, or have a bad line in it: all before that is confirmed."""
    how, queue = how or rng.choice(list(INPUTS)), setup.declare_queue()
    lines = [b'{"number": %d, "body": "%s"}' % (number, body(number)) for number in range(amount)]
    whole, where = b"".join(line + b"\n" for line in lines), rng.randrange(1, amount)
    given, expected, code, said = INPUTS[how](lines, whole, where, rng)
    arguments = ("publish", "-q", queue, "--lines", "-", "--format", "json", "--json")
    program = setup.start(*arguments, stdin=subprocess.PIPE)
    out, errors = program.communicate(given, timeout=90)
    report, found = json.loads(out), drain(setup.url, queue)
    violations = leaked_secrets(errors)
    if program.returncode != code or (said and said not in json.dumps(report)):
        violations.append(f"progress: exit code {program.returncode}, not {code}; nothing of {said!r} in {report}")
    if not report["published"] == report["confirmed"] == len(expected):
        violations.append(f"accounting: {len(expected)} lines could be sent: {report}")
    if found != list(expected):
        violations.append("order: they are not there in the order of the input")
    return compare_bodies(expected, found, duplicates_max=0, violations=violations)


def _fifo_closed_in_mid_line(
    lines: Sequence[bytes], whole: bytes, where: int, rng: random.Random
) -> tuple[bytes, Sequence[bytes], int, str]:
    """The unfinished line is not JSON: it is not sent, and the error names its number."""
    start = len(b"\n".join(lines[:where])) + 1
    return whole[: start + rng.randrange(1, len(lines[where]))], lines[:where], 3, f'"line": {where + 1}'


def _last_line_without_newline(
    lines: Sequence[bytes], whole: bytes, where: int, _rng: random.Random
) -> tuple[bytes, Sequence[bytes], int, str]:
    start = len(b"\n".join(lines[:where])) + 1
    return whole[: start + len(lines[where])], lines[: where + 1], 0, ""


def _bad_line(
    lines: Sequence[bytes], _whole: bytes, where: int, rng: random.Random
) -> tuple[bytes, Sequence[bytes], int, str]:
    bad = rng.choice((b"\xff\xfe", b"{", b"[1, NaN]", b'{"a": 1, "a": 2}', b"no JSON"))
    given = b"\n".join([*lines[:where], bad, *lines[where:]]) + b"\n"
    return given, lines[:where], 3, f'"line": {where + 1}'


INPUTS = {
    "a FIFO is closed in mid-line": _fifo_closed_in_mid_line,
    "the last line has no newline": _last_line_without_newline,
    "a bad line is in the middle": _bad_line,
}


def file_cut_while_read(setup: FaultSetup, rng: random.Random, amount: int = 60_000) -> Result:
    """Cut a file short while it is read: what was read is confirmed, and the run ends, well or with the reason."""
    queue, lines = setup.declare_queue(), [body(number) for number in range(amount)]
    path = setup.folder / "lines"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    program = setup.start("publish", "-q", queue, "--lines", "lines", "--rate", 10_000, "--json")
    when = rng.randrange(1, 10_000)
    wait_until(lambda: ready(setup.url, queue) >= when)
    size = rng.randrange(1, path.stat().st_size // 2)
    os.truncate(path, size)
    out, errors = program.communicate(timeout=90)
    report, found, violations = json.loads(out), drain(setup.url, queue), leaked_secrets(errors)
    if not report["published"] == report["confirmed"] == len(found):
        violations.append(f"accounting: {len(found)} are there: {report}")
    if program.returncode != 3 or f"it ended after line {len(found)} " not in report["message"]:
        violations.append(f"progress: exit code {program.returncode}: {report}")
    return compare_bodies(lines[: len(found)], found, duplicates_max=0, violations=violations)
