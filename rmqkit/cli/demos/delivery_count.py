"""Published messages compared with received ones: lost, duplicated, unexpected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass

from rmqkit.cli import output


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """The number of received messages, and their differences from the expected ones."""

    received: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0

    @property
    def complete(self) -> bool:
        """Return whether every message was received, and no other; a duplicate is no loss."""
        return not self.lost and not self.unexpected

    @property
    def faults(self) -> dict[str, int]:
        """Return the differences by name."""
        return {name: number for name, number in asdict(self).items() if name != "received"}


def totals(counts: Mapping[str, int], remarks: Mapping[str, str]) -> str:
    """Draw a table of totals, some with a remark."""
    return output.table([(name, f"{number:,}", remarks.get(name, "")) for name, number in counts.items()])


def count_deliveries(received: Iterable[Hashable], expected: Collection[Hashable]) -> DeliveryCount:
    """Compare the received messages with those expected once each."""
    counts, wanted = Counter(received), set(expected)
    total, different = counts.total(), counts.keys()
    return DeliveryCount(total, len(wanted - different), total - len(different), len(different - wanted))
