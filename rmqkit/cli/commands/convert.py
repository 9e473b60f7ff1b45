"""`rmqkit convert`."""

from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated

import typer

from rmqkit.cli import files, output, topology_source
from rmqkit.cli.options import option
from rmqkit.cli.topology_source import TopologyFormat
from rmqkit.errors import InputError
from rmqkit.model import Topology
from rmqkit.payload import properties
from rmqkit.topology.file.asyncapi import not_in_asyncapi
from rmqkit.topology.file.definitions import not_in_definitions

_FORMATS = {".json": TopologyFormat.definitions, ".yaml": TopologyFormat.yaml, ".yml": TopologyFormat.yaml}
_OTHER = {TopologyFormat.yaml: TopologyFormat.definitions}
_NOT_IN: dict[TopologyFormat, Callable[[Topology], tuple[str, ...]]] = {
    TopologyFormat.yaml: lambda _: (),
    TopologyFormat.definitions: not_in_definitions,
    TopologyFormat.asyncapi: not_in_asyncapi,
}


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A topology file, definitions or AsyncAPI; - for stdin.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The file to write; - for stdout.")] = files.STANDARD,
    *,
    to: Annotated[
        TopologyFormat | None,
        option(
            "--to",
            "The format to write. [default: by OUT's suffix, .yaml, .json or .asyncapi.json; else definitions for a"
            " topology file, and yaml for the other formats]",
        ),
    ] = None,
    vhost: Annotated[
        str | None,
        option(
            "--vhost NAME",
            "The virtual host to read from definitions of several; or the one to name in definitions, so that they can"
            " be imported for a whole cluster.",
        ),
    ] = None,
    force: Annotated[bool, option("--force", "Replace OUT if it exists.")] = False,
) -> None:
    """Convert between topology files, RabbitMQ's definitions, and AsyncAPI 3 documents.

    Exchanges, queues and bindings are converted completely; policies, too, except to AsyncAPI. An AsyncAPI document has
    a channel for each exchange and queue, and a message for each contract. Parts that the other format lacks, such as
    users and permissions, are listed on standard error.
    """
    if vhost is not None:
        properties.check_names({"virtual_host": vhost})
    text = topology_source.read_file(source)
    source_format = topology_source.recognize(source, text)
    form = to or _format(target) or _OTHER.get(source_format, TopologyFormat.yaml)
    if form is source_format:
        advice = "Choose another with --to: yaml, definitions or asyncapi."
        raise InputError(f"{source} already has the format {form.value}", advice=advice)
    read = topology_source.read_as(source_format, text, files.readable(source), vhost)
    if read.vhost is not None:
        output.note(output.safe(f"Converting virtual host {read.vhost!r}."))
    omitted = (*read.omitted, *_NOT_IN[form](read.topology))
    files.write(target, form.write(read.topology, read.topology.vhost if vhost is None else vhost), force=force)
    if omitted:
        output.note(f"Not converted: {output.safe(', '.join(omitted))}.")


def _format(name: str) -> TopologyFormat | None:
    """Return the format that the name of a file tells: `.asyncapi.json` has two suffixes."""
    is_asyncapi = ".asyncapi" in PurePath(name.lower()).suffixes
    return TopologyFormat.asyncapi if is_asyncapi else _FORMATS.get(PurePath(name).suffix.lower())
