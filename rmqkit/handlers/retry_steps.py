"""Where a failed delivery goes: back to its queue, to a waiting queue, or to the queue in which a retry ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rmqkit.errors import HTTP_API_UNAVAILABLE
from rmqkit.handlers.failure_copy import FailedDelivery
from rmqkit.handlers.handler import HandledBatch
from rmqkit.http_api.queue_settings import live_settings
from rmqkit.message import Delivery
from rmqkit.model import Retry, Target
from rmqkit.payload.death_headers import ATTEMPTS, DELIVERY_COUNT, QUEUE
from rmqkit.topology.retry import DELAY_TYPE, FIRST_DELAY, waiting_queue

if TYPE_CHECKING:
    from rmqkit.connection import Connection


def live_retry(connection: Connection, queue: str, retry: Retry) -> Retry:
    """Return the retry of a queue as it is on the broker: native only if the queue itself delays failed messages.

    Otherwise they would be redelivered at once. Raises Unreachable, AuthenticationFailed, NotFound, AccessRefused.
    """
    if not retry.native:
        return retry
    try:
        settings = live_settings(connection.http_api(), queue)
    except HTTP_API_UNAVAILABLE as exc:
        need = f"It has to show that queue {queue!r} delays messages, for its retry is native."
        exc.advice = f"{exc.advice}\n{need}".strip()
        raise
    delays = settings.get(DELAY_TYPE) in ("failed", "all") and FIRST_DELAY in settings
    return replace(retry, native=delays)


def next_steps(rejected: HandledBatch, queue: str, retry: Retry) -> tuple[list[Delivery], list[FailedDelivery]]:
    """Return the rejected deliveries that the queue itself is to delay, and where copies of the others go.

    They go to a waiting queue, or to the end if retries do not help or are used up.
    """
    reason = ": ".join(filter(None, (rejected.failure or "the handler rejected it", rejected.detail)))
    again, failed, end = [], [], Target("", retry.then)
    for delivery in rejected.deliveries:
        attempts = 1 + (_failed_before(delivery) if retry.native else _attempts_before(delivery, queue))
        retried = bool(rejected.failure) and attempts <= len(retry.delays_ms)
        if retried and retry.native:
            again.append(delivery)
            continue
        target = Target("", waiting_queue(queue, retry.delays_ms[attempts - 1])) if retried else end
        failed.append(FailedDelivery(delivery, reason, target, {QUEUE: queue, ATTEMPTS: attempts}, end))
    return again, failed


def _attempts_before(delivery: Delivery, queue: str) -> int:
    """Count the earlier attempts; attempts in another queue do not count."""
    headers = delivery.properties.headers or {}
    return _count(headers.get(ATTEMPTS)) if headers.get(QUEUE) == queue else 0


def _failed_before(delivery: Delivery) -> int:
    """Count the failed deliveries of a quorum queue's message before this one, those lost with a channel included."""
    return _count((delivery.properties.headers or {}).get(DELIVERY_COUNT))


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
