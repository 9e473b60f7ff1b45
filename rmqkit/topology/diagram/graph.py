"""Turn a topology into a graph to draw; abbreviate groups of many similar nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.plural import plural
from rmqkit.topology.delays import MAX_DELAY_S
from rmqkit.topology.delays import NAMES as DELAYS
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.names import BUILT_IN
from rmqkit.topology.retry import native_arguments, waiting_queue

KEPT = 3  # nodes drawn of a larger group
FEW = 10  # nodes in the largest group that is drawn in full
_DIGITS = re.compile(r"[0-9]+")
Kind = Literal["exchange", "queue", "publisher"]
Relation = Literal["publish", "binding", "alternate", "dead-letter", "failure"]


@dataclass(frozen=True, slots=True)
class DiagramNode:
    """An exchange, a queue or the publisher; `notes` describe its notable settings.

    `more` is 0, or the number of entities it stands for; its name is then that of another entity like them.
    """

    kind: Kind
    name: str
    type: str = ""
    notes: tuple[str, ...] = ()
    more: int = 0

    @property
    def title(self) -> str:
        """Return the label of the node."""
        name = self.name if self.name == self.name.strip() else f'"{self.name}"'
        return f"and {self.more:,} more like {name}" if self.more else name or "default exchange"


@dataclass(frozen=True, slots=True)
class DiagramEdge:
    """A connection from one node to another, given by their positions in the graph.

    `labels` describe the messages that take it: the routing key or headers of each binding, in the order of the file;
    the number of the try of failures.
    """

    source: int
    target: int
    relation: Relation
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagram:
    """A graph: exchanges first, as in the file; at most one edge of each relation from node to node.

    In a graph of several virtual hosts, `vhosts` has the name of each and the position after its last node.
    """

    nodes: tuple[DiagramNode, ...]
    edges: tuple[DiagramEdge, ...]
    vhosts: tuple[tuple[str, int], ...] = ()

    def framed(self, nodes: Sequence[str], head: Callable[[int, str], str], tail: str) -> Iterator[str]:
        """Yield a line per node; each virtual host has a head, made of its position and name, and a tail."""
        if not self.vhosts:
            yield from nodes
        begin = 0
        for place, (name, end) in enumerate(self.vhosts):
            yield head(place, name)
            yield from (f"  {line}" for line in nodes[begin:end])
            yield tail
            begin = end


def join(diagrams: Mapping[str, Diagram]) -> Diagram:
    """Return one graph of those of several virtual hosts, by their names."""
    nodes: list[DiagramNode] = []
    edges: list[DiagramEdge] = []
    vhosts = []
    for name, diagram in diagrams.items():
        first = len(nodes)
        edges += (replace(each, source=each.source + first, target=each.target + first) for each in diagram.edges)
        nodes += diagram.nodes
        vhosts.append((name, len(nodes)))
    return Diagram(tuple(nodes), tuple(edges), tuple(vhosts))


def build_diagram(topology: Topology) -> Diagram:
    """Return the graph of a topology, with its policies applied except those that cannot be read here."""
    builder = _DiagramBuilder()
    index = TopologyIndex(topology)
    for exchange in topology.exchanges:
        builder.nodes["exchange", exchange.name] = DiagramNode(
            "exchange", exchange.name, exchange.type, _flags(exchange)
        )
    if topology.delay:
        notes = (f"delays messages up to {_duration(MAX_DELAY_S * 1000)}",)
        builder.nodes["exchange", f"{DELAYS}*"] = DiagramNode("exchange", f"{DELAYS}*", notes=notes)
    for queue in topology.queues:
        shown = {**index.settings(queue.name), **native_arguments(queue)}
        builder.nodes["queue", queue.name] = _queue_node(queue, shown)
    builder.external |= {("exchange", name) for name in topology.external_exchanges}
    builder.external |= {("queue", name) for name in topology.external_queues}
    if target := topology.publish:
        to: _Id = ("exchange", target.exchange) if target.exchange else ("queue", target.routing_key)
        builder.edge(("publisher", "publish"), to, "publish", target.routing_key if target.exchange else "")
    for binding in topology.bindings:
        source: _Id = ("exchange", binding.source)
        label = _label(binding, builder.node(source).type)
        builder.edge(source, (binding.destination_type, binding.destination), "binding", label)
    for exchange in topology.exchanges:
        if alternate := index.alternates.get(exchange.name):
            builder.edge(("exchange", exchange.name), ("exchange", alternate), "alternate")
    for queue in topology.queues:
        here: _Id = ("queue", queue.name)
        for number, name in _failures(queue):
            builder.edge(here, ("queue", name), "failure", f"try {number}")
        settings = index.settings(queue.name)
        to_exchange, key = settings.get("x-dead-letter-exchange"), settings.get("x-dead-letter-routing-key")
        if to_exchange == "" and key is not None:
            builder.edge(here, ("queue", key), "dead-letter")
        elif to_exchange is not None:
            builder.edge(here, ("exchange", to_exchange), "dead-letter", key or "")
    return builder.graph()


_Id = tuple[Kind, str]


@dataclass(slots=True)
class _DiagramBuilder:
    """A graph under construction; a name that is used but not declared becomes a node."""

    nodes: dict[_Id, DiagramNode] = field(default_factory=dict)
    edges: dict[tuple[_Id, _Id, Relation], list[str]] = field(default_factory=dict)
    external: set[_Id] = field(default_factory=set)

    def node(self, identity: _Id) -> DiagramNode:
        if identity not in self.nodes:
            kind, name = identity
            built_in = kind == "exchange" and (not name or name in BUILT_IN)
            note = "external" if identity in self.external else "not declared"
            notes = () if built_in or kind == "publisher" else (note,)
            self.nodes[identity] = DiagramNode(kind, name, BUILT_IN.get(name, "") if built_in else "", notes)
        return self.nodes[identity]

    def edge(self, source: _Id, target: _Id, relation: Relation, label: str = "") -> None:
        self.node(source)
        self.node(target)
        labels = self.edges.setdefault((source, target, relation), [])
        if label:
            labels.append(label)

    def graph(self) -> Diagram:
        places = {identity: place for place, identity in enumerate(self.nodes)}
        edges = (DiagramEdge(places[a], places[b], kind, tuple(each)) for (a, b, kind), each in self.edges.items())
        return Diagram(tuple(self.nodes.values()), tuple(edges))


def _flags(entity: Exchange | Queue) -> tuple[str, ...]:
    flags = ("auto_delete", "internal", "exclusive")
    others = tuple(name.replace("_", "-") for name in flags if getattr(entity, name, False))
    return others if entity.durable else ("transient", *others)


def _queue_node(queue: Queue, settings: Mapping[str, Any]) -> DiagramNode:
    shown = (name for name in _NOTES if settings.get(name, False) is not False)
    notes = *_flags(queue), *(_note(name, settings[name]) for name in shown)
    return DiagramNode("queue", queue.name, str(settings.get("x-queue-type", "")), notes)


_NOTES = {  # the notable settings of a queue
    "x-message-ttl": "TTL {}",
    "x-expires": "deleted after {} unused",
    "x-max-length": "at most {} messages",
    "x-max-length-bytes": "at most {} bytes",
    "x-max-age": "for {}",
    "x-overflow": "{}",
    "x-delivery-limit": "delivery limit {}",
    "x-max-priority": "priorities to {}",
    "x-single-active-consumer": "single active consumer",
    "x-delayed-retry-min": "redelivered after {}",
}
_DURATIONS = ("x-message-ttl", "x-expires", "x-delayed-retry-min")
_UNITS_MS = {"day": 86_400_000, "hour": 3_600_000, "minute": 60_000, "second": 1000}
_AGES = {"Y": "year", "M": "month", "D": "day", "h": "hour", "m": "minute", "s": "second"}


def _note(name: str, value: Any) -> str:
    match value:
        case int() if name in _DURATIONS and value >= 0:
            value = _duration(value)
        case int():
            value = f"{value:,}"
        case str() if name == "x-max-age" and value[-1:] in _AGES and value[:-1].isdecimal():
            value = plural(int(value[:-1]), _AGES[value[-1]])
    return _NOTES[name].format(value)


def _duration(milliseconds: int) -> str:
    """Write a duration in the longest unit of which it is a whole number, or in seconds."""
    for unit, length_ms in _UNITS_MS.items():
        if milliseconds >= length_ms and milliseconds % length_ms == 0:
            return plural(milliseconds // length_ms, unit)
    return f"{milliseconds / 1000:,.12g} seconds"


def _label(binding: Binding, exchange_type: str) -> str:
    """Describe the messages that a binding matches; nothing if it matches all."""
    arguments = dict(binding.arguments)
    if exchange_type != "headers":
        key = "" if exchange_type == "fanout" else binding.routing_key or '""'
        return " ".join(filter(None, [key, *_pairs(arguments)]))
    match = str(arguments.pop("x-match", "all"))
    joined = (" or " if match.startswith("any") else " and ").join(_pairs(arguments))
    return joined + (" (x- too)" if match.endswith("-with-x") else "")


def _pairs(arguments: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for name, value in arguments.items()
    ]


def _failures(queue: Queue) -> Iterator[tuple[int, str]]:
    """Yield the numbers of the tries after which a failed message is published to another queue, and the queue."""
    if retry := queue.retry:
        if not retry.native:
            yield from ((number, waiting_queue(queue.name, each)) for number, each in enumerate(retry.delays_ms, 1))
        yield len(retry.delays_ms) + 1, retry.then


def collapse(graph: Diagram) -> Diagram:
    """Return a graph in which one node stands for the rest of a group of similar nodes.

    Nodes are similar if they have the same kind, type and settings, and names that differ in their numbers alone; their
    edges lead from and to nodes that are similar, with labels that differ in their numbers alone.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, appearance in enumerate(_appearances(graph)):
        groups.setdefault(appearance, []).append(place)
    stands_for = {place: place for place in range(len(graph.nodes))}
    nodes: dict[int, DiagramNode] = dict(enumerate(graph.nodes))
    for members in groups.values():
        if len(members) > FEW:
            first, *rest = members[KEPT:]
            stands_for |= dict.fromkeys(rest, first)
            nodes[first] = replace(nodes[members[KEPT - 1]], more=len(rest) + 1)
            for place in rest:
                del nodes[place]
    order = {old: new for new, old in enumerate(nodes)}
    return Diagram(tuple(nodes.values()), _edges(graph, {old: order[kept] for old, kept in stands_for.items()}))


def _appearances(graph: Diagram) -> list[Hashable]:
    shapes = [(node.kind, _DIGITS.sub("0", node.name), node.type, node.notes) for node in graph.nodes]
    around: list[set[Hashable]] = [set() for _ in graph.nodes]
    for edge in graph.edges:
        labels = frozenset(_DIGITS.sub("0", label) for label in edge.labels)
        around[edge.source].add(("to", shapes[edge.target], edge.relation, labels))
        around[edge.target].add(("from", shapes[edge.source], edge.relation, labels))
    return [(shape, frozenset(edges)) for shape, edges in zip(shapes, around, strict=True)]


def _edges(graph: Diagram, places: dict[int, int]) -> tuple[DiagramEdge, ...]:
    """Move the edges to the remaining nodes, merge those between the same two, and abbreviate long lists of labels."""
    edges: dict[tuple[int, int, str], DiagramEdge] = {}
    for edge in graph.edges:
        source, target = places[edge.source], places[edge.target]
        before = edges.get((source, target, edge.relation))
        labels = dict.fromkeys((*before.labels, *edge.labels) if before else edge.labels)
        edges[source, target, edge.relation] = DiagramEdge(source, target, edge.relation, tuple(labels))
    return tuple(DiagramEdge(each.source, each.target, each.relation, _few(each.labels)) for each in edges.values())


def _few(labels: tuple[str, ...]) -> tuple[str, ...]:
    return labels if len(labels) <= FEW else (*labels[:KEPT], f"and {len(labels) - KEPT:,} more")
