"""Worker processes that run `rmqkit consume`, and the ledger of what they printed.

Comes in: a queue, and how many workers. Goes out: a Ledger. Room: cli.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rmqkit.errors import HandlerError

_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Ledger:
    """What came out of the numbers 0 to n-1: `shares` by worker; unexpected is what nobody published."""

    shares: tuple[int, ...]
    consumed: int
    lost: int
    duplicated: int
    unexpected: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Tell whether everything came, and nothing else."""
        return not self.lost and not self.unexpected


class Crew:
    """Processes of `rmqkit consume`, each printing to a file of its own."""

    def __init__(self, url: str, queue: str, workers: int) -> None:
        self._command = [sys.executable, "-m", "rmqkit", "consume", queue]
        self._environment = {**os.environ, "RMQKIT_URL": url}  # not in the arguments, which everybody can see
        self._folder = tempfile.TemporaryDirectory(prefix="rmqkit-demo-")
        self._files = [Path(self._folder.name) / f"worker-{number}" for number in range(1, workers + 1)]
        self._read = [0] * workers  # bytes of each file that were looked at
        self._lines = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started_s = self._last_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the workers."""
        for file in self._files:
            with file.open("wb") as out:
                process = subprocess.Popen(  # noqa: S603 - our own command
                    self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE
                )
            self._processes.append(process)

    def check(self) -> None:
        """Raise HandlerError if a worker has ended."""
        for process in self._processes:
            if process.poll() is not None:
                said = process.stderr.read().decode("utf-8", "replace") if process.stderr else ""
                raise HandlerError(f"a worker ended with exit code {process.returncode}: {said.strip()}")

    def count(self) -> int:
        """Return how many messages were printed so far, reading only what is new."""
        before = self._lines
        for number, file in enumerate(self._files):
            with file.open("rb") as printed:
                printed.seek(self._read[number])
                new = printed.read()
            self._read[number] += len(new)
            self._lines += new.count(b"\n")
        if self._lines != before:
            self._last_s = time.monotonic()
        return self._lines

    def restart_clock(self) -> None:
        """Count the seconds from now on."""
        self._started_s = time.monotonic()

    def stop(self) -> None:
        """End the workers, as a service manager would."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.communicate(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        self._processes = []

    def ledger(self, count: int) -> Ledger:
        """End the workers, and compare what they printed with the numbers 0 to count - 1."""
        self.count()
        self.stop()
        printed = [file.read_bytes().splitlines() for file in self._files]
        return reckon(printed, count, max(self._last_s - self._started_s, 1e-6))


def reckon(printed: Sequence[Sequence[bytes]], count: int, seconds: float) -> Ledger:
    """Compare the lines of each worker with the numbers 0 to count - 1."""
    seen = Counter(line for lines in printed for line in lines)
    expected = {b"%d" % number for number in range(count)}
    return Ledger(
        shares=tuple(map(len, printed)),
        consumed=seen.total(),
        lost=len(expected - seen.keys()),
        duplicated=seen.total() - len(seen),
        unexpected=len(seen.keys() - expected),
        seconds=seconds,
    )
