"""`rmqkit diff`."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import message_text, output, topology_source
from rmqkit.cli.files import STANDARD
from rmqkit.cli.options import ConnectionOptions, Json, grouped, option
from rmqkit.cli.output import Style
from rmqkit.cli.signals import run_and_exit
from rmqkit.cli.topology_source import TopologySource
from rmqkit.errors import InputError
from rmqkit.payload import snapshot_file
from rmqkit.plural import plural
from rmqkit.stop import Stop
from rmqkit.topology import comparison
from rmqkit.topology.comparison import Diff

_SOURCE = "A topology file, definitions (.json), - for stdin, the amqp:// URL of a broker, or a snapshot"
_SHOWN = 20  # messages of each side


@grouped
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help=f"{_SOURCE}.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one to compare it with.")],
    broker: ConnectionOptions,
    *,
    vhost_a: Annotated[str | None, option("--vhost-a NAME", "Virtual host of A. [default: --vhost]")] = None,
    vhost_b: Annotated[str | None, option("--vhost-b NAME", "Virtual host of B. [default: --vhost]")] = None,
    json: Json = False,
) -> None:
    """Compare the exchanges, queues, bindings and policies of two topologies, or the messages of two snapshots.

    A topology is a file, RabbitMQ's definitions, or a live broker, which is read from its HTTP API. The exit code is 0
    if the two are equal and 3 if they differ. --vhost also chooses from definitions of several virtual hosts, --vhost-a
    and --vhost-b for each side; to compare two brokers whose HTTP APIs are at unusual ports, export one of them first.
    """
    if snapshots := [each.endswith(snapshot_file.SUFFIXES) for each in (first, second)].count(True):
        if snapshots == 1:
            raise typer.BadParameter("a snapshot can only be compared with another snapshot")
        run_and_exit(lambda stop: _diff_snapshots(first, second, stop, json=json))
    if first == second == STANDARD:
        raise InputError("only one of the two can be standard input")
    a, b = topology_source.read(first, broker, vhost_a), topology_source.read(second, broker, vhost_b)
    if a.name == b.name:
        a, b = (
            replace(each, name=f"{each.name} (virtual host {each.vhost})" if each.vhost else each.name)
            for each in (a, b)
        )
    default = next((each for each in (a.default_queue_type, b.default_queue_type) if each != "classic"), "classic")
    found = comparison.diff(a.topology, b.topology, default_queue_type=default)
    if json:
        output.out_json(_as_json(a, b, found))
    else:
        _show(a, b, found)
    raise typer.Exit(exit_codes.DONE if found.equal else exit_codes.PARTLY_DONE)


def _diff_snapshots(first: str, second: str, stop: Stop, *, json: bool) -> int:
    found = snapshot_file.diff((first, second), stop)
    sides = [(side, line, each) for side, named in zip("ab", found.named, strict=True) for line, each in named]
    if json:
        messages = [
            {"only_in": side, "line": line, "exchange": each.exchange, "routing_key": each.routing_key}
            for side, line, each in sides
        ]
        counts = {"only_a": found.only[0], "only_b": found.only[1], "reordered": found.reordered}
        output.out_json({"a": first, "b": second, "equal": found.equal, **counts, "messages": messages})
        return exit_codes.DONE if found.equal else exit_codes.PARTLY_DONE
    shown = [(first, *each) for each in found.named[0][:_SHOWN]] + [(second, *each) for each in found.named[1][:_SHOWN]]
    if shown:
        rows = [
            (name, f"{line:,}", each.exchange or "(default)", each.routing_key, message_text.beginning(each))
            for name, line, each in shown
        ]
        styles: list[Style | None] = ["red" if name == first else "green" for name, *_ in shown]
        header = ("only in", "line", "exchange", "routing key", "body")
        output.out(output.table(rows, header=header, styles=styles, numbers=(1,), shortened=(0, 2, 3, 4)))
    parts = [f"{count:,} only in {name}" for name, count in zip((first, second), found.only, strict=True) if count]
    if found.reordered:
        parts.append("the messages in both are in a different order")
    equal = f"{first} and {second} hold the same {plural(found.totals[0], 'message')} in the same order"
    output.note(output.safe(f"{', '.join(parts) or equal}."))
    return exit_codes.DONE if found.equal else exit_codes.PARTLY_DONE


def _as_json(a: TopologySource, b: TopologySource, found: Diff) -> dict[str, Any]:
    sides = (("a", found.only_first), ("b", found.only_second))
    only = [{"kind": step.kind, "name": step.name, "only_in": side} for side, steps in sides for step in steps]
    different = [
        {
            "kind": step.kind,
            "name": step.name,
            "differences": [
                {"property": each.property, "a": each.expected, "b": each.actual} for each in step.differences
            ],
        }
        for step in found.different
    ]
    return {"a": a.name, "b": b.name, "equal": found.equal, "entities": [*only, *different]}


def _show(a: TopologySource, b: TopologySource, found: Diff) -> None:
    """Print a table with a column for each side, and a summary."""
    rows: list[tuple[Style, tuple[str, ...]]]
    rows = [("red", (step.kind, step.name, "", "only here", "")) for step in found.only_first]
    rows += [("green", (step.kind, step.name, "", "", "only here")) for step in found.only_second]
    rows += [
        ("yellow", (step.kind, step.name, each.property, each.expected, each.actual))
        for step in found.different
        for each in step.differences
    ]
    if rows:
        header = ("kind", "name", "property", a.name, b.name)
        output.out(output.table([row for _, row in rows], header=header, styles=[style for style, _ in rows]))
    for each in (a, b):
        if each.omitted:
            output.note(output.safe(f"Left out of {each.name}: {', '.join(each.omitted)}."))
    counts = (
        (len(found.only_first), f"only in {a.name}"),
        (len(found.only_second), f"only in {b.name}"),
        (len(found.different), "different"),
    )
    summary = ", ".join(f"{count:,} {label}" for count, label in counts if count)
    output.note(output.safe(f"{summary or f'{a.name} and {b.name} are equal'}."))
