"""The part of a connection that works on the messages in a queue: peek, look, move, copy."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rmqkit.administration import Administration
from rmqkit.errors import InputError
from rmqkit.message import Delivery
from rmqkit.messaging.consumer import Consumer
from rmqkit.model import Exchange, Target
from rmqkit.options import ConsumeOptions, MoveOptions, Offset, Replay
from rmqkit.report import MoveReport
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.messaging.look import Look, LookCost
    from rmqkit.messaging.peek import PeekReport

OnWarning = Callable[[str], None]
_log = logging.getLogger("rmqkit")


class QueueContents(Administration):
    """What `Connection` can do with the messages in a queue."""

    def peek(
        self,
        queue: str,
        *,
        limit: int = 10,
        matches: Callable[[Delivery], bool] | None = None,
        scan: int = 1000,
        offset: Offset | None = None,
        force: bool = False,
        stop: Stop | None = None,
    ) -> PeekReport:
        """Show the first messages of a queue, or of a stream from an offset on, and leave them there, in their order.

        At most the first `limit` messages, or with `matches` those that match among the first `scan`. They are held
        meanwhile, for five seconds and up to about 64 MiB of bodies: consumers receive the messages behind them.
        Unless forced, raises InputError where a look may dead-letter or delay messages. Raises NotFound,
        ResourceLocked, AccessRefused, ConsumerCancelled, ConnectionLost.
        """
        from rmqkit.messaging import peek  # noqa: PLC0415 - start-up time: few commands look

        scan, matches = (max(limit, scan), matches) if matches else (limit, lambda _: True)
        cost, stop = self._look_cost(queue), stop or Stop()
        if cost.type == "stream":
            options = ConsumeOptions(
                min(scan, peek.STREAM_PREFETCH), scan, peek.STREAM_IDLE_S, offset=offset or "first"
            )
            return peek.peek_stream(Consumer(self._consuming, queue, options, stop=stop), cost, limit, scan, matches)
        if offset is not None:
            raise InputError(f"queue {queue!r} has no offsets: it is not a stream")
        look = self._look(queue, cost, scan, peek.HOLD_S, peek.BODY_BYTES, force=force, stop=stop)
        return peek.peek(look, limit, scan, matches)

    def look(
        self, queue: str, *, limit: int = 1000, hold_s: float = 60.0, force: bool = False, stop: Stop | None = None
    ) -> Look:
        """Return a look at the first `limit` messages of a queue: iterate over it, in a `with` block.

        It holds the messages until the block ends, and then requeues them in their order; iterating ends when it has
        held them for `hold_s`. Consumers receive the messages behind them meanwhile. Raises InputError for a stream,
        which `consume` reads by offset, and the errors of `peek`.
        """
        cost = self._look_cost(queue)
        if cost.type == "stream":
            raise InputError(f"queue {queue!r} is a stream", advice="Consume it with an offset: that changes nothing.")
        return self._look(queue, cost, limit, hold_s, math.inf, force=force, stop=stop or Stop())

    def _look(
        self, queue: str, cost: LookCost, limit: int, hold_s: float, body_bytes: float, *, force: bool, stop: Stop
    ) -> Look:
        from rmqkit.messaging.look import Look, LookBounds  # noqa: PLC0415 - start-up time: few commands look

        if not force:
            cost.check(queue)
        return Look(self._consuming.channel(stop), queue, LookBounds(limit, hold_s, body_bytes), stop, cost)

    def move(
        self,
        source: str,
        to: Replay | Target | Exchange = Replay.QUEUE,
        *,
        broker: QueueContents | None = None,
        matches: Callable[[Delivery], bool] = lambda _: True,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        force: bool = False,
        stop: Stop | None = None,
        on_progress: Callable[[int, str], None] = lambda _scanned, _blocked: None,
        on_warning: OnWarning = _log.warning,
    ) -> MoveReport:
        """Move the messages of a queue back to their origin, or to a target; to an Exchange with their own routing key.

        The target may be on another `broker`. Each message is acknowledged once its copy is confirmed. Messages that do
        not match or cannot be moved stay; the queue is scanned once, up to its length at the start. `limit` bounds the
        moved messages, `rate` their number a second; `on_progress` receives the number scanned, and why the broker
        blocks publishers. A dry run inspects the first 1,000 messages, or up to 10,000 if `limit` says so, as many as
        half a second allows. Raises InputError for a stream, and unless forced for a dry run that might dead-letter or
        delay messages. Raises NotFound, AccessRefused, ResourceLocked, ConsumerCancelled, NotConfirmed, ConnectionLost,
        whose `report` has the numbers.
        """
        if dry_run and not force and (cost := self._look_cost(source)).type:
            cost.check(source)
        options = MoveOptions(limit, None if dry_run else rate, dry_run)
        return self._move(
            source,
            to,
            broker,
            matches=matches,
            options=options,
            stop=stop,
            on_progress=on_progress,
            on_warning=on_warning,
        )

    def copy(
        self,
        source: str,
        to: Target | Exchange,
        *,
        broker: QueueContents | None = None,
        matches: Callable[[Delivery], bool] = lambda _: True,
        limit: int | None = None,
        rate: float | None = None,
        force: bool = False,
        stop: Stop | None = None,
        on_progress: Callable[[int, str], None] = lambda _scanned, _blocked: None,
        on_warning: OnWarning = _log.warning,
    ) -> MoveReport:
        """Copy the messages of a queue to a target, as `move` does, and leave them there, in their order.

        All are held until the last copy is confirmed: consumers do not receive them meanwhile. Without a limit, at most
        100,000. Unless forced, raises InputError where that may dead-letter or delay messages. A copy that was cut
        short is not continued: the `report` of the error has the number of copies.
        """
        cost, stop = self._look_cost(source), stop or Stop()
        if cost.type != "stream":
            with self._look(source, cost, 0, 0.0, math.inf, force=force, stop=stop) as look:
                look.check_length(limit)
        options = MoveOptions(limit, rate, copy=True)
        report = self._move(
            source,
            to,
            broker,
            matches=matches,
            options=options,
            stop=stop,
            on_progress=on_progress,
            on_warning=on_warning,
        )
        return replace(report, cost=cost.text)

    def _move(
        self,
        source: str,
        to: Replay | Target | Exchange,
        broker: QueueContents | None,
        *,
        matches: Callable[[Delivery], bool],
        options: MoveOptions,
        stop: Stop | None,
        on_progress: Callable[[int, str], None],
        on_warning: OnWarning,
    ) -> MoveReport:
        from rmqkit.deploy.live_router import LiveRouter  # noqa: PLC0415 - start-up time: few commands move
        from rmqkit.messaging.message_rewrite import destination_for  # noqa: PLC0415
        from rmqkit.messaging.move import Move  # noqa: PLC0415

        calls = (on_progress, on_warning, LiveRouter(broker or self).drops_dead_letter)
        target = broker._publishing if broker else None  # noqa: SLF001 - its own class
        move = Move(self._publishing, source, destination_for(to), matches, options, stop or Stop(), *calls, target)
        return move.run()
