"""What was published against what came: lost, duplicated, unexpected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """How much came, and how it differs from what should have: unexpected is what nobody sent there."""

    came: int = 0
    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0

    @property
    def complete(self) -> bool:
        """Tell whether everything came, and nothing else; what comes twice is no loss."""
        return not self.lost and not self.unexpected


def count_deliveries(came: Iterable[Hashable], expected: Collection[Hashable]) -> DeliveryCount:
    """Compare what came with what should have come, once each."""
    seen, wanted = Counter(came), set(expected)
    return DeliveryCount(seen.total(), len(wanted - seen.keys()), seen.total() - len(seen), len(seen.keys() - wanted))
