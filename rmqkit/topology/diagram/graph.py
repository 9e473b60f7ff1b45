"""Turn a topology into the graph that is drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.topology.file.names import BUILT_IN
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.retry import waiting_queue

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
    """A graph: exchanges first, as in the file; at most one edge of each relation from node to node."""

    nodes: tuple[DiagramNode, ...]
    edges: tuple[DiagramEdge, ...]


def draw(topology: Topology) -> Diagram:
    """Return the graph of a topology, with its policies applied except those that cannot be read here."""
    drawing = _Drawing()
    index = TopologyIndex(topology)
    for exchange in topology.exchanges:
        drawing.nodes["exchange", exchange.name] = _exchange_node(exchange)
    for queue in topology.queues:
        drawing.nodes["queue", queue.name] = _queue_node(queue, index.settings(queue.name))
    drawing.external |= {("exchange", name) for name in topology.external_exchanges}
    drawing.external |= {("queue", name) for name in topology.external_queues}
    if target := topology.publish:
        to: _Id = ("exchange", target.exchange) if target.exchange else ("queue", target.routing_key)
        drawing.edge(("publisher", "publish"), to, "publish", target.routing_key if target.exchange else "")
    for binding in topology.bindings:
        source: _Id = ("exchange", binding.source)
        label = _label(binding, drawing.node(source).type)
        drawing.edge(source, (binding.destination_type, binding.destination), "binding", label)
    for exchange in topology.exchanges:
        if alternate := index.alternates.get(exchange.name):
            drawing.edge(("exchange", exchange.name), ("exchange", alternate), "alternate")
    for queue in topology.queues:
        _failures(drawing, queue)
        _dead_letters(drawing, queue.name, index.settings(queue.name))
    return drawing.graph()


_Id = tuple[Kind, str]


@dataclass(slots=True)
class _Drawing:
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
        edges = [
            DiagramEdge(places[a], places[b], relation, tuple(each)) for (a, b, relation), each in self.edges.items()
        ]
        return Diagram(tuple(self.nodes.values()), tuple(edges))


def _exchange_node(exchange: Exchange) -> DiagramNode:
    flags = {"transient": not exchange.durable, "auto-delete": exchange.auto_delete, "internal": exchange.internal}
    return DiagramNode(
        "exchange", exchange.name, exchange.type, tuple(name for name, is_set in flags.items() if is_set)
    )


def _queue_node(queue: Queue, settings: Mapping[str, Any]) -> DiagramNode:
    flags = {"transient": not queue.durable, "auto-delete": queue.auto_delete, "exclusive": queue.exclusive}
    notes = [name for name, is_set in flags.items() if is_set]
    shown = {name: settings[name] for name in _NOTES if name in settings and settings[name] is not False}
    notes += [_note(_NOTES[name], value) for name, value in shown.items()]
    return DiagramNode("queue", queue.name, str(settings.get("x-queue-type", "")), tuple(notes))


_NOTES = {  # the notable settings of a queue
    "x-message-ttl": "TTL {} s",
    "x-expires": "deleted after {} s unused",
    "x-max-length": "at most {} messages",
    "x-max-length-bytes": "at most {} bytes",
    "x-max-age": "for {}",
    "x-overflow": "{}",
    "x-delivery-limit": "delivery limit {}",
    "x-max-priority": "priorities to {}",
    "x-single-active-consumer": "single active consumer",
}


def _note(words: str, value: Any) -> str:
    if not isinstance(value, int):
        return words.format(value)
    return words.format(f"{value / 1000:,.12g}" if words.endswith(("{} s", "unused")) else f"{value:,}")


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


def _failures(drawing: _Drawing, queue: Queue) -> None:
    if queue.retry:
        steps = [*(waiting_queue(queue.name, each) for each in queue.retry.delays_ms), queue.retry.then]
        for number, name in enumerate(steps, 1):
            drawing.edge(("queue", queue.name), ("queue", name), "failure", f"try {number}")


def _dead_letters(drawing: _Drawing, queue: str, settings: Mapping[str, Any]) -> None:
    exchange, key = settings.get("x-dead-letter-exchange"), settings.get("x-dead-letter-routing-key")
    if exchange == "" and key is not None:
        drawing.edge(("queue", queue), ("queue", key), "dead-letter")
    elif exchange is not None:
        drawing.edge(("queue", queue), ("exchange", exchange), "dead-letter", key or "")
