"""Messages go from a queue to where each came from, or to a target, and none is lost on the way.

It ends after one pass over what was in the queue at the start, whatever comes to it meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from rmqkit.amqp.inspector import EntityInspector
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.errors import BrokerError, ConnectionLost, NotFound, PropertyMismatch
from rmqkit.message import Delivery, Origin
from rmqkit.messaging.message_rewrite import Destination, DestinationFor
from rmqkit.messaging.transfer import MoveCounts, TransferSession
from rmqkit.options import MoveOptions
from rmqkit.payload.death_headers import deaths
from rmqkit.report import MoveGroup, MoveReport
from rmqkit.stop import Stop

MOST_GROUPS = 1000  # what belongs to none of them is in one more


class MoveGroups:
    """Counts messages by group."""

    def __init__(self) -> None:
        self._groups: dict[MoveGroup, MoveGroup] = {}  # without its numbers -> with them
        self._origin: Origin | None = None
        self._kind = MoveGroup()
        self._time: datetime | None = None

    @property
    def groups(self) -> tuple[MoveGroup, ...]:
        """Return the groups, the largest first."""
        return tuple(sorted(self._groups.values(), key=lambda group: -group.messages))

    def add(self, origin: Origin, way: Destination | str) -> None:
        """Count a message; a way that is a text says why there is none."""
        if origin is not self._origin:
            self._origin = origin
            self._kind, self._time = _kind(origin, way)
            if self._kind not in self._groups and len(self._groups) >= MOST_GROUPS:
                self._kind = MoveGroup("other")
        group = self._groups.get(self._kind, self._kind)
        times = tuple(_times(group.oldest, group.newest, self._time))
        self._groups[self._kind] = replace(
            group,
            messages=group.messages + 1,
            oldest=min(times, default=None),
            newest=max(times, default=None),
        )


def _times(*times: datetime | None) -> Iterator[datetime]:
    return (time for time in times if time is not None)


def _kind(origin: Origin, way: Destination | str) -> tuple[MoveGroup, datetime | None]:
    died = deaths(origin.properties.headers)
    target, trouble = (None, way) if isinstance(way, str) else (way.target, "")
    if not died:
        kind = MoveGroup("", "", origin.exchange, (origin.routing_key,), target, trouble)
        return kind, origin.properties.timestamp
    death = died[0]
    kind = MoveGroup(death.reason, death.queue, death.exchange, death.routing_keys, target, trouble)
    return kind, death.time


_FAILURES = 5  # in a row, with nothing moved in between
_PAUSE_S = 0.2  # after the second of them, and longer after the next
_PROGRESS_EVERY_S = 0.05


@dataclass
class Move:
    """One move, over a link that may be blocked by the broker's alarms.

    `on_progress` hears now and then how many messages were looked at, and why nothing moves.
    """

    link: ReconnectingConnection
    source: str
    find: DestinationFor
    matches: Callable[[Delivery], bool]
    options: MoveOptions
    stop: Stop
    on_progress: Callable[[int, str], None]
    on_warning: Callable[[str], None]
    ready: int = 0
    moved: int = 0
    redelivered: int = 0
    left: MoveCounts = field(default_factory=MoveCounts)
    _begun_s: float = field(default_factory=time.monotonic)
    _told_s: float = 0.0
    _before: int = 0  # moved before this pass
    _failure: BrokerError | None = None

    def run(self) -> MoveReport:
        """Move messages until all that were there were looked at, the limit is reached, or a stop is requested.

        Raises NotFound, ResourceLocked, AccessRefused, ConsumerCancelled when the queue was deleted, NotConfirmed when
        nothing is confirmed for too long, ConnectionLost. The error's `report` has the numbers; moving again goes on.
        """
        try:
            self._run()
        except BrokerError as exc:
            exc.report = self.report
            raise
        return self.report

    @property
    def report(self) -> MoveReport:
        """Return what was done so far."""
        return MoveReport(
            ready=self.ready,
            moved=self.moved,
            redelivered=self.redelivered,
            unmatched=self.left.unmatched,
            stayed=dict(self.left.stayed),
            groups=self.left.inventory.groups,
            dry_run=self.options.dry_run,
            interrupted=self.stop.requested,
            seconds=time.monotonic() - self._begun_s,
        )

    def tell(self) -> None:
        """Tell of the progress, now and then."""
        if time.monotonic() - self._told_s >= _PROGRESS_EVERY_S:
            self._told_s = time.monotonic()
            self.on_progress(self.moved + self.left.unmatched + self.left.stayed.total(), self.link.blocked)

    def _run(self) -> None:
        failures = 0
        while not (self._pass() or self.stop.requested):
            failures = failures + 1 if self.moved == self._before else 0
            if failures == _FAILURES:
                assert self._failure is not None  # noqa: S101 - a pass that is not whole has one
                raise self._failure
            self.on_warning(f"{self._failure}; going on")
            self.stop.wait(_PAUSE_S * failures)

    def _pass(self) -> bool:
        """Make one pass over the queue; False if it was cut short by what may be over by the next time."""
        self._before = self.moved
        crossing = self._open()
        try:
            self.ready = self.ready or crossing.lease.ready()
            with self.stop.waking(crossing.channel.wake), EntityInspector(self.link) as looker:
                # After a failure what was there may be there again, so far as its acknowledgement was lost: then the
                # pass ends when nothing comes, and it is no longer than the first.
                crossing.run(looker, self.ready)
        except (ConnectionLost, NotFound, PropertyMismatch) as exc:
            # The last two: an exchange was deleted meanwhile; or what stays was held for longer than consumer_timeout
            # (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
            if isinstance(exc, NotFound) and "no queue" in exc.reply_text:  # none to take from
                raise
            self._failure = exc
            return False
        finally:
            crossing.channel.close()
        return True

    def _open(self) -> TransferSession:
        """Open a channel; what stayed on the one before comes again."""
        self.left = MoveCounts()
        if self.options.dry_run:
            self.moved = 0
        return self.link.recover(self.stop, lambda channel: TransferSession(self, channel))
