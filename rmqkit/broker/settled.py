"""Which deliveries of a channel are settled: all up to one, which is the rule, and some above. Pure.

Comes in: delivery tags. Goes out: whether they are settled; frames that acknowledge them. Room: broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rmqkit.broker.frames import encode_ack


class Settled:
    """The settled delivery tags of one channel: every one below `low`, and others; its length counts them."""

    def __init__(self) -> None:
        self.low = 1
        self._above: set[int] = set()

    def __len__(self) -> int:
        return self.low - 1 + len(self._above)

    def __contains__(self, tag: int) -> bool:
        return tag < self.low or tag in self._above

    def add(self, tags: Iterable[int]) -> None:
        """Note that deliveries are settled."""
        above = self._above
        above.update(tags)
        while self.low in above:
            above.remove(self.low)
            self.low += 1

    def acknowledge(self, channel: int, tags: Sequence[int]) -> bytes:
        """Note deliveries, by rising tags, and return what acknowledges them: one frame if all below are settled."""
        first, last = tags[0], tags[-1]
        if first != self.low or last - first + 1 != len(tags):
            self.add(tags)
            return b"".join(encode_ack(channel, tag, multiple=False) for tag in tags)
        self.low = last + 1
        self.add(())  # what was settled ahead of these
        return encode_ack(channel, last, multiple=True)
