"""`rmqkit top`."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib.util import find_spec
from typing import Annotated

import typer

from rmqkit.cli import output
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.errors import InputError, SettingsError


class Name(StrEnum):
    """The view to show first."""

    OVERVIEW = "overview"
    QUEUES = "queues"
    CONNECTIONS = "connections"
    CHANNELS = "channels"
    CONSUMERS = "consumers"


@grouped
def top(
    broker: ConnectionOptions,
    *,
    view: Annotated[
        Name, typer.Argument(metavar="[VIEW]", help="The view: overview, queues, connections, channels or consumers.")
    ] = Name.QUEUES,
    sort: Annotated[str, option("--sort COLUMN", "Sort by the column with this title.", show_default=False)] = "",
    reverse: Annotated[bool, option("--reverse", "Reverse the order.")] = False,
    name_filter: Annotated[
        str, option("--filter TEXT", "Show only rows with this text in a name; * and ? are wildcards.")
    ] = "",
    all_vhosts: Annotated[bool, option("--all-vhosts", "Show all virtual hosts.")] = False,
    interval: Annotated[float, option("--interval SECONDS", "Time between refreshes.", min=0.1)] = 2.0,
    once: Annotated[bool, option("--once", "Print the view once, as text.")] = False,
    json: Json = False,
) -> None:
    """Watch queues, connections, channels and consumers on a full screen.

    The keys are shown at the bottom: Tab and 1 to 5 change the view, / filters, s sorts, and n shows the next 100 rows.
    Enter opens a row: for a queue, what `rmqkit why` says; for a connection, its channels and consumers. Nothing is
    changed on the broker. After a lost connection, the screen reconnects. It needs the package textual: `pip install
    'rmqkit[top]'`. --once and --json print the view once, without that package.

    Needs RabbitMQ's HTTP API, whose statistics may be up to five seconds old. To spare a busy broker, the pause between
    two requests is at least four times as long as the broker took to answer.
    """
    from rmqkit.cli import top_views  # noqa: PLC0415 - start-up time: pika

    chosen = top_views.VIEWS[view.value]
    query = top_views.Query(sort, reverse, name_filter)
    if sort:
        chosen.column(sort)
    if not (once or json):
        _check_screen()
    settings = broker.settings()
    with connect(settings) as connection:
        api = connection.http_api()
        if not (once or json):
            from rmqkit.cli.top_screen import TopScreen  # noqa: PLC0415 - an extra

            app = TopScreen(
                connection, chosen, query, all_vhosts=all_vhosts, interval_s=interval, place=str(api.address)
            )
            code = app.run()
            if app.failure:
                raise app.failure
            raise typer.Exit(code or 0)
        found = top_views.snapshot(api, chosen, query, all_vhosts=all_vhosts)
    if json:
        output.out_json(top_views.as_json(chosen, found))
        return
    output.out(chosen.table.text(found.items, vhosts=all_vhosts))
    if found.alarms:
        output.note(output.safe(f"ALARM: publishers are blocked: {', '.join(found.alarms)}."))
    for line in (top_views.shown(chosen, found, query), *top_views.totals(found.overview)):
        output.note(output.safe(f"{line[:1].upper()}{line[1:]}."))


def _check_screen() -> None:
    """Raise InputError without a terminal, SettingsError without the package that draws on it."""
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stdout)):
        raise InputError("top needs a terminal", advice="Add --once or --json to print the view once.")
    if find_spec("textual") is None:
        raise SettingsError(
            "the screen needs the package textual, which is not installed",
            advice="Run `pip install 'rmqkit[top]'`, add --once, or use `rmqkit status --watch`.",
        )
