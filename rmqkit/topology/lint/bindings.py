"""Check bindings, and the queues that messages reach through them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from rmqkit.model import Binding, Exchange
from rmqkit.topology.cycles import find_cycles
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.dead_letters import EXCHANGE, dead_letter_targets
from rmqkit.topology.lint.rule import Violations, check, listed
from rmqkit.topology.matching import includes, words
from rmqkit.topology.retry import waiting_queues
from rmqkit.topology.routing import Route, Router

_WILDCARDS = {"*", "#"}


@check
def nothing_bound(index: TopologyIndex) -> Violations:
    queues, exchanges = defaultdict(list), defaultdict(list)
    for queue in index.queues:
        queues[index.settings(queue).get(EXCHANGE)].append(queue)
    for name, alternate in index.alternates.items():
        exchanges[alternate].append(name)
    for exchange in index.exchanges.values():
        if exchange.name not in index.out_of and exchange.name not in index.alternates:
            lost = f", so the dead letters of {listed(found)} are lost" if (found := queues[exchange.name]) else ""
            lost += (
                f", so messages that {listed(found)} cannot route are lost"
                if (found := exchanges[exchange.name])
                else ""
            )
            yield exchange, {"lost": lost}


@check
def exchange_unreached(index: TopologyIndex) -> Violations:
    fed = {*index.into_exchange, *index.alternates.values()}
    fed |= {index.settings(queue).get(EXCHANGE, "") for queue in index.queues}
    return ((each, {}) for each in index.exchanges.values() if each.internal and each.name not in fed)


@check
def queue_unreached(index: TopologyIndex) -> Violations:
    """Find queues that were probably forgotten: most others are bound."""
    target = index.topology.publish
    targeted = {target.routing_key} if target and not target.exchange else set()
    waiting = {each.name for queue in index.queues.values() for each in waiting_queues(queue)}
    reached = {*index.into_queue, *targeted, *waiting, *dead_letter_targets(index)}
    unreached = [queue for queue in index.queues.values() if queue.name not in reached and not queue.exclusive]
    yield from ((queue, {}) for queue in unreached if len(unreached) < len(index.into_queue))


@check
def publish_unroutable(index: TopologyIndex) -> Violations:
    """Find a publish target that leads nowhere, unless headers decide or nothing is bound, which has its own rule."""
    target = index.topology.publish
    if not target or target.exchange not in index.out_of:
        return
    found = Router(index).follow(Route(target.exchange, (target.routing_key,)))
    passed = {target.exchange, *(leg.destination for leg in found.legs if leg.to_exchange)}
    if found.unroutable and not any(index.type_of(name) == "headers" for name in passed):
        yield index.exchanges.get(target.exchange, Exchange(target.exchange)), {"target": target, "reason": found.why}


@check
def same_routing_twice(index: TopologyIndex) -> Violations:
    """Find bindings that differ from an earlier one only in values that their exchange type ignores."""
    for group in _parallel(index):
        first: dict[object, Binding] = {}
        for binding in group:
            criterion = _criterion(index, binding)
            earlier = first.setdefault(criterion, binding)
            if criterion is not None and earlier is not binding:
                yield binding, {"earlier": _placed(earlier, str(earlier)), "type": index.type_of(binding.source)}


@check
def swallowed_pattern(index: TopologyIndex) -> Violations:
    for group in _parallel(index):
        if index.type_of(group[0].source) == "topic":
            for binding, wider in _swallowed(group):
                yield binding, {"wider": _placed(wider, repr(wider.routing_key))}


def _placed(binding: Binding, text: str) -> str:
    return f"{text} in line {binding.where.line}" if binding.where and binding.where.line else text


def _criterion(index: TopologyIndex, binding: Binding) -> object:
    """Return the criterion by which a binding accepts a message; None if the type of its exchange is unknown."""
    match index.type_of(binding.source):
        case "headers":
            return json.dumps({"x-match": "all", **binding.arguments}, sort_keys=True, default=repr)
        case "direct" | "topic":
            return (binding.routing_key,)
        case kind:
            return "everything" if kind == "fanout" else None


def _parallel(index: TopologyIndex) -> Iterator[list[Binding]]:
    """Yield the bindings of each exchange to each destination, in the order of the file."""
    for bindings in index.out_of.values():
        groups: dict[tuple[str, str], list[Binding]] = defaultdict(list)
        for binding in bindings:
            groups[binding.destination_type, binding.destination].append(binding)
        yield from (group for group in groups.values() if len(group) > 1)


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
        for narrow in min((containing[word] for word in {*words(wide)} - _WILDCARDS), key=len, default=patterns):
            if narrow == wide or narrow in swallowed or not includes(wide, narrow):
                continue
            if order[wide] < order[narrow] or not includes(narrow, wide):
                swallowed[narrow] = wide
    yield from ((first[narrow], first[swallowed[narrow]]) for narrow in patterns if narrow in swallowed)


@check
def wildcard_literal(index: TopologyIndex) -> Violations:
    for binding in index.topology.bindings:
        kind, parts = index.type_of(binding.source), binding.routing_key.split(".")
        if kind == "direct" and _WILDCARDS & {*parts}:
            yield binding, {"reason": f"{binding.source!r} is a direct exchange"}
        elif kind == "topic" and any(_WILDCARDS & {*word} for word in parts if word not in _WILDCARDS):
            yield binding, {"reason": "only a whole word between dots is a wildcard"}


@check
def headers_never_match(index: TopologyIndex) -> Violations:
    for binding, how, compared in _of_headers(index):
        if how.startswith("any") and not compared:
            named = "only headers that begin with x-" if len(binding.arguments) > 1 else "no header"
            yield binding, {"how": how, "named": named}


@check
def header_ignored(index: TopologyIndex) -> Violations:
    for binding, how, compared in _of_headers(index):
        ignored = [name for name in binding.arguments if name != "x-match" and name not in compared]
        if ignored and (compared or how == "all"):
            yield binding, {"ignored": ", ".join(ignored), "how": how}


def _of_headers(index: TopologyIndex) -> Iterator[tuple[Binding, str, set[str]]]:
    """Yield the bindings of headers exchanges, each with its x-match and the headers it compares."""
    for binding in index.topology.bindings:
        if index.type_of(binding.source) == "headers":
            how = str(binding.arguments.get("x-match", "all"))
            names = {name for name in binding.arguments if how.endswith("-with-x") or not name.startswith("x-")}
            yield binding, how, names - {"x-match"}


@check
def arguments_ignored(index: TopologyIndex) -> Violations:
    """Find arguments on an exchange that ignores them; those that begin with x- may be for a client or a plugin."""
    for binding in index.topology.bindings:
        kind = index.type_of(binding.source)
        meant = any(name == "x-match" or not name.startswith("x-") for name in binding.arguments)
        if meant and kind in ("fanout", "direct", "topic"):
            yield binding, {"type": kind}


@check
def transient_exchange(index: TopologyIndex) -> Violations:
    for binding in index.topology.bindings:
        source = index.exchanges.get(binding.source)
        destinations = index.queues if binding.destination_type == "queue" else index.exchanges
        destination = destinations.get(binding.destination)
        if source and not source.durable and destination and destination.durable:
            yield binding, {}


@check
def many_hashes(index: TopologyIndex) -> Violations:
    for binding in index.topology.bindings:
        number = binding.routing_key.split(".").count("#")
        if number > 2 and index.type_of(binding.source) == "topic":  # noqa: PLR2004 - RabbitMQ's limit
            yield binding, {"number": number}


@check
def exchange_cycle(index: TopologyIndex) -> Violations:
    """Find exchanges that are bound in a cycle which a routing key can complete."""
    first: dict[str, dict[str, Binding]] = defaultdict(dict)
    for destination, bindings in index.into_exchange.items():
        for binding in bindings:
            first[binding.source].setdefault(destination, binding)
    for cycle in find_cycles({source: [*targets] for source, targets in first.items()}):
        path = [*cycle, cycle[0]]
        bound = [first[source][target] for source, target in pairwise(path)]
        if len({each.routing_key for each in bound if index.type_of(each.source) == "direct"}) <= 1:
            yield bound[-1], {"path": " -> ".join(path)}
