"""Wait for a state instead of sleeping."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from pika.adapters.blocking_connection import BlockingChannel

TIMEOUT_S = 100.0  # generous: a busy machine is no failure, nor is a disk that stalls
_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.25


def wait_until(
    condition: Callable[[], object],
    message: str | Callable[[], str] = "it did not happen",
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Wait until a condition holds; fail with the message if it does not hold in time.

    One that takes longer to check, such as by a new connection, is checked less often: the processor is needed by what
    the test waits for.
    """
    started_s = time.monotonic()
    deadline_s = started_s + timeout_s
    while not condition():
        checked_s = time.monotonic()
        assert checked_s < deadline_s, message() if callable(message) else message
        time.sleep(min(max(_PAUSE_S, 4 * (checked_s - started_s)), _LONGEST_PAUSE_S))
        started_s = time.monotonic()


def wait_for_queue(channel: BlockingChannel, queue: str, **expected: int) -> None:
    """Wait until a queue has that many messages `ready`, or that many `consumers`."""

    def state() -> dict[str, int]:
        method = channel.queue_declare(queue, passive=True).method
        return {"ready": method.message_count, "consumers": method.consumer_count}

    wait_until(lambda: expected.items() <= state().items(), lambda: f"queue {queue} is {state()}, not {expected}")


def catches(process: subprocess.Popen[str] | subprocess.Popen[bytes], number: int) -> bool:
    """Tell whether a process has a handler for a signal: one that has just started has none yet."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return True  # there is no such file system
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)
