"""`rmqkit plan`, and how plans look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped
from rmqkit.cli.output import Style
from rmqkit.plan import Outcome, Plan, Step
from rmqkit.report import as_json

if TYPE_CHECKING:
    from rmqkit.model import Topology
    from rmqkit.settings import Settings

Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Topology files, taken as one; - for stdin.")]
Prune = Annotated[bool, typer.Option("--prune", help="Remove what is extra: within the files' scope, and not in them.")]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Put new queues and exchanges in the place of conflicting ones; moves messages."),
]
DONE: Mapping[Outcome, str] = {
    Outcome.CREATE: "created",
    Outcome.CHANGE: "changed",
    Outcome.DECLARE: "declared",
    Outcome.REPLACE: "replaced",
    Outcome.DELETE: "deleted",
}
_STYLES: dict[Outcome, Style] = {
    Outcome.CREATE: "green",
    Outcome.DECLARE: "green",
    Outcome.CHANGE: "yellow",
    Outcome.REPLACE: "yellow",
    Outcome.EXTRA: "yellow",
    Outcome.CONFLICT: "red",
    Outcome.DELETE: "red",
    Outcome.UNCHANGED: "dim",
    Outcome.ABSENT: "dim",
}
_UNCHANGED_SHOWN = 40  # of more, the summary alone tells


@grouped
def plan(
    files: Files,
    broker: ConnectionOptions,
    *,
    prune: Prune = False,
    replace: Replace = False,
    detailed_exit_code: Annotated[
        bool, typer.Option("--detailed-exit-code", help="Exit with 3 if there is something to change, 0 if not.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what applying topology files would do, and change nothing.

    Each entity is to create, to change (a policy), unchanged, in conflict (there with other properties: exit code 5),
    or extra (there, within the files' scope, and not in them). Without RabbitMQ's HTTP API bindings, policies and
    extras cannot be seen; then each binding counts as something to change.
    """
    from rmqkit.options import ApplyOptions  # noqa: PLC0415 - start-up time

    topology, settings = load(files), broker.settings()
    with connect(settings) as connection:
        found = connection.plan(topology, options=ApplyOptions(prune=prune, replace=replace))
    show(found, settings, as_one_json=json)
    raise typer.Exit(exit_codes.exit_code(found, changes_count=detailed_exit_code))


def load(files: Sequence[str]) -> Topology:
    """Read the files of a command line as one topology; `-` is standard input."""
    from rmqkit.topology.file.loader import load as load_files  # noqa: PLC0415 - start-up time

    return load_files(*("/dev/stdin" if file == "-" else file for file in files))


def show(found: Plan, settings: Settings, *, as_one_json: bool) -> None:
    """Print a plan: as a table and a summary, or as JSON."""
    if as_one_json:
        output.out_json(as_json(found))
        return
    shown = [step for step in found.steps if step.outcome is not Outcome.UNCHANGED]
    if len(found.steps) - len(shown) <= _UNCHANGED_SHOWN:
        shown = list(found.steps)
    if shown:
        rows = [(_word(found, step), step.kind, step.name, _details(step)) for step in shown]
        output.out(output.table(rows, styles=[_STYLES.get(step.outcome) for step in shown]))
    for sentence in () if found.applied else found.unseen:
        output.note(output.safe(sentence))
    counts = Counter(_word(found, step) for step in found.steps)
    done = ", ".join(f"{count:,} {word}" for word, count in counts.items()) or "nothing to do"
    where = settings.addresses[0] if len(settings.addresses) == 1 else "the broker"
    output.note(f"Done on {where}: {done}." if found.applied else f"On {where}, where nothing was changed: {done}.")


def _word(found: Plan, step: Step) -> str:
    return DONE.get(step.outcome, step.outcome.value) if found.applied else step.outcome.value


def _details(step: Step) -> str:
    return "; ".join([*map(str, step.differences), *([step.note] if step.note else [])])
