"""Draw a graph as a tree for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rmqkit.topology.diagram.graph import Diagram, DiagramEdge, DiagramNode

Role = Literal["frame", "exchange", "queue", "key", "note", "dead-letter", "publish"]
Line = list[tuple[str, Role]]
_ARROWS = {"binding": "→", "alternate": "otherwise →", "dead-letter": "dead letters →", "failure": "failed →"}


def tree(graph: Diagram) -> Iterator[Line]:
    """Yield the lines: every exchange with its destinations, then the queues that only the default exchange feeds."""
    leaving: list[list[DiagramEdge]] = [[] for _ in graph.nodes]
    fed: set[int] = set()
    published: dict[int, DiagramEdge] = {}
    for edge in graph.edges:
        if edge.relation == "publish":
            published[edge.target] = edge
        else:
            leaving[edge.source].append(edge)
            fed |= {edge.target} if edge.relation == "binding" else set()
    places = range(len(graph.nodes))
    default = [place for place in places if graph.nodes[place].kind == "queue" and place not in fed]
    for place in places:
        if graph.nodes[place].kind == "exchange" and graph.nodes[place].name:
            yield _head(graph, place, published)
            yield from _branches(graph, leaving[place], leaving, published)
    if default or any(node.kind == "exchange" and not node.name for node in graph.nodes):
        yield [("default exchange", "exchange")]
        yield from _branches(graph, [DiagramEdge(-1, place, "binding") for place in default], leaving, published)


def _branches(
    graph: Diagram,
    edges: Sequence[DiagramEdge],
    leaving: Sequence[Sequence[DiagramEdge]],
    published: dict[int, DiagramEdge],
    indent: str = "",
) -> Iterator[Line]:
    for edge in edges:
        last = edge is edges[-1]
        line: Line = [(f"{indent}{'└─' if last else '├─'} ", "frame")]
        if edge.relation == "dead-letter":
            line.append((f"{_ARROWS['dead-letter']} ", "dead-letter"))
        elif edge.labels:
            line += [(", ".join(edge.labels), "key"), (" ", "frame")]
        if edge.relation != "dead-letter" and edge.source >= 0:
            line.append((f"{_ARROWS[edge.relation]} ", "frame"))
        target = graph.nodes[edge.target]
        line += _head(graph, edge.target, published) if target.kind == "queue" else _name(target)
        if edge.relation == "dead-letter" and edge.labels:
            line += [(" as ", "frame"), (", ".join(edge.labels), "key")]
        yield line
        if target.kind == "queue" and edge.relation == "binding":
            yield from _branches(graph, leaving[edge.target], leaving, published, indent + ("   " if last else "│  "))


def _name(node: DiagramNode) -> Line:
    return [(node.title, "exchange" if node.kind == "exchange" else "queue")]


def _head(graph: Diagram, place: int, published: dict[int, DiagramEdge]) -> Line:
    """Return the line of an exchange above its branches, or of a queue wherever it is fed."""
    node = graph.nodes[place]
    line = _name(node)
    if notes := ", ".join(filter(None, [node.type, *node.notes])):
        line.append((f"  {notes}", "note"))
    if edge := published.get(place):
        line.append((" ".join(["  ← publish", *edge.labels]), "publish"))
    return line
