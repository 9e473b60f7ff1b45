"""`rmqkit export`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from rmqkit.cli import files, output, topology_source
from rmqkit.cli.options import ConnectionOptions, grouped, option
from rmqkit.cli.topology_source import TopologyFormat, TopologySource
from rmqkit.errors import InputError
from rmqkit.model import Topology
from rmqkit.settings import Settings


@grouped
def export(
    broker: ConnectionOptions,
    *,
    target: Annotated[
        str, option("-o --output FILE", "The file to write, or the folder with --all-vhosts; else standard output.")
    ] = files.STANDARD,
    form: Annotated[
        TopologyFormat, option("--format", "A topology file, definitions to import, or an AsyncAPI document.")
    ] = TopologyFormat.yaml,
    asyncapi: Annotated[bool, option("--asyncapi", "Short for --format asyncapi.")] = False,
    contracts: Annotated[
        list[str] | None,
        option("--contracts FILE", "A topology file whose contracts become AsyncAPI messages; repeatable."),
    ] = None,
    force: Annotated[bool, option("--force", "Replace FILE if it exists.")] = False,
    all_vhosts: Annotated[bool, option("--all-vhosts", "Write a file for each virtual host into a folder.")] = False,
) -> None:
    """Write the exchanges, queues, bindings and policies of a virtual host as a topology file.

    Built-in exchanges and server-named and exclusive queues are left out. Anything else that a topology file cannot
    declare is listed on standard error. Needs RabbitMQ's HTTP API. With --all-vhosts, each file names its virtual host;
    virtual hosts that the user may not see are left out.

    RabbitMQ stores no contracts: for AsyncAPI, name the topology files that have them with --contracts.
    """
    form = TopologyFormat.asyncapi if asyncapi else form
    if contracts and form is not TopologyFormat.asyncapi:
        raise typer.BadParameter("--contracts needs --asyncapi")
    declared = topology_source.load_topology(contracts) if contracts else None
    settings = broker.settings()
    if all_vhosts:
        if declared:
            raise typer.BadParameter("--all-vhosts and --contracts cannot be combined")
        if target == files.STANDARD or broker.vhost is not None:
            raise typer.BadParameter("--all-vhosts needs -o FOLDER, and cannot be combined with --vhost")
        _export_all(settings, Path(target), form, force=force)
        return
    source = topology_source.read_broker(topology_source.in_vhost_of(declared, settings))
    if declared:
        source = _with_contracts(source, declared)
    files.write(target, form.write(source.topology, address=settings.addresses[0]), force=force)
    if omitted := _omitted(source, form):
        output.note(f"Left out: {output.safe(', '.join(omitted))}.")


def _with_contracts(source: TopologySource, declared: Topology) -> TopologySource:
    from rmqkit.topology.file.asyncapi import with_contracts  # noqa: PLC0415 - start-up time

    topology, missing = with_contracts(source.topology, declared)
    if missing:
        output.warn(
            output.safe(f"--contracts names exchanges or queues that the broker does not have: {', '.join(missing)}")
        )
    return replace(source, topology=topology)


def _omitted(source: TopologySource, form: TopologyFormat) -> tuple[str, ...]:
    from rmqkit.topology.file.asyncapi import not_in_asyncapi  # noqa: PLC0415 - start-up time

    return (*source.omitted, *(not_in_asyncapi(source.topology) if form is TopologyFormat.asyncapi else ()))


def _export_all(settings: Settings, folder: Path, form: TopologyFormat, *, force: bool) -> None:
    """Write a file for each virtual host, once all of them have been read."""
    sources = {
        vhost: topology_source.read_broker(settings.in_vhost(vhost)) for vhost in topology_source.vhosts(settings)
    }
    suffix = "yaml" if form is TopologyFormat.yaml else "json"
    paths = {vhost: folder / f"{quote(vhost, safe='')}.{suffix}" for vhost in sources}
    if existing := [str(path) for path in paths.values() if path.exists() and not force]:
        raise InputError(f"{', '.join(existing)} already exists; nothing was written", advice="Add --force.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot create this folder: {error.strerror}") from error
    for vhost, source in sources.items():
        topology = replace(source.topology, vhost=vhost)
        text = form.write(topology, vhost, settings.in_vhost(vhost).addresses[0])
        files.write(str(paths[vhost]), text, force=force)
        if omitted := _omitted(source, form):
            output.note(output.safe(f"Left out of {paths[vhost]}: {', '.join(omitted)}."))
    output.note(output.safe(f"Wrote {', '.join(map(str, paths.values()))}."))
