"""Child processes of rmqkit, and the code that parent and child share.

A child gets pickled values, credentials among them, on standard input, where no other process can see them; when that
input ends, its parent has ended. It reports over a pipe, in lines of JSON. It has its own process group, so that Ctrl-C
reaches only the parent, which passes it on.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, Any

from rmqkit import errors
from rmqkit.errors import OutputError, RmqkitError

KILL_AFTER_S = 5.0  # from the second signal to SIGKILL


class ChildProcess:
    """A process that runs `python -m module REPORTS_FD FD...`; it inherits the further descriptors."""

    def __init__(self, name: str, module: str, *descriptors: int) -> None:
        self.name = name
        reports_fd, child_fd = os.pipe()
        command = [sys.executable, "-P", "-m", module, *map(str, (child_fd, *descriptors))]
        self.process = subprocess.Popen(  # noqa: S603 - a module of rmqkit
            command, stdin=subprocess.PIPE, pass_fds=(child_fd, *descriptors), process_group=0
        )
        os.close(child_fd)
        self.reports = os.fdopen(reports_fd, "rb", buffering=0)
        self._unread = b""

    def send(self, value: Any) -> None:
        """Send a value; standard input stays open as long as the parent lives."""
        with suppress(BrokenPipeError):  # the child died: the end of its reports shows it
            self._stdin.write(pickle.dumps(value))
            self._stdin.flush()

    def dismiss(self) -> None:
        """Close standard input, which ends the child."""
        with suppress(BrokenPipeError):
            self._stdin.close()

    def read(self) -> list[dict[str, Any]] | None:
        """Return the reports that have arrived, waiting for some; None when they have ended."""
        data = self.reports.read(65_536)
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines] if data else None

    def wait(self) -> str:
        """Wait for the child to end, and return how it did."""
        self.reports.close()
        self.dismiss()
        code = self.process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the child has ended."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    @property
    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        return self.process.stdin


def end_all(children: Iterable[ChildProcess]) -> None:
    """Wait until all children have ended, and kill those that do not within some seconds."""
    children, deadline_s = list(children), time.monotonic() + KILL_AFTER_S
    for child in children:
        try:
            child.process.wait(max(deadline_s - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        child.reports.close()
        child.dismiss()


def error_as_json(error: RmqkitError | None) -> dict[str, str] | None:
    """Write an error for the parent."""
    if error is None:
        return None
    return {"type": type(error).__name__, "message": error.message, "advice": error.advice}


def error_from_json(written: dict[str, str] | None) -> RmqkitError | None:
    """Make an error of the same class, for its exit code, with the same message and advice."""
    if written is None:
        return None
    kind = getattr(errors, written["type"], OutputError)
    error: RmqkitError = kind.__new__(kind)
    RmqkitError.__init__(error, written["message"], advice=written["advice"])
    return error


def report(descriptor: int, **event: Any) -> None:
    """Report to the parent, in the child."""
    data = memoryview(json.dumps(event).encode() + b"\n")
    with suppress(BrokenPipeError):
        while data:
            data = data[os.write(descriptor, data) :]
