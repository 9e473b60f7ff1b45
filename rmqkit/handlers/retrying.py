"""What a handler failed on is tried again later, so many times, and then goes where somebody looks at it.

Comes in: what a handler rejected. Goes out: copies to the queues of a retry, and what may be settled. Room: handlers.

We count the tries ourselves, in a header: how often a message died, as the broker counts it, depends on its version.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rmqkit.handlers.failing import Exit, Failed
from rmqkit.handlers.handler import Settled
from rmqkit.message import Delivery, Verdict
from rmqkit.model import Retry, Target
from rmqkit.payload.deaths import ATTEMPTS, QUEUE
from rmqkit.topology.retry import waiting_queue


class Retrying:
    """Sends what failed in a queue to wait, or to the end of its retry; what the handler rejected goes there at once.

    `retried` and `parked` count them.
    """

    def __init__(self, way_out: Exit, queue: str, retry: Retry) -> None:
        self.retried = 0
        self.parked = 0
        self._exit = way_out
        self._queue = queue
        self._retry = retry

    def leave(self, rejected: Settled) -> Iterator[Settled]:
        """Yield each delivery once its copy is confirmed. Raises what `Exit.leave` raises."""
        reason = ": ".join(filter(None, (rejected.failure or "the handler rejected it", rejected.detail)))
        for delivery in rejected.deliveries:
            step = next_step(delivery, self._queue, self._retry, failed=bool(rejected.failure))
            marks = {QUEUE: self._queue, ATTEMPTS: step.attempts}
            for left in self._exit.leave([Failed(delivery, reason, Target("", step.queue), marks)]):
                if left.verdict is Verdict.ACK:
                    self.retried += len(left.deliveries) * (not step.is_last)
                    self.parked += len(left.deliveries) * step.is_last
                yield left


class Step(NamedTuple):
    """Where a delivery goes that was tried so often."""

    attempts: int
    queue: str
    is_last: bool


def next_step(delivery: Delivery, queue: str, retry: Retry, *, failed: bool = True) -> Step:
    """Return where a delivery goes next; one that did not fail, and was rejected, goes to the end.

    Tries in another queue do not count.
    """
    headers = delivery.properties.headers or {}
    before = headers.get(ATTEMPTS) if headers.get(QUEUE) == queue else 0
    attempts = 1 + (before if type(before) is int and before > 0 else 0)
    if failed and attempts <= len(retry.delays_ms):
        return Step(attempts, waiting_queue(queue, retry.delays_ms[attempts - 1]), is_last=False)
    return Step(attempts, retry.then, is_last=True)
