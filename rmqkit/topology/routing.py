"""Route a message from its exchange to its queues, as RabbitMQ would.

A broker may hold more than the files declare: what an external exchange or a plugin decides is unknown, never guessed.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rmqkit.errors import PayloadError, TopologyError
from rmqkit.model import Binding, Exchange, Target, Topology
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.matching import KINDS, matches
from rmqkit.topology.names import BUILT_IN
from rmqkit.topology.policies import doubt, effective

MAX_PATHS = 1000  # paths that are listed, the shortest first
_MAX_STEPS = 20_000  # steps taken to list them

DeathReason = Literal["rejected", "expired", "maxlen", "delivery_limit"]
"""Why a message leaves a queue for the dead-letter exchange, in RabbitMQ's words."""

Deaths = tuple[tuple[str, DeathReason], ...]
"""Queues that a message left as a dead letter, and why."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A step from an exchange; without a binding it is taken by the default exchange, or to the alternate exchange."""

    source: str
    destination: str
    to_exchange: bool = False
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """The queues that a message reaches from an exchange: one copy each, however many paths lead there.

    `queues` are sorted; `legs` hold every step, the nearest first. `why` explains in a sentence why a message reaches
    no queue, and `unknown` holds what only a broker can answer. `keys` are all routing keys, those of CC and BCC
    included. `deaths` are the queues the message has left as a dead letter and why, the last first; `cycles` are those
    for which RabbitMQ drops it, queue by queue back to the first.
    """

    exchange: str
    keys: tuple[str, ...] = ("",)
    headers: Mapping[str, Any] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    legs: tuple[Leg, ...] = ()
    why: str = ""
    unknown: tuple[str, ...] = ()
    deaths: Deaths = ()
    cycles: tuple[tuple[str, ...], ...] = ()

    @property
    def unroutable(self) -> bool:
        """Tell whether the message certainly reaches no queue."""
        return not self.queues and not self.unknown

    @property
    def paths(self) -> tuple[tuple[Leg, ...], ...]:
        """Return every path to a queue that passes no exchange twice, the shortest first: at most MAX_PATHS."""
        following: dict[str, list[Leg]] = {}
        for leg in self.legs:
            following.setdefault(leg.source, []).append(leg)
        complete: list[tuple[Leg, ...]] = []
        partial: deque[tuple[Leg, ...]] = deque((leg,) for leg in following.get(self.exchange, ()))
        for _ in range(_MAX_STEPS):
            if not partial or len(complete) >= MAX_PATHS:
                break
            path = partial.popleft()
            if not path[-1].to_exchange:
                complete.append(path)
                continue
            passed = {leg.source for leg in path}
            partial += [(*path, leg) for leg in following.get(path[-1].destination, ()) if leg.source not in passed]
        return tuple(complete)


def route(topology: Topology, target: Target, headers: Mapping[str, Any] | None = None) -> Route:
    """Return the route of a message that is published to a target.

    Raises TopologyError if clients cannot publish there, PayloadError if CC or BCC is not a list.
    """
    headers = dict(headers or {})
    keys = (target.routing_key, *_extra_keys(headers, "CC"), *_extra_keys(headers, "BCC"))
    headers.pop("BCC", None)  # the broker removes it before routing
    router = Router(TopologyIndex(topology))
    if fault := router.publish_fault(target.exchange):
        raise TopologyError(fault)
    return router.follow(Route(target.exchange, keys, headers))


def _extra_keys(headers: Mapping[str, Any], name: str) -> list[str]:
    """Return the routing keys of a CC or BCC header (https://www.rabbitmq.com/docs/sender-selected)."""
    keys = headers.get(name, [])
    if not isinstance(keys, list):
        raise PayloadError(f"header {name} is not a list of routing keys, so the broker refuses the message")
    return [key for key in keys if isinstance(key, str)]


class Router:
    """Follow messages through a topology; a router serves any number of messages."""

    def __init__(self, index: TopologyIndex) -> None:
        """Add the built-in exchanges to those that are declared."""
        self.index = index
        self.topology = index.topology
        built_in = {
            name: Exchange(name, kind, internal=name == "amq.rabbitmq.trace") for name, kind in BUILT_IN.items()
        }
        self.exchanges = built_in | index.exchanges
        self.external = set(self.topology.external_exchanges) - self.exchanges.keys()
        self._dead_letters: dict[object, Route] = {}

    def publish_fault(self, exchange: str) -> str:
        """Explain why clients cannot publish to an exchange; an empty string if they can."""
        if not exchange or exchange in self.external:
            return ""
        if exchange not in self.exchanges:
            return f"exchange {exchange!r} is not declared{_nearest(exchange, [*self.exchanges, *self.external])}"
        return f"clients cannot publish to internal exchange {exchange!r}" if self.exchanges[exchange].internal else ""

    def follow(self, message: Route) -> Route:
        """Follow a message, given its exchange, keys and headers, to its queues."""
        legs: list[Leg] = []
        unknown: list[str] = []
        dead_ends: list[str] = []
        seen = {message.exchange}
        pending = deque(seen)
        while pending:
            name = pending.popleft()
            found = list(self._legs(name, message, unknown))
            legs += found
            if not found:
                dead_ends.append(self._dead_end(name, message))
            for leg in found:
                if leg.to_exchange and leg.destination not in seen:
                    seen.add(leg.destination)
                    pending.append(leg.destination)
        queues = tuple(sorted({leg.destination for leg in legs if not leg.to_exchange}))
        why = "" if queues or unknown else "; ".join(dead_ends) or f"exchange {message.exchange!r} leads in a cycle"
        return replace(message, queues=queues, legs=tuple(legs), why=why, unknown=tuple(unknown))

    def follow_dead_letter(self, message: Route) -> Route:
        """Follow a dead letter; messages whose first death was the same have the same headers and are followed once."""
        key = message.exchange, message.keys, message.deaths[-1]
        if key not in self._dead_letters:
            self._dead_letters[key] = self.follow(message)
        return replace(self._dead_letters[key], deaths=message.deaths)

    def _legs(self, name: str, message: Route, unknown: list[str]) -> Iterator[Leg]:
        """Yield the steps a message takes from an exchange, and add the uncertain ones to `unknown`."""
        if not message.exchange:
            yield from (Leg("", key) for key in dict.fromkeys(message.keys) if self.index.is_known_queue(key))
            return
        exchange = self.exchanges.get(name)
        if not exchange:
            if name in self.external:
                unknown.append(f"exchange {name!r} is external: its bindings are unknown")
            return
        kind, bindings = self.index.type_of(name), self.index.out_of.get(name, ())
        results = [(each, matches(kind, each, message.keys, message.headers)) for each in bindings]
        for binding, result in results:
            if result:
                yield Leg(name, binding.destination, binding.destination_type == "exchange", binding)
        if doubtful := [binding.destination for binding, result in results if result is None]:
            unknown.append(_doubt(name, kind, doubtful))
        if any(result is not False for _, result in results):
            return
        alternate = effective(self.topology, exchange).get("alternate-exchange")
        by_policy = any("alternate-exchange" in policy.definition for policy in self.topology.policies)
        if by_policy and "alternate-exchange" not in exchange.arguments and (why := doubt(self.topology, exchange)):
            unknown.append(why)
        elif isinstance(alternate, str):  # the broker refuses others
            yield Leg(name, alternate, to_exchange=True)

    def _dead_end(self, name: str, message: Route) -> str:
        """Explain why a message goes no further than an exchange."""
        keys = ", ".join(map(repr, message.keys))
        if not message.exchange:
            return f"there is no queue {keys}{_nearest(message.keys[0], self.index.queues)}"
        if name not in self.exchanges:
            return f"there is no exchange {name!r}"
        kind, bindings = self.index.type_of(name), self.index.out_of.get(name, [])
        if not bindings:
            return f"nothing is bound to exchange {name!r}"
        if kind == "headers":
            return f"no binding of exchange {name!r} matches the headers"
        nearest = _nearest(message.keys[0], [binding.routing_key for binding in bindings])
        return f"no binding of exchange {name!r} ({kind}) matches routing key {keys}{nearest}"


def _doubt(exchange: str, kind: str, destinations: list[str]) -> str:
    names = ", ".join(map(repr, dict.fromkeys(destinations)))
    if kind in KINDS:
        return f"whether the headers match in exchange {exchange!r} for {names} depends on RabbitMQ's version"
    return f"exchange {exchange!r} is of type {kind}: only the broker can tell whether it routes to {names}"


def _nearest(word: str, known: Iterable[str]) -> str:
    guess = difflib.get_close_matches(word, known, 1)
    return f"; the nearest is {guess[0]!r}" if guess else ""
