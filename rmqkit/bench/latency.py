"""Histograms of times, and the counts of one client."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

QUANTILES = {"min": 0.0, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99, "p99_9": 0.999, "max": 1.0}
_BITS = 7  # of a value that are kept, after the highest one


class Histogram:
    """Counts of whole nanoseconds, in buckets whose middle is within 0.4 % of each of their values.

    `buckets` maps the number of a bucket to its count; a number holds the exponent and the first bits of the values.
    """

    __slots__ = ("buckets",)

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self.buckets: dict[int, int] = dict(buckets or {})

    def record(self, value: int) -> None:
        """Count a value; a negative one as 0."""
        exponent = value.bit_length() - _BITS - 1
        number = (exponent << _BITS) + (value >> exponent) if exponent > 0 else max(value, 0)
        self.buckets[number] = self.buckets.get(number, 0) + 1

    def add(self, buckets: Mapping[Any, int]) -> None:
        """Add the counts of another histogram; numbers may be text, as JSON has them."""
        for number, count in buckets.items():
            self.buckets[int(number)] = self.buckets.get(int(number), 0) + count

    @property
    def count(self) -> int:
        """Return the number of values."""
        return sum(self.buckets.values())

    def quantiles(self, *wanted: float) -> list[float]:
        """Return the values, in milliseconds, that these parts of all values (0 to 1, ascending) do not exceed."""
        found, reached, total, numbers = [], 0, self.count, iter(sorted(self.buckets))
        number = 0
        for part in wanted:
            while total and reached < max(math.ceil(part * total), 1):
                number = next(numbers)
                reached += self.buckets[number]
            exponent = max((number >> _BITS) - 1, 0)
            lowest = number - (exponent << _BITS) << exponent
            found.append((lowest + ((1 << exponent) >> 1)) / 1e6)
        return found

    def summary(self) -> dict[str, float | int] | None:
        """Return the number of values and their quantiles in milliseconds; None without values."""
        if not self.buckets:
            return None
        found = (float(f"{value:.4g}") for value in self.quantiles(*QUANTILES.values()))
        return {"count": self.count, **dict(zip(QUANTILES, found, strict=True))}


class Counts:
    """The numbers of messages that one client or more published with confirms and received, and their times.

    `confirm` has the times from publishing a message to its confirm, or from a request to its reply; `latency` those to
    its delivery, less its delay.
    """

    __slots__ = ("confirm", "confirmed", "latency", "received")

    def __init__(self) -> None:
        self.confirmed = self.received = 0
        self.confirm, self.latency = Histogram(), Histogram()

    def add(self, counts: Mapping[str, Any]) -> None:
        """Add other counts, as `since` writes them."""
        self.confirmed += counts["confirmed"]
        self.received += counts["received"]
        self.confirm.add(counts["confirm"])
        self.latency.add(counts["latency"])

    def as_json(self) -> dict[str, Any]:
        """Return a copy for `add`; another thread than the client's may call this."""
        return {
            "confirmed": self.confirmed,
            "received": self.received,
            "confirm": self.confirm.buckets.copy(),
            "latency": self.latency.buckets.copy(),
        }

    def since(self, before: Counts) -> dict[str, Any]:
        """Return the differences from earlier counts."""
        now, then = self.as_json(), before.as_json()
        found = {name: now[name] - then[name] for name in ("confirmed", "received")}
        for name in ("confirm", "latency"):
            old = then[name]
            found[name] = {key: more for key, count in now[name].items() if (more := count - old.get(key, 0))}
        return found
