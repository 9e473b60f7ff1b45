"""Messages go from a queue to where each came from, or to a target, and none is lost on the way.

Comes in: a queue, how to find each message's way, and which messages. Goes out: a MoveReport. Room: broker; what is
done over one channel is in `crossing`, and `mover` is for queues that are replaced.

It ends after one pass over what was in the queue at the start, whatever comes to it meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rmqkit.broker.channel import Channel
from rmqkit.broker.crossing import Crossing, Left
from rmqkit.broker.link import Link
from rmqkit.broker.options import MoveOptions
from rmqkit.broker.probing import Looker
from rmqkit.broker.ways import Finder
from rmqkit.errors import BrokerError, ConnectionLost, NotFound, PropertyMismatch
from rmqkit.message import Delivery
from rmqkit.report import MoveReport
from rmqkit.stop import Stop

_REFUSALS = 5  # of the broker in a row, with nothing moved in between
_PROGRESS_EVERY_S = 0.05


@dataclass
class Move:
    """One move, over a link that may be blocked by the broker's alarms.

    `on_progress` hears now and then how many messages were looked at, and why nothing moves.
    """

    link: Link
    source: str
    find: Finder
    matches: Callable[[Delivery], bool]
    options: MoveOptions
    stop: Stop
    on_progress: Callable[[int, str], None]
    on_warning: Callable[[str], None]
    ready: int = 0
    moved: int = 0
    redelivered: int = 0
    left: Left = field(default_factory=Left)
    _begun_s: float = field(default_factory=time.monotonic)
    _told_s: float = 0.0

    def run(self) -> MoveReport:
        """Move messages until all that were there were looked at, the limit is reached, or a stop is requested.

        Raises NotFound, ResourceLocked, AccessRefused, ConsumerCancelled when the queue was deleted, NotConfirmed when
        nothing is confirmed for too long, ConnectionLost. The error's `report` has the numbers; moving again goes on.
        """
        try:
            with Looker(self.link) as looker:
                self._run(looker)
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

    def _run(self, looker: Looker) -> None:
        crossing, refusals = self._open(looker), 0
        self.ready = crossing.ready()
        while True:
            before = self.moved
            try:
                with self.stop.waking(crossing.channel.wake):
                    crossing.run()
            except ConnectionLost as exc:
                self.on_warning(f"{exc.message}; connecting again")
            except (NotFound, PropertyMismatch) as exc:
                # An exchange was deleted meanwhile; or what stays was held for longer than consumer_timeout
                # (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
                refusals = 1 if self.moved > before else refusals + 1
                if refusals == _REFUSALS:
                    raise
                self.on_warning(f"{exc.reply_text}; going on")
            else:
                return
            finally:
                crossing.channel.close()
            if self.stop.requested:
                return
            crossing = self._open(looker)

    def _open(self, looker: Looker) -> Crossing:
        """Open a channel; what stayed on the one before comes again."""
        self.left = Left()
        if self.options.dry_run:
            self.moved = 0
        opened: list[Crossing] = []

        def prepare(channel: Channel) -> None:
            opened.append(Crossing(self, channel, looker))

        self.link.recover(self.stop, prepare)
        return opened[-1]
