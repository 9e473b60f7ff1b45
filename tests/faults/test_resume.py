"""kill -9 of `rmqkit publish --resume` at random moments: the runs together publish every line (27)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rmqkit.payload.resume import SAVE_EVERY
from tests.faults.ledger import Ledger, Seen, body, identity
from tests.faults.witness import bodies, within

LINES = 60_000
WINDOW = 10_000
KILLS = 3


def _run(ledger: Ledger, url: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rmqkit", "publish", "-u", url, "-q", ledger.queue, "--json"]
    command += ["--lines", str(folder / "lines"), "--resume", str(folder / "state")]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder
    )


def _state(folder: Path) -> dict[str, Any]:
    """Read the state, as any moment finds it."""
    state = folder / "state"
    return json.loads(state.read_bytes()) if state.exists() else {"settled": {"n": 0}, "status": "none"}


def _killed(process: subprocess.Popen[bytes], folder: Path, goal: int) -> bool:
    """Kill a run once it came so far; tell whether it still ran."""
    within(40, lambda: _state(folder)["settled"]["n"] >= goal or process.poll() is not None)
    process.kill()
    process.communicate()
    return process.returncode < 0


@pytest.mark.timeout(120)
def test_27_runs_killed_at_random_moments_publish_every_line_and_repeat_few(
    broker_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    dice = random.Random(seed)
    ledger.sent = list(range(LINES))
    (tmp_path / "lines").write_bytes(b"".join(body(n) + b"\n" for n in ledger.sent))
    killed = 0
    for _ in range(KILLS):
        begun = _state(tmp_path)
        killed += _killed(
            _run(ledger, broker_url, tmp_path), tmp_path, begun["settled"]["n"] + dice.randrange(LINES // KILLS)
        )
        assert _state(tmp_path)["settled"]["n"] >= begun["settled"]["n"]
    process = _run(ledger, broker_url, tmp_path)
    printed, errors = process.communicate(timeout=40)
    assert process.returncode == 0, errors
    assert _state(tmp_path)["status"] == "done"
    report = json.loads(printed)
    assert report["resumed"]["skipped"] + report["confirmed"] == LINES
    ledger.found = [Seen(each) for each in bodies(broker_url, ledger.queue)]
    assert ledger._unexpected(ledger.found) == []  # I2, I6
    found = [identity(each.body) for each in ledger.found]
    assert set(found) == set(ledger.sent)  # I1: the union is complete
    assert len(found) - LINES <= killed * (SAVE_EVERY + WINDOW)  # I4
    assert killed, "no run was killed: nothing was tested"


def test_29_a_file_that_is_cut_short_meanwhile_is_no_reason_to_skip_a_line(
    broker_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    whole = b"".join(body(n) + b"\n" for n in range(1000))
    cut = whole.rindex(b"\n", 0, len(whole) // 2) + 30  # in the middle of a line
    (tmp_path / "lines").write_bytes(whole[:cut])
    process = _run(ledger, broker_url, tmp_path)
    process.communicate(timeout=40)
    assert process.returncode == 0
    (tmp_path / "lines").write_bytes(whole)
    process = _run(ledger, broker_url, tmp_path)
    told, _ = process.communicate(timeout=40)
    assert process.returncode == 2
    assert b"had no end when it was published, and has grown since" in told
