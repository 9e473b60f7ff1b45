"""`rmqkit move` and `copy`: replay a dead-letter queue, drain one queue into another, or copy its messages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import error_output, output, protection, report_text
from rmqkit.cli.handler_options import FILTER_HELP, delivery_filter, same_broker
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option_field, parse_target
from rmqkit.cli.signals import run_and_exit
from rmqkit.errors import BrokerError
from rmqkit.model import Exchange, Target
from rmqkit.options import DRY_RUN, Replay
from rmqkit.report import MoveReport, as_json
from rmqkit.settings import Settings, load_settings
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.connection import Connection


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

    to_url: str | None = option_field("--to-url URL", "To this broker, by default to its queue of the same name.")

    def target(self, source: str, settings: Settings) -> Replay | Target | Exchange:
        """Return the target of a queue's messages. Raises a usage error."""
        target = _target(self.to_queue, self.to_exchange, self.routing_key, replay=self.to_origin is not None)
        if target is None and (self.to_origin or not self.to_url):
            return self.to_origin or Replay.QUEUE
        target = target or Target("", source)
        _check_other_queue(source, target, settings, self.to_url)
        return target


@dataclass(frozen=True, slots=True)
class CopyTargetOptions:
    """The target of the copies."""

    to_queue: str | None = option_field("--to-queue NAME", "To this queue.")
    to_exchange: str | None = option_field("--to-exchange NAME", "To this exchange, with their own keys.")
    routing_key: str | None = option_field("-r --routing-key KEY", "With --to-exchange: the key.")
    to_url: str | None = option_field("--to-url URL", "To this broker, by default to its queue of the same name.")

    def target(self, source: str, settings: Settings) -> Target | Exchange:
        """Return the target of a queue's messages. Raises a usage error."""
        target = _target(self.to_queue, self.to_exchange, self.routing_key)
        if target is None and not self.to_url:
            raise typer.BadParameter("name a target: --to-queue, --to-exchange or --to-url")
        target = target or Target("", source)
        _check_other_queue(source, target, settings, self.to_url)
        return target


def _target(
    queue: str | None, exchange: str | None, routing_key: str | None, *, replay: bool = False
) -> Target | Exchange | None:
    if sum((replay, queue is not None, exchange is not None)) > 1:
        raise typer.BadParameter("use only one of --to-origin, --to-queue, --to-exchange")
    if routing_key is not None and exchange is None:
        raise typer.BadParameter("--routing-key needs --to-exchange")
    if exchange is not None and routing_key is None:
        return Exchange(exchange)
    return parse_target(queue=queue, exchange=exchange, routing_key=routing_key)


def _check_other_queue(source: str, target: Target | Exchange, settings: Settings, to_url: str | None) -> None:
    if target == Target("", source) and (to_url is None or same_broker(settings, _other(to_url))):
        raise typer.BadParameter(f"the messages are already in queue {source!r}")


def _other(url: str) -> Settings:
    """Return the settings of the broker that --to-url names."""
    return load_settings([url], source="--to-url")


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
        "--force",
        "With --filter or --dry-run: scan even if this might delay messages, or drop or dead-letter them.",
        default=False,
    )


@dataclass(frozen=True, slots=True)
class CopyFilterOptions:
    """The messages to copy, and how fast."""

    filter: str | None = option_field("--filter EXPRESSION", FILTER_HELP.replace("Handle", "Copy"))
    limit: int | None = option_field("-n --limit N", "Copy at most N messages. [default: all, up to 100,000]", min=1)
    rate: float | None = option_field("--rate N", "Copy at most N messages a second.", min=0.001)
    force: bool = option_field(
        "--force",
        "Copy even if this may delay messages, or drop or dead-letter them at the delivery limit.",
        default=False,
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
    if selection.force and not selection.dry_run and selection.filter is None:
        raise typer.BadParameter("--force needs --filter or --dry-run")
    settings = broker.settings()
    to, matches = target.target(source, settings), delivery_filter(selection.filter)
    if not selection.dry_run:
        protection.confirm(settings, yes, f"move the messages of queue {source!r}")

    def start(connection: Connection, broker: Connection | None, stop: Stop, show: output.Update) -> MoveReport:
        return connection.move(
            source,
            to,
            broker=broker,
            matches=matches,
            limit=selection.limit,
            rate=selection.rate,
            dry_run=selection.dry_run,
            force=selection.force,
            stop=stop,
            on_progress=show,
            on_warning=output.warn,
        )

    label = "scanning" if selection.dry_run else "moving"
    most = selection.limit or (DRY_RUN if selection.dry_run else None)
    run_and_exit(partial(_run, source, settings, target.to_url, start, label=label, most=most, json=json))


@grouped
def copy(
    source: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue whose messages are copied.")],
    broker: ConnectionOptions,
    *,
    target: CopyTargetOptions,
    selection: CopyFilterOptions,
    json: Json = False,
) -> None:
    """Copy the messages of a queue to another queue, an exchange or another broker; the originals stay, in order.

    All messages are held until the last copy is confirmed, so that they can be requeued in their order; until then,
    consumers do not receive them. The side effects on the originals are those of `rmqkit peek`. If any message could
    not be copied, the exit code is 6.
    """
    settings = broker.settings()
    to, matches = target.target(source, settings), delivery_filter(selection.filter)

    def start(connection: Connection, broker: Connection | None, stop: Stop, show: output.Update) -> MoveReport:
        return connection.copy(
            source,
            to,
            broker=broker,
            matches=matches or (lambda _: True),
            limit=selection.limit,
            rate=selection.rate,
            force=selection.force,
            stop=stop,
            on_progress=show,
            on_warning=output.warn,
        )

    run_and_exit(
        partial(_run, source, settings, target.to_url, start, label="copying", most=selection.limit, json=json)
    )


def _run(
    source: str,
    settings: Settings,
    to_url: str | None,
    start: Callable[[Connection, Connection | None, Stop, output.Update], MoveReport],
    stop: Stop,
    *,
    label: str,
    most: int | None,
    json: bool,
) -> int:
    """Move or copy, print the report and return the exit code."""
    error = None
    with ExitStack() as stack:
        connection = stack.enter_context(connect(settings))
        other = stack.enter_context(connect(_other(to_url))) if to_url else None
        ready = connection.queue_state(source).ready
        try:
            with output.progress(label, min(ready, most or ready)) as show:
                report = start(connection, other, stop, show)
        except BrokerError as exc:
            if exc.report is None or json:
                raise
            report, error = exc.report, exc
    _print_report(report, source, as_json_object=json)
    if error:
        error_output.show(error)
    return exit_codes.exit_code(error or (None if stop.requested else report))


def _print_report(report: MoveReport, source: str, *, as_json_object: bool) -> None:
    if as_json_object:
        output.out_json(as_json(report))
        return
    if report.groups:
        output.out(report_text.move_table(report))
    output.note(output.safe(report_text.move_summary(report, source)))
    for why, count in sorted(report.stayed.items(), key=lambda item: -item[1]):
        output.warn(f"{count:,} {'stays' if count == 1 else 'stay'}: {why}")
