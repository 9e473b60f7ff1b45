"""What a topology is made of, in RabbitMQ's own words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rmqkit.errors import Location

Arguments = Mapping[str, Any]
DestinationType = Literal["queue", "exchange"]
AppliesTo = Literal["all", "exchanges", "queues", "classic_queues", "quorum_queues", "streams"]


@dataclass(frozen=True, slots=True)
class Contract:
    """What bodies have to be: of a format, and as a schema says: a JSON Schema for `json`, an XSD for `xml`.

    `schema` is a file's path; where the contract was read from a file, it is relative to that one.
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
    """How long a message waits before each new try once its handler has failed, and in which queue it ends `then`.

    `delays_ms` are 1 to 20 waits in milliseconds, from 1 to 315,360,000,000; two of them may be the same.
    """

    delays_ms: tuple[int, ...]
    then: str
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where messages are published to (https://www.rabbitmq.com/docs/exchanges).

    `type` is direct, fanout, topic, headers, or a plugin's; `name` has 1 to 255 bytes of UTF-8. The broker knows
    nothing of its `contract`. `where` is its place in the file it was read from and takes no part in comparisons.
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
    broker knows nothing of its `contract` and its `retry`, but for the queues that messages wait in.
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
    """Settings that the broker puts on every entity whose name matches (https://www.rabbitmq.com/docs/policies).

    `pattern` is a regular expression that is searched for in the name; of several policies that match, the one with the
    highest `priority` counts, alone. `definition` has the keys of arguments, without `x-`.
    """

    name: str
    pattern: str
    definition: Arguments
    apply_to: AppliesTo = "all"
    priority: int = 0
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Suppression:
    """A finding of lint that somebody has looked at: its code, whose it is (a name, `*` for any part), and why."""

    code: str
    name: str = "*"
    reason: str = ""
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a message is published: an exchange (empty: the default exchange) and a routing key."""

    exchange: str = ""
    routing_key: str = ""

    def __str__(self) -> str:
        if not self.exchange:
            return f"queue {self.routing_key!r} (default exchange)"
        return f"exchange {self.exchange!r}" + (f", routing key {self.routing_key!r}" if self.routing_key else "")


@dataclass(frozen=True, slots=True)
class Topology:
    """All that one or more topology files declare.

    Entities keep the order of the file; names are unique within exchanges and within queues. `publish` is the target
    of `rmqkit publish` when none is named; `external` names exchanges and queues that others declare. `scope` holds
    name patterns (`*` for any part): what the broker has under such names and no file declares is extra. `silences`
    are for lint.
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
    silences: tuple[Suppression, ...] = ()
