"""Only what keeps the contract comes to the handler; the rest leaves with the reason.

Comes in: deliveries, and what refuses a body. Goes out: batches of what keeps the contract. Room: handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rmqkit.errors import Location, PayloadError
from rmqkit.handlers.failing import Failed
from rmqkit.handlers.handler import Source
from rmqkit.message import Delivery
from rmqkit.model import Target
from rmqkit.payload.contracts import Check, reason


class Checked:
    """A source of what keeps the contract; what does not, `leave` gets, with `target`.

    `tell` hears why, each with its number, from 1 for the first message of this source.
    """

    def __init__(
        self,
        source: Source,
        check: Check,
        target: Target | None,
        *,
        leave: Callable[[Sequence[Failed]], None],
        tell: Callable[[int, PayloadError], None],
    ) -> None:
        self._source = source
        self._check = check
        self._target = target
        self._leave = leave
        self._tell = tell
        self._number = 0

    def batches(self, *, busy: Callable[[], bool] = lambda: False) -> Iterator[list[Delivery]]:
        """Yield what keeps the contract of each batch, which may be nothing. Raises what `leave` raises."""
        for batch in self._source.batches(busy=busy):
            kept: list[Delivery] = []
            failed: list[Failed] = []
            for delivery in batch:
                self._number += 1
                try:
                    self._check(delivery.body, Location("the message"))
                except PayloadError as exc:
                    self._tell(self._number, exc)
                    failed.append(Failed(delivery, reason(exc), self._target))
                else:
                    kept.append(delivery)
            if failed:
                self._leave(failed)
            yield kept

    def wake(self) -> None:
        """Have `batches` yield an empty batch soon."""
        self._source.wake()
