"""Topologies as commands take and write them: topology files, RabbitMQ's definitions, live brokers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePath
from typing import Annotated, Any

import typer

from rmqkit.address import Address
from rmqkit.cli import output
from rmqkit.cli.files import readable
from rmqkit.cli.options import ConnectionOptions, connect
from rmqkit.errors import InputError, SettingsError
from rmqkit.model import Topology
from rmqkit.settings import Settings
from rmqkit.topology.file.text import MAX_BYTES, read_text

Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Topology files, read as one; - for stdin.")]

_MAX_DEFINITIONS_BYTES = 200_000_000  # those of a whole cluster can be large
_URL = re.compile(r"amqps?://", re.IGNORECASE)
_JSON_OBJECT = re.compile(r'\s*\{\s*"')  # definitions begin so, and no topology file that a person wrote


class TopologyFormat(StrEnum):
    """The formats a topology can be written in."""

    yaml = "yaml"
    definitions = "definitions"
    asyncapi = "asyncapi"

    def write(self, topology: Topology, vhost: str | None = None, address: Address | None = None) -> str:
        """Write a topology; a `vhost` makes definitions those of a cluster, an `address` becomes AsyncAPI's server."""
        if self is TopologyFormat.yaml:
            return _to_yaml(topology)
        if self is TopologyFormat.asyncapi:
            from rmqkit.topology.file.asyncapi import to_asyncapi  # noqa: PLC0415 - start-up time

            return output.to_json(to_asyncapi(topology, _server(address) if address else None)) + "\n"
        from rmqkit.topology.file.definitions import to_definitions  # noqa: PLC0415 - start-up time

        return output.to_json(to_definitions(topology, vhost=vhost)) + "\n"


def _server(address: Address) -> dict[str, str]:
    host, path = address.key.split("/", 1)
    server = {"host": host, "protocol": "amqps" if address.tls else "amqp", "protocolVersion": "0-9-1"}
    return server | ({"pathname": f"/{path}"} if path else {})


@dataclass(frozen=True, slots=True)
class TopologySource:
    """A topology and the name of its source; `omitted` lists the other contents of the source.

    `default_queue_type` is the type of a queue that is declared without one. `vhost` is that of definitions which name
    it.
    """

    name: str
    topology: Topology
    omitted: tuple[str, ...] = ()
    default_queue_type: str = "classic"
    vhost: str | None = None


def load_topology(files: Sequence[str]) -> Topology:
    """Read the files of a command line as one topology; `-` is standard input."""
    from rmqkit.topology.file.loader import load  # noqa: PLC0415 - start-up time

    return load(*map(readable, files))


def load_topologies(files: Sequence[str]) -> tuple[Topology, ...]:
    """Read the files of a command line as a topology for each virtual host that they name."""
    from rmqkit.topology.file.loader import load_by_vhost  # noqa: PLC0415 - start-up time

    return load_by_vhost(*map(readable, files))


def load_targets(files: Sequence[str], broker: ConnectionOptions) -> list[tuple[Topology, Settings]]:
    """Read the files of a command line as a topology for each virtual host, with the settings of this one."""
    topologies, settings = load_topologies(files), broker.settings()
    return [(each, in_vhost_of(each, settings)) for each in topologies]


def in_vhost_of(topology: Topology | None, settings: Settings) -> Settings:
    """Return settings for the virtual host that the files of a topology name, if they do.

    It takes the place of the default one; raises SettingsError if the settings name another.
    """
    vhosts = {address.vhost for address in settings.addresses}
    if topology is None or topology.vhost is None or vhosts == {topology.vhost}:
        return settings
    origin = settings.origins.get("vhost", settings.source)
    if vhosts != {"/"} or origin != settings.source:
        files, named = ", ".join(topology.files), ", ".join(map(repr, sorted(vhosts)))
        message = f"the virtual host of {files} is {topology.vhost!r}, but that of {origin} is {named}"
        raise SettingsError(message, advice="Name the same virtual host in both, or omit one.")
    return settings.in_vhost(topology.vhost)


def vhosts(settings: Settings) -> tuple[str, ...]:
    """Return the names of the virtual hosts that the user may see, sorted. Raises the errors of `read_broker`."""
    from rmqkit.http_api import virtual_hosts  # noqa: PLC0415 - start-up time

    with connect(settings) as connection:
        return virtual_hosts.names(connection.http_api())


def read(argument: str, broker: ConnectionOptions, vhost: str | None = None) -> TopologySource:
    """Read a topology file, definitions, AsyncAPI or a live broker; `vhost`, else `--vhost`, chooses among definitions.

    Raises DocumentError, TopologyError, InputError, SettingsError, and what `read_broker` raises.
    """
    broker = broker if vhost is None else replace(broker, vhost=vhost)
    if is_url(argument):
        return read_broker(broker_at(argument, broker))
    path, text = readable(argument), read_file(argument)
    return read_as(recognize(argument, text), text, path, broker.vhost)


def is_url(argument: str) -> bool:
    """Tell whether an argument is the URL of a broker."""
    return bool(_URL.match(argument))


def broker_at(url: str, broker: ConnectionOptions) -> Settings:
    """Return the settings for a URL that is an argument, with the other options. Raises SettingsError."""
    return replace(broker, url=[url], context=None).settings(source="the URL")


def read_file(argument: str) -> str:
    """Return the text of a topology file or definitions. Raises DocumentError."""
    return read_text(readable(argument), _MAX_DEFINITIONS_BYTES if _is_json(argument) else MAX_BYTES)


def is_definitions(argument: str, text: str) -> bool:
    """Tell by its name, or else by how it begins, whether a file holds definitions."""
    return _is_json(argument) or bool(_JSON_OBJECT.match(text))


def _is_json(argument: str) -> bool:
    return PurePath(argument).suffix.lower() == ".json"


def recognize(argument: str, text: str) -> TopologyFormat:
    """Return the format of a file, by how it begins, or by its name."""
    from rmqkit.topology.file.asyncapi import is_asyncapi  # noqa: PLC0415 - start-up time

    if is_asyncapi(text):
        return TopologyFormat.asyncapi
    return TopologyFormat.definitions if is_definitions(argument, text) else TopologyFormat.yaml


def read_as(form: TopologyFormat, text: str, path: str, vhost: str | None) -> TopologySource:
    """Read the text of a file of a known format. Raises DocumentError, TopologyError, InputError."""
    from rmqkit.topology.file.asyncapi import from_asyncapi  # noqa: PLC0415 - start-up time
    from rmqkit.topology.file.loader import loads  # noqa: PLC0415

    match form:
        case TopologyFormat.asyncapi:
            return TopologySource(path, *from_asyncapi(text, file=path))
        case TopologyFormat.definitions:
            return _of_definitions(text, path, vhost)
        case TopologyFormat.yaml:
            return TopologySource(path, loads(text, path))


def read_broker(settings: Settings) -> TopologySource:
    """Return the entities of a virtual host, sorted by name, as far as a topology file can declare them.

    Raises Unreachable, AuthenticationFailed and AccessRefused if the broker or its HTTP API does not answer.
    """
    from rmqkit.topology.file.definitions import not_in_definitions, to_definitions  # noqa: PLC0415 - start-up time

    with connect(settings) as connection:
        live = connection.live()
    definitions = to_definitions(live.topology) | {"parameters": list(live.parameters or ())}
    source = _of_definitions(definitions, broker_name(settings))
    hidden = [name for name, unseen in (("policies", live.unseen), ("parameters", live.parameters is None)) if unseen]
    omitted = (
        *not_in_definitions(live.topology),
        *source.omitted,
        *(f"{name} this user may not see" for name in hidden),
    )
    return replace(source, omitted=omitted, default_queue_type=live.default_queue_type)


def broker_name(settings: Settings) -> str:
    """Name the broker in a sentence."""
    return str(settings.addresses[0]) if len(settings.addresses) == 1 else "the broker"


def _of_definitions(definitions: str | Mapping[str, Any], name: str, vhost: str | None = None) -> TopologySource:
    from rmqkit.topology.file.definitions import from_definitions  # noqa: PLC0415 - start-up time

    found = from_definitions(definitions, file=name, vhost=vhost)
    if isinstance(definitions, str) and found.untyped:
        queues = ", ".join(found.untyped)
        output.warn(
            f"{name}: on import, RabbitMQ ignores the type of a queue that lacks the argument x-queue-type"
            f" and applies the default type: {queues}"
        )
    return TopologySource(name, found.topology, found.omitted, vhost=found.vhost)


def _to_yaml(topology: Topology) -> str:
    """Write a topology file; report entities that it does not declare, and parts that `rmqkit apply` would refuse."""
    from rmqkit.topology.file.loader import loads  # noqa: PLC0415 - start-up time
    from rmqkit.topology.file.writer import to_yaml  # noqa: PLC0415

    if names := [*topology.external_exchanges, *topology.external_queues]:
        output.note(f"Not declared there, so listed under external: {output.safe(', '.join(names))}.")
    text = to_yaml(topology)
    try:
        loads(text, "the topology file")
    except InputError as error:
        output.warn(f"The broker accepted what `rmqkit apply` will refuse:\n{error}")
    return text
