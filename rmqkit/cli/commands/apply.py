"""`rmqkit apply`."""

import sys
from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import last_applied, output, plan_text, protection, signals, topology_source
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.options import ApplyOptions
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
        option("--force", "Prune queues in use, too; replace queues also if their unacknowledged messages are unseen."),
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
    """
    topology, settings = topology_source.load_topology(files), broker.settings()
    if (prune or replace) and not dry_run:
        what = "prune and replace" if prune and replace else "prune" if prune else "replace"
        protection.confirm(settings, yes, f"{what} entities")
    options = ApplyOptions(prune=prune, force=force, replace=replace, wait_s=wait)

    def run(stop: Stop) -> int:
        with output.progress("applying") as update:
            done = connection.apply(
                topology,
                options=options,
                stop=stop,
                on_progress=lambda done, _total: update(done, ""),
                on_step=lambda step: output.note(output.paint(output.safe(step), "dim", sys.stderr)),
            )
        if not done.conflicts:
            last_applied.remember(settings, topology, files)
        plan_text.show(done, settings, json=json)
        if topology.publish and not done.conflicts and not json:
            output.note(f"`rmqkit publish` now publishes to {output.safe(str(topology.publish))}.")
        return exit_codes.DONE if stop.requested else exit_codes.exit_code(done)

    with connect(settings) as connection:
        if not dry_run:
            signals.run_and_exit(run)
        planned = connection.plan(topology, options=options)
    plan_text.show(planned, settings, json=json)
    raise typer.Exit(exit_codes.exit_code(planned))
