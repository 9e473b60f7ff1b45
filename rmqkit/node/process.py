"""Detached processes: started, identified later, and ended, never mistaking another process for one of them."""

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
    """A process id and the time it was started: the system may have reused the id."""

    pid: int
    started: str

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        started, running = _look_up(self.pid)
        if self.started and started == self.started and not running:
            with suppress(ChildProcessError):  # a zombie: if it is a child of this process, reap it
                os.waitpid(self.pid, os.WNOHANG)
        return running and started == self.started

    def signal(self, number: int) -> None:
        """Send a signal to this process, but not to another one that got its id."""
        with suppress(ProcessLookupError):
            if self.alive():
                os.kill(self.pid, number)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process during the block, which begins when all of its threads have stopped."""
        self.signal(signal.SIGSTOP)
        try:
            wait_until(lambda: _has_stopped(self.pid), 10.0)
            yield
        finally:
            self.signal(signal.SIGCONT)

    def end(self, grace_s: float = 0.0) -> None:
        """Terminate the process, kill it after `grace_s` seconds, and wait until it is gone."""
        if grace_s:
            self.signal(signal.SIGTERM)
            if wait_until(lambda: not self.alive(), grace_s):
                return
        self.signal(signal.SIGKILL)
        wait_until(lambda: not self.alive(), 10.0)


NO_PROCESS = Process(0, "")  # never alive


def spawn(command: Sequence[str | Path], env: Mapping[str, str], output: Path) -> Process:
    """Start a process in a new session, out of reach of Ctrl-C, with its output in a new file."""
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
    """Delay SIGINT and SIGTERM until the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_until(condition: Callable[[], bool], timeout_s: float, *, pause_s: float = 0.02) -> bool:
    """Check every `pause_s` seconds until the condition holds, at most `timeout_s`; return whether it does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
    return True


def _look_up(pid: int) -> tuple[str, bool]:
    """Return the start time of a process, in the system's own format, and whether it is running and no zombie."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return _ask_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", False
    return f"{boot}-{fields[19]}", fields[0] not in "ZX"  # proc(5): starttime in ticks since boot, state


def _has_stopped(pid: int) -> bool:
    """Tell whether no thread of a process runs; they may stop some time after SIGSTOP. True without /proc."""
    try:
        fields = [task.read_text().rpartition(")")[2].split() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread has just ended
        return False
    return all(each[0] in "TtZX" for each in fields)  # proc(5): the state


def _ask_ps(pid: int) -> tuple[str, bool]:
    """Look up a process without /proc, as on macOS."""
    command = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    state, _, started = shown.stdout.strip().partition(" ")
    return started.strip(), bool(state) and not state.startswith("Z")
