"""`rmqkit move`: a dead-letter queue is replayed, or one queue drained into another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import error_output, output
from rmqkit.cli.frame import Signals, StoppedAtOnce
from rmqkit.cli.handler_options import FILTER_HELP
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.errors import BrokerError
from rmqkit.model import Exchange, Target
from rmqkit.options import Replay
from rmqkit.report import MoveGroup, MoveReport, as_json

if TYPE_CHECKING:
    from rmqkit.message import Delivery

_GROUPS_SHOWN = 40
_AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class MoveTargetOptions:
    """Where messages go."""

    to_origin: Annotated[
        Replay | None,
        option(
            help="Dead letters go back: to the queue they died in last, which is done if nothing is said; or to the"
            " exchange they were first published to, and so to every queue that is bound there."
        ),
    ] = None
    to_queue: Annotated[str | None, option(metavar="NAME", help="To this queue.")] = None
    to_exchange: Annotated[str | None, option(metavar="NAME", help="To this exchange, with their own keys.")] = None
    routing_key: Annotated[
        str | None, option("-r", "--routing-key", metavar="KEY", help="With --to-exchange: the key.")
    ] = None

    def of(self, source: str) -> Replay | Target | Exchange:
        """Return where the messages of a queue go; raise a usage error for what does not go together."""
        if sum(each is not None for each in (self.to_origin, self.to_queue, self.to_exchange)) > 1:
            raise typer.BadParameter("--to-origin, --to-queue, --to-exchange: messages go one way")
        if self.routing_key is not None and self.to_exchange is None:
            raise typer.BadParameter("--routing-key is for --to-exchange")
        if self.to_queue == source:
            raise typer.BadParameter(f"messages are in queue {source!r} already")
        if self.to_queue is not None:
            return Target("", self.to_queue)
        if self.to_exchange is not None:
            key = self.routing_key
            return Exchange(self.to_exchange) if key is None else Target(self.to_exchange, key)
        return self.to_origin or Replay.QUEUE


@dataclass(frozen=True, slots=True)
class MoveFilterOptions:
    """Which messages are moved, and how fast."""

    filter: Annotated[str | None, option(metavar="EXPRESSION", help=FILTER_HELP)] = None
    limit: Annotated[int | None, option("-n", "--limit", metavar="N", min=1, help="Move N at most.")] = None
    rate: Annotated[float | None, option(metavar="N", min=0.001, help="Move N a second at most.")] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look, group by how they died and where they would go; move nothing.")
    ] = False

    def matches(self) -> Callable[[Delivery], bool]:
        """Return what tells whether a message is meant; raise PayloadError for an expression that is none."""
        if self.filter is None:
            return lambda _: True
        from rmqkit.handlers.delivery_filters import DeliveryFilter  # noqa: PLC0415 - start-up time: jinja2

        return DeliveryFilter(self.filter, output.warn)


@grouped
def move(
    source: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue to take messages from.")],
    broker: ConnectionOptions,
    *,
    way: MoveTargetOptions,
    which: MoveFilterOptions,
    json: Json = False,
) -> None:
    """Move the messages of a queue back to where they came from, or to another queue or exchange.

    Each is acknowledged once its copy is confirmed, so that none is lost however this ends; run it again to go on. It
    ends after one pass over what is there at the start. What does not match the filter, or cannot be moved, stays in
    the queue, in its place; it is marked redelivered, as after a dry run. If anything could not be moved, the exit
    code is 6.
    """
    to, matches, error = way.of(source), which.matches(), None
    with Signals() as signals, connect(broker.settings()) as connection:
        try:
            ready = connection.queue_state(source).ready
            total = ready if which.limit is None else min(ready, which.limit)
            with output.progress("looking" if which.dry_run else "moving", total) as show:
                report = connection.move(
                    source,
                    to,
                    matches=matches,
                    limit=which.limit,
                    rate=which.rate,
                    dry_run=which.dry_run,
                    stop=signals.stop,
                    on_progress=show,
                    on_warning=output.warn,
                )
        except StoppedAtOnce:
            os._exit(exit_codes.SIGNALLED + signals.received)  # what was not acknowledged goes back by itself
        except BrokerError as exc:
            if exc.report is None or json:
                raise
            report, error = exc.report, exc
    _tell(report, source, as_one_json=json)
    if error:
        output.note(error_output.as_text(error))
    code = exit_codes.exit_code(error or report)
    raise typer.Exit(exit_codes.SIGNALLED + signals.received if signals.received and not error else code)


def _tell(report: MoveReport, source: str, *, as_one_json: bool) -> None:
    if as_one_json:
        output.out_json(as_json(report))
        return
    if report.groups:
        now = datetime.now(UTC)
        rows = [_row(group, now) for group in report.groups[:_GROUPS_SHOWN]]
        header = ("messages", "reason", "died in", "exchange", "routing key", "age", "to")
        output.out(output.table(rows, header=header, numbers=(0,)))
        if more := report.groups[_GROUPS_SHOWN:]:
            output.out(f"and {sum(group.messages for group in more):,} more, in {len(more):,} groups")
    output.note(output.safe(_summary(report, source)))
    for why, count in sorted(report.stayed.items(), key=lambda item: -item[1]):
        output.warn(f"{count:,} stay: {why}")


def _row(group: MoveGroup, now: datetime) -> tuple[str, ...]:
    ages = [_age(time, now) for time in (group.oldest, group.newest) if time]
    return (
        f"{group.messages:,}",
        group.reason or "-",
        group.queue or "-",
        group.exchange or "(default)",
        ", ".join(group.routing_keys) or "-",
        " to ".join(dict.fromkeys(ages)) or "-",
        str(group.target) if group.target else f"stays: {group.trouble}",
    )


def _age(time: datetime, now: datetime) -> str:
    seconds = max((now - time).total_seconds(), 0)
    size, unit = next(((size, unit) for size, unit in _AGES if seconds >= size), (1, "s"))
    return f"{seconds / size:.0f} {unit}"


def _summary(report: MoveReport, source: str) -> str:
    things = "message" if report.moved == 1 else "messages"
    parts = [f"Would move {report.moved:,} {things}" if report.dry_run else f"Moved {report.moved:,} {things}"]
    if not report.dry_run:
        rate = f", {report.moved / report.seconds:,.0f}/s" if report.moved and report.seconds else ""
        parts = [f"{parts[0]} in {report.seconds:.2f} s{rate}"]
        if report.redelivered:
            again = f"{report.redelivered:,} had been delivered before"
            parts.append(f"{again}, and may be there twice if a move was cut off then")
    if report.unmatched:
        parts.append(f"{report.unmatched:,} do not match")
    if report.scanned < report.ready:
        parts.append(f"{report.scanned:,} of the {report.ready:,} in queue {source!r} were looked at")
    return f"{'Stopped; ' if report.interrupted else ''}{'; '.join(parts)}."
