"""`rmqkit move`: replay a dead-letter queue, or drain one queue into another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import error_output, output, protection, report_text
from rmqkit.cli.handler_options import FILTER_HELP, delivery_filter
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option_field, parse_target
from rmqkit.cli.signals import run_and_exit
from rmqkit.errors import BrokerError
from rmqkit.model import Exchange, Target
from rmqkit.options import DRY_RUN, Replay
from rmqkit.report import MoveReport, as_json
from rmqkit.stop import Stop


@dataclass(frozen=True, slots=True)
class MoveTargetOptions:
    """The target of the messages."""

    to_origin: Replay | None = option_field(
        "--to-origin",
        "Return dead letters: to the queue they died in last, which is the default; or to the exchange they"
        " were first published to, and so to every queue bound there.",
    )
    to_queue: str | None = option_field("--to-queue NAME", "To this queue.")
    to_exchange: str | None = option_field("--to-exchange NAME", "To this exchange, with their own keys.")
    routing_key: str | None = option_field("-r --routing-key KEY", "With --to-exchange: the key.")

    def target(self, source: str) -> Replay | Target | Exchange:
        """Return the target of a queue's messages. Raises a usage error."""
        if sum(each is not None for each in (self.to_origin, self.to_queue, self.to_exchange)) > 1:
            raise typer.BadParameter("use only one of --to-origin, --to-queue, --to-exchange")
        if self.routing_key is not None and self.to_exchange is None:
            raise typer.BadParameter("--routing-key needs --to-exchange")
        if self.to_queue == source:
            raise typer.BadParameter(f"the messages are already in queue {source!r}")
        if self.to_exchange is not None and self.routing_key is None:
            return Exchange(self.to_exchange)
        target = parse_target(queue=self.to_queue, exchange=self.to_exchange, routing_key=self.routing_key)
        return target or self.to_origin or Replay.QUEUE


@dataclass(frozen=True, slots=True)
class MoveFilterOptions:
    """The messages to move, and how fast."""

    filter: str | None = option_field("--filter EXPRESSION", FILTER_HELP)
    limit: int | None = option_field("-n --limit N", "Move at most N messages.", min=1)
    rate: float | None = option_field("--rate N", "Move at most N messages a second.", min=0.001)
    dry_run: bool = option_field(
        "--dry-run",
        "Group messages by how they died and where they would go; move nothing. Scans the first 1,000, or with"
        " --limit up to 10,000, for half a second at most: consumers do not receive them meanwhile.",
        default=False,
    )
    force: bool = option_field(
        "--force", "With --dry-run: scan even where that might delay messages, or dead-letter them.", default=False
    )


@grouped
def move(
    source: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue to take messages from.")],
    broker: ConnectionOptions,
    *,
    target: MoveTargetOptions,
    selection: MoveFilterOptions,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Move the messages of a queue back to where they came from, or to another queue or exchange.

    Each is acknowledged once its copy is confirmed, so that none is lost however this ends; run it again to continue.
    It makes one pass over the messages present at the start. A message that does not match the filter, or cannot be
    moved, keeps its place in the queue; it is marked redelivered, as after a dry run. If any could not be moved, the
    exit code is 6.
    """
    if selection.force and not selection.dry_run:
        raise typer.BadParameter("--force needs --dry-run")
    to, matches, settings = target.target(source), delivery_filter(selection.filter), broker.settings()
    if not selection.dry_run:
        protection.confirm(settings, yes, f"move the messages of queue {source!r}")

    def body(stop: Stop) -> int:
        error = None
        with connect(settings) as connection:
            ready = connection.queue_state(source).ready
            limit = selection.limit or (DRY_RUN if selection.dry_run else ready)
            total = min(ready, limit)
            try:
                with output.progress("scanning" if selection.dry_run else "moving", total) as show:
                    report = connection.move(
                        source,
                        to,
                        matches=matches or (lambda _: True),
                        limit=selection.limit,
                        rate=selection.rate,
                        dry_run=selection.dry_run,
                        force=selection.force,
                        stop=stop,
                        on_progress=show,
                        on_warning=output.warn,
                    )
            except BrokerError as exc:
                if exc.report is None or json:
                    raise
                report, error = exc.report, exc
        _print_report(report, source, as_json_object=json)
        if error:
            output.error(error_output.as_text(error))
        return exit_codes.exit_code(error or (None if stop.requested else report))

    run_and_exit(body)


def _print_report(report: MoveReport, source: str, *, as_json_object: bool) -> None:
    if as_json_object:
        output.out_json(as_json(report))
        return
    if report.groups:
        output.out(report_text.move_table(report))
    output.note(output.safe(report_text.move_summary(report, source)))
    for why, count in sorted(report.stayed.items(), key=lambda item: -item[1]):
        output.warn(f"{count:,} {'stays' if count == 1 else 'stay'}: {why}")
