"""SIGINT and SIGTERM at random moments of `rmqkit publish` and `rmqkit consume`: nothing is lost (26)."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rmqkit import Message, connect
from tests.faults.witness import bodies, declare

AMOUNT = 60_000


def interrupt(arguments: list[str], number: signal.Signals, after_s: float, out: Path) -> tuple[int, str]:
    """Run rmqkit, interrupt it after some time, and return its exit code and what it wrote to stderr."""
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "rmqkit", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
    time.sleep(after_s)  # the moment itself is what is tested
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors.decode()


@pytest.fixture
def moment(request: pytest.FixtureRequest) -> float:
    seed = random.randrange(1 << 32)
    print(f"{request.node.name}: seed {seed}")  # noqa: T201 - shown when the test fails
    return random.Random(seed).uniform(0.25, 1.6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_26_publish_confirms_what_it_sent_and_says_how_far_it_came(
    broker_url: str, queue_name: str, tmp_path: Path, moment: float, number: signal.Signals
) -> None:
    declare(broker_url, queue_name)
    arguments = ["publish", "-u", broker_url, "-q", queue_name, "-n", str(AMOUNT), "--json"]
    code, errors = interrupt(arguments, number, moment, tmp_path / "out")
    found = [int(body) for body in bodies(broker_url, queue_name)]
    assert found == list(range(len(found)))
    if code == 0:
        assert len(found) == AMOUNT
        return
    assert code in (128 + number, -number), errors
    written = (tmp_path / "out").read_text().strip()
    if written:  # else it had not begun
        report: dict[str, Any] = json.loads(written)
        assert report["confirmed"] == report["published"] == len(found)
    else:
        assert found == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_26_consume_acknowledges_exactly_what_it_printed(
    broker_url: str, queue_name: str, tmp_path: Path, moment: float, number: signal.Signals
) -> None:
    declare(broker_url, queue_name)
    with connect(broker_url) as connection:
        connection.publish(Message(b"%d" % index, queue_name) for index in range(AMOUNT))
    arguments = ["consume", queue_name, "-u", broker_url, "--prefetch", "100"]
    code, errors = interrupt(arguments, number, moment, tmp_path / "out")
    printed = [int(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert code in (128 + number, -number), errors
    assert [*printed, *map(int, bodies(broker_url, queue_name))] == list(range(AMOUNT))
