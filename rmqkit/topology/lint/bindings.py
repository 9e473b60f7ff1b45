"""Rules about bindings: those that say nothing new, those that never match, those that do not last."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rmqkit.model import Binding
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.cycles import cycles
from rmqkit.topology.lint.rule import Complaint, rule
from rmqkit.topology.matching import includes, words

_BY_KEY = ("direct", "topic")
_ALL_HEADERS = ("all-with-x", "any-with-x")


def _where(binding: Binding) -> str:
    return f" in line {binding.where.line}" if binding.where and binding.where.line else ""


def _routing(wiring: TopologyIndex, binding: Binding) -> object:
    """Return what decides whether a binding takes a message; None if the exchange's type is not known here."""
    kind = wiring.type_of(binding.source)
    if kind == "headers":
        return json.dumps({"x-match": "all", **binding.arguments}, sort_keys=True, default=repr)
    if kind in _BY_KEY:
        return kind, binding.routing_key
    return "everything" if kind == "fanout" else None


def _parallel(wiring: TopologyIndex) -> Iterator[list[Binding]]:
    """Yield the bindings of each exchange to each destination, in the order of the file."""
    for bindings in wiring.out_of.values():
        groups: dict[tuple[str, str], list[Binding]] = defaultdict(list)
        for binding in bindings:
            groups[binding.destination_type, binding.destination].append(binding)
        yield from (group for group in groups.values() if len(group) > 1)


@rule(
    "same-routing-twice",
    "warning",
    why="A queue gets one copy of a message however many bindings match, so the second one does nothing.",
    page="docs/exchanges#types",
    bad="""
exchanges: {news: {type: fanout}}
queues: {reader: {}}
bindings:
  - {source: news, destination: reader, routing_key: sports}
  - {source: news, destination: reader, routing_key: weather}
""",
    good="""
exchanges: {news: {type: direct}}
queues: {reader: {}}
bindings:
  - {source: news, destination: reader, routing_key: sports}
  - {source: news, destination: reader, routing_key: weather}
""",
)
def same_routing_twice(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find bindings that differ from an earlier one only in what their exchange does not look at."""
    for group in _parallel(wiring):
        first: dict[object, Binding] = {}
        for binding in group:
            routing = _routing(wiring, binding)
            earlier = first.setdefault(routing, binding)
            if routing is not None and earlier is not binding:
                kind = wiring.type_of(binding.source)
                message = f"the binding {binding} takes what {earlier}{_where(earlier)} takes: the exchange is {kind}"
                yield binding, message, "Leave one out, or choose the exchange's type that tells them apart."


@rule(
    "swallowed-pattern",
    "warning",
    why="A wider pattern to the same destination takes all that this one takes, so this binding does nothing.",
    page="docs/exchanges#types",
    bad="""
exchanges: {orders: {type: topic}}
queues: {billing: {}}
bindings:
  - {source: orders, destination: billing, routing_key: order.*.paid}
  - {source: orders, destination: billing, routing_key: "order.#"}
""",
    good="""
exchanges: {orders: {type: topic}}
queues: {billing: {}}
bindings:
  - {source: orders, destination: billing, routing_key: order.*.paid}
  - {source: orders, destination: billing, routing_key: order.*.refunded}
""",
)
def swallowed_pattern(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find topic bindings that a wider one beside them makes idle."""
    for group in _parallel(wiring):
        if wiring.type_of(group[0].source) == "topic":
            for binding, wider in _swallowed(group):
                message = f"the pattern {binding.routing_key!r} to {binding.destination!r} is part of "
                message += f"{wider.routing_key!r}{_where(wider)}"
                yield binding, message, "Leave it out, or narrow the wider one."


def _swallowed(group: Sequence[Binding]) -> Iterator[tuple[Binding, Binding]]:
    """Yield each binding that another one includes, with the first that does; of two equals the later goes."""
    first = {binding.routing_key: binding for binding in reversed(group)}
    patterns = list(reversed(first))
    naming: dict[str, list[str]] = defaultdict(list)  # patterns by word: what a wider one names, the narrower must name
    for pattern in patterns:
        for word in {*words(pattern)}:
            naming[word].append(pattern)
    order = {pattern: index for index, pattern in enumerate(patterns)}
    swallowed: dict[str, str] = {}
    for wide in patterns:
        named = {*words(wide)} - {"*", "#"}
        for narrow in min((naming[word] for word in named), key=len, default=patterns):
            if narrow == wide or narrow in swallowed or not includes(wide, narrow):
                continue
            if order[wide] < order[narrow] or not includes(narrow, wide):
                swallowed[narrow] = wide
    yield from ((first[narrow], first[swallowed[narrow]]) for narrow in patterns if narrow in swallowed)


@rule(
    "headers-never-match",
    "warning",
    why="With x-match: any one of the binding's headers must match, and this binding has none that is looked at.",
    page="tutorials/amqp-concepts#exchange-headers",
    bad="""
exchanges: {documents: {type: headers}}
queues: {printer: {}}
bindings: [{source: documents, destination: printer, arguments: {x-match: any}}]
""",
    good="""
exchanges: {documents: {type: headers}}
queues: {printer: {}}
bindings: [{source: documents, destination: printer, arguments: {x-match: any, format: pdf}}]
""",
)
def headers_never_match(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find bindings to a headers exchange that take no message at all."""
    for binding in _of_headers(wiring):
        match = binding.arguments.get("x-match")
        if match in ("any", "any-with-x") and not _looked_at(binding):
            ignored = "but such that begin with x-" if len(binding.arguments) > 1 else "at all"
            message = f"the binding {binding} matches no message: x-match is {match}, and it names no header {ignored}"
            yield binding, message, "Name a header, or write x-match: any-with-x if its name begins with x-."


@rule(
    "header-ignored",
    "warning",
    why="With x-match: all or any RabbitMQ passes over headers that begin with x-, so the binding takes more.",
    page="tutorials/amqp-concepts#exchange-headers",
    bad="""
exchanges: {documents: {type: headers}}
queues: {printer: {}}
bindings: [{source: documents, destination: printer, arguments: {format: pdf, x-urgent: true}}]
""",
    good="""
exchanges: {documents: {type: headers}}
queues: {printer: {}}
bindings: [{source: documents, destination: printer, arguments: {x-match: all-with-x, format: pdf, x-urgent: true}}]
""",
)
def header_ignored(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find headers that are written into a binding and not looked at."""
    for binding in _of_headers(wiring):
        match, looked_at = binding.arguments.get("x-match", "all"), _looked_at(binding)
        ignored = [name for name in binding.arguments if name != "x-match" and name not in looked_at]
        if ignored and (looked_at or match == "all"):
            message = f"the binding {binding} does not look at {', '.join(ignored)}: x-match is {match}"
            yield binding, message, f"Write x-match: {match}-with-x."


def _of_headers(wiring: TopologyIndex) -> Iterator[Binding]:
    return (each for each in wiring.topology.bindings if wiring.type_of(each.source) == "headers")


def _looked_at(binding: Binding) -> set[str]:
    with_x = binding.arguments.get("x-match") in _ALL_HEADERS
    return {name for name in binding.arguments if name != "x-match" and (with_x or not name.startswith("x-"))}


@rule(
    "arguments-ignored",
    "warning",
    why="Only a headers exchange looks at the arguments of a binding; this one routes by the routing key, or to all.",
    page="tutorials/amqp-concepts#exchange-headers",
    bad="""
exchanges: {documents: {type: topic}}
queues: {printer: {}}
bindings: [{source: documents, destination: printer, routing_key: "#", arguments: {format: pdf}}]
""",
    good="""
exchanges: {documents: {type: topic}}
queues: {printer: {}}
bindings: [{source: documents, destination: printer, routing_key: "#.pdf"}]
""",
)
def arguments_ignored(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find bindings with arguments on an exchange that has no use for them."""
    for binding in wiring.topology.bindings:
        kind = wiring.type_of(binding.source)
        if binding.arguments and kind in ("fanout", *_BY_KEY):
            message = f"the arguments of the binding {binding} do nothing: {binding.source!r} is a {kind} exchange"
            yield binding, message, "Leave them out, or make the exchange one of type headers."


@rule(
    "transient-exchange",
    "warning",
    why="After a restart of the broker a transient exchange is gone, with its bindings: its queues get nothing more.",
    page="docs/exchanges#durability",
    bad="""
exchanges: {news: {type: fanout, durable: false}}
queues: {reader: {}}
bindings: [{source: news, destination: reader}]
""",
    good="""
exchanges: {news: {type: fanout}}
queues: {reader: {}}
bindings: [{source: news, destination: reader}]
""",
)
def transient_exchange(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find what outlives the exchange it is bound to."""
    for binding in wiring.topology.bindings:
        to_queue = binding.destination_type == "queue"
        source = wiring.exchanges.get(binding.source)
        destination = (wiring.queues if to_queue else wiring.exchanges).get(binding.destination)
        if source and not source.durable and destination and destination.durable:
            what = f"{binding.destination_type} {binding.destination!r}"
            message = f"the durable {what} is bound to exchange {source.name!r}, which is transient"
            yield binding, message, "Make the exchange durable."


@rule(
    "exchange-cycle",
    "warning",
    why="What is published to one exchange of a circle may pass through all: they act as one, which is rarely meant.",
    page="docs/e2e",
    bad="""
exchanges: {europe: {type: fanout}, world: {type: fanout}}
queues: {reader: {}}
bindings:
  - {source: europe, destination: world, destination_type: exchange}
  - {source: world, destination: europe, destination_type: exchange}
  - {source: world, destination: reader}
""",
    good="""
exchanges: {europe: {type: fanout}, world: {type: fanout}}
queues: {reader: {}}
bindings:
  - {source: europe, destination: world, destination_type: exchange}
  - {source: world, destination: reader}
""",
)
def exchange_cycle(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find exchanges that are bound in a circle; keys that could never go round are left out."""
    onward: dict[str, list[str]] = defaultdict(list)
    closing: dict[tuple[str, str], Binding] = {}
    for destination, bindings in wiring.into_exchange.items():
        for binding in bindings:
            if closing.setdefault((binding.source, destination), binding) is binding:
                onward[binding.source].append(destination)
    for circle in cycles(onward):
        last = closing[circle[-1], circle[0]]
        way = [closing[pair] for pair in zip(circle, [*circle[1:], circle[0]], strict=True)]
        exact = {each.routing_key for each in way if wiring.type_of(each.source) == "direct"}
        if len(exact) <= 1:
            message = f"exchanges are bound in a circle: {' -> '.join([*circle, circle[0]])}"
            yield last, message, "Leave one binding out."
