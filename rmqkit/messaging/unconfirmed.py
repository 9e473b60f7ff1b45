"""The messages published on one channel and not yet confirmed, matched with the broker's confirms and returns. Pure.

The broker numbers publishes from 1 on each channel (https://www.rabbitmq.com/docs/confirms). A return has no number,
but it arrives before its confirm, and returns arrive in the order of publishing: each belongs to the first unconfirmed
message, after the last one returned, that equals it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from rmqkit.amqp.frames import Confirm, Returned
from rmqkit.message import Delivery, Message
from rmqkit.messaging.message_rewrite import Destination
from rmqkit.payload.field_table import encode_properties


class Sent(NamedTuple):
    """A message of an input: its position there, from 0, how often it was sent before, and how often nacked."""

    position: int
    message: Message
    body_bytes: int
    tries: int = 0
    nacks: int = 0

    def is_like(self, returned: Returned) -> bool:
        """Tell whether a returned message has the same exchange, routing key and body."""
        message, target = self.message, (returned.exchange, returned.routing_key)
        return message.body == returned.body and (message.exchange, message.routing_key) == target

    def has_properties(self, header: bytes) -> bool:
        """Tell whether properties, as on the wire, are those of the message."""
        return encode_properties(self.message.properties) == header

    def retried(self) -> Sent:
        """Return the message as it is sent after a nack."""
        return self._replace(tries=self.tries + 1, nacks=self.nacks + 1)


class Transferred(NamedTuple):
    """A delivery that is published to its destination, and how often that was nacked."""

    delivery: Delivery
    destination: Destination
    body_bytes: int
    nacks: int = 0

    @property
    def position(self) -> int:
        """Return the delivery tag."""
        return self.delivery.delivery_tag

    def is_like(self, returned: Returned) -> bool:
        """Do as `Sent.is_like`."""
        target = returned.exchange, returned.routing_key
        return self.destination[:2] == target and self.delivery.body == returned.body

    def has_properties(self, header: bytes) -> bool:
        """Tell whether properties, as on the wire, are those of the message."""
        return self.destination.header == header

    def retried(self) -> Transferred:
        """Return the message as it is published after a nack."""
        return self._replace(nacks=self.nacks + 1)


PublishedT = TypeVar("PublishedT", Sent, Transferred)


class Unconfirmed(Generic[PublishedT]):
    """The unconfirmed messages of one channel; `body_bytes` is the sum of their bodies."""

    def __init__(self, *, always_exact: bool = False) -> None:
        self.body_bytes = 0
        self.returned: dict[int, str] = {}  # the position of each returned message -> the reason
        self._window: deque[PublishedT | None] = deque()  # None: confirmed out of order
        self._first_tag = 1
        self._holes = 0
        self._returns_seen_to = 1  # returns arrive in order: no more belong to a tag below this one
        self._verbatim = True  # the broker returns properties as they were sent
        self._always_exact = always_exact  # compare them nevertheless: mistaking one message for another loses one

    def __len__(self) -> int:
        return len(self._window) - self._holes

    def add(self, published: PublishedT) -> None:
        """Add the message that was published last."""
        self._window.append(published)
        self.body_bytes += published.body_bytes

    def extend(self, published: Sequence[PublishedT]) -> None:
        """Add the messages that were published last, in order."""
        self._window.extend(published)
        self.body_bytes += sum([each.body_bytes for each in published])

    def note_return(self, returned: Returned) -> bool:
        """Record a return for its message; return False if there is no such message."""
        start = max(self._returns_seen_to, self._first_tag)
        fallback = None
        for tag in range(start, self._first_tag + len(self._window)):
            published = self._window[tag - self._first_tag]
            if published is None or not published.is_like(returned):
                continue
            if not (self._verbatim or self._always_exact) or published.has_properties(returned.header):
                return self._mark(tag, published, returned)
            # Same exchange, key and body, other properties: a headers exchange may route one and not the other.
            fallback = fallback or (tag, published)
        if fallback is None:
            return False
        # The broker removes the BCC header, and an interceptor may add one: then it is the first that fits.
        self._verbatim = False
        return self._mark(*fallback, returned)

    def _mark(self, tag: int, published: PublishedT, returned: Returned) -> bool:
        self.returned[published.position] = f"{returned.reply_code} {returned.reply_text}"
        self._returns_seen_to = tag + 1
        return True

    def settle(self, confirm: Confirm) -> list[PublishedT]:
        """Remove the messages that a confirm covers and return them, in order of publishing.

        The list is empty for a tag that is not unconfirmed: a duplicate, or an error of the broker.
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

    def _take_front(self, amount: int) -> list[PublishedT]:
        settled = []
        popleft = self._window.popleft
        for _ in range(amount):
            published = popleft()
            if published is None:
                self._holes -= 1
            else:
                self.body_bytes -= published.body_bytes
                settled.append(published)
        self._first_tag += amount
        return settled

    def _take_out(self, offset: int) -> list[PublishedT]:
        published = self._window[offset]
        if published is None:
            return []
        self._window[offset] = None
        self._holes += 1
        self.body_bytes -= published.body_bytes
        return [published]

    def replace_each(self, replaced: Callable[[PublishedT], PublishedT]) -> None:
        """Replace each message, in order of publishing, by the result of a function."""
        self._window = deque(None if each is None else replaced(each) for each in self._window)

    def take_all(self) -> list[PublishedT]:
        """Remove and return all messages, in order of publishing, because the channel is gone."""
        return self._take_front(len(self._window))
