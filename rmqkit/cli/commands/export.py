"""`rmqkit export`."""

from typing import Annotated

from rmqkit.cli import files, output, topology_source
from rmqkit.cli.options import ConnectionOptions, grouped, option
from rmqkit.cli.topology_source import TopologyFormat


@grouped
def export(
    broker: ConnectionOptions,
    *,
    target: Annotated[str, option("-o --output FILE", "The file to write; else standard output.")] = files.STANDARD,
    form: Annotated[
        TopologyFormat, option("--format", "A topology file, or definitions that RabbitMQ imports.")
    ] = TopologyFormat.yaml,
    force: Annotated[bool, option("--force", "Replace FILE if it exists.")] = False,
) -> None:
    """Write the exchanges, queues, bindings and policies of a virtual host as a topology file.

    Built-in exchanges and server-named and exclusive queues are left out. Anything else that a topology file cannot
    declare is listed on standard error. Needs RabbitMQ's HTTP API.
    """
    source = topology_source.read_broker(broker.settings())
    files.write(target, form.write(source.topology), force=force)
    if source.omitted:
        output.note(f"Left out: {output.safe(', '.join(source.omitted))}.")
