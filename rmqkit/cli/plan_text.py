"""The text of a plan, and the options of the commands that make one."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

from rmqkit.cli import output
from rmqkit.cli.options import option
from rmqkit.cli.output import Style
from rmqkit.cli.topology_source import broker_name
from rmqkit.model import Topology, Variable
from rmqkit.plan import Outcome, Plan, Step
from rmqkit.report import as_json
from rmqkit.settings import Settings
from rmqkit.topology.delays import NAMES as DELAYS

Prune = Annotated[bool, option("--prune", "Delete in-scope entities that no file declares.")]
Replace = Annotated[bool, option("--replace", "Recreate conflicting queues and exchanges, keeping their messages.")]
_HEADER = ("  action", "kind", "name", "remarks")


class _Words(NamedTuple):
    """How an outcome is shown in a table, and counted before and after it is applied."""

    sign: str
    style: Style
    planned: str
    done: str


_WORDS = {  # in the order of the summary
    Outcome.CREATE: _Words("+", "green", "to create", "created"),
    Outcome.DECLARE: _Words("+", "green", "to declare", "declared"),
    Outcome.CHANGE: _Words("~", "yellow", "to change", "changed"),
    Outcome.REPLACE: _Words("~", "yellow", "to replace", "replaced"),
    Outcome.DELETE: _Words("-", "red", "to delete", "deleted"),
    Outcome.CONFLICT: _Words("!", "red", "in conflict", "in conflict"),
    Outcome.MISSING: _Words("!", "red", "missing", "missing"),
    Outcome.UNSUPPORTED: _Words("!", "red", "unsupported", "unsupported"),
    Outcome.EXTRA: _Words(" ", "yellow", "extra", "extra"),
    Outcome.ABSENT: _Words(" ", "dim", "absent", "absent"),
    Outcome.UNCHANGED: _Words(" ", "dim", "unchanged", "unchanged"),
}


class VhostPlan(NamedTuple):
    """A plan, the topology that it applies, and the settings for its virtual host."""

    plan: Plan
    topology: Topology
    settings: Settings


def show_all(plans: Sequence[VhostPlan], *, json: bool, others: Sequence[str] | None = None) -> None:
    """Print the plans of a run, with the variables of each topology; several as one JSON object.

    `others` are the other virtual hosts, if they are to be listed.
    """
    if json:
        reports = [as_json(each.plan) | {"variables": _variables_as_json(each.topology)} for each in plans]
        several: dict[str, object] = {"vhosts": {_vhost(each): one for each, one in zip(plans, reports, strict=True)}}
        if others is not None:
            several["other_vhosts"] = list(others)
        output.out_json(reports[0] if len(plans) == 1 and others is None else several)
        return
    for each in plans:
        if len(plans) > 1:
            output.out(output.paint(output.safe(f"virtual host {_vhost(each)!r}"), "bold", sys.stdout))
        if each.topology.variables:
            named = ", ".join(map(_variable_text, each.topology.variables))
            output.note(output.safe(f"Variables: {named}."))
        show(each.plan, each.settings, json=False)
    if others:
        output.note(output.safe(f"No file describes virtual host {', '.join(map(repr, others))}."))


def _vhost(planned: VhostPlan) -> str:
    return planned.settings.addresses[0].vhost


def _variable_text(variable: Variable) -> str:
    value = "(not shown)" if variable.is_secret else variable.value or '""'
    return f"{variable.name}={value} ({'default' if variable.origin == 'default' else 'from the environment'})"


def _variables_as_json(topology: Topology) -> dict[str, dict[str, str | None]]:
    return {
        each.name: {"value": None if each.is_secret else each.value, "origin": each.origin}
        for each in topology.variables
    }


def _folded(steps: Sequence[Step]) -> list[Step]:
    """Return the steps to show: one for each outcome stands for the entities in which delayed messages wait."""
    folded = [each for each in steps if each.name.startswith(DELAYS) and not each.remarks]
    counts = Counter(each.outcome for each in folded)
    notes = {outcome: f"{count} entities, in which delayed messages wait" for outcome, count in counts.items()}
    kept = [each for each in steps if each not in folded]
    return [Step("queue", f"{DELAYS}*", outcome, note=note) for outcome, note in notes.items()] + kept


def show(plan: Plan, settings: Settings, *, json: bool) -> None:
    """Print a plan: as a table of all but the unchanged entities and a summary, or as JSON."""
    if json:
        steps = tuple(replace(step, note=output.in_options(step.note)) for step in plan.steps)
        output.out_json(as_json(replace(plan, steps=steps)))
        return
    shown = _folded([step for step in plan.steps if step.outcome is not Outcome.UNCHANGED])
    if shown:
        rows = []
        for step in shown:
            words = _WORDS[step.outcome]
            done = plan.applied and step.outcome is not Outcome.CONFLICT
            action = f"{words.sign} {words.done if done else step.outcome.value}"
            rows.append((action, step.kind, step.name, output.in_options(step.remarks)))
        output.out(output.table(rows, header=_HEADER, styles=[_WORDS[step.outcome].style for step in shown]))
    for sentence in () if plan.applied else plan.unseen:
        output.note(output.safe(sentence))
    counts = Counter(step.outcome for step in plan.steps)
    counted = [
        f"{counts[outcome]:,} {words.done if plan.applied else words.planned}"
        for outcome, words in _WORDS.items()
        if counts[outcome]
    ]
    summary = f"{broker_name(settings)}: {', '.join(counted) or 'nothing to do'}."
    output.note(f"Done on {summary}" if plan.applied else f"Plan for {summary} Nothing was changed.")
