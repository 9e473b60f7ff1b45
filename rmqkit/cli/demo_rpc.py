"""`rmqkit demo rpc`: calls to several servers, one of which is killed half-way, and a count of what was answered.

Comes in: a broker, how many calls, how many servers. Goes out: a Ledger. Room: cli.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmqkit.cli import output
from rmqkit.errors import HandlerError

if TYPE_CHECKING:
    from rmqkit.broker.connection import Connection
    from rmqkit.message import Delivery, Message

_QUEUE = "rpc_requests"
_WINDOW = 100
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Ledger:
    """What came of the calls: `shares` counts replies by the server's number, `wrong` those that answer another."""

    calls: int
    shares: tuple[int, ...]
    wrong: int
    unanswered: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Tell whether every call got its reply."""
        return not self.wrong and not self.unanswered

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "calls": self.calls,
            "answered": sum(self.shares),
            "wrong": self.wrong,
            "unanswered": self.unanswered,
            "shares": {f"server {number}": share for number, share in enumerate(self.shares, 1)},
            "call_rate": round(self.calls / self.seconds),
            "seconds": round(self.seconds, 3),
        }

    def as_rows(self) -> list[tuple[str, str, str]]:
        """Return the rows of totals."""
        return [
            ("calls", f"{self.calls:,}", f"{self.calls / self.seconds:,.0f} a second, {_WINDOW} at once"),
            ("answered", f"{sum(self.shares):,}", ""),
            ("wrong", f"{self.wrong:,}", ""),
            ("unanswered", f"{self.unanswered:,}", ""),
        ]


def double(request: Delivery) -> Message:
    """Answer a number with its double, and say in a header which server it was; what the servers of the demo run."""
    from rmqkit.message import Message, Properties  # noqa: PLC0415 - start-up time

    headers = {"server": int(os.environ["RMQKIT_DEMO_SERVER"])}
    return Message(b"%d" % (2 * int(request.body)), properties=Properties(headers=headers))


def run(url: str, count: int, servers: int) -> Ledger:
    """Call servers on that broker, kill one of several half-way, and count."""
    from rmqkit.broker.connection import connect  # noqa: PLC0415 - start-up time: pika
    from rmqkit.topology.loader import load  # noqa: PLC0415
    from rmqkit.topology.shipped import find  # noqa: PLC0415

    with connect(url) as connection:
        connection.apply(load(find("rpc")))
        output.note(f"$ rmqkit apply topologies/rpc.yaml      # declared: queue {_QUEUE}")
        with _servers(url, servers) as processes:
            _await(connection, processes)
            output.note(f"$ rmqkit serve {_QUEUE} ...         # {servers} server processes, ready")
            output.note(f"$ rmqkit call {_QUEUE} --lines ...  # {count:,} calls, {_WINDOW} at once")
            return _call(connection, count, processes)


def _call(connection: Connection, count: int, processes: Sequence[subprocess.Popen[bytes]]) -> Ledger:
    from rmqkit.message import Message  # noqa: PLC0415 - start-up time

    shares: Counter[int] = Counter()
    wrong = unanswered = 0
    started_s = time.monotonic()
    with output.progress("answered", count) as show:
        answers = connection.call_many((Message(b"%d" % number, _QUEUE) for number in range(count)), window=_WINDOW)
        for number, answer in enumerate(answers):
            if answer.error is not None:
                unanswered += 1
                continue
            shares[int((answer.reply.properties.headers or {}).get("server", 0))] += 1
            wrong += answer.reply.body != b"%d" % (2 * number)
            show(number + 1, "")
            if number == count // 2 and len(processes) > 1:
                processes[-1].kill()
                output.note(f"$ kill -9 {processes[-1].pid}   # server {len(processes)}; the others answer for it")
    by_number = tuple(shares[number] for number in range(1, len(processes) + 1))
    return Ledger(count, by_number, wrong, unanswered, max(time.monotonic() - started_s, 1e-6))


@contextmanager
def _servers(url: str, amount: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run servers while the block runs."""
    command = [sys.executable, "-m", "rmqkit", "serve", _QUEUE, "--handler", f"{__name__}:{double.__name__}"]
    command += ["--prefetch", "20"]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(1, amount + 1):
            environment = {**os.environ, "RMQKIT_URL": url, "RMQKIT_DEMO_SERVER": str(number)}
            processes.append(
                subprocess.Popen(  # noqa: S603 - our own command
                    command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(connection: Connection, processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while connection.queue_state(_QUEUE).consumers < len(processes):
        for process in processes:
            if process.poll() is not None:
                raise HandlerError(f"a server ended with exit code {process.returncode}")
        if time.monotonic() > deadline_s:
            return  # the ledger tells who answered
        time.sleep(0.02)
