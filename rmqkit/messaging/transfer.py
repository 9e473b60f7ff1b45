"""What a move does over one channel: it takes deliveries, publishes them, and acknowledges what was confirmed.

Confirm before acknowledge: at least once (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from rmqkit.amqp import declare_methods
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import Confirm, ConsumerCancel, Encoder, Event, LazyOrigin, Returned
from rmqkit.amqp.inspector import EntityInspector
from rmqkit.errors import ConsumerCancelled, PayloadError, Refused
from rmqkit.message import Delivery, Origin
from rmqkit.messaging.held_deliveries import HeldDeliveries
from rmqkit.messaging.message_rewrite import Destination
from rmqkit.messaging.move import MoveGroups
from rmqkit.messaging.publish_window import ConfirmDeadline, StoppedWaiting
from rmqkit.model import Exchange, Queue
from rmqkit.options import PublishOptions

if TYPE_CHECKING:
    from rmqkit.messaging.move import Move

TRIES = 5  # to bring a message to a queue that refuses it
PAUSE_S = 0.2  # doubled at each try
_IDLE_S, _LONGEST_IDLE_S = 1.0, 10.0  # without a message: if the queue is empty, and if it seems not to be
_WAIT_S = 1.0  # between two looks at the clocks
_LATE_S = 0.05  # a quorum queue may not hear of what is acknowledged in the moment its channel closes


@dataclass
class MoveCounts:
    """What was left in the queue; and of a dry run, what it found."""

    unmatched: int = 0
    stayed: Counter[str] = field(default_factory=Counter)
    inventory: MoveGroups = field(default_factory=MoveGroups)


class _InFlight(NamedTuple):
    """A message on its way, and how often it was nacked."""

    delivery: Delivery
    way: Destination
    nacks: int = 0


class TransferSession:
    """A pass over the queue; it ends early when its channel does."""

    def __init__(self, move: Move, channel: Channel) -> None:
        self.channel = channel
        self._move = move
        self._looker: EntityInspector
        self.lease = HeldDeliveries(channel, move.source)
        self._username = channel.transport.address.username
        self._encoder = Encoder(channel.number, channel.transport.frame_max)
        self._patience = ConfirmDeadline(PublishOptions())
        self._backlog: deque[Delivery] = deque()  # delivered, and not looked at
        self._under_way: dict[int, _InFlight] = {}  # by the number of the publish, in its order
        self._returned: dict[int, str] = {}  # likewise: why
        self._returns_seen_to = 0
        self._nacked: deque[tuple[float, _InFlight]] = deque()  # to be sent again, and when
        self._full: set[str] = set()  # queues that took nothing, at any try
        self._absent: dict[str, bool] = {}  # ends of ways, as in errors
        self._origin: Origin | None = None
        self._way: Destination | str = ""  # of that origin
        self._looked = self._picked = self._sent = 0
        self._bytes = 0  # of the bodies looked at
        self._ending = False  # what is in the backlog stays
        self._started_s = self._last_s = time.monotonic()
        channel.confirm_select()

    def run(self, looker: EntityInspector, to_look_at: int) -> None:
        """Move messages until there is a reason to end, and then wait for what is under way."""
        move, self._looker, self._to_look_at = self._move, looker, to_look_at
        self._to_pick = self._to_look_at if move.options.limit is None else move.options.limit - move.moved
        if not self._has_ended():
            self.lease.subscribe(0)
        while not self._has_ended():
            if self.lease.is_spent():
                self.lease.subscribe(self._bytes // max(self._looked, 1))
            self._look()
            self._work_off()
        self._ending = True
        while self._under_way or self._nacked:
            if move.stop.requested:
                self._nacked.clear()  # they stay
            try:
                self._look()
            except StoppedWaiting:
                break  # and the channel closes: all goes back
        else:
            self.lease.give_back(delivery.delivery_tag for delivery in self._backlog)
        self.channel.wait(_LATE_S)

    # What is to be done, and when.

    def _has_ended(self) -> bool:
        if self._move.stop.requested or self._looked >= self._to_look_at or self._picked >= self._to_pick:
            return True
        if self._backlog or self._under_way or self._nacked:
            return False
        idle_s = time.monotonic() - self._last_s
        return idle_s >= _LONGEST_IDLE_S or (idle_s >= _IDLE_S and not self.lease.ready())

    def _allowed(self) -> int:
        """Count the messages that may be looked at now."""
        rate = self._move.options.rate
        most = min(len(self._backlog), self._to_look_at - self._looked, self._to_pick - self._picked)
        if rate is not None:
            most = min(most, 1 + int((time.monotonic() - self._started_s) * rate) - self._picked)
        return max(most, 0)

    def _timeout_s(self) -> float:
        """Return how long there is nothing to do, unless something comes."""
        now, timeout_s = time.monotonic(), _WAIT_S
        if self._nacked:
            timeout_s = min(timeout_s, self._nacked[0][0] - now)
        if self._backlog and not self._ending:
            rate = self._move.options.rate
            timeout_s = 0 if rate is None else min(timeout_s, self._started_s + self._picked / rate - now)
        return max(timeout_s, 0)

    # The way out.

    def _work_off(self) -> None:
        """Look at what was delivered, and send what is to be moved."""
        move, pieces = self._move, []
        for _ in range(self._allowed()):
            delivery = self._backlog.popleft()
            self._looked += 1
            self._bytes += len(delivery.body)
            if not move.matches(delivery):
                move.left.unmatched += 1
                self.lease.keep(delivery.delivery_tag)
                continue
            way = self._find(delivery)
            if move.options.dry_run:
                move.left.inventory.add(delivery.origin, way)
            if isinstance(way, str):
                self._stay(delivery, way)
                continue
            self._picked += 1
            if move.options.dry_run:
                move.moved += 1
                self.lease.keep(delivery.delivery_tag)
            else:
                pieces.append(self._encode(_InFlight(delivery, way)))
        self._send(b"".join(pieces))

    def _find(self, delivery: Delivery) -> Destination | str:
        origin = delivery.origin
        if origin is not self._origin:
            assert isinstance(origin, LazyOrigin)  # noqa: S101 - the decoder makes no others
            self._origin = origin
            self._way = self._move.find(origin, self._username)
            if isinstance(self._way, Destination):
                self._way = self._trouble(self._way) or self._way
        return self._way

    def _trouble(self, way: Destination) -> str:
        """Say that a way ends nowhere: publishing to an exchange that is not there would end the channel."""
        end = Exchange(way.exchange) if way.exchange else Queue(way.routing_key)
        name = declare_methods.subject(end)
        if name not in self._absent:
            try:
                self._absent[name] = self._looker.passive_declare(end) is None
            except Refused:  # it may not be looked at, but is there
                self._absent[name] = False
        return f"there is no {name}" if self._absent[name] else ""

    def _encode(self, flight: _InFlight) -> bytes:
        delivery, way, _ = flight
        try:
            data = self._encoder.forward(delivery, way.exchange, way.header, way.routing_key)
        except PayloadError as exc:  # it was the largest that a frame holds
            self._stay(delivery, exc.message)
            return b""
        self._sent += 1
        self._under_way[self._sent] = flight
        return data

    def _stay(self, delivery: Delivery, why: str) -> None:
        self._move.left.stayed[why] += 1
        self.lease.keep(delivery.delivery_tag)

    def _send(self, data: bytes) -> None:
        if data:  # nothing is no frame
            self.channel.send(data)

    # The way back.

    def _look(self) -> None:
        """Take in what the broker says, or wait for it."""
        events = self.channel.wait(self._timeout_s(), subject=self.lease.subject)
        if events:
            self._take(events)
            self._last_s = time.monotonic()
        if events or not self._under_way:
            self._patience.moved()
        stopping = self._move.stop.requested
        self._patience.check(blocked=self._move.link.blocked, stopping=stopping, waiting_for=len(self._under_way))
        while self._nacked and self._nacked[0][0] <= time.monotonic():
            self._send(self._encode(self._nacked.popleft()[1]))
        self._move.tell()

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, list):
                self._backlog.extend(event)
                self.lease.receive(event[-1].delivery_tag)
            elif isinstance(event, Confirm):
                self._settle(event)
            elif isinstance(event, Returned):
                self._note(event)
            elif isinstance(event, ConsumerCancel):
                raise ConsumerCancelled(f"{self.lease.subject} was deleted while its messages were moved")

    def _note(self, returned: Returned) -> None:
        """Tie a return, which has no number, to its message: the next that equals it, in the order of publishing."""
        target, body = (returned.exchange, returned.routing_key), returned.body
        numbers = range(self._returns_seen_to + 1, self._sent + 1)
        number = next((each for each in numbers if self._is(each, target, body, returned.header)), 0)
        # The broker may have been told to add a header.
        number = number or next((each for each in numbers if self._is(each, target, body)), 0)
        if number:
            key = returned.routing_key
            what = f"exchange {returned.exchange!r} has no queue for routing key" if returned.exchange else "no queue"
            self._returned[number] = f"{what} {key!r}: {returned.reply_code} {returned.reply_text}"
            self._returns_seen_to = number

    def _is(self, number: int, target: tuple[str, str], body: bytes, header: bytes | None = None) -> bool:
        flight = self._under_way.get(number)
        if flight is None or flight.delivery.body != body or flight.way[:2] != target:
            return False
        return header is None or flight.way.header == header

    def _settle(self, confirm: Confirm) -> None:
        flights = self._under_way
        if confirm.multiple:
            numbers = list(takewhile(lambda number: not confirm.tag or number <= confirm.tag, flights))
        else:
            numbers = [confirm.tag] if confirm.tag in flights else []
        taken = []
        for number in numbers:
            flight = flights.pop(number)
            if number in self._returned:
                self._stay(flight.delivery, self._returned.pop(number))
            elif confirm.ack:
                taken.append(flight)
            else:
                self._refused(flight)
        if taken:
            self._full.difference_update(each.way.routing_key for each in taken if self._full)
            self.lease.settle(each.delivery.delivery_tag for each in taken)
            self._move.moved += len(taken)
            self._move.redelivered += sum(each.delivery.redelivered for each in taken)

    def _refused(self, flight: _InFlight) -> None:
        """Try again after a pause; but not through an exchange, where other queues may have taken it."""
        delivery, way, nacks = flight
        nacks += 1
        if way.exchange:
            self._stay(delivery, f"a queue behind exchange {way.exchange!r} takes no more; others may have got it")
        elif nacks < TRIES and way.routing_key not in self._full and not self._move.stop.requested:
            self._nacked.append((time.monotonic() + PAUSE_S * 2 ** (nacks - 1), _InFlight(delivery, way, nacks)))
        else:
            self._full.add(way.routing_key)
            self._stay(delivery, f"queue {way.routing_key!r} takes no more")
