"""`rmqkit diff`.

Comes in: two topologies, each from a file, from definitions or from a broker. Goes out: what differs. Room: cli.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import origin, output
from rmqkit.cli.files import STANDARD
from rmqkit.cli.options import Broker, Json, grouped
from rmqkit.cli.output import Style
from rmqkit.errors import InputError
from rmqkit.report import Outcome, Step

_WHAT = "A topology file, definitions (.json), - for stdin, or the amqp:// URL of a broker."


@grouped
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help=_WHAT)],
    second: Annotated[str, typer.Argument(metavar="B", help="What to compare it with: any of these.")],
    broker: Broker,
    *,
    json: Json = False,
) -> None:
    """Say in which exchanges, queues, bindings and policies two topologies differ.

    Each is a topology file, RabbitMQ's definitions, or a live broker, which is looked at through its HTTP API. The exit
    code is 0 if they are equal and 3 if they differ. --vhost also chooses from definitions that hold several.
    """
    from rmqkit.topology.comparison import compare  # noqa: PLC0415 - start-up time

    if first == second == STANDARD:
        raise InputError("standard input can be only one of the two")
    a, b = origin.read(first, broker), origin.read(second, broker)
    default = next((each for each in (a.default_queue_type, b.default_queue_type) if each != "classic"), "classic")
    there = compare(a.topology, b.topology, default_queue_type=default)
    only_a = [step for step in there if step.outcome is Outcome.CREATE]
    only_b = [step for step in compare(b.topology, a.topology) if step.outcome is Outcome.CREATE]
    different = [step for step in there if step.differences]
    if json:
        output.out_json(_as_json(a.name, b.name, only_a, only_b, different))
    else:
        for each in (a, b):
            if each.omitted:
                output.note(output.safe(f"Left out of {each.name}: {', '.join(each.omitted)}."))
        _show(a.name, b.name, only_a, only_b, different)
    raise typer.Exit(exit_codes.PARTLY_DONE if only_a or only_b or different else exit_codes.DONE)


def _as_json(a: str, b: str, only_a: Sequence[Step], only_b: Sequence[Step], different: Sequence[Step]) -> Any:
    only = [{"kind": each.kind, "name": each.name, "only_in": "a"} for each in only_a]
    only += [{"kind": each.kind, "name": each.name, "only_in": "b"} for each in only_b]
    differing = [
        {
            "kind": step.kind,
            "name": step.name,
            "differences": [
                {"property": each.property, "a": each.expected, "b": each.actual} for each in step.differences
            ],
        }
        for step in different
    ]
    return {"a": a, "b": b, "equal": not only and not differing, "entities": [*only, *differing]}


def _show(a: str, b: str, only_a: Sequence[Step], only_b: Sequence[Step], different: Sequence[Step]) -> None:
    """Print a table with a column for each side, and a summary."""
    rows: list[tuple[Style, tuple[str, ...]]] = [
        ("red", (each.kind, each.name, "", "only here", "")) for each in only_a
    ]
    rows += [("green", (each.kind, each.name, "", "", "only here")) for each in only_b]
    rows += [
        ("yellow", (step.kind, step.name, each.property, each.expected, each.actual))
        for step in different
        for each in step.differences
    ]
    if rows:
        header = ("kind", "name", "property", a, b)
        output.out(output.table([row for _, row in rows], header=header, styles=[style for style, _ in rows]))
    counts = ((len(only_a), f"only in {a}"), (len(only_b), f"only in {b}"), (len(different), "different"))
    said = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    output.note(output.safe(f"{said}." if said else f"{a} and {b} are equal."))
