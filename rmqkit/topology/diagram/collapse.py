"""What looks alike is drawn once: three hundred queues of one kind become three, and a count of the others."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import replace

from rmqkit.topology.diagram.graph import Diagram, DiagramEdge, DiagramNode

KEPT = 3  # of those that look alike, these are drawn
FEW = 10  # so many are drawn all
_DIGITS = re.compile(r"[0-9]+")


def collapse(graph: Diagram) -> Diagram:
    """Return a graph in which one node stands for many.

    Nodes look alike if they are of one kind, type and settings, and their edges lead from and to the same places with
    the same labels; numbers, and a node's own name in its labels, do not count as different.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, look in enumerate(_looks(graph)):
        groups.setdefault(look, []).append(place)
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


def _looks(graph: Diagram) -> list[Hashable]:
    """Return how each node looks, all that makes it different from others."""
    around: list[set[Hashable]] = [set() for _ in graph.nodes]
    shapes = [(node.kind, _DIGITS.sub("0", node.name)) for node in graph.nodes]
    for edge in graph.edges:
        for here, there, way in ((edge.source, edge.target, "to"), (edge.target, edge.source, "from")):
            labels = frozenset(_shape(label, graph.nodes[here].name) for label in edge.labels)
            around[here].add((way, shapes[there], edge.relation, labels))
    return [
        (node.kind, node.type, node.notes, frozenset(looks)) for node, looks in zip(graph.nodes, around, strict=True)
    ]


def _shape(label: str, name: str) -> str:
    return _DIGITS.sub("0", label.replace(name, "\0") if name else label)


def _edges(graph: Diagram, places: dict[int, int]) -> tuple[DiagramEdge, ...]:
    """Move the edges to the nodes that are left; those that fall together become one, and many labels a count."""
    edges: dict[tuple[int, int, str], DiagramEdge] = {}
    for edge in graph.edges:
        source, target = places[edge.source], places[edge.target]
        before = edges.get((source, target, edge.relation))
        labels = dict.fromkeys((*before.labels, *edge.labels) if before else edge.labels)
        edges[source, target, edge.relation] = DiagramEdge(source, target, edge.relation, tuple(labels))
    return tuple(DiagramEdge(each.source, each.target, each.relation, _few(each.labels)) for each in edges.values())


def _few(labels: tuple[str, ...]) -> tuple[str, ...]:
    return labels if len(labels) <= FEW else (*labels[:KEPT], f"and {len(labels) - KEPT:,} more")
