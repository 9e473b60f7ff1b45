"""A process of our own: started detached, known again later, ended, and never mistaken for another."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process id and the moment it was started: the id alone may belong to somebody else by now."""

    pid: int
    started: str

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        started, runs = _look_up(self.pid)
        if self.started and started == self.started and not runs:
            with suppress(ChildProcessError):  # a zombie: if it is our own child, it waits to be reaped
                os.waitpid(self.pid, os.WNOHANG)
        return runs and started == self.started

    def signal(self, number: int) -> None:
        """Send a signal to this process, and to no other that has its id now."""
        with suppress(ProcessLookupError):
            if self.alive():
                os.kill(self.pid, number)

    def end(self, grace_s: float = 0.0) -> None:
        """Ask it to terminate, wait for `grace_s` seconds, kill it if it still runs, and wait until it is gone."""
        if grace_s:
            self.signal(signal.SIGTERM)
            if wait_until(lambda: not self.alive(), grace_s):
                return
        self.signal(signal.SIGKILL)
        wait_until(lambda: not self.alive(), 10.0)


NO_PROCESS = Process(0, "")  # never alive


def spawn(command: Sequence[str | Path], env: Mapping[str, str], output: Path) -> Process:
    """Start a process in a session of its own, so that Ctrl-C does not reach it; its output goes to a new file."""
    argv = [str(each) for each in command]
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), write, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
    )
    return Process(pid, _look_up(pid)[0])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put SIGINT and SIGTERM off until the block is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until the condition holds, at most `timeout_s` seconds; return whether it does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _look_up(pid: int) -> tuple[str, bool]:
    """Return when the process was started, in whatever words the system has for it, and whether it is no zombie."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return _ask_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", False
    return f"{boot}-{fields[19]}", fields[0] not in "ZX"  # proc(5): starttime in ticks since boot, state


def _ask_ps(pid: int) -> tuple[str, bool]:
    """Look up a process where there is no /proc, as on macOS."""
    command = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    state, _, started = shown.stdout.strip().partition(" ")
    return started.strip(), bool(state) and not state.startswith("Z")
