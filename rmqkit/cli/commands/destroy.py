"""`rmqkit destroy`."""

import sys
from contextlib import ExitStack
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
    deleted, and the exit code is 5. An entity that does not exist is no error. Entities listed under external stay.
    """
    targets = topology_source.load_targets(files, broker)
    action = f"destroy the entities of {', '.join(files)}"
    confirmed = all([dry_run or protection.confirm(settings, yes, action) for _, settings in targets])  # noqa: C419 - each
    done = []
    with ExitStack() as stack:
        parts = [(stack.enter_context(connect(settings)), topology, settings) for topology, settings in targets]
        if force and not confirmed and output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr):
            planned = [connection.destroy(topology, force=True, dry_run=True) for connection, topology, _ in parts]
            used = [f"{step.name!r} {step.note}" for each in planned for step in each.steps if step.note]
            if used and not output.confirm(f"Delete {plural(len(used), 'queue')} in use: {', '.join(used)}?"):
                raise InputError("canceled; nothing was deleted")
        for connection, topology, _ in parts if len(parts) > 1 else ():  # if a queue is in use, nothing is deleted
            connection.destroy(topology, force=force, dry_run=True, wait_s=wait)
        for connection, topology, settings in parts:
            deleted = connection.destroy(topology, force=force, dry_run=dry_run, wait_s=wait)
            if not dry_run:
                last_applied.forget(settings, topology)
            done.append(plan_text.VhostPlan(deleted, topology, settings))
    plan_text.show_all(done, json=json)
