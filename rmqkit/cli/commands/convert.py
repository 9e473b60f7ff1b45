"""`rmqkit convert`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit.cli import files, output
from rmqkit.errors import InputError

if TYPE_CHECKING:
    from rmqkit.model import Topology

MAX_BYTES = 200_000_000  # of definitions: those of a whole cluster can be large


class ConvertFormat(StrEnum):
    """What a topology is written as."""

    yaml = "yaml"
    definitions = "definitions"


_FORMS = {".json": ConvertFormat.definitions, ".yaml": ConvertFormat.yaml, ".yml": ConvertFormat.yaml}
_OTHER = {ConvertFormat.yaml: ConvertFormat.definitions, ConvertFormat.definitions: ConvertFormat.yaml}


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Definitions or a topology file; - for stdin.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The file to write; - for stdout.")] = files.STANDARD,
    *,
    to: Annotated[
        ConvertFormat | None,
        typer.Option("--to", help="What to write, where the names do not tell: .json, .yaml, .yml."),
    ] = None,
    vhost: Annotated[
        str | None,
        typer.Option(
            "--vhost",
            metavar="NAME",
            help="The virtual host to take from definitions that hold several; or to write into definitions, which can"
            " then be imported as a cluster's.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
) -> None:
    """Turn RabbitMQ's definitions into a topology file, or a topology file into definitions.

    Exchanges, queues, bindings and policies are carried over whole. What the other form does not have, such as users
    and permissions, is listed on standard error.
    """
    read = _FORMS.get(PurePath(source).suffix.lower())
    form = to or _FORMS.get(PurePath(target).suffix.lower()) or (_OTHER[read] if read else None)
    if form in (None, read):
        message = "the names do not tell what to write" if form is None else f"{source} is {form.value} already"
        raise InputError(message, advice="Say --to yaml (from definitions) or --to definitions (from a topology file).")
    text, omitted = (_to_yaml if form is ConvertFormat.yaml else _to_definitions)(files.readable(source), vhost)
    files.write(target, text, force=force)
    if omitted:
        output.note(f"Not carried over: {output.safe(', '.join(omitted))}.")


def _to_yaml(source: str, vhost: str | None) -> tuple[str, tuple[str, ...]]:
    from rmqkit.topology.file.definitions import from_definitions  # noqa: PLC0415 - start-up time
    from rmqkit.topology.file.text import read_text  # noqa: PLC0415

    topology, omitted = from_definitions(read_text(source, MAX_BYTES), file=source, vhost=vhost)
    return as_topology_file(topology), omitted


def as_topology_file(topology: Topology) -> str:
    """Write the topology of a broker as a file; say what it does not declare, and what a broker alone takes."""
    from rmqkit.topology.file.loader import loads  # noqa: PLC0415 - start-up time
    from rmqkit.topology.file.writer import to_yaml  # noqa: PLC0415

    if names := [*topology.external_exchanges, *topology.external_queues]:
        output.note(f"Not declared there, so listed under external: {output.safe(', '.join(names))}.")
    text = to_yaml(topology)
    try:
        loads(text, "the topology file")
    except InputError as error:
        output.warn(f"The broker took what `rmqkit apply` will refuse:\n{error}")
    return text


def _to_definitions(source: str, vhost: str | None) -> tuple[str, tuple[str, ...]]:
    from rmqkit.topology.file.definitions import not_in_definitions  # noqa: PLC0415
    from rmqkit.topology.file.loader import load  # noqa: PLC0415

    topology = load(source)
    return as_definitions(topology, vhost), not_in_definitions(topology)


def as_definitions(topology: Topology, vhost: str | None = None) -> str:
    """Write a topology as definitions: of a virtual host, or as a cluster's if `vhost` is given."""
    from rmqkit.topology.file.definitions import to_definitions  # noqa: PLC0415 - start-up time

    return output.to_json(to_definitions(topology, vhost=vhost)) + "\n"
