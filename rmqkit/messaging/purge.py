"""Delete the messages of a queue: all ready ones at once, or one by one those that match a filter."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import BrokerError, InputError
from rmqkit.message import Delivery, Origin
from rmqkit.messaging.message_rewrite import Destination
from rmqkit.messaging.move import Move, MovePass
from rmqkit.messaging.unconfirmed import Transferred
from rmqkit.options import MoveOptions
from rmqkit.report import MoveReport, PurgeReport
from rmqkit.stop import Stop

_NOWHERE = Destination("", "", b"")


def purge(connection: ReconnectingConnection, queue: str, *, dry_run: bool) -> PurgeReport:
    """Delete all ready messages of a queue; `Connection.purge` has the errors."""
    started_s = time.monotonic()
    with EntityInspector(connection) as inspector:
        if inspector.is_stream(queue):
            advice = "Set max-age or max-length-bytes by a policy, or delete the stream."
            raise InputError(f"queue {queue!r} is a stream, which cannot be purged", advice=advice)
    with closing(connection.channel()) as channel:
        ready = channel.queue_counts(queue).message_count
        purged = ready if dry_run else channel.purge(queue)
    return PurgeReport(ready, purged, dry_run=dry_run, seconds=time.monotonic() - started_s)


def purge_matching(
    connection: ReconnectingConnection,
    queue: str,
    matches: Callable[[Delivery], bool],
    *,
    queue_type: str | None,
    dry_run: bool,
    stop: Stop,
    on_progress: Callable[[int, str], None],
    on_warning: Callable[[str], None],
) -> PurgeReport:
    """Delete the messages that match, in one pass over the queue; `Connection.purge` has the errors."""
    options = MoveOptions(dry_run=dry_run)
    calls = (on_progress, on_warning, lambda *_: None)
    move = _Purge(connection, queue, lambda *_: _NOWHERE, matches, options, stop, *calls, queue_type=queue_type)
    try:
        return _as_purge(move.run())
    except BrokerError as exc:
        exc.report = _as_purge(move.report)
        raise


def _as_purge(report: MoveReport) -> PurgeReport:
    return PurgeReport(report.ready, report.moved, report.unmatched, report.dry_run, report.interrupted, report.seconds)


class _PurgePass(MovePass):
    """A pass that acknowledges what a move would publish first."""

    def _existing_destination(self, origin: Origin, username: str) -> Destination:  # noqa: ARG002
        return _NOWHERE

    def publish(self, messages: list[Transferred]) -> None:
        """Acknowledge deliveries."""
        if messages:
            self.acknowledge(messages)


class _Purge(Move):
    def open_pass(self, channel: Channel) -> MovePass:
        return _PurgePass(self, channel)
