"""Wait for a state instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable

from pika.adapters.blocking_connection import BlockingChannel

TIMEOUT_S = 60.0  # generous: a busy machine is no failure


def wait_until(
    condition: Callable[[], object],
    message: str | Callable[[], str] = "it did not happen",
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Wait until a condition holds; fail with the message if it does not hold in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, message() if callable(message) else message
        time.sleep(0.01)


def wait_for_queue(channel: BlockingChannel, queue: str, **expected: int) -> None:
    """Wait until a queue has that many messages `ready`, or that many `consumers`."""

    def state() -> dict[str, int]:
        method = channel.queue_declare(queue, passive=True).method
        return {"ready": method.message_count, "consumers": method.consumer_count}

    wait_until(lambda: expected.items() <= state().items(), lambda: f"queue {queue} is {state()}, not {expected}")
