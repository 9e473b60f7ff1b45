"""The part of a connection that works on the messages in a queue: peek, browse, move, copy."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rmqkit.administration import Administration, overflow_warning
from rmqkit.errors import InputError
from rmqkit.message import Delivery
from rmqkit.messaging.consumer import Consumer
from rmqkit.model import Exchange, Target
from rmqkit.options import ConsumeOptions, MoveOptions, Offset, Replay
from rmqkit.report import MoveReport
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.messaging.firehose import Firehose
    from rmqkit.messaging.peek import PeekReport
    from rmqkit.messaging.queue_browser import QueueBrowser, SideEffects

OnWarning = Callable[[str], None]
_log = logging.getLogger("rmqkit")


class QueueContents(Administration):
    """The methods of `Connection` for the messages in a queue."""

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
        """Return the first messages of a queue, or of a stream from an offset, without removing or reordering them.

        Returns at most `limit` messages, or with `matches` those that match among the first `scan`. They are held for
        at most five seconds, with at most about 64 MiB of bodies, while consumers receive the messages behind them.
        Unless forced, raises InputError if peeking may delay, drop or dead-letter messages. Raises NotFound,
        ResourceLocked, AccessRefused, ConsumerCancelled, ConnectionLost.
        """
        from rmqkit.messaging import peek  # noqa: PLC0415 - start-up time: few commands browse

        scan, matches = (max(limit, scan), matches) if matches else (limit, lambda _: True)
        effects, stop = self._side_effects(queue), stop or Stop()
        if effects.type == "stream":
            options = ConsumeOptions(
                min(scan, peek.STREAM_PREFETCH), scan, peek.STREAM_IDLE_S, offset=offset or "first"
            )
            return peek.peek_stream(Consumer(self._consuming, queue, options, stop=stop), effects, limit, scan, matches)
        if offset is not None:
            raise InputError(f"queue {queue!r} has no offsets: it is not a stream")
        browser = self._browse(queue, effects, scan, peek.HOLD_S, peek.BODY_BYTES, force=force, stop=stop)
        return peek.peek(browser, limit, scan, matches)

    def trace(
        self,
        *keys: str,
        max_length: int = 10_000,
        idle_timeout_s: float | None = None,
        on_open: Callable[[], None] = lambda: None,
        stop: Stop | None = None,
        on_warning: OnWarning = _log.warning,
    ) -> Firehose:
        """Return the messages that the virtual host receives and delivers, while `rabbitmqctl trace_on` is in effect.

        Iterate over its `batches` in a `with` block. The `keys` are those of RabbitMQ's firehose: `publish.EXCHANGE`
        and `deliver.QUEUE`, where `#` stands for all. The messages wait in a queue of this connection, which drops the
        oldest beyond `max_length`. `on_open` is called on each new connection once this queue is bound.
        """
        from rmqkit.messaging.firehose import Firehose  # noqa: PLC0415 - start-up time: few commands trace

        options = ConsumeOptions(idle_timeout_s=idle_timeout_s)
        stop = stop or Stop()
        return Firehose(self._consuming, keys, options, max_length, on_open=on_open, stop=stop, on_warning=on_warning)

    def browse(
        self, queue: str, *, limit: int = 1000, hold_s: float = 60.0, force: bool = False, stop: Stop | None = None
    ) -> QueueBrowser:
        """Return a browser of the first `limit` messages of a queue: iterate over it in a `with` block.

        The browser holds the messages until the block ends, and then requeues them in their order; the iteration ends
        once it has held them for `hold_s`. Until then, consumers receive only the messages behind them. Raises
        InputError for a stream, which `consume` reads by offset, and the errors of `peek`.
        """
        effects = self._side_effects(queue)
        if effects.type == "stream":
            raise InputError(f"queue {queue!r} is a stream", advice="Consume it from an offset, which changes nothing.")
        return self._browse(queue, effects, limit, hold_s, math.inf, force=force, stop=stop or Stop())

    def _browse(
        self, queue: str, effects: SideEffects, limit: int, hold_s: float, body_bytes: float, *, force: bool, stop: Stop
    ) -> QueueBrowser:
        from rmqkit.messaging.queue_browser import BrowseLimits, QueueBrowser  # noqa: PLC0415 - start-up time: few commands browse

        if not force:
            effects.check(queue)
        return QueueBrowser(
            self._consuming.channel(stop), queue, BrowseLimits(limit, hold_s, body_bytes), stop, effects
        )

    def move(
        self,
        source: str,
        to: Replay | Target | Exchange = Replay.QUEUE,
        *,
        broker: QueueContents | None = None,
        matches: Callable[[Delivery], bool] | None = None,
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
        half a second allows. Raises InputError for a stream, and unless forced for a dry run, or a move with `matches`,
        that might dead-letter or delay messages that stay. Raises NotFound, AccessRefused, ResourceLocked,
        ConsumerCancelled, NotConfirmed, ConnectionLost, whose `report` has the numbers.
        """
        effects = self._side_effects(source)
        if (dry_run or matches) and not force and effects.type:
            effects.check(source)
        options = MoveOptions(limit, None if dry_run else rate, dry_run)
        return self._move(
            source,
            to,
            broker,
            matches=matches or (lambda _: True),
            options=options,
            stop=stop,
            on_progress=on_progress,
            on_warning=on_warning,
            queue_type=effects.type,
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
        """Copy the messages of a queue to a target, as `move` does; the originals stay in the queue, in their order.

        All messages are held until the last copy is confirmed; until then, consumers do not receive them. Without a
        limit, copies at most 100,000. Unless forced, raises InputError if this may delay, drop or dead-letter messages.
        An interrupted copy is not resumed: the `report` of the error has the number of copies.
        """
        effects, stop = self._side_effects(source), stop or Stop()
        if effects.type != "stream":
            with self._browse(source, effects, 0, 0.0, math.inf, force=force, stop=stop) as browser:
                browser.check_length(limit)
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
            queue_type=effects.type,
        )
        return replace(report, side_effects=effects.text)

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
        queue_type: str | None,
    ) -> MoveReport:
        from rmqkit.deploy.live_router import LiveRouter  # noqa: PLC0415 - start-up time: few commands move
        from rmqkit.messaging.message_rewrite import destination_for  # noqa: PLC0415
        from rmqkit.messaging.move import Move  # noqa: PLC0415

        if isinstance(to, Target) and not to.exchange and queue_type is not None:  # else the HTTP API did not answer
            amount = min(self.queue_state(source).ready, options.limit or math.inf)
            if warning := overflow_warning(broker or self, to.routing_key, int(amount)):
                on_warning(warning)
        calls = (on_progress, on_warning, LiveRouter(broker or self).drops_dead_letter)
        target = broker._publishing if broker else None  # noqa: SLF001 - its own class
        move = Move(
            self._publishing, source, destination_for(to), matches, options, stop or Stop(), *calls, target, queue_type
        )
        return move.run()
