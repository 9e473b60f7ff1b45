"""The main job, in small: a node, a topology, three workers, and a count of what was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rmqkit.cli.crew import reckon


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rmqkit", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)


def test_the_main_job_loses_nothing_and_deals_messages_out_to_all_workers() -> None:
    done = _demo("work", "--count", "6000", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    counts = ("published", "confirmed", "consumed", "lost", "duplicated", "unexpected")
    assert [report[name] for name in counts] == [6000, 6000, 6000, 0, 0, 0]
    assert sum(report["shares"].values()) == 6000
    assert min(report["shares"].values()) > 6000 / 3 / 2
    port = done.stderr.split("ready on port ")[1].split()[0]
    assert not _somebody_listens(int(port))


def _somebody_listens(port: int) -> bool:
    listening = f":{port:04X} "
    return any(
        listening in fields and " 0A " in fields for fields in Path("/proc/net/tcp").read_text().splitlines()[1:]
    )


def test_every_call_is_answered_although_a_server_is_killed_half_way() -> None:
    done = _demo("rpc", "--count", "600", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    counts = ("calls", "answered", "wrong", "unanswered")
    assert [report[name] for name in counts] == [600, 600, 0, 0]
    assert sum(report["shares"].values()) == 600
    assert min(report["shares"].values()) > 0
    assert "kill -9" in done.stderr


def test_an_unknown_pattern_is_bad_usage() -> None:
    done = _demo("pubsup")
    assert (done.returncode, done.stdout) == (2, "")
    assert "work" in done.stderr


def test_the_ledger_tells_lost_duplicated_and_unexpected_apart() -> None:
    ledger = reckon([[b"0", b"1"], [b"1", b"7"]], count=4, seconds=1)
    assert (ledger.shares, ledger.consumed) == ((2, 2), 4)
    assert (ledger.lost, ledger.duplicated, ledger.unexpected) == (2, 1, 1)
    assert not ledger.complete
    assert reckon([[b"1"], [b"0", b"1"]], count=2, seconds=1).complete  # a duplicate is no loss
