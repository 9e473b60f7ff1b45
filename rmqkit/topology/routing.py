"""Where a message goes from its exchange, as RabbitMQ would send it.

A broker may hold more than the files say: what is external, or decided by a plugin, is told as unknown, never guessed.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rmqkit.errors import PayloadError, TopologyError
from rmqkit.model import Binding, Exchange, Queue, Target, Topology
from rmqkit.topology.death_cycles import Deaths
from rmqkit.topology.file.names import BUILT_IN
from rmqkit.topology.matching import KINDS, matches
from rmqkit.topology.policies import doubt, effective

MAX_PATHS = 1000  # ways that are listed; the shortest come first
_MAX_STEPS = 20_000  # steps looked at while listing them


@dataclass(frozen=True, slots=True)
class Leg:
    """A step from an exchange; without a binding it is the default exchange's, or the way to the alternate exchange."""

    source: str
    destination: str
    to_exchange: bool = False
    binding: Binding | None = None


Path = tuple[Leg, ...]
"""A way from the first exchange to a queue."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which queues a message reaches from an exchange: one copy each, whatever the number of ways.

    `queues` are sorted; `legs` hold every step, nearest first. `why` says in a sentence what becomes of a message that
    reaches none, and `unknown` what cannot be told without a broker. `keys` are all its routing keys, those of CC and
    BCC included. `deaths` are the queues it has left as a dead letter and why, the last first; `cycles` are those
    that RabbitMQ broke by dropping it, queue by queue back to the first.
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
        """Tell whether it surely reaches no queue."""
        return not self.queues and not self.unknown

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return every way to a queue that passes no exchange twice, the shortest first: at most MAX_PATHS."""
        onward: dict[str, list[Leg]] = {}
        for leg in self.legs:
            onward.setdefault(leg.source, []).append(leg)
        found: list[Path] = []
        begun: deque[Path] = deque((leg,) for leg in onward.get(self.exchange, ()))
        for _ in range(_MAX_STEPS):
            if not begun or len(found) >= MAX_PATHS:
                break
            path = begun.popleft()
            if not path[-1].to_exchange:
                found.append(path)
                continue
            passed = {leg.source for leg in path}
            begun += [(*path, leg) for leg in onward.get(path[-1].destination, ()) if leg.source not in passed]
        return tuple(found)


def route(topology: Topology, target: Target, headers: Mapping[str, Any] | None = None) -> Route:
    """Return where a message goes that is published to a target.

    Raises TopologyError if nobody can publish there, PayloadError if CC or BCC is no list.
    """
    headers = dict(headers or {})
    keys = (target.routing_key, *_extra_keys(headers, "CC"), *_extra_keys(headers, "BCC"))
    headers.pop("BCC", None)  # the broker takes it out before it routes
    entities = Entities(topology)
    if fault := entities.publish_fault(target.exchange):
        raise TopologyError(fault)
    return entities.follow(Route(target.exchange, keys, headers))


def _extra_keys(headers: Mapping[str, Any], name: str) -> list[str]:
    """Return the routing keys of a CC or BCC header (https://www.rabbitmq.com/docs/sender-selected)."""
    keys = headers.get(name, [])
    if not isinstance(keys, list):
        raise PayloadError(f"header {name} is no list of routing keys: the broker refuses the message")
    return [key for key in keys if isinstance(key, str)]


class Entities:
    """A topology as the broker looks things up in it."""

    def __init__(self, topology: Topology) -> None:
        """Index a topology, for as many messages as there are."""
        self.topology = topology
        built_in = [Exchange(name, kind, internal=name == "amq.rabbitmq.trace") for name, kind in BUILT_IN.items()]
        self.exchanges = {exchange.name: exchange for exchange in (*built_in, *topology.exchanges)}
        self.external = set(topology.external_exchanges) - self.exchanges.keys()
        self.queues = {queue.name: queue for queue in topology.queues}
        self._followed: dict[object, Route] = {}
        self._settings: dict[str, dict[str, Any]] = {}
        self.bindings: dict[str, list[Binding]] = {}
        for binding in topology.bindings:
            self.bindings.setdefault(binding.source, []).append(binding)

    def settings(self, queue: Queue) -> dict[str, Any]:
        """Return the arguments of a queue, its policy's included."""
        if queue.name not in self._settings:
            self._settings[queue.name] = effective(self.topology, queue)
        return self._settings[queue.name]

    def publish_fault(self, exchange: str) -> str:
        """Say why nobody can publish to an exchange, or nothing."""
        if not exchange or exchange in self.external:
            return ""
        if exchange not in self.exchanges:
            return f"exchange {exchange!r} is not declared{_nearest(exchange, [*self.exchanges, *self.external])}"
        return (
            f"nobody can publish to exchange {exchange!r}: it is internal" if self.exchanges[exchange].internal else ""
        )

    def follow(self, letter: Route) -> Route:
        """Follow a message from its exchange to its queues."""
        legs: list[Leg] = []
        unknown: list[str] = []
        dead_ends: list[str] = []
        seen = {letter.exchange}
        work = deque(seen)
        while work:
            name = work.popleft()
            found = list(self._legs(name, letter, unknown))
            legs += found
            if not found:
                dead_ends.append(self._dead_end(name, letter))
            for leg in found:
                if leg.to_exchange and leg.destination not in seen:
                    seen.add(leg.destination)
                    work.append(leg.destination)
        queues = tuple(sorted({leg.destination for leg in legs if not leg.to_exchange}))
        why = "" if queues or unknown else "; ".join(dead_ends) or f"exchange {letter.exchange!r} leads in a circle"
        return replace(letter, queues=queues, legs=tuple(legs), why=why, unknown=tuple(unknown))

    def follow_once(self, letter: Route) -> Route:
        """Follow a dead letter, of one message: all that died first in the same way have the same headers."""
        key = letter.exchange, letter.keys, letter.deaths[-1]
        if key not in self._followed:
            self._followed[key] = self.follow(letter)
        return replace(self._followed[key], deaths=letter.deaths)

    def _legs(self, name: str, letter: Route, unknown: list[str]) -> Iterator[Leg]:
        """Yield the steps a message takes from an exchange; what cannot be told is added to `unknown`."""
        if not letter.exchange:
            known = {*self.queues, *self.topology.external_queues}
            yield from (Leg("", key) for key in dict.fromkeys(letter.keys) if key in known)
            return
        exchange = self.exchanges.get(name)
        if not exchange:
            if name in self.external:
                unknown.append(f"exchange {name!r} is external: where it leads is not known")
            return
        verdicts = [
            (binding, matches(exchange.type, binding, letter.keys, letter.headers))
            for binding in self.bindings.get(name, ())
        ]
        for binding, verdict in verdicts:
            if verdict:
                yield Leg(name, binding.destination, binding.destination_type == "exchange", binding)
        if doubtful := [binding.destination for binding, verdict in verdicts if verdict is None]:
            unknown.append(_doubt(exchange, doubtful))
        alternate = effective(self.topology, exchange).get("alternate-exchange")
        if any(verdict is not False for _, verdict in verdicts):
            return
        by_policy = any("alternate-exchange" in policy.definition for policy in self.topology.policies)
        by_policy = by_policy and "alternate-exchange" not in exchange.arguments
        if by_policy and (why := doubt(self.topology, exchange)):
            unknown.append(why)
        elif alternate is not None:
            yield Leg(name, alternate, to_exchange=True)

    def _dead_end(self, name: str, letter: Route) -> str:
        """Say why a message goes no further than an exchange."""
        keys = ", ".join(map(repr, letter.keys))
        if not letter.exchange:
            return f"there is no queue {keys}{_nearest(letter.keys[0], self.queues)}"
        if name not in self.exchanges:
            return f"there is no exchange {name!r}"
        kind, bindings = self.exchanges[name].type, self.bindings.get(name, [])
        if not bindings:
            return f"nothing is bound to exchange {name!r}"
        if kind == "headers":
            return f"no binding of exchange {name!r} matches the headers"
        nearest = _nearest(letter.keys[0], [binding.routing_key for binding in bindings])
        return f"no binding of exchange {name!r} ({kind}) matches routing key {keys}{nearest}"


def _doubt(exchange: Exchange, destinations: list[str]) -> str:
    ends = ", ".join(map(repr, dict.fromkeys(destinations)))
    if exchange.type in KINDS:
        return f"whether exchange {exchange.name!r} leads to {ends} depends on RabbitMQ's version, by its headers"
    return f"exchange {exchange.name!r} is of type {exchange.type}: whether it leads to {ends} only the broker knows"


def _nearest(word: str, known: Iterable[str]) -> str:
    guess = difflib.get_close_matches(word, known, 1)
    return f"; the nearest is {guess[0]!r}" if guess else ""
