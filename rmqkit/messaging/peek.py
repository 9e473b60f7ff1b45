"""Show the first messages of a queue, or of a stream from an offset, without removing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.consumer import Consumer
from rmqkit.messaging.queue_browser import QueueBrowser, SideEffects

BODY_BYTES = 64 * 1024 * 1024  # of the bodies that are held, about
HOLD_S = 5.0  # during which consumers do not receive the messages
STREAM_PREFETCH, STREAM_IDLE_S = 100, 1.0
_OFFSET = "x-stream-offset"  # the header that holds a message's offset
_LEFT = "the others left the queue meanwhile"

Matches = Callable[[Delivery], bool]


@dataclass(frozen=True, slots=True)
class PeekedMessage:
    """A message that was peeked: its position in the queue, from 1, or its offset in a stream, and its delivery.

    `deliveries_left` is how many more deliveries may fail before it is dropped or dead-lettered; None without a limit.
    """

    position: int
    delivery: Delivery
    deliveries_left: int | None = None


@dataclass(frozen=True, slots=True)
class PeekReport:
    """The matching messages, in the order of the queue, among the first `scanned` ones.

    `ready` is the number of messages at the start, 0 for a stream; `side_effects` says how peeking changed them, as the
    rest of a sentence. `type` and `delivery_limit` are those of the queue, `type` None if it is unknown. `cut_short`
    says why fewer messages were scanned than requested and ready; empty if they were not.
    """

    messages: tuple[PeekedMessage, ...]
    type: str | None = None
    ready: int = 0
    consumers: int = 0
    scanned: int = 0
    delivery_limit: int | None = None
    side_effects: str = ""
    cut_short: str = ""
    seconds: float = 0.0


def peek(browser: QueueBrowser, limit: int, scan: int, matches: Matches) -> PeekReport:
    """Return up to `limit` messages that match, among the first `scan`, and close the browser."""
    started_s, effects = time.monotonic(), browser.side_effects
    with browser:
        messages, scanned = _select(browser, effects, limit, scan, matches)
        ended = len(messages) == limit or not browser.missing or browser.stop.requested
        cut_short = "" if ended else browser.cut_short or _LEFT
    return PeekReport(
        messages,
        type=effects.type,
        ready=browser.ready,
        consumers=browser.consumers,
        scanned=scanned,
        delivery_limit=effects.limit,
        side_effects=effects.text,
        cut_short=cut_short,
        seconds=time.monotonic() - started_s,
    )


def peek_stream(consumer: Consumer, effects: SideEffects, limit: int, scan: int, matches: Matches) -> PeekReport:
    """Return up to `limit` messages that match, among the next `scan` of a stream, and close its consumer."""
    started_s = time.monotonic()

    def batches() -> Iterator[list[Delivery]]:
        for batch in consumer.batches():
            yield batch
            consumer.settle(batch, Verdict.ACK)  # which only asks for more
            if time.monotonic() - started_s > HOLD_S:
                return

    with consumer:
        messages, scanned = _select(chain.from_iterable(batches()), effects, limit, scan, matches)
    seconds = time.monotonic() - started_s
    return PeekReport(messages, effects.type, scanned=scanned, side_effects=effects.text, seconds=seconds)


def _select(
    deliveries: Iterable[Delivery], effects: SideEffects, limit: int, scan: int, matches: Matches
) -> tuple[tuple[PeekedMessage, ...], int]:
    """Return the messages that match, and how many were scanned for them."""
    found: list[PeekedMessage] = []
    scanned = size = 0
    for delivery in deliveries:
        scanned += 1
        if matches(delivery):
            position = (delivery.properties.headers or {}).get(_OFFSET, scanned)
            found.append(PeekedMessage(position, delivery, effects.deliveries_left(delivery)))
            size += len(delivery.body)
        if len(found) == limit or scanned == scan or size >= BODY_BYTES:
            break
    return tuple(found), scanned
