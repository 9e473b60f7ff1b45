"""Pass only deliveries that satisfy a contract to the handler."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rmqkit.errors import Location, PayloadError
from rmqkit.handlers.handler import Source
from rmqkit.message import Delivery
from rmqkit.payload.compression import contents
from rmqkit.payload.formats import Check

InvalidDelivery = tuple[int, Delivery, PayloadError]  # its number in the source, from 1


@dataclass
class ContractFilter:
    """A source of the deliveries that satisfy a contract; `on_invalid` gets the others of each batch."""

    source: Source
    check: Check
    on_invalid: Callable[[list[InvalidDelivery]], None]
    _number: int = 0

    def batches(self, *, busy: Callable[[], bool] = lambda: False) -> Iterator[list[Delivery]]:
        """Yield the valid deliveries of each batch, possibly none. Raises what `on_invalid` raises."""
        for batch in self.source.batches(busy=busy):
            valid: list[Delivery] = []
            invalid: list[InvalidDelivery] = []
            for delivery in batch:
                self._number += 1
                try:
                    where = Location("the message")
                    self.check(contents(delivery.body, delivery.properties.content_encoding, where), where)
                except PayloadError as exc:
                    invalid.append((self._number, delivery, exc))
                else:
                    valid.append(delivery)
            if invalid:
                self.on_invalid(invalid)
            yield valid

    def is_lost(self, delivery: Delivery) -> bool:
        """Tell whether the broker requeued a delivery."""
        return self.source.is_lost(delivery)

    def handling(self, deliveries: Sequence[Delivery]) -> AbstractContextManager[object]:
        """Return a block in which deliveries are handled."""
        return self.source.handling(deliveries)

    def wake(self, after_s: float = 0.0) -> None:
        """Have `batches` yield an empty batch soon."""
        self.source.wake(after_s)
