"""Loss, duplicates and order: the numbers of the messages that were received."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

STAMP = struct.Struct(">QQ")  # the lane and the number in it; the time, in nanoseconds of the monotonic clock
NUMBER_BITS = 48
NUMBERS = (1 << NUMBER_BITS) - 1


class ReceivedNumbers:
    """The numbers of a lane that a consumer received: a bit for each.

    The numbers from `first` to `next` arrived one after the other, and are not marked in the bits yet. A message is out
    of order if its number is lower than that of the one before it, and it is neither redelivered nor a duplicate.
    """

    __slots__ = ("_bits", "duplicated", "first", "next", "out_of_order")

    def __init__(self) -> None:
        self._bits = bytearray()  # the lowest number is the lowest bit of the first byte
        self.first = self.next = self.duplicated = self.out_of_order = 0

    def jump(self, number: int, *, redelivered: bool) -> None:
        """Record a number that does not follow the last one."""
        self._mark()
        seen = number >> 3 < len(self._bits) and self._bits[number >> 3] >> (number & 7) & 1
        self.out_of_order += number < self.next and not redelivered and not seen
        self.first, self.next = number, number + 1

    def _mark(self) -> None:
        start, end = self.first >> 3, (self.next + 7) >> 3
        if len(self._bits) < end:
            self._bits += bytes(max(end - len(self._bits), len(self._bits) >> 3))
        before = int.from_bytes(self._bits[start:end], "little")
        run = (1 << self.next - self.first) - 1 << (self.first & 7)
        self.duplicated += (before & run).bit_count()
        self._bits[start:end] = (before | run).to_bytes(end - start, "little")
        self.first = self.next

    def as_json(self) -> dict[str, Any]:
        """Return the numbers for the parent process."""
        self._mark()
        bits = b64encode(zlib.compress(self._bits, 1)).decode()
        return {"bits": bits, "duplicated": self.duplicated, "out_of_order": self.out_of_order}


def published_bits(count: int, failed: Iterable[int]) -> int:
    """Return the bits of the numbers of a lane below `count`, except those that failed."""
    holes = bytearray((count >> 3) + 1)
    for number in failed:
        holes[number >> 3] |= 1 << (number & 7)
    return (1 << count) - 1 & ~int.from_bytes(holes, "little")


@dataclass
class Reader:
    """The messages that one queue, or one consumer of a stream, received."""

    received: dict[int, int]  # the bits of each lane
    duplicated: int = 0
    out_of_order: int = 0

    def add(self, lanes: dict[str, dict[str, Any]]) -> None:
        """Add what a consumer received."""
        for name, numbers in lanes.items():
            lane, bits = int(name), int.from_bytes(zlib.decompress(b64decode(numbers["bits"])), "little")
            before = self.received.get(lane, 0)
            self.duplicated += numbers["duplicated"] + (before & bits).bit_count()
            self.out_of_order += numbers["out_of_order"]
            self.received[lane] = before | bits

    def missing(self, lane: int, confirmed: int) -> int:
        """Return how many of the confirmed messages of a lane were not received."""
        return (confirmed & ~self.received.get(lane, 0)).bit_count()
