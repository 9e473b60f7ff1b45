"""`rmqkit purge`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output, protection
from rmqkit.cli.handler_options import FILTER_HELP, delivery_filter
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.cli.signals import run_and_exit
from rmqkit.errors import HTTP_API_UNAVAILABLE
from rmqkit.plural import plural
from rmqkit.report import PurgeReport, as_json
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.connection import Connection


@grouped
def purge(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue whose messages are deleted.")],
    broker: ConnectionOptions,
    *,
    filter: Annotated[str | None, option("--filter EXPRESSION", FILTER_HELP.replace("Handle", "Delete"))] = None,  # noqa: A002 - the flag
    dry_run: Annotated[bool, option("--dry-run", "Show how many messages would be deleted, and delete none.")] = False,
    force: Annotated[
        bool,
        option(
            "--force", "With --filter: scan even if this may delay, drop or dead-letter messages that do not match."
        ),
    ] = False,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Delete the ready messages of a queue, or those that match a filter. They are not dead-lettered.

    Unacknowledged messages stay with their consumers. With --filter, messages that do not match keep their places, and
    are marked as redelivered; the confirmation prompt counts the matches among the first 1,000. To keep messages, move
    them with `rmqkit move` instead.
    """
    if force and filter is None:
        raise typer.BadParameter("--force needs --filter")
    matches, settings = delivery_filter(filter), broker.settings()
    question = f"Delete messages from queue {queue!r}?"
    with connect(settings) as connection:
        if dry_run or yes is None:
            preview = connection.purge(queue, matches=matches, dry_run=True, force=force)
            _show(preview, queue, connection, json=json and dry_run)
            if dry_run:
                return
            scanned = preview.purged + preview.unmatched
            found = plural(preview.purged, "message") + (" or more" if scanned < preview.ready else "")
            question = f"Delete {found} from queue {queue!r}?"
        protection.require(settings, yes, f"purge queue {queue!r}", question)

        def body(stop: Stop) -> int:
            with output.progress("scanning") as show:
                report = connection.purge(
                    queue, matches=matches, force=force, stop=stop, on_progress=show, on_warning=output.warn
                )
            _show(report, queue, None, json=json)
            return exit_codes.DONE

        run_and_exit(body)


def _show(report: PurgeReport, queue: str, connection: Connection | None, *, json: bool) -> None:
    if json:
        output.out_json(as_json(report))
        return
    verb = "Would delete" if report.dry_run else "Stopped: deleted" if report.interrupted else "Deleted"
    parts = [f"{verb} {plural(report.purged, 'message')} from queue {queue!r}"]
    if report.unmatched:
        parts.append(f"{report.unmatched:,} {'does' if report.unmatched == 1 else 'do'} not match")
    if (scanned := report.purged + report.unmatched) < report.ready:
        parts.append(f"scanned {scanned:,} of {report.ready:,}")
    if connection:
        parts.append(_unacknowledged(connection, queue))
    output.note(output.safe(f"{'; '.join(filter(None, parts))}."))


def _unacknowledged(connection: Connection, queue: str) -> str:
    """Return how many messages stay with their consumers, in words; empty if none."""
    try:
        totals = connection.http_api().queue_totals()
    except HTTP_API_UNAVAILABLE:
        return "unacknowledged messages, which are kept, cannot be counted without the HTTP API"
    count = next((each.unacknowledged for each in totals if each.name == queue), 0)
    return f"{count:,} unacknowledged {'stays' if count == 1 else 'stay'}" if count else ""
