"""How far a consumer of a stream has come (https://www.rabbitmq.com/docs/streams#consuming).

Comes in: deliveries, and which of them are settled. Goes out: the offset to go on from. Room: broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime

from rmqkit.message import Delivery

Offset = int | str | datetime
"""Where to begin: an offset, `first`, `last` (the last chunk), `next`, an age like `5m`, or a time."""
_HEADER = "x-stream-offset"


class Position:
    """The offset from which a consumer goes on after a lost connection: that of the first delivery not settled."""

    def __init__(self, offset: Offset | None) -> None:
        self._next = offset
        self._unsettled: deque[tuple[int, int]] = deque()  # delivery tags and their offsets
        self._ordinary = False  # a queue whose deliveries have no offset

    def take(self, deliveries: Sequence[Delivery], low: int) -> None:
        """Note deliveries of the current channel; every delivery tag below `low` is settled."""
        if self._ordinary or not deliveries:
            return
        self._ordinary = _HEADER not in (deliveries[0].properties.headers or {})
        if not self._ordinary:
            self._forget(low)
            self._unsettled.extend((each.delivery_tag, (each.properties.headers or {})[_HEADER]) for each in deliveries)

    def arguments(self, low: int) -> dict[str, Offset]:
        """Return the arguments of the next subscription, when every delivery tag below `low` of this one is settled."""
        self._forget(low)
        if self._unsettled:
            self._next = self._unsettled[0][1]
        self._unsettled.clear()
        return {} if self._next is None else {_HEADER: self._next}

    def _forget(self, low: int) -> None:
        while self._unsettled and self._unsettled[0][0] < low:
            self._next = self._unsettled.popleft()[1] + 1
