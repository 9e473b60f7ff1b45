"""Circles in what leads where."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def cycles(onward: Mapping[Node, Sequence[Node]]) -> Iterator[list[Node]]:
    """Yield circles, at least one of each knot of them: the nodes in order, without the first one again.

    Each way back that a walk through all nodes comes upon is one circle, told once. Loops of one node count.
    """
    done: set[Node] = set()
    told: set[frozenset[Node]] = set()
    for start in onward:
        if start in done:
            continue
        way, place = [start], {start: 0}
        branches = [iter(onward[start])]
        while branches:
            node = next(branches[-1], None)
            if node is None:
                branches.pop()
                done.add(last := way.pop())
                del place[last]
            elif node in place:
                circle = way[place[node] :]
                if frozenset(circle) not in told:
                    told.add(frozenset(circle))
                    yield circle
            elif node not in done:
                place[node] = len(way)
                way.append(node)
                branches.append(iter(onward.get(node, ())))
