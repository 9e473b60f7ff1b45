"""What was sent and is not confirmed yet: which confirm and which return belongs to which message. Pure.

The broker numbers publishes from 1 on each channel (https://www.rabbitmq.com/docs/confirms). A return has no number,
but comes before its confirm, and in the order of publishing: so it belongs to the first unconfirmed message, behind the
last one returned, that equals it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rmqkit.amqp.field_table import decode_properties
from rmqkit.amqp.frames import Confirm, Returned
from rmqkit.message import Message


class Sent(NamedTuple):
    """A message on its way: its place in the input, from 0, how often it was sent before, and how often nacked."""

    place: int
    message: Message
    tries: int = 0
    nacks: int = 0


class Unconfirmed:
    """The unconfirmed messages of one channel; `body_bytes` is the sum of their bodies."""

    def __init__(self) -> None:
        self.body_bytes = 0
        self.returned: dict[int, str] = {}  # the index of a message that was returned -> why
        self._window: deque[Sent | None] = deque()  # None: confirmed, out of order
        self._first_tag = 1
        self._holes = 0
        self._returns_seen_to = 1  # returns come in order: none belongs to a tag below this one
        self._verbatim = True  # the broker returns properties as they were sent

    def __len__(self) -> int:
        return len(self._window) - self._holes

    def add(self, sent: Sent) -> None:
        """Note the next message sent."""
        self._window.append(sent)
        self.body_bytes += len(sent.message.body)

    def note_return(self, returned: Returned) -> bool:
        """Tie a return to its message; false if there is no such message."""
        key = (returned.exchange, returned.routing_key, returned.body)
        start = max(self._returns_seen_to, self._first_tag)
        fallback = None
        for tag in range(start, self._first_tag + len(self._window)):
            sent = self._window[tag - self._first_tag]
            if sent is None or (sent.message.exchange, sent.message.routing_key, sent.message.body) != key:
                continue
            if not self._verbatim or decode_properties(returned.header)[0] == sent.message.properties:
                return self._mark(tag, sent, returned)
            # Same exchange, key and body, other properties: a headers exchange may route one and not the other.
            fallback = fallback or (tag, sent)
        if fallback is None:
            return False
        # The broker takes the BCC header out, and an interceptor may add one: then the first that fits is meant.
        self._verbatim = False
        return self._mark(*fallback, returned)

    def _mark(self, tag: int, sent: Sent, returned: Returned) -> bool:
        self.returned[sent.place] = f"{returned.reply_code} {returned.reply_text}"
        self._returns_seen_to = tag + 1
        return True

    def settle(self, confirm: Confirm) -> list[Sent]:
        """Take out what a confirm covers, in order of sending.

        The list is empty for a tag that is not unconfirmed: a duplicate, or a broker's mistake.
        """
        window, first = self._window, self._first_tag
        offset = confirm.tag - first
        if confirm.multiple:
            if confirm.tag and not 0 <= offset < len(window):
                return []
            settled = self._take_front(offset + 1 if confirm.tag else len(window))
        elif offset == 0 and window:
            settled = self._take_front(1)
        elif 0 < offset < len(window):
            settled = self._take_out(offset)
        else:
            return []
        while window and window[0] is None:
            window.popleft()
            self._first_tag += 1
            self._holes -= 1
        return settled

    def _take_front(self, amount: int) -> list[Sent]:
        settled = []
        popleft = self._window.popleft
        for _ in range(amount):
            sent = popleft()
            if sent is None:
                self._holes -= 1
            else:
                self.body_bytes -= len(sent.message.body)
                settled.append(sent)
        self._first_tag += amount
        return settled

    def _take_out(self, offset: int) -> list[Sent]:
        sent = self._window[offset]
        if sent is None:
            return []
        self._window[offset] = None
        self._holes += 1
        self.body_bytes -= len(sent.message.body)
        return [sent]

    def take_all(self) -> list[Sent]:
        """Take out everything, in order of sending; the channel is gone."""
        return self._take_front(len(self._window))
