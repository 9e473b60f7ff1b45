"""`rmqkit destroy`."""

from __future__ import annotations

from typing import Annotated

import typer

from rmqkit.cli.commands import plan
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped


@grouped
def destroy(
    files: plan.Files,
    broker: ConnectionOptions,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and change nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove what is in use, too, with the messages that queues hold.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove the exchanges, queues, bindings and policies that topology files declare.

    If a queue holds messages or has consumers, each that does is listed, nothing is removed, and the exit code is 5.
    What is not there is no error. Entities listed under external stay.
    """
    topology, settings = plan.load(files), broker.settings()
    with connect(settings) as connection:
        done = connection.destroy(topology, force=force, dry_run=dry_run)
    plan.show(done, settings, as_one_json=json)
