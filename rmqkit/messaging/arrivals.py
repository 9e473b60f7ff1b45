"""The deliveries that have arrived at a consumer on one channel, and those in flight to it when it ends.

From RabbitMQ 4.3 on, a quorum queue requeues what is in flight to a cancelled consumer at once, and so ahead of the
messages that the consumer holds. So these are received first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rmqkit.amqp.channel import ANY_PERMISSION, NACK_NOT_COUNTED, Channel
from rmqkit.amqp.frames import Event
from rmqkit.errors import BrokerError
from rmqkit.message import Delivery

_IN_FLIGHT_S = 2.0  # for deliveries in flight
_QUIET_S, _QUIET = 0.02, 2  # so long without one and without a ready message, so many times: there are no more


class Arrivals:
    """Counts the deliveries; `events` arrived together and are not processed yet, `is_redelivered` is the last one."""

    def __init__(self, queue: str, prefetch: int = 0) -> None:
        self.prefetch = prefetch
        self.count = 0
        self.is_redelivered = False
        self.events: deque[Event] = deque()
        self._queue = queue

    def note(self, deliveries: Sequence[Delivery]) -> None:
        """Note that deliveries have arrived."""
        self.count += len(deliveries)
        self.is_redelivered = deliveries[-1].redelivered

    def in_doubt(self, settled: int) -> int:
        """Return how many of the settled deliveries the broker may not know to be settled, if the connection is lost.

        They are as many as may be unacknowledged at a time: the broker sends another only when it has taken one.
        """
        return max(settled - max(self.count - self.prefetch, 0), 0)

    def receive_in_flight(self, channel: Channel, settled: int) -> None:
        """Receive the deliveries that the last acknowledgements bring, until there are as many as the prefetch."""
        until_s, quiet = time.monotonic() + _IN_FLIGHT_S, 0
        if channel.transport.version < NACK_NOT_COUNTED or not settled:
            return
        while self.count - settled < self.prefetch and quiet < _QUIET and time.monotonic() < until_s:
            received = self._receive(channel, _QUIET_S)
            quiet = 0 if received or self._has_ready(channel) else quiet + 1

    def hold_returned(
        self, channel: Channel, tag: str, settled: int, settings: Callable[[], Mapping[str, Any] | None]
    ) -> None:
        """Hold more messages of a quorum queue, so that closing the channel requeues all in their order.

        `settings` returns those of the queue. None is held if being delivered may harm it. Raises BrokerError.
        """
        if not self.is_redelivered:
            return
        from rmqkit.messaging.held_deliveries import HeldDeliveries, hold_returned  # noqa: PLC0415 - rarely used
        from rmqkit.messaging.queue_browser import SideEffects  # noqa: PLC0415

        self.receive_in_flight(channel, settled)
        effects = SideEffects.of(settings(), channel.transport.version)
        if effects.type != "quorum" or effects.risk:
            return
        held = HeldDeliveries(channel, self._queue)

        def receive(timeout_s: float) -> bool:
            received = self._receive(channel, timeout_s)
            held.receive(self.count)
            return received

        def receive_more(count: int, until_s: float) -> tuple[int, bool]:
            return held.receive_more(count, until_s, receive), self.is_redelivered

        held.receive(self.count)
        channel.cancel(tag, subject=f"queue {self._queue!r}")
        receive(0)
        hold_returned(receive_more)

    def _receive(self, channel: Channel, timeout_s: float) -> bool:
        """Receive events, and tell whether there were any."""
        events = [*self.events, *channel.wait(0 if self.events else timeout_s, subject=f"queue {self._queue!r}")]
        self.events.clear()
        for batch in events:
            if isinstance(batch, list):
                self.note(batch)
        return bool(events)

    def _has_ready(self, channel: Channel) -> bool:
        """Tell whether messages are ready in the queue, as far as every consumer may ask."""
        if channel.transport.version < ANY_PERMISSION:
            return False
        with suppress(BrokerError):
            return bool(channel.queue_counts(self._queue).message_count)
        return False
