"""What a handler failed on is tried again later, so many times, and then goes where somebody looks at it.

Comes in: what a handler rejected. Goes out: where each delivery leaves to. Room: handlers, pure.

We count the tries ourselves, in a header: how often a message died, as the broker counts it, depends on its version.
"""

from __future__ import annotations

from rmqkit.handlers.failing import Failed
from rmqkit.handlers.handler import Settled
from rmqkit.message import Delivery
from rmqkit.model import Retry, Target
from rmqkit.payload.deaths import ATTEMPTS, QUEUE
from rmqkit.topology.retry import waiting_queue


def next_steps(rejected: Settled, queue: str, retry: Retry) -> list[Failed]:
    """Return where what failed goes: to wait, or to the end; there what the handler rejected goes at once."""
    reason = ": ".join(filter(None, (rejected.failure or "the handler rejected it", rejected.detail)))
    failed, end = [], Target("", retry.then)
    for delivery in rejected.deliveries:
        attempts = _attempts(delivery, queue)
        again = bool(rejected.failure) and attempts <= len(retry.delays_ms)
        target = Target("", waiting_queue(queue, retry.delays_ms[attempts - 1])) if again else end
        failed.append(Failed(delivery, reason, target, {QUEUE: queue, ATTEMPTS: attempts}, end))
    return failed


def _attempts(delivery: Delivery, queue: str) -> int:
    """Count the tries, this one included; those in another queue do not count."""
    headers = delivery.properties.headers or {}
    before = headers.get(ATTEMPTS) if headers.get(QUEUE) == queue else 0
    return 1 + (before if type(before) is int and before > 0 else 0)
