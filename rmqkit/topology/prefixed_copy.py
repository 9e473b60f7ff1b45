"""Copy a topology under prefixed names; the copy routes every message as the original would.

Keys and headers are kept: even the default exchange is copied, as a direct exchange to which every queue is bound by
its original name. So a message published to the copy never reaches a queue outside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.topology.names import BUILT_IN, MAX_NAME_BYTES
from rmqkit.topology.policies import effective, queue_type
from rmqkit.topology.routing import DeathReason

EXPIRES_MS = 300_000  # without a consumer for this long, the broker deletes a queue that was left behind
TTL_MS = 100
_ROUTING = (
    "x-queue-type", "x-overflow", "x-dead-letter-strategy", "x-dead-letter-exchange", "x-dead-letter-routing-key",
)  # fmt: skip
_LIMITS: Mapping[DeathReason, Mapping[str, int]] = {
    "rejected": {},
    "expired": {"x-message-ttl": TTL_MS},
    "maxlen": {"x-max-length": 1},
    "delivery_limit": {"x-delivery-limit": 1},
}


@dataclass(frozen=True, slots=True)
class PrefixedCopy:
    """The topology to declare, and the original name of each of its queues."""

    prefix: str
    topology: Topology
    queues: Mapping[str, str]

    def named(self, name: str) -> str:
        """Return the name of the copy of an exchange or queue; that of the default exchange is the prefix itself."""
        return _named(self.prefix, name)


def prefixed_copy(topology: Topology, prefix: str, leaving: Collection[tuple[str, DeathReason]] = ()) -> PrefixedCopy:
    """Return the copy of a topology.

    Messages leave a queue on their own only for the reasons that `leaving` gives for it, and then at once. Messages to
    an external exchange end in a queue in its place. Policies become arguments. If the owner of the copy dies, the
    broker removes everything except streams.
    """
    expiring = {"x-expires": EXPIRES_MS}
    external = {name: f"external exchange {name!r}" for name in topology.external_exchanges if name not in BUILT_IN}
    queues = {queue.name: _queue(prefix, topology, queue, leaving) for queue in topology.queues}
    others = [name for name in topology.external_queues if name not in queues]
    queues |= {name: Queue(_named(prefix, name), arguments=expiring) for name in others}
    bindings = [Binding(_named(prefix, ""), queue.name, routing_key=name) for name, queue in queues.items()]
    for name, label in external.items():
        queues[label] = Queue(_named(prefix, label), arguments=expiring)
        bindings.append(Binding(_named(prefix, name), queues[label].name))
    bindings += [_binding(prefix, each) for each in topology.bindings if each.source not in external]
    exchanges = tuple(_exchanges(prefix, topology, external))
    copy = Topology(exchanges=exchanges, queues=tuple(queues.values()), bindings=tuple(bindings))
    return PrefixedCopy(prefix, copy, {queue.name: name for name, queue in queues.items()})


def _named(prefix: str, name: str) -> str:
    whole = prefix + name
    return whole if len(whole.encode()) <= MAX_NAME_BYTES else prefix + hashlib.sha256(name.encode()).hexdigest()


def _exchanges(prefix: str, topology: Topology, external: Iterable[str]) -> Iterator[Exchange]:
    for name, kind in {"": "direct", **BUILT_IN, **dict.fromkeys(external, "fanout")}.items():
        yield Exchange(_named(prefix, name), kind, auto_delete=True)
    for exchange in topology.exchanges:
        arguments = effective(topology, exchange)
        if alternate := arguments.get("alternate-exchange"):  # an empty one leads nowhere
            arguments["alternate-exchange"] = _named(prefix, alternate)
        own = {name: arguments[name] for name in {*exchange.arguments, "alternate-exchange"} & arguments.keys()}
        yield replace(exchange, name=_named(prefix, exchange.name), durable=True, auto_delete=True, arguments=own)


def _queue(prefix: str, topology: Topology, queue: Queue, leaving: Collection[tuple[str, DeathReason]]) -> Queue:
    settings = effective(topology, queue)
    arguments: dict[str, Any] = {name: settings[name] for name in _ROUTING if name in settings}
    if "x-dead-letter-exchange" in arguments:
        arguments["x-dead-letter-exchange"] = _named(prefix, arguments["x-dead-letter-exchange"])
    if queue_type(queue) != "stream":
        arguments["x-expires"] = EXPIRES_MS
    for name, reason in leaving:
        arguments |= _LIMITS[reason] if name == queue.name else {}
    return Queue(_named(prefix, queue.name), arguments=arguments)


def _binding(prefix: str, binding: Binding) -> Binding:
    """Rename both ends, and the names that a headers exchange may match in dead letters."""
    arguments = dict(binding.arguments)
    for header in ("x-first-death-queue", "x-first-death-exchange"):
        if isinstance(arguments.get(header), str):
            arguments[header] = _named(prefix, arguments[header])
    source, destination = _named(prefix, binding.source), _named(prefix, binding.destination)
    return replace(binding, source=source, destination=destination, arguments=arguments)
