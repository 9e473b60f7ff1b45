"""Run `rmqkit` on a terminal of 80 columns, and type on it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from tests.support.cli import COMMAND
from tests.support.wait import TIMEOUT_S, wait_until


class Terminal:
    """A process on a terminal; `shown` is all that the terminal got so far."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process, self.shown = process, ""
        self._descriptor = descriptor

    def read(self, until: Callable[[str], object]) -> str:
        """Read until something is shown, or the process ended; return all that is shown."""

        def is_shown() -> object:
            if select.select([self._descriptor], [], [], 0.5)[0]:
                self.shown += os.read(self._descriptor, 65536).decode(errors="replace")
            return until(self.shown)

        with suppress(OSError):  # how Linux reports that the process has ended
            wait_until(is_shown, lambda: self.shown)
        return self.shown

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._descriptor, text.encode())

    def end(self) -> tuple[int, str]:
        """Wait for the process to end; return its exit code and all that was shown."""
        self.read(lambda _: False)
        return self.process.wait(TIMEOUT_S), self.shown


@contextmanager
def terminal(*arguments: object, env: Mapping[str, str] = {}, **streams: Any) -> Iterator[Terminal]:
    """Run `rmqkit` on a terminal, with more variables; `streams` are those that are not the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[assignment]
        [*COMMAND, *map(str, arguments)],
        env=variables | dict(env),
        start_new_session=True,
        text=False,
        **{"stdin": theirs, "stdout": theirs, "stderr": theirs} | streams,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.communicate()
        os.close(ours)


def prompted(arguments: list[str], typed: str) -> tuple[int, str, str]:
    """Run with a pipe for input, and type on the controlling terminal; return exit code, output, what was shown."""
    ours, theirs = pty.openpty()
    opening = ["sh", "-c", 'exec 3<>"$0"; "$@"', os.ttyname(theirs)]  # a session's first terminal is its own
    process = subprocess.Popen(
        [*opening, *COMMAND, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    shown = os.read(ours, 1000)
    while b": " not in shown.rpartition(b"Password for ")[2]:
        shown += os.read(ours, 1000)
    os.write(ours, f"{typed}\n".encode())
    out, err = process.communicate(timeout=90)
    os.set_blocking(ours, False)
    with suppress(OSError):
        shown += os.read(ours, 1000)
    os.close(theirs)
    os.close(ours)
    return process.returncode, out.decode() + err.decode(), shown.decode()
