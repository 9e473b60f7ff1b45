"""Abbreviate groups of similar nodes: of three hundred similar queues, draw three and count the others."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import replace

from rmqkit.topology.diagram.graph import Diagram, DiagramEdge, DiagramNode

KEPT = 3  # nodes drawn of a larger group
FEW = 10  # nodes in the largest group that is drawn in full
_DIGITS = re.compile(r"[0-9]+")


def collapse(graph: Diagram) -> Diagram:
    """Return a graph in which one node stands for the rest of a group of similar nodes.

    Nodes are similar if they have the same kind, type and settings, and their edges lead from and to the same nodes
    with the same labels; numbers, and a node's own name in its labels, are not compared.
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
    """Return everything by which each node differs from others."""
    around: list[set[Hashable]] = [set() for _ in graph.nodes]
    shapes = [(node.kind, _DIGITS.sub("0", node.name)) for node in graph.nodes]
    for edge in graph.edges:
        for node, other, direction in ((edge.source, edge.target, "to"), (edge.target, edge.source, "from")):
            labels = frozenset(_shape(label, graph.nodes[node].name) for label in edge.labels)
            around[node].add((direction, shapes[other], edge.relation, labels))
    return [
        (node.kind, node.type, node.notes, frozenset(edges)) for node, edges in zip(graph.nodes, around, strict=True)
    ]


def _shape(label: str, name: str) -> str:
    return _DIGITS.sub("0", label.replace(name, "\0") if name else label)


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
