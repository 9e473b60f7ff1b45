"""`rmqkit apply`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import last_applied, output
from rmqkit.cli.commands import plan
from rmqkit.cli.frame import Signals, StoppedAtOnce
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.model import Topology
    from rmqkit.options import ApplyOptions
    from rmqkit.plan import Plan


@grouped
def apply(
    files: plan.Files,
    broker: ConnectionOptions,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="As `rmqkit plan`: change nothing.")] = False,
    prune: plan.Prune = False,
    force: Annotated[
        bool, typer.Option("--force", help="Prune queues that hold messages or have consumers, too.")
    ] = False,
    replace: plan.Replace = False,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="With --replace: how long consumers, and publishers that use no binding, may take.",
        ),
    ] = 0.0,
    json: Json = False,
) -> None:
    """Declare the exchanges, queues, bindings and policies of topology files.

    What is there as the files say stays as it is, so that applying twice equals applying once. If anything is there
    with other properties, every conflict is listed, nothing is changed, and the exit code is 5. With --replace a queue
    or exchange in conflict is replaced by a new one; its messages and bindings are kept, and publishers may go on.
    """
    from rmqkit.options import ApplyOptions  # noqa: PLC0415 - start-up time

    topology, settings = plan.load(files), broker.settings()
    options = ApplyOptions(prune=prune, force=force, replace=replace, wait_s=wait)
    with connect(settings) as connection:
        if dry_run:
            found = connection.plan(topology, options=options)
            plan.show(found, settings, as_one_json=json)
            raise typer.Exit(exit_codes.exit_code(found))
        done, signal = _apply(connection, topology, options)
    if not done.conflicts:
        last_applied.remember(settings, topology, files)
    plan.show(done, settings, as_one_json=json)
    if topology.publish and not done.conflicts and not json:
        output.note(f"`rmqkit publish` goes to {output.safe(str(topology.publish))} from now on.")
    raise typer.Exit(exit_codes.SIGNALLED + signal if signal else exit_codes.exit_code(done))


def _apply(connection: Connection, topology: Topology, options: ApplyOptions) -> tuple[Plan, int]:
    """Apply, with a bar on a terminal; return what was done, and the signal that ended it, 0 for none."""
    with Signals() as signals, output.progress("applying") as update:
        try:
            done = connection.apply(
                topology,
                options=options,
                stop=signals.stop,
                on_progress=lambda done, _: update(done, ""),
                on_step=lambda step: output.note(output.paint(output.safe(step), "dim", sys.stderr)),
            )
        except StoppedAtOnce:
            os._exit(exit_codes.SIGNALLED + signals.received)  # what is begun is finished by another run
        return done, signals.received
