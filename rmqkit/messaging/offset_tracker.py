"""The offset from which the consumer of a stream resumes (https://www.rabbitmq.com/docs/streams#consuming)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rmqkit.message import Delivery
from rmqkit.options import Offset

_HEADER = "x-stream-offset"


class OffsetTracker:
    """The offset from which a consumer resumes after a lost connection: that of the first unsettled delivery."""

    def __init__(self, offset: Offset | None) -> None:
        self._next = offset
        self._unsettled: deque[tuple[int, int]] = deque()  # delivery tags and their offsets
        self._ordinary = False  # the queue is no stream: its deliveries have no offset

    def track(self, deliveries: Sequence[Delivery], low: int) -> None:
        """Add deliveries of the current channel; every delivery tag below `low` is settled."""
        if self._ordinary or not deliveries:
            return
        self._ordinary = _HEADER not in (deliveries[0].properties.headers or {})
        if not self._ordinary:
            self._forget(low)
            self._unsettled.extend((each.delivery_tag, (each.properties.headers or {})[_HEADER]) for each in deliveries)

    def arguments(self, low: int) -> dict[str, Offset]:
        """Return the arguments of the next subscription; every delivery tag below `low` of this one is settled."""
        self._forget(low)
        if self._unsettled:
            self._next = self._unsettled[0][1]
        self._unsettled.clear()
        return {} if self._next is None else {_HEADER: self._next}

    def _forget(self, low: int) -> None:
        while self._unsettled and self._unsettled[0][0] < low:
            self._next = self._unsettled.popleft()[1] + 1
