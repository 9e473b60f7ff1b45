"""Index a topology: entities by name, bindings by both ends, arguments with policies applied."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any

from rmqkit.model import Arguments, Binding, Exchange, Queue, Topology
from rmqkit.topology.matching import matches
from rmqkit.topology.names import BUILT_IN
from rmqkit.topology.policies import effective, unread

_NAMES = ("alternate-exchange", "x-dead-letter-exchange", "x-dead-letter-routing-key")


class TopologyIndex:
    """A topology, indexed.

    `out_of` has the bindings of an exchange, `into_queue` and `into_exchange` those that lead to one, in the order of
    the file. `policies` are those whose pattern can be read here, `unread` the others, which are never applied.
    """

    def __init__(self, topology: Topology) -> None:
        """Index a topology; settings are computed when they are asked for."""
        self.topology = topology
        self.unread = unread(topology)
        self.policies = tuple(policy for policy in topology.policies if policy not in self.unread)
        self.exchanges = {exchange.name: exchange for exchange in topology.exchanges}
        self.queues = {queue.name: queue for queue in topology.queues}
        self.out_of: dict[str, list[Binding]] = {}
        self.into_queue: dict[str, list[Binding]] = {}
        self.into_exchange: dict[str, list[Binding]] = {}
        for binding in topology.bindings:
            into = self.into_queue if binding.destination_type == "queue" else self.into_exchange
            self.out_of.setdefault(binding.source, []).append(binding)
            into.setdefault(binding.destination, []).append(binding)
        self._settings: dict[str, Arguments] = {}

    @property
    def entities(self) -> tuple[Exchange | Queue, ...]:
        """The exchanges, then the queues."""
        return *self.exchanges.values(), *self.queues.values()

    def settings(self, queue: str) -> Arguments:
        """Return the arguments of a declared queue, with its policy applied."""
        if queue not in self._settings:
            self._settings[queue] = self._effective(self.queues[queue])
        return self._settings[queue]

    @cached_property
    def alternates(self) -> dict[str, str]:
        """The alternate exchange of each exchange that has one, with policies applied."""
        alternates = {name: self._effective(each).get("alternate-exchange") for name, each in self.exchanges.items()}
        return {name: alternate for name, alternate in alternates.items() if alternate}

    def _effective(self, entity: Exchange | Queue) -> dict[str, Any]:
        """Return the effective arguments without names that are not text: other checks report them."""
        settings = effective(self.topology, entity)
        return {name: value for name, value in settings.items() if name not in _NAMES or isinstance(value, str)}

    @cached_property
    def _by_key(self) -> dict[tuple[str, str], list[Binding]]:
        by_key: dict[tuple[str, str], list[Binding]] = defaultdict(list)
        for binding in self.topology.bindings:
            by_key[binding.source, binding.routing_key].append(binding)
        return by_key

    def type_of(self, exchange: str) -> str:
        """Return the type by which an exchange routes; an empty string if it is external.

        An exchange of the plugin for delayed messages routes by another type once the delay is over
        (https://github.com/rabbitmq/rabbitmq-delayed-message-exchange).
        """
        if not (declared := self.exchanges.get(exchange)):
            return BUILT_IN.get(exchange, "")
        delayed = declared.arguments.get("x-delayed-type") if declared.type == "x-delayed-message" else None
        return delayed if isinstance(delayed, str) else declared.type

    def is_known_exchange(self, name: str) -> bool:
        """Tell whether an exchange is declared, external, built in or the default one."""
        return not name or name in self.exchanges or name in BUILT_IN or name in self.topology.external_exchanges

    def is_known_queue(self, name: str) -> bool:
        """Tell whether a queue is declared or external."""
        return name in self.queues or name in self.topology.external_queues

    def accepts(self, binding: Binding, key: str | None) -> bool | None:
        """Tell whether a binding accepts a message with a routing key (None: any); None if that is unknown."""
        kind = self.type_of(binding.source)
        if kind == "fanout" or (kind == "topic" and binding.routing_key == "#"):
            return True
        return matches(kind, binding, (key,), {}) if kind in ("direct", "topic") and key is not None else None

    def reached(self, exchange: str, key: str | None, *, certainly: bool) -> set[str]:
        """Return the queues that a message published to an exchange certainly reaches, or those that it may reach."""
        if not exchange:
            return {key} & self.queues.keys() if key is not None else set()
        queues: set[str] = set()
        seen, pending = {exchange}, [exchange]
        for name in pending:
            exchanges = {self.alternates[name]} if name in self.alternates and not certainly else set()
            is_exact = key is not None and self.type_of(name) == "direct"
            for binding in self._by_key.get((name, key or ""), ()) if is_exact else self.out_of.get(name, ()):
                accepted = self.accepts(binding, key)
                if accepted or (accepted is None and not certainly):
                    (queues if binding.destination_type == "queue" else exchanges).add(binding.destination)
            pending += sorted(exchanges - seen)
            seen |= exchanges
        return queues

    def keys_into(self, queue: str) -> tuple[str | None, ...]:
        """Return the routing keys that messages arrive with, in the order of the bindings; None stands for any."""
        keys: dict[str | None, None] = {}
        for binding in self.into_queue.get(queue, ()):
            kind, key = self.type_of(binding.source), binding.routing_key
            exact = kind == "direct" or (kind == "topic" and not {"*", "#"} & {*key.split(".")})
            keys[key if exact else None] = None
        return tuple(keys) or (queue,)  # only the default exchange leads there
