"""Where a topology comes from, as an argument of a command says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rmqkit.cli.commands import convert
from rmqkit.cli.files import readable
from rmqkit.cli.options import ConnectionOptions, connect
from rmqkit.model import Topology

if TYPE_CHECKING:
    from rmqkit.settings import Settings

_URL = re.compile(r"amqps?://", re.IGNORECASE)
_OBJECT = re.compile(r'\s*\{\s*"')  # how definitions begin, and no topology file that a person wrote


@dataclass(frozen=True, slots=True)
class TopologySource:
    """A topology, and what to call the place it comes from; `omitted` says in words what else is there.

    `default_queue_type` is what a queue without a type is on the broker.
    """

    name: str
    topology: Topology
    omitted: tuple[str, ...] = ()
    default_queue_type: str = "classic"


def read(argument: str, broker: ConnectionOptions) -> TopologySource:
    """Read a topology file, definitions or a live broker; `--vhost` also chooses among those of definitions.

    Raises DocumentError, TopologyError, InputError, SettingsError, and what `of_broker` raises.
    """
    from rmqkit.topology.file.loader import loads  # noqa: PLC0415 - start-up time
    from rmqkit.topology.file.text import MAX_BYTES, read_text  # noqa: PLC0415

    if _URL.match(argument):
        return of_broker(replace(broker, url=[argument]).settings(source="the URL"))
    named_so = PurePath(argument).suffix.lower() == ".json"
    path = readable(argument)
    text = read_text(path, convert.MAX_BYTES if named_so else MAX_BYTES)
    if named_so or _OBJECT.match(text):
        return _of_definitions(text, path, vhost=broker.vhost)
    return TopologySource(path, loads(text, path))


def of_broker(settings: Settings) -> TopologySource:
    """Return what a virtual host holds, sorted by name, as a topology file could: nothing exclusive, nothing internal.

    Raises Unreachable, AuthenticationFailed and AccessRefused if the broker or its HTTP API does not answer.
    """
    from rmqkit.topology.file.definitions import not_in_definitions, to_definitions  # noqa: PLC0415 - start-up time

    with connect(settings) as connection:
        live = connection.live()
    definitions = to_definitions(live.topology) | {"parameters": list(live.parameters or ())}
    origin = _of_definitions(definitions, title(settings))
    hidden = [name for name, unseen in (("policies", live.unseen), ("parameters", live.parameters is None)) if unseen]
    omitted = (
        *not_in_definitions(live.topology),
        *origin.omitted,
        *(f"{name} that may not be seen" for name in hidden),
    )
    return replace(origin, omitted=omitted, default_queue_type=live.default_queue_type)


def title(settings: Settings) -> str:
    """Name the broker in a sentence."""
    return str(settings.addresses[0]) if len(settings.addresses) == 1 else "the broker"


def _of_definitions(source: str | Mapping[str, Any], name: str, vhost: str | None = None) -> TopologySource:
    from rmqkit.topology.file.definitions import from_definitions  # noqa: PLC0415 - start-up time

    return TopologySource(name, *from_definitions(source, file=name, vhost=vhost))
