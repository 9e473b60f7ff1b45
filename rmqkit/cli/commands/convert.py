"""`rmqkit convert`."""

from pathlib import PurePath
from typing import Annotated

import typer

from rmqkit.cli import files, output, topology_source
from rmqkit.cli.options import option
from rmqkit.cli.topology_source import TopologyFormat
from rmqkit.errors import InputError
from rmqkit.payload import properties
from rmqkit.topology.file.definitions import not_in_definitions

_FORMATS = {".json": TopologyFormat.definitions, ".yaml": TopologyFormat.yaml, ".yml": TopologyFormat.yaml}
_OTHER = {TopologyFormat.yaml: TopologyFormat.definitions, TopologyFormat.definitions: TopologyFormat.yaml}


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Definitions or a topology file; - for stdin.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The file to write; - for stdout.")] = files.STANDARD,
    *,
    to: Annotated[
        TopologyFormat | None, option("--to", "The format to write. [default: from the names: .json, .yaml, .yml]")
    ] = None,
    vhost: Annotated[
        str | None,
        option(
            "--vhost NAME",
            "The virtual host to read from definitions of several; or to write into definitions, so that they can"
            " be imported as a cluster's.",
        ),
    ] = None,
    force: Annotated[bool, option("--force", "Replace OUT if it exists.")] = False,
) -> None:
    """Turn RabbitMQ's definitions into a topology file, or a topology file into definitions.

    Exchanges, queues, bindings and policies are converted completely. Parts that the other format lacks, such as users
    and permissions, are listed on standard error.
    """
    source_format = _FORMATS.get(PurePath(source).suffix.lower())
    form = to or _FORMATS.get(PurePath(target).suffix.lower()) or (_OTHER[source_format] if source_format else None)
    if form is None or form is source_format:
        message = f"{source} already has the format {form.value}" if form else "the file names do not tell the format"
        raise InputError(message, advice="Add --to yaml (from definitions) or --to definitions (from a topology file).")
    if vhost is not None:
        properties.check_names({"virtual_host": vhost})
    path = files.readable(source)
    if form is TopologyFormat.yaml:
        definitions = topology_source.read_definitions(path, vhost)
        topology, omitted = definitions.topology, definitions.omitted
        if definitions.vhost is not None:
            output.note(output.safe(f"Converting virtual host {definitions.vhost!r}."))
    else:
        topology = topology_source.load_topology([source])
        omitted = not_in_definitions(topology)
    files.write(target, form.write(topology, topology.vhost if vhost is None else vhost), force=force)
    if omitted:
        output.note(f"Not converted: {output.safe(', '.join(omitted))}.")
