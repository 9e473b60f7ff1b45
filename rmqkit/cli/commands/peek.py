"""`rmqkit peek`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import message_text, output
from rmqkit.cli.handler_options import FILTER_HELP, OFFSET_HELP, delivery_filter, parse_offset
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option_field
from rmqkit.cli.signals import run_and_exit
from rmqkit.handlers.printer import Printer
from rmqkit.messaging.peek import PeekReport
from rmqkit.plural import plural
from rmqkit.stop import Stop


class PeekFormat(Enum):
    """The format in which messages are shown."""

    TABLE = "table"
    RAW = "raw"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class PeekOptions:
    """The messages to show, and their format."""

    limit: int = option_field("-n --limit N", "Show at most N messages.", default=10, min=1, max=10_000)
    filter: str | None = option_field("--filter EXPRESSION", FILTER_HELP.replace("Handle", "Show"))
    scan: int = option_field(
        "--scan N", "With --filter: scan at most the first N messages.", default=1000, min=1, max=10_000
    )
    offset: str | None = option_field("--offset WHERE", f"{OFFSET_HELP} [default: first]")
    format: PeekFormat = option_field(
        "--format",
        "table: a row per message; raw: a body per line; json: an envelope per line, for `publish --envelopes`.",
        default=PeekFormat.TABLE,
        show_default=False,
    )
    full: bool = option_field("--full", "Show all properties and the whole body of each message.", default=False)
    force: bool = option_field(
        "--force",
        "Peek even if this may delay messages, or drop or dead-letter them at the delivery limit.",
        default=False,
    )


@grouped
def peek(
    queue: Annotated[str, typer.Argument(help="The queue.")],
    broker: ConnectionOptions,
    *,
    options: PeekOptions,
    json: Json = False,
) -> None:
    """Show messages of a queue or stream without removing or reordering them.

    The broker delivers the messages, and they are requeued within seconds; none is acknowledged. The side effects
    depend on the type of the queue and the version of RabbitMQ; the last line states them. If peeking might delay,
    drop or dead-letter a message, the command refuses unless you add --force. At most 64 MiB of messages are held, for
    at most 5 seconds.
    """
    if options.full and options.format is not PeekFormat.TABLE:
        raise typer.BadParameter("--full cannot be combined with --format: raw and json show everything")
    matches, offset = delivery_filter(options.filter), parse_offset(options.offset)

    def body(stop: Stop) -> int:
        with connect(broker.settings()) as connection:
            report = connection.peek(
                queue,
                limit=options.limit,
                matches=matches,
                scan=options.scan,
                offset=offset,
                force=options.force,
                stop=stop,
            )
        if json:
            output.out_json(message_text.as_json(report))
        else:
            _show(report, options, stop)
            output.note(output.safe(_summary(report, queue)))
        return exit_codes.DONE

    run_and_exit(body)


def _show(report: PeekReport, options: PeekOptions, stop: Stop) -> None:
    if options.format is not PeekFormat.TABLE:
        Printer(as_json=options.format is PeekFormat.JSON).write([each.delivery for each in report.messages], stop)
    elif report.messages:
        show = message_text.in_full if options.full else message_text.table
        output.out(show(report.messages))


def _summary(report: PeekReport, queue: str) -> str:
    if report.type == "stream":
        scanned = f"Scanned {plural(report.scanned, 'message')} of stream {queue!r}"
    else:
        scanned = f"Scanned {report.scanned:,} of {plural(report.ready, 'message')} in {queue!r}"
    why = f": {report.cut_short}" if report.cut_short else ""
    if not report.scanned:
        return f"{scanned}{why}.{f' `rmqkit why {queue}` may tell the cause.' if why and report.ready else ''}"
    matching = f"; {len(report.messages):,} shown" if len(report.messages) < report.scanned else ""
    if report.type == "stream":
        return f"{scanned}, {report.side_effects}{matching}."
    return f"{scanned} in {report.seconds:.2f} s; they are {report.side_effects}{matching}{why}."
