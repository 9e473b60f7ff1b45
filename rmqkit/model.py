"""The parts of a topology, in RabbitMQ's own words."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rmqkit.errors import Location

Arguments = Mapping[str, Any]
DestinationType = Literal["queue", "exchange"]
QUEUE_TYPES = ("classic", "quorum", "stream")  # other types are of plugins
_SECRET = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_?KEY", re.IGNORECASE)
AppliesTo = Literal["all", "exchanges", "queues", "classic_queues", "quorum_queues", "streams"]


@dataclass(frozen=True, slots=True)
class Contract:
    """The rule for message bodies: their format, and a JSON Schema (`json`) or an XSD (`xml`).

    `schema` is a file's path, relative to the file that the contract was read from, if there is one.
    """

    format: Literal["json", "xml"]
    schema: str
    where: Location | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> str:
        """Return the schema's path from the current folder."""
        return os.path.join(os.path.dirname(self.where.file if self.where else ""), self.schema)  # noqa: PTH118, PTH120


@dataclass(frozen=True, slots=True)
class Retry:
    """The delays between tries of a message whose handler fails, and the queue it is moved to after the last one.

    `delays_ms` are 1 to 20 delays in milliseconds, from 1 to 315,360,000,000, and may repeat. A `native` retry is that
    of a quorum queue itself where the broker has it, since RabbitMQ 4.3: no waiting queues are declared.
    """

    delays_ms: tuple[int, ...]
    then: str
    native: bool = False
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where messages are published to (https://www.rabbitmq.com/docs/exchanges).

    `type` is direct, fanout, topic, headers, or a plugin's; `name` has 1 to 255 bytes of UTF-8. The broker does not
    know the `contract`. `where` is the place in the file it was read from; comparisons ignore it.
    """

    name: str
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Arguments = field(default_factory=dict)
    contract: Contract | None = None
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Queue:
    """Where messages wait for consumers (https://www.rabbitmq.com/docs/queues).

    The queue type of a topology file (classic, quorum, stream) is the argument `x-queue-type` here, as on the wire. The
    broker does not know the `contract`, and of `retry` only the queues where messages wait.
    """

    name: str
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    arguments: Arguments = field(default_factory=dict)
    contract: Contract | None = None
    retry: Retry | None = None
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binding:
    """A rule by which the exchange `source` feeds a queue or another exchange."""

    source: str
    destination: str
    destination_type: DestinationType = "queue"
    routing_key: str = ""
    arguments: Arguments = field(default_factory=dict)
    where: Location | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        key = f" [{self.routing_key}]" if self.routing_key else ""
        return f"{self.source} -> {self.destination}{key}"


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings that the broker applies to every entity whose name matches (https://www.rabbitmq.com/docs/policies).

    `pattern` is a regular expression searched for in the name. Of all policies that match an entity, only the one with
    the highest `priority` applies. `definition` has the keys of arguments, without `x-`.
    """

    name: str
    pattern: str
    definition: Arguments
    apply_to: AppliesTo = "all"
    priority: int = 0
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Suppression:
    """A lint finding to ignore: its code, the entity's name (`*` matches any part), and the reason."""

    code: str
    name: str = "*"
    reason: str = ""
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of a published message: an exchange (empty: the default exchange) and a routing key."""

    exchange: str = ""
    routing_key: str = ""

    def __str__(self) -> str:
        if not self.exchange:
            return f"queue {self.routing_key!r} (default exchange)"
        return f"exchange {self.exchange!r}" + (f", routing key {self.routing_key!r}" if self.routing_key else "")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that a topology file uses, its value, and where this came from."""

    name: str
    value: str = field(repr=False)
    origin: Literal["environment", "default"]

    @property
    def is_secret(self) -> bool:
        """Tell whether the name suggests that the value must not be shown or saved."""
        return bool(_SECRET.search(self.name))


@dataclass(frozen=True, slots=True)
class Publication:
    """An exchange that a service publishes to (empty: the default exchange), and the routing keys; none stand for all.

    Routing keys are patterns for a topic exchange, and names of queues for the default exchange. With `delay` the
    service also delays messages.
    """

    exchange: str = ""
    routing_keys: tuple[str, ...] = ()
    delay: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A program that uses the topology: where it publishes, the queues it consumes, and what it declares itself.

    `declares` has names of queues and exchanges. The broker does not know services.
    """

    name: str
    publishes: tuple[Publication, ...] = ()
    consumes: tuple[str, ...] = ()
    declares: tuple[str, ...] = ()
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Topology:
    """The entities that one or more topology files declare.

    Entities keep the order of the file; names are unique within exchanges and within queues. `publish` is the default
    target of `rmqkit publish`; the external exchanges and queues are declared by others. `scope` holds name patterns
    (`*` matches any part): entities of the broker that match one and that no file declares are extra. `vhost` is the
    virtual host that the files name, if they do; `variables` are those of the `files` it was read from, by name. With
    `delay` the queues in which delayed messages wait belong to it.
    """

    description: str = ""
    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()
    publish: Target | None = None
    external_exchanges: tuple[str, ...] = ()
    external_queues: tuple[str, ...] = ()
    policies: tuple[Policy, ...] = ()
    scope: tuple[str, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    vhost: str | None = None
    delay: bool = False
    variables: tuple[Variable, ...] = field(default=(), compare=False, repr=False)
    files: tuple[str, ...] = field(default=(), compare=False, repr=False)
    services: tuple[Service, ...] = ()
