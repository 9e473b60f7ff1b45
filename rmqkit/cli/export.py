"""`rmqkit export`.

Comes in: a live virtual host. Goes out: a topology file, or definitions. Room: cli.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rmqkit.cli import convert, files, origin, output
from rmqkit.cli.options import Broker, grouped


@grouped
def export(
    broker: Broker,
    *,
    target: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="The file to write; else standard output.")
    ] = files.STANDARD,
    form: Annotated[
        convert.Form, typer.Option("--format", help="A topology file, or what RabbitMQ imports as definitions.")
    ] = convert.Form.yaml,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write what a virtual host holds as a topology file: exchanges, queues, bindings and policies.

    What the broker has by itself is left out: built-in exchanges, server-named and exclusive queues. What else is left
    out is listed on standard error. Needs RabbitMQ's HTTP API.
    """
    found = origin.of_broker(broker.settings())
    written = convert.as_topology_file if form is convert.Form.yaml else convert.as_definitions
    files.write(target, written(found.topology), force=force)
    if found.omitted:
        output.note(f"Left out: {output.safe(', '.join(found.omitted))}.")
