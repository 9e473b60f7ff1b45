"""Find cycles: of exchanges bound to each other, alternate exchanges, dead letters and retries."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def find_cycles(edges: Mapping[Node, Sequence[Node]]) -> Iterator[list[Node]]:
    """Yield the cycles of a graph, at least one for each group of nodes that reach each other.

    A depth-first search finds one for each edge that leads back; cycles of the same nodes are yielded once, as the
    nodes in order, the first one not repeated. A node that leads to itself is a cycle.
    """
    done: set[Node] = set()
    found: set[frozenset[Node]] = set()
    for start in edges:
        if start in done:
            continue
        path, position = [start], {start: 0}
        branches = [iter(edges[start])]
        while branches:
            node = next(branches[-1], None)
            if node is None:
                branches.pop()
                done.add(last := path.pop())
                del position[last]
            elif node in position:
                cycle = path[position[node] :]
                if frozenset(cycle) not in found:
                    found.add(frozenset(cycle))
                    yield cycle
            elif node not in done:
                position[node] = len(path)
                path.append(node)
                branches.append(iter(edges.get(node, ())))


def cycle_from(start: Node, successor: Callable[[Node], Node | None]) -> list[Node]:
    """Return the path from a node back to itself, with the node at both ends; empty if the path does not return."""
    path = [start]
    seen: set[Node] = set()
    while (node := successor(path[-1])) and node not in seen:
        path.append(node)
        seen.add(node)
        if node == start:
            return path
    return []
