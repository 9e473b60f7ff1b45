"""Check for bindings that are redundant, never match, or do not survive a restart."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rmqkit.model import Binding
from rmqkit.topology.cycles import find_cycles
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import Violation, check
from rmqkit.topology.matching import includes, words

_BY_KEY = ("direct", "topic")
_ALL_HEADERS = ("all-with-x", "any-with-x")


def _where(binding: Binding) -> str:
    return f" in line {binding.where.line}" if binding.where and binding.where.line else ""


def _criterion(index: TopologyIndex, binding: Binding) -> object:
    """Return what decides whether a binding accepts a message; None if the type of its exchange is unknown."""
    kind = index.type_of(binding.source)
    if kind == "headers":
        return json.dumps({"x-match": "all", **binding.arguments}, sort_keys=True, default=repr)
    if kind in _BY_KEY:
        return kind, binding.routing_key
    return "everything" if kind == "fanout" else None


def _parallel(index: TopologyIndex) -> Iterator[list[Binding]]:
    """Yield the bindings of each exchange to each destination, in the order of the file."""
    for bindings in index.out_of.values():
        groups: dict[tuple[str, str], list[Binding]] = defaultdict(list)
        for binding in bindings:
            groups[binding.destination_type, binding.destination].append(binding)
        yield from (group for group in groups.values() if len(group) > 1)


@check("same-routing-twice")
def same_routing_twice(index: TopologyIndex) -> Iterator[Violation]:
    """Find bindings that differ from an earlier one only in what the type of their exchange ignores."""
    for group in _parallel(index):
        first: dict[object, Binding] = {}
        for binding in group:
            criterion = _criterion(index, binding)
            earlier = first.setdefault(criterion, binding)
            if criterion is not None and earlier is not binding:
                message = f"the binding {binding} matches the same messages as {earlier}{_where(earlier)}: "
                message += f"the exchange is {index.type_of(binding.source)}"
                yield binding, message, "Leave one out, or choose an exchange type that distinguishes them."


@check("swallowed-pattern")
def swallowed_pattern(index: TopologyIndex) -> Iterator[Violation]:
    """Find topic bindings that a wider one to the same destination makes redundant."""
    for group in _parallel(index):
        if index.type_of(group[0].source) == "topic":
            for binding, wider in _swallowed(group):
                message = f"the pattern {binding.routing_key!r} to {binding.destination!r} is part of "
                message += f"{wider.routing_key!r}{_where(wider)}"
                yield binding, message, "Leave it out, or narrow the wider one."


def _swallowed(group: Sequence[Binding]) -> Iterator[tuple[Binding, Binding]]:
    """Yield each binding that another one includes, with the first that does; of two equals the later is redundant."""
    first = {binding.routing_key: binding for binding in reversed(group)}
    patterns = list(reversed(first))
    containing: dict[str, list[str]] = defaultdict(list)  # by word: a narrower pattern has every word of a wider one
    for pattern in patterns:
        for word in {*words(pattern)}:
            containing[word].append(pattern)
    order = {pattern: position for position, pattern in enumerate(patterns)}
    swallowed: dict[str, str] = {}
    for wide in patterns:
        named = {*words(wide)} - {"*", "#"}
        for narrow in min((containing[word] for word in named), key=len, default=patterns):
            if narrow == wide or narrow in swallowed or not includes(wide, narrow):
                continue
            if order[wide] < order[narrow] or not includes(narrow, wide):
                swallowed[narrow] = wide
    yield from ((first[narrow], first[swallowed[narrow]]) for narrow in patterns if narrow in swallowed)


@check("headers-never-match")
def headers_never_match(index: TopologyIndex) -> Iterator[Violation]:
    """Find bindings of headers exchanges that match no message at all."""
    for binding in _of_headers(index):
        match = binding.arguments.get("x-match")
        if match in ("any", "any-with-x") and not _relevant(binding):
            named = "only headers that begin with x-" if len(binding.arguments) > 1 else "no header"
            message = f"the binding {binding} matches no message: x-match is {match}, and it names {named}"
            yield binding, message, "Name a header, or write x-match: any-with-x if its name begins with x-."


@check("header-ignored")
def header_ignored(index: TopologyIndex) -> Iterator[Violation]:
    """Find headers in a binding that are not compared."""
    for binding in _of_headers(index):
        match, relevant = binding.arguments.get("x-match", "all"), _relevant(binding)
        ignored = [name for name in binding.arguments if name != "x-match" and name not in relevant]
        if ignored and (relevant or match == "all"):
            message = f"the binding {binding} ignores {', '.join(ignored)}: x-match is {match}"
            yield binding, message, f"Write x-match: {match}-with-x."


def _of_headers(index: TopologyIndex) -> Iterator[Binding]:
    return (each for each in index.topology.bindings if index.type_of(each.source) == "headers")


def _relevant(binding: Binding) -> set[str]:
    with_x = binding.arguments.get("x-match") in _ALL_HEADERS
    return {name for name in binding.arguments if name != "x-match" and (with_x or not name.startswith("x-"))}


@check("arguments-ignored")
def arguments_ignored(index: TopologyIndex) -> Iterator[Violation]:
    """Find bindings with arguments on an exchange that ignores them."""
    for binding in index.topology.bindings:
        kind = index.type_of(binding.source)
        if binding.arguments and kind in ("fanout", *_BY_KEY):
            message = f"the arguments of the binding {binding} have no effect: {binding.source!r} is a {kind} exchange"
            yield binding, message, "Leave them out, or make it a headers exchange."


@check("transient-exchange")
def transient_exchange(index: TopologyIndex) -> Iterator[Violation]:
    """Find durable queues and exchanges that are bound to a transient exchange."""
    for binding in index.topology.bindings:
        to_queue = binding.destination_type == "queue"
        source = index.exchanges.get(binding.source)
        destination = (index.queues if to_queue else index.exchanges).get(binding.destination)
        if source and not source.durable and destination and destination.durable:
            name = f"{binding.destination_type} {binding.destination!r}"
            message = f"the durable {name} is bound to exchange {source.name!r}, which is transient"
            yield binding, message, "Make the exchange durable."


@check("exchange-cycle")
def exchange_cycle(index: TopologyIndex) -> Iterator[Violation]:
    """Find exchanges that are bound in a cycle which a routing key can complete."""
    edges: dict[str, list[str]] = defaultdict(list)
    first: dict[tuple[str, str], Binding] = {}
    for destination, bindings in index.into_exchange.items():
        for binding in bindings:
            if first.setdefault((binding.source, destination), binding) is binding:
                edges[binding.source].append(destination)
    for cycle in find_cycles(edges):
        bound = [first[pair] for pair in zip(cycle, [*cycle[1:], cycle[0]], strict=True)]
        exact = {each.routing_key for each in bound if index.type_of(each.source) == "direct"}
        if len(exact) <= 1:
            message = f"exchanges are bound in a cycle: {' -> '.join([*cycle, cycle[0]])}"
            yield bound[-1], message, "Leave one binding out."
