"""`rmqkit export`."""

from __future__ import annotations

from typing import Annotated

import typer

from rmqkit.cli import files, output, topology_source
from rmqkit.cli.commands import convert
from rmqkit.cli.options import ConnectionOptions, grouped


@grouped
def export(
    broker: ConnectionOptions,
    *,
    target: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="The file to write; else standard output.")
    ] = files.STANDARD,
    form: Annotated[
        convert.ConvertFormat,
        typer.Option("--format", help="A topology file, or what RabbitMQ imports as definitions."),
    ] = convert.ConvertFormat.yaml,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write what a virtual host holds as a topology file: exchanges, queues, bindings and policies.

    What the broker has by itself is left out: built-in exchanges, server-named and exclusive queues. What else is left
    out is listed on standard error. Needs RabbitMQ's HTTP API.
    """
    found = topology_source.of_broker(broker.settings())
    written = convert.as_topology_file if form is convert.ConvertFormat.yaml else convert.as_definitions
    files.write(target, written(found.topology), force=force)
    if found.omitted:
        output.note(f"Left out: {output.safe(', '.join(found.omitted))}.")
