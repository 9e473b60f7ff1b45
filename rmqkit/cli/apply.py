"""`rmqkit apply`.

Comes in: topology files. Goes out: what was, or would be, declared. Room: cli.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output, remembered
from rmqkit.cli.options import Broker, Json, connect, grouped
from rmqkit.cli.output import Style
from rmqkit.report import Outcome, Plan, Step, as_json

if TYPE_CHECKING:
    from rmqkit.settings import Settings

_DONE = {Outcome.CREATE: "created", Outcome.DECLARE: "declared"}
_STYLES: dict[Outcome, Style] = {Outcome.CREATE: "green", Outcome.CONFLICT: "red", Outcome.UNCHANGED: "dim"}


@grouped
def apply(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Topology files, declared as one; - for stdin.")],
    broker: Broker,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be declared, and change nothing.")] = False,
    json: Json = False,
) -> None:
    """Declare the exchanges, queues and bindings of topology files.

    What is there as the files say stays as it is, so that applying twice equals applying once. If anything is there
    with other properties, every conflict is listed, nothing is changed, and the exit code is 5.
    """
    from rmqkit.topology.loader import load  # noqa: PLC0415 - start-up time

    topology = load(*("/dev/stdin" if file == "-" else file for file in files))
    settings = broker.settings()
    with connect(settings) as connection:
        plan = connection.plan(topology) if dry_run else connection.apply(topology)
    if plan.applied:
        remembered.remember(settings, topology, files)
    if json:
        output.out_json(as_json(plan))
    else:
        _print(plan, settings)
        if plan.applied and topology.publish:
            output.note(f"`rmqkit publish` goes to {output.safe(str(topology.publish))} from now on.")
    raise typer.Exit(exit_codes.exit_code(plan))


def _print(plan: Plan, settings: Settings) -> None:
    if plan.steps:
        rows = [(_word(plan, step.outcome), step.kind, step.name, _details(step)) for step in plan.steps]
        output.out(output.table(rows, styles=[_STYLES.get(step.outcome) for step in plan.steps]))
    counts = Counter(_word(plan, step.outcome) for step in plan.steps)
    done = ", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing to declare"
    where = settings.addresses[0] if len(settings.addresses) == 1 else "the broker"
    output.note(f"Applied to {where}: {done}." if plan.applied else f"Dry run on {where}, nothing was changed: {done}.")


def _word(plan: Plan, outcome: Outcome) -> str:
    return _DONE.get(outcome, outcome.value) if plan.applied else outcome.value


def _details(step: Step) -> str:
    return "; ".join([*map(str, step.differences), *([step.note] if step.note else [])])
