"""Messages go from a queue to an exchange, and none is lost on the way.

Each message is acknowledged only after the broker confirmed its copy: at least once. One channel does both, and each
delivery is published once, in order: so the broker's numbers for the two are the same, and a confirm is sent back as an
acknowledgement (https://www.rabbitmq.com/docs/confirms). What was not settled when a connection broke comes again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import Confirm, ConsumerCancel, Encoder, Event, LazyOrigin, Returned, encode_ack, encode_nack
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.errors import AccessRefused, ConnectionLost, ConsumerCancelled, NotConfirmed, Unroutable
from rmqkit.message import Delivery, Origin
from rmqkit.messaging.acknowledger import SettledTags
from rmqkit.messaging.publish_window import ConfirmDeadline, StoppedWaiting
from rmqkit.options import PublishOptions
from rmqkit.stop import Stop

PREFETCH = 500  # messages on their way, and in memory, at most
IDLE_S = 0.2
TRIES = 5  # to bring messages to a queue that refuses them
PAUSE_S = 0.2  # doubled at each try
_TAG = "rmqkit-mover"
_LATE_S = 0.05
_WAIT_S = 1.0  # between two looks at the clocks
_FULL = "Consume from it, or give it room, and do this again: nothing is lost."

Change = Callable[[bytes, str], tuple[bytes, str]]
"""From a message's properties as on the wire, and our user's name, to other ones; and what is to be said of it, if."""


def unchanged(header: bytes, _username: str) -> tuple[bytes, str]:
    """Let messages be as they are."""
    return header, ""


@dataclass(slots=True)
class DrainResult:
    """How many messages were moved, and how many of them at most are there twice.

    `body_bytes` is the sum of what was sent, `last_exchange` where the last message was first published to, and `notes`
    counts messages by what is to be said of them. `lost` tells that the connection was, in between.
    """

    messages: int = 0
    twice: int = 0
    body_bytes: int = 0
    last_exchange: str = ""
    notes: Counter[str] = field(default_factory=Counter)
    lost: bool = False


@dataclass(frozen=True)
class Drain:
    """A way from one queue to one exchange, over a link that may be blocked by the broker's alarms.

    `suspect` tells that another mover may have been killed at this queue: what comes redelivered may be there twice.
    """

    link: ReconnectingConnection
    queue: str
    exchange: str
    change: Change = unchanged
    suspect: bool = False
    stop: Stop = field(default_factory=Stop)

    def move(
        self, *, count: int | None = None, idle_s: float = IDLE_S, on_count: Callable[[], int | None] | None = None
    ) -> DrainResult:
        """Move messages until none came for `idle_s`, at least `count` were moved, or a stop is requested.

        With `on_count` that is asked once `count` were moved, and says after how many more to ask again; None: never.
        Whatever was delivered by then is moved too: nothing goes back to the queue. The queue is kept from other
        consumers meanwhile, where its type allows that. Raises Unroutable when the exchange has no queue, NotConfirmed
        when that queue takes no more, NotFound, AccessRefused when there is a consumer, ConsumerCancelled,
        ConnectionLost; every message is in one queue or the other then, and moving again goes on.
        """
        moved, refusals, goal = DrainResult(), 0, count

        def goes_on() -> bool:
            nonlocal goal
            if goal is not None and moved.messages >= goal:
                if on_count is None:
                    return False
                more = on_count()
                goal = None if more is None else moved.messages + more
            return True

        while True:
            before = moved.messages
            session = self._open(moved)
            if moved.lost and goal is not None and on_count is None:
                # A broker that was killed may have forgotten acknowledgements; nothing marks what comes again.
                again = max(0, session.ready - (goal - before))
                moved.twice, goal = moved.twice + again, goal + again
            else:
                session.suspect |= moved.lost
            try:
                with self.stop.waking(session.channel.wake):
                    session.run(goes_on, idle_s)
            except ConnectionLost:
                moved.lost = True
                moved.twice += session.under_way
                if self.stop.requested:
                    return moved
                continue
            finally:
                session.channel.close()
            if not session.nacked or self.stop.requested:
                return moved
            refusals = refusals + 1 if moved.messages == before else 1
            if refusals == TRIES:
                what = f"the queue that the messages of {self.queue!r} go to takes no more: basic.nack, {TRIES} times"
                raise NotConfirmed(what, advice=_FULL)
            self.stop.wait(PAUSE_S * 2**refusals)

    def _open(self, moved: DrainResult) -> _DrainSession:
        def subscribe(channel: Channel) -> _DrainSession:
            try:
                ready = self._subscribe(channel, exclusive=True)
            except AccessRefused as exc:
                if "exclusive" not in exc.reply_text:
                    raise
                # A queue with a single active consumer takes no exclusive one; but the first is as good
                # (https://www.rabbitmq.com/docs/consumers#single-active-consumer).
                channel = self.link.channel()
                ready = self._subscribe(channel, exclusive=False)
            return _DrainSession(self, channel, moved, ready)

        return self.link.recover(self.stop, subscribe)

    def _subscribe(self, channel: Channel, *, exclusive: bool) -> int:
        """Begin to consume; return how many messages were ready."""
        queue = f"queue {self.queue!r}"
        channel.confirm_select()
        channel.qos(PREFETCH, subject=queue)
        ready: int = channel.queue_counts(self.queue).message_count
        channel.consume(self.queue, tag=_TAG, exclusive=exclusive)
        return ready


class _DrainSession:
    """What is moved over one channel; it is added to `moved`."""

    def __init__(self, mover: Drain, channel: Channel, moved: DrainResult, ready: int) -> None:
        self.channel = channel
        self.ready = ready
        self.suspect = mover.suspect  # a message that comes redelivered may be there twice
        self.nacked = False
        self._mover = mover
        self._moved = moved
        self._encoder = Encoder(channel.number, channel.transport.frame_max)
        self._origin: Origin | None = None
        self._header, self._note = b"", ""  # what the properties of that origin become
        self._sent = 0  # the last delivery's tag, and the number of its publish
        self._settled = SettledTags()

    def run(self, goes_on: Callable[[], bool], idle_s: float) -> None:
        """Move messages until one of the reasons to end, and then what was delivered by then."""
        channel, stop, link = self.channel, self._mover.stop, self._mover.link
        patience = ConfirmDeadline(PublishOptions())
        last_s = time.monotonic()
        while not (
            stop.requested
            or self.nacked
            or not goes_on()
            or (not self.under_way and time.monotonic() - last_s >= idle_s)
        ):
            events = channel.wait(_WAIT_S if self.under_way else min(idle_s, _WAIT_S))
            if events:
                self._take(events)
                patience.moved()
                last_s = time.monotonic()
            elif self.under_way:
                patience.check(blocked=link.blocked, stopping=False, waiting_for=self.under_way)
        self._take(channel.wait(_LATE_S))  # a quorum queue may not hear of what is acknowledged in the same moment
        channel.cancel(_TAG, subject=f"queue {self._mover.queue!r}")
        while (events := channel.wait(_WAIT_S if self.under_way else _LATE_S)) or self.under_way:
            self._take(events)
            if not events:
                try:
                    patience.check(blocked=link.blocked, stopping=stop.requested, waiting_for=self.under_way)
                except StoppedWaiting:
                    return  # what is unsettled goes back

    @property
    def under_way(self) -> int:
        """Return how many messages were sent and are not settled."""
        return self._sent - len(self._settled)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, list):
                if not self.nacked:  # else they go back to the queue
                    self._forward(event)
            elif isinstance(event, Confirm):
                self._settle(event)
            elif isinstance(event, Returned):  # it comes before its confirm, which nobody reads any more
                exchange = self._mover.exchange
                raise Unroutable(f"exchange {exchange!r} has no queue any more: {event.reply_code} {event.reply_text}")
            elif isinstance(event, ConsumerCancel):
                raise ConsumerCancelled(f"queue {self._mover.queue!r} was deleted while its messages were moved")

    def _forward(self, deliveries: list[Delivery]) -> None:
        mover, moved, encoder = self._mover, self._moved, self._encoder
        pieces = []
        for delivery in deliveries:
            origin = delivery.origin
            if origin is not self._origin:
                assert isinstance(origin, LazyOrigin)  # noqa: S101 - the decoder makes no others
                username = self.channel.transport.address.username
                self._header, self._note = mover.change(origin.header, username)
                self._origin = origin
            pieces.append(encoder.forward(delivery, mover.exchange, self._header))
            moved.body_bytes += len(delivery.body)
            moved.twice += self.suspect and delivery.redelivered
            if self._note:
                moved.notes[self._note] += 1
        moved.last_exchange = deliveries[-1].exchange
        self._sent = deliveries[-1].delivery_tag
        self.channel.send(b"".join(pieces))

    def _settle(self, confirm: Confirm) -> None:
        """Answer a confirm with an acknowledgement of the same deliveries, and a nack by giving them back."""
        channel = self.channel
        first = self._settled.low if confirm.multiple else confirm.tag
        last = confirm.tag or self._sent
        settled = [tag for tag in range(first, last + 1) if tag not in self._settled]
        if confirm.ack and settled:
            channel.send(encode_ack(channel.number, last, multiple=confirm.multiple))
            self._moved.messages += len(settled)
        elif not confirm.ack:
            self.nacked = True
            for tag in settled:
                channel.send(encode_nack(channel.number, tag, requeue=True))
        self._settled.add(settled)
