"""`rmqkit apply`."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import last_applied, output, plan_text, protection, signals, topology_source
from rmqkit.cli.new_virtual_host import NewVirtualHost, open_virtual_host
from rmqkit.cli.options import ConnectionOptions, Json, grouped, option
from rmqkit.cli.plan_text import VhostPlan
from rmqkit.connection import Connection
from rmqkit.model import Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Plan
from rmqkit.settings import Settings
from rmqkit.stop import Stop


@grouped
def apply(
    files: topology_source.Files,
    broker: ConnectionOptions,
    *,
    dry_run: Annotated[bool, option("--dry-run", "Show the plan, as `rmqkit plan` does.")] = False,
    prune: plan_text.Prune = False,
    force: Annotated[
        bool,
        option("--force", "Also prune queues in use, and replace queues whose unacknowledged messages cannot be seen."),
    ] = False,
    replace: plan_text.Replace = False,
    wait: Annotated[
        float,
        option(
            "--wait SECONDS",
            "Time to wait for consumers, unacknowledged messages, and publishers that bypass bindings to leave.",
            min=0,
        ),
    ] = 0.0,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Declare the exchanges, queues, bindings and policies of topology files.

    Entities that exist as declared stay as they are: applying twice equals applying once. If any exists with different
    properties, every conflict is listed, nothing is changed, and the exit code is 5. With --replace, each queue or
    exchange in conflict is replaced by a new one that keeps its messages and bindings, while publishers keep running.
    The files may name several virtual hosts: if one of them has a conflict, none is changed. If the user is an
    administrator, missing ones are created, with all permissions for this user; others are shown the command to run.
    """
    targets = topology_source.load_targets(files, broker)
    if (prune or replace) and not dry_run:
        what = "prune and replace" if prune and replace else "prune" if prune else "replace"
        for _, settings in targets:
            protection.confirm(settings, yes, f"{what} entities")
    options = ApplyOptions(prune=prune, force=force, replace=replace, wait_s=wait)

    with ExitStack() as stack:
        parts = [(stack.enter_context(open_virtual_host(its, each)), each, its) for each, its in targets]
        new = [each for each, _, _ in parts if isinstance(each, NewVirtualHost)]
        if dry_run or new or len(parts) > 1:  # if one virtual host is refused, none is changed
            plans = [VhostPlan(each.plan(topology, options=options), topology, its) for each, topology, its in parts]
            code = max(exit_codes.exit_code(each.plan) for each in plans)
            if dry_run or code != exit_codes.DONE:
                plan_text.show_all(plans, json=json)
                raise typer.Exit(code)

        signals.run_and_exit(lambda stop: _apply_all(parts, options, stop, stack, json=json))


def _apply_all(
    parts: Sequence[tuple[Connection | NewVirtualHost, Topology, Settings]],
    options: ApplyOptions,
    stop: Stop,
    stack: ExitStack,
    *,
    json: bool,
) -> int:
    """Apply each topology to its virtual host, creating missing ones; show the plans, and return the exit code."""
    done: list[VhostPlan] = []
    for place, topology, settings in parts:
        if done and stop.requested:
            break
        connection = stack.enter_context(place.create()) if isinstance(place, NewVirtualHost) else place
        applied = _apply(connection, topology, options, stop)
        if isinstance(place, NewVirtualHost):
            applied = dataclasses.replace(applied, steps=(place.step, *applied.steps))
        done.append(VhostPlan(applied, topology, settings))
        if not applied.conflicts:
            last_applied.remember(settings, topology, topology.files)
    plan_text.show_all(done, json=json)
    for each in () if json else done:
        _note_target(each)
    return exit_codes.DONE if stop.requested else max(exit_codes.exit_code(each.plan) for each in done)


def _apply(connection: Connection, topology: Topology, options: ApplyOptions, stop: Stop) -> Plan:
    """Apply a topology, and show the progress."""
    with output.progress("applying") as update:
        return connection.apply(
            topology,
            options=options,
            stop=stop,
            on_progress=lambda done, _total: update(done, ""),
            on_step=lambda step: output.note(output.paint(output.safe(step), "dim", sys.stderr)),
        )


def _note_target(applied: VhostPlan) -> None:
    """Say where `rmqkit publish` publishes to now."""
    target, vhost = applied.topology.publish, applied.topology.vhost
    if target and not applied.plan.conflicts:
        command = "rmqkit publish" + (f" --vhost {shlex.quote(vhost)}" if vhost else "")
        output.note(output.safe(f"`{command}` now publishes to {target}."))
