"""`rmqkit destroy`."""

import sys
from typing import Annotated

from rmqkit.cli import last_applied, output, plan_text, protection, topology_source
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.errors import InputError
from rmqkit.plural import plural


@grouped
def destroy(
    files: topology_source.Files,
    broker: ConnectionOptions,
    *,
    dry_run: Annotated[bool, option("--dry-run", "Show what would be deleted, and change nothing.")] = False,
    force: Annotated[
        bool,
        option("--force", "Also delete queues in use and the messages they hold; on a terminal, asks first."),
    ] = False,
    yes: protection.Yes = None,
    wait: Annotated[float, option("--wait SECONDS", "Time to wait for messages and consumers to leave.", min=0)] = 0.0,
    json: Json = False,
) -> None:
    """Delete the exchanges, queues, bindings and policies that topology files declare.

    If a queue holds messages, unacknowledged ones included, or has consumers, each such queue is listed, nothing is
    deleted, and the exit code is 5.
    An entity that does not exist is no error. Entities listed under external stay.
    """
    topology, settings = topology_source.load_topology(files), broker.settings()
    confirmed = dry_run or protection.confirm(settings, yes, f"destroy the entities of {', '.join(files)}")
    with connect(settings) as connection:
        if force and not confirmed and output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr):
            planned = connection.destroy(topology, force=True, dry_run=True)
            used = [f"{step.name!r} {step.note}" for step in planned.steps if step.note]
            if used and not output.confirm(f"Delete {plural(len(used), 'queue')} in use: {', '.join(used)}?"):
                raise InputError("canceled; nothing was deleted")
        done = connection.destroy(topology, force=force, dry_run=dry_run, wait_s=wait)
    if not dry_run:
        last_applied.forget(settings, topology)
    plan_text.show(done, settings, json=json)
