"""`rmqkit apply`.

Comes in: topology files. Goes out: what was, or would be, declared. Room: cli.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output, plan, remembered
from rmqkit.cli.options import Broker, Json, connect, grouped


@grouped
def apply(
    files: plan.Files,
    broker: Broker,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="As `rmqkit plan`: change nothing.")] = False,
    prune: plan.Prune = False,
    force: Annotated[
        bool, typer.Option("--force", help="Prune queues that hold messages or have consumers, too.")
    ] = False,
    json: Json = False,
) -> None:
    """Declare the exchanges, queues, bindings and policies of topology files.

    What is there as the files say stays as it is, so that applying twice equals applying once. If anything is there
    with other properties, every conflict is listed, nothing is changed, and the exit code is 5.
    """
    from rmqkit.broker.options import ApplyOptions  # noqa: PLC0415 - start-up time

    topology, settings = plan.load(files), broker.settings()
    options = ApplyOptions(prune=prune, force=force)
    with connect(settings) as connection:
        if dry_run:
            done = connection.plan(topology, options=options)
        else:
            with output.progress("applying") as update:
                done = connection.apply(topology, options=options, on_progress=lambda done, _: update(done, ""))
    if done.applied:
        remembered.remember(settings, topology, files)
    plan.show(done, settings, as_one_json=json)
    if done.applied and topology.publish and not json:
        output.note(f"`rmqkit publish` goes to {output.safe(str(topology.publish))} from now on.")
    raise typer.Exit(exit_codes.exit_code(done))
