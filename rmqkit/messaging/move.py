"""Move the messages of a queue to where each came from, or to a target, and lose none on the way.

A move ends after one pass over the messages that were in the queue at the start, whatever arrives meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rmqkit.amqp import entity_methods
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import (
    BrokerError,
    ConnectionLost,
    InputError,
    NotFound,
    PayloadError,
    PropertyMismatch,
    Refused,
    Unroutable,
)
from rmqkit.message import Delivery, Headers, Origin
from rmqkit.messaging.held_deliveries import HeldDeliveries, hold_returned
from rmqkit.messaging.message_rewrite import Destination, DestinationFor, with_keys
from rmqkit.messaging.move_groups import MoveGroups
from rmqkit.messaging.publish_window import RetryQueue, StoppedWaiting
from rmqkit.messaging.queue_browser import BrowseLimits, QueueBrowser, SideEffects
from rmqkit.messaging.transfer import LATE_S, WAIT_S, Transfer
from rmqkit.messaging.unconfirmed import Transferred
from rmqkit.model import Exchange, Queue
from rmqkit.options import DRY_RUN, MoveOptions
from rmqkit.payload.death_headers import CC
from rmqkit.report import MoveReport
from rmqkit.stop import Stop

_IDLE_S, _LONGEST_IDLE_S = 1.0, 10.0  # without a message: if the queue is empty, and if it does not seem to be
_IN_FLIGHT_S = 4.0  # if it is empty, but some messages are not here: taken by others, or on their way from a slow disk
_NOT_DELIVERED = f"RabbitMQ delivered no more for {_LONGEST_IDLE_S:g} s"
_FAILURES = 5  # in a row, with nothing moved in between
_PAUSE_S = 0.2  # after the second failure, and longer after the next
_PROGRESS_EVERY_S = 0.05
_DRY_RUN_MOST = 10_000  # messages that a dry run inspects, if its limit asks for more than DRY_RUN
_HOLD_S = 0.5  # a dry run holds messages no longer


@dataclass
class Move:
    """One move, over a connection that broker alarms may block.

    `on_progress` receives, from time to time, how many messages were inspected and why the broker blocks publishers.
    `target` is a connection to another broker, to which the messages are published over `out`, a channel for each pass.
    `drops_dead_letter` tells whether a queue drops a dead letter with this routing key and headers; None: unknown.
    `queue_type` is that of the source, None if it is unknown.
    """

    connection: ReconnectingConnection
    source: str
    destination_for: DestinationFor
    matches: Callable[[Delivery], bool]
    options: MoveOptions
    stop: Stop
    on_progress: Callable[[int, str], None]
    on_warning: Callable[[str], None]
    drops_dead_letter: Callable[[str, str, Headers], bool | None]
    target: ReconnectingConnection | None = None
    queue_type: str | None = None
    out: Channel | None = field(default=None, init=False)
    ready: int = 0
    moved: int = 0
    redelivered: int = 0
    unmatched: int = 0
    stayed: Counter[str] = field(default_factory=Counter)
    groups: MoveGroups = field(default_factory=MoveGroups)
    _started_s: float = field(default_factory=time.monotonic)
    _reported_s: float = 0.0
    _failure: BrokerError | None = None

    def run(self) -> MoveReport:
        """Move messages until all were inspected, the limit is reached, or a stop is requested.

        Raises InputError for a stream, NotFound, ResourceLocked, AccessRefused, ConsumerCancelled when the queue was
        deleted, NotConfirmed when nothing is confirmed for too long, ConnectionLost. The error's `report` has the
        numbers; moving again resumes.
        """
        failures = moved_before = 0
        self._refuse_stream()
        try:
            while not (self._pass() or self.stop.requested):
                failures = failures + 1 if self.moved == moved_before else 0
                moved_before = self.moved
                assert self._failure is not None  # noqa: S101 - an incomplete pass has one
                if failures == _FAILURES or self.options.copy:  # another pass would copy the same messages again
                    raise self._failure
                self.on_warning(f"{self._failure}; continuing")
                self.stop.wait(_PAUSE_S * failures)
        except BrokerError as exc:
            exc.report = self.report
            raise
        return self.report

    @property
    def publishing(self) -> ReconnectingConnection:
        """Return the connection to the broker that receives the messages."""
        return self.target or self.connection

    def open_pass(self, channel: Channel) -> MovePass:
        """Return a pass over the queue on a new channel."""
        return MovePass(self, channel)

    @property
    def report(self) -> MoveReport:
        """Return the result so far."""
        return MoveReport(
            ready=self.ready,
            moved=self.moved,
            redelivered=self.redelivered,
            unmatched=self.unmatched,
            stayed=dict(self.stayed),
            groups=self.groups.groups,
            dry_run=self.options.dry_run,
            copy=self.options.copy,
            interrupted=self.stop.requested,
            seconds=time.monotonic() - self._started_s,
        )

    def report_progress(self) -> None:
        """Call `on_progress`, unless that was done a moment ago."""
        if time.monotonic() - self._reported_s >= _PROGRESS_EVERY_S:
            self._reported_s = time.monotonic()
            self.on_progress(self.moved + self.unmatched + self.stayed.total(), self.publishing.blocked)

    def _refuse_stream(self) -> None:
        with EntityInspector(self.connection) as inspector:
            if inspector.is_stream(self.source):
                raise InputError(
                    f"queue {self.source!r} is a stream: acknowledging removes no message, so none can be moved",
                    advice="Consume it from `offset=first`, and publish copies.",
                )

    def _browse(self, session: MovePass) -> None:
        """Inspect the first messages, count what a move would do with each, and leave them in their queue."""
        bounds = BrowseLimits(min(max(self.options.limit or 0, DRY_RUN), _DRY_RUN_MOST), _HOLD_S)
        effects = SideEffects(type=self.queue_type)
        with (
            EntityInspector(self.publishing, self.stop) as inspector,
            QueueBrowser(session.channel, self.source, bounds, self.stop, effects) as browser,
        ):
            self.ready = browser.ready
            for delivery in browser:
                session.preview(delivery, inspector)
                if self.moved == self.options.limit:
                    break

    def _pass(self) -> bool:
        """Make one pass over the queue; return False if a temporary condition cut it short."""
        # What stayed on the channel before is delivered again.
        self.unmatched, self.stayed, self.groups = 0, Counter(), MoveGroups()
        if self.options.dry_run:
            self.moved = 0
        self.out = self.target.recover(self.stop, lambda channel: channel) if self.target else None
        session = self.connection.recover(self.stop, self.open_pass)
        try:
            if self.options.dry_run:
                self._browse(session)
                return True
            self.ready = self.ready or session.held.ready()
            with self.stop.waking(session.channel.wake), EntityInspector(self.publishing, self.stop) as inspector:
                # After a failure the same messages may be there again, as far as acknowledgements were lost: then the
                # pass ends when no more arrive, and it is no longer than the first.
                session.run(inspector, self.ready)
        except (ConnectionLost, NotFound, PropertyMismatch) as exc:
            # The last two: an exchange was deleted meanwhile; or a message that stays was held for longer than
            # consumer_timeout (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
            if isinstance(exc, NotFound) and "no queue" in exc.reply_text:  # the source is gone
                raise
            self._failure = exc
            return False
        finally:
            session.close()
        return True


class MovePass(Transfer):
    """One pass over the queue, on one channel; it ends early when its channel does."""

    def __init__(self, move: Move, channel: Channel) -> None:
        super().__init__(move.publishing, channel, move.source, self._existing_destination, move.stop, out=move.out)
        self.held = HeldDeliveries(channel, move.source)
        self._move = move
        self._inspector: EntityInspector
        self._backlog: deque[Delivery] = deque()  # delivered and not inspected
        self._retries: RetryQueue[Transferred] = RetryQueue()
        self._full: set[str] = set()  # queues that rejected a message at every try
        self._missing: dict[str, bool] = {}  # by the name of a queue or exchange, as in errors
        self._inspected = self._selected = 0
        self._inspected_bytes = 0
        self._ending = False  # the backlog stays
        self._redelivered = False  # the last one received
        self._started_s = self._last_event_s = time.monotonic()

    def run(self, inspector: EntityInspector, max_inspected: int) -> None:
        """Move messages until there is a reason to end, and then wait for those in flight."""
        move, self._inspector, self._max_inspected = self._move, inspector, max_inspected
        self._max_selected = max_inspected if move.options.limit is None else move.options.limit - move.moved
        if not self._has_ended():
            self.held.subscribe(0)
        while not self._has_ended():
            if self.held.is_spent():
                self.held.subscribe(self._inspected_bytes // max(self._inspected, 1))
            self._receive()
            self._inspect_backlog()
        if undelivered := self._undelivered():
            move.stayed[_NOT_DELIVERED] = undelivered
        self._ending = True
        self.held.end(self.receive)
        self.receive(0)
        while self.in_flight or len(self._retries):
            if self.stop.requested:
                self._retries.take_all()  # they stay
            try:
                self._receive()
            except StoppedWaiting:
                break  # closing the channel requeues everything
        else:
            partial, classic = self.held.received < move.ready, move.queue_type == "classic"
            if partial and self.held.some_stay and self._redelivered and not classic:
                hold_returned(self._receive_more)
            self.held.requeue(whole=self.held.received >= move.ready, classic=classic)
        self.channel.wait(LATE_S)

    def close(self) -> None:
        """Close the channels, also in the middle of a pass."""
        self.held.close()
        super().close()

    def _undelivered(self) -> int:
        """Count the messages that are ready, but were not delivered for too long, as to a single active consumer."""
        if self._is_done() or time.monotonic() - self._last_event_s < _LONGEST_IDLE_S:
            return 0
        return min(self.held.ready(), self._max_inspected - self._inspected)

    def _is_done(self) -> bool:
        return self.stop.requested or self._inspected >= self._max_inspected or self._selected >= self._max_selected

    def _has_ended(self) -> bool:
        if self._is_done():
            return True
        if self._backlog or self.in_flight or len(self._retries):
            return False
        idle_s = time.monotonic() - self._last_event_s
        empty_s = _IN_FLIGHT_S if self.held.received < self._move.ready else _IDLE_S
        return idle_s >= _LONGEST_IDLE_S or (idle_s >= empty_s and not self.held.ready())

    def _allowed(self) -> int:
        rate = self._move.options.rate
        most = min(len(self._backlog), self._max_inspected - self._inspected, self._max_selected - self._selected)
        if rate is not None:
            most = min(most, 1 + int((time.monotonic() - self._started_s) * rate) - self._selected)
        return max(most, 0)

    def _timeout_s(self) -> float:
        """Return how long there is nothing to do, unless an event arrives."""
        timeout_s = min(WAIT_S, self._retries.due_in_s())
        if self._backlog and not self._ending:
            rate = self._move.options.rate
            due_s = 0 if rate is None else self._started_s + self._selected / rate - time.monotonic()
            timeout_s = min(timeout_s, due_s)
        return max(timeout_s, 0)

    def _receive(self) -> None:
        if self.receive(self._timeout_s()):
            self._last_event_s = time.monotonic()
        if due := self._retries.take_due():
            self.publish(due)
        self._move.report_progress()

    def take(self, deliveries: list[Delivery]) -> None:
        """Add deliveries to the backlog; at the end, they stay."""
        if self._ending:
            self.held.keep(len(deliveries))
        else:
            self._backlog.extend(deliveries)
        self.held.receive(deliveries[-1].delivery_tag)
        self._redelivered = deliveries[-1].redelivered

    def _receive_more(self, count: int, until_s: float) -> tuple[int, bool]:
        """Hold more messages, which stay."""
        return self.held.receive_more(count, until_s, self.receive), self._redelivered

    def _inspect_backlog(self) -> None:
        move, selected = self._move, []
        for _ in range(self._allowed()):
            delivery = self._backlog.popleft()
            self._inspected += 1
            self._inspected_bytes += len(delivery.body)
            if not move.matches(delivery):
                move.unmatched += 1
                self.held.keep(1)
                continue
            destination = self.destination(delivery)
            if isinstance(destination, str):
                self._stay(destination)
                continue
            self._selected += 1
            selected.append(Transferred(delivery, destination, len(delivery.body)))
        self.publish(selected)

    def preview(self, delivery: Delivery, inspector: EntityInspector) -> None:
        """Count what a move would do with a delivery."""
        move, self._inspector = self._move, inspector
        if not move.matches(delivery):
            move.unmatched += 1
        else:
            destination = self.destination(delivery)
            move.groups.add(delivery.origin, destination)
            if isinstance(destination, str):
                move.stayed[destination] += 1
            else:
                move.moved += 1
        move.report_progress()

    def _existing_destination(self, origin: Origin, username: str) -> Destination | str:
        """Find a destination, and check that it exists: publishing to a missing exchange would close the channel."""
        destination = self._move.destination_for(origin, username)
        if isinstance(destination, str):
            return destination
        end = Exchange(destination.exchange) if destination.exchange else Queue(destination.routing_key)
        if self._is_missing(end):
            return f"there is no {entity_methods.subject(end)}"
        keys = [key for key in destination.keys if self._is_missing(Queue(key))]
        if origin.routing_key in {*destination.keys} - {*keys}:  # the dead letters of that queue keep their keys
            queue, headers = destination.routing_key, {**(origin.properties.headers or {}), CC: keys}
            if (drops := self._move.drops_dead_letter(queue, queue, headers)) is not False:
                fate = "would" if drops else "might"
                clash = f"its routing key {origin.routing_key!r}, the name of another queue, would be lost"
                return f"{clash}, and its next dead letter {fate} reach no queue"
        return with_keys(destination, keys) if keys else destination

    def _is_missing(self, entity: Exchange | Queue) -> bool:
        name = entity_methods.subject(entity)
        if name not in self._missing:
            try:
                entity.name.encode()
                self._missing[name] = self._inspector.passive_declare(entity) is None
            except UnicodeEncodeError:  # a routing key may be any bytes, but RabbitMQ accepts no such name
                self._missing[name] = True
            except Refused:  # it exists, but this login may not inspect it
                self._missing[name] = False
        return self._missing[name]

    def _stay(self, reason: str) -> None:
        self._move.stayed[reason] += 1
        self.held.keep(1)

    def acknowledge(self, confirmed: list[Transferred]) -> None:
        """Acknowledge deliveries and count them."""
        if self._full:
            self._full.difference_update([each.destination.routing_key for each in confirmed])
        if self._move.options.copy:
            self.held.keep(len(confirmed))
        else:
            self.held.settle([each.delivery.delivery_tag for each in confirmed])
        self._move.moved += len(confirmed)
        self._move.redelivered += sum([each.delivery.redelivered for each in confirmed])

    def nacked(self, message: Transferred) -> None:
        """Retry after a pause; but not through an exchange, where other queues may have accepted the message."""
        destination = message.destination
        if destination.exchange:
            name = destination.exchange
            self._stay(f"a queue behind exchange {name!r} rejects messages; others may have accepted it")
        elif destination.routing_key in self._full or self.stop.requested or not self._retries.add(message):
            self._full.add(destination.routing_key)
            self._stay(f"queue {destination.routing_key!r} rejects messages: it is full or unavailable")

    def failed(self, message: Transferred, error: PayloadError | Unroutable) -> None:  # noqa: ARG002
        """Leave the delivery in its queue."""
        self._stay(error.message)
