"""How much may be on its way unconfirmed: a bound in messages and in bytes, and less after a loss or a refusal. Pure.

Comes in: what is pending, settled, lost or refused. Goes out: whether there is room for one more. Room: broker.
"""

from __future__ import annotations

FEW = 256  # messages that may be on their way on any new connection
ISOLATE_BY = 8  # a refusal divides the window by this, until the culprit is alone in it


class Window:
    """The window of one run of publishing; a body larger than all of it may go alone."""

    def __init__(self, messages: int, body_bytes: int) -> None:
        self._messages = self._most = messages
        self._body_bytes = body_bytes

    def has_room(self, pending: int, pending_bytes: int, size: int) -> bool:
        """Tell whether a body of that size may be sent, with so many messages and bytes pending."""
        return pending < self._messages and (not pending or pending_bytes + size <= self._body_bytes)

    def shrink(self, refused: int) -> None:
        """Take less at a time: one of so many messages was refused, and nobody knows which."""
        self._messages = max(1, refused // ISOLATE_BY)

    def begin_again(self, unsettled: int) -> None:
        """Take less at a time: a line that broke may break again soon, and all that is on its way is sent anew then."""
        self._messages = min(self._messages, max(FEW, unsettled // ISOLATE_BY))

    def grow(self, settled: int) -> None:
        """Take more again, as TCP's slow start does: the window doubles with each round trip."""
        self._messages = min(self._messages + settled, self._most)
