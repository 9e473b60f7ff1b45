"""The command line's surroundings: a broker, a state folder, an independent client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import Run, Start, rmqkit


@pytest.fixture
def environment(broker_url: str, tmp_path: Path) -> dict[str, str]:
    """Return what a command's environment has to be: the tests' broker, and a state folder of its own."""
    return os.environ | {"RMQKIT_URL": broker_url, "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def queue(channel: BlockingChannel, queue_name: str) -> str:
    channel.queue_declare(queue_name, durable=True)
    return queue_name


@pytest.fixture
def topology(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The module's ORDERS, in a file."""
    file = tmp_path / "orders.yaml"
    file.write_text(request.module.ORDERS)
    return file


@pytest.fixture
def live(broker: Broker, vhost_url: str, tmp_path: Path) -> Run:
    """Run `rmqkit` on a virtual host of its own, with RabbitMQ's HTTP API and a state folder of its own."""
    own = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url, "XDG_STATE_HOME": str(tmp_path / "state")}

    def run(*arguments: object, stdin: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return rmqkit(*arguments, stdin=stdin or "", env=own | more)

    return run


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the handlers of signals that a test sets in its own process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start `rmqkit consume` in a folder of its own, its standard output to a pipe unless told otherwise."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, stdout: Any = subprocess.PIPE, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rmqkit", "consume", *map(str, arguments)]
        process = subprocess.Popen(  # unbuffered, so that reading a line takes no more than that
            command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment | variables,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
