"""A topology as lint looks at it: entities by name, bindings by their ends, arguments with policies applied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rmqkit.model import Arguments, Binding, Exchange, Policy, Queue, Topology
from rmqkit.topology.file.names import BUILT_IN
from rmqkit.topology.matching import matches
from rmqkit.topology.policies import effective, unread

_NAMES = ("alternate-exchange", "x-dead-letter-exchange", "x-dead-letter-routing-key")


@dataclass(frozen=True, slots=True)
class TopologyIndex:
    """A topology, indexed.

    `out_of` has the bindings of an exchange, `into_queue` and `into_exchange` those that lead to one, in the order of
    the file. `settings` are the arguments of each queue, `x-` and all, after policies; `alternates` the alternate
    exchange of each exchange that has one. `unread` are policies whose pattern cannot be read: `topology` is without.
    """

    topology: Topology
    exchanges: Mapping[str, Exchange]
    queues: Mapping[str, Queue]
    out_of: Mapping[str, list[Binding]]
    into_queue: Mapping[str, list[Binding]]
    into_exchange: Mapping[str, list[Binding]]
    settings: Mapping[str, Arguments]
    alternates: Mapping[str, str]
    unread: tuple[Policy, ...]
    _by_key: Mapping[tuple[str, str], list[Binding]]

    def type_of(self, exchange: str) -> str:
        """Return an exchange's type; an empty text if it is external."""
        declared = self.exchanges.get(exchange)
        return declared.type if declared else BUILT_IN.get(exchange, "")

    def is_known(self, exchange: str) -> bool:
        """Tell whether an exchange is declared, external, built in or the default one."""
        return exchange in {"", *self.exchanges, *BUILT_IN, *self.topology.external_exchanges}

    def is_known_queue(self, queue: str) -> bool:
        """Tell whether a queue is declared or external."""
        return queue in self.queues or queue in self.topology.external_queues

    def takes(self, binding: Binding, key: str | None) -> bool | None:
        """Tell whether a binding takes a message with a routing key (None: any); None if that cannot be known."""
        kind = self.type_of(binding.source)
        if kind == "fanout" or (kind == "topic" and binding.routing_key == "#"):
            return True
        return matches(kind, binding, (key,), {}) if kind in ("direct", "topic") and key is not None else None

    def reached(self, exchange: str, key: str | None, *, surely: bool) -> set[str]:
        """Return the queues a message to an exchange reaches: those it must reach, or those it may."""
        if not exchange:
            return {key} & self.queues.keys() if key is not None else set()
        queues: set[str] = set()
        seen, todo = {exchange}, [exchange]
        for name in todo:
            onward = {self.alternates[name]} if name in self.alternates and not surely else set()
            for binding in self._candidates(name, key):
                if self.takes(binding, key) if surely else self.takes(binding, key) is not False:
                    (queues if binding.destination_type == "queue" else onward).add(binding.destination)
            todo += sorted(onward - seen)
            seen |= onward
        return queues

    def _candidates(self, exchange: str, key: str | None) -> Iterable[Binding]:
        if key is not None and self.type_of(exchange) == "direct":
            return self._by_key.get((exchange, key), ())
        return self.out_of.get(exchange, ())

    def keys_into(self, queue: str) -> tuple[str | None, ...]:
        """Return the routing keys that messages arrive with, in the order of the bindings; None stands for any."""
        keys: dict[str | None, None] = {}
        for binding in self.into_queue.get(queue, ()):
            kind, key = self.type_of(binding.source), binding.routing_key
            exact = kind == "direct" or (kind == "topic" and not {"*", "#"} & {*key.split(".")})
            keys[key if exact else None] = None
        return tuple(keys) or (queue,)  # nothing but the default exchange leads there


def index_of(topology: Topology) -> TopologyIndex:
    """Index a topology."""
    left_out = unread(topology)
    topology = replace(topology, policies=tuple(policy for policy in topology.policies if policy not in left_out))
    out_of: dict[str, list[Binding]] = defaultdict(list)
    into_queue: dict[str, list[Binding]] = defaultdict(list)
    into_exchange: dict[str, list[Binding]] = defaultdict(list)
    by_key: dict[tuple[str, str], list[Binding]] = defaultdict(list)
    for binding in topology.bindings:
        out_of[binding.source].append(binding)
        (into_queue if binding.destination_type == "queue" else into_exchange)[binding.destination].append(binding)
        by_key[binding.source, binding.routing_key].append(binding)
    return TopologyIndex(
        topology,
        {exchange.name: exchange for exchange in topology.exchanges},
        {queue.name: queue for queue in topology.queues},
        dict(out_of),
        dict(into_queue),
        dict(into_exchange),
        {queue.name: _settings(topology, queue) for queue in topology.queues},
        {each.name: other for each in topology.exchanges if (other := _settings(topology, each).get(_NAMES[0]))},
        left_out,
        dict(by_key),
    )


def _settings(topology: Topology, entity: Exchange | Queue) -> dict[str, Any]:
    """Return the effective arguments; a name that is no text is told of elsewhere, and would lead nowhere here."""
    settings = effective(topology, entity)
    return {name: value for name, value in settings.items() if name not in _NAMES or isinstance(value, str)}
