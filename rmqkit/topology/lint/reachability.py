"""Rules about what no message reaches, and what no message leaves."""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.model import Exchange
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.dead_letters import dead_letter_targets
from rmqkit.topology.lint.rule import Complaint, rule
from rmqkit.topology.routing import Entities, Route


@rule(
    "nothing-bound",
    "warning",
    why="A message that no binding takes is dropped, and its publisher is told only if it set the mandatory flag.",
    page="docs/publishers#unroutable",
    bad="exchanges: {orders: {type: topic}}",
    good="""
exchanges: {orders: {type: topic}}
queues: {billing: {}}
bindings: [{source: orders, destination: billing, routing_key: "order.#"}]
""",
)
def nothing_bound(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find exchanges that lead nowhere."""
    for exchange in wiring.exchanges.values():
        if exchange.name not in wiring.out_of and exchange.name not in wiring.alternates:
            message = f"nothing is bound to exchange {exchange.name!r}, and it has no alternate exchange"
            yield exchange, message, "Bind a queue to it, or give it an alternate-exchange."


@rule(
    "exchange-unreached",
    "warning",
    why="Nobody can publish to an internal exchange, so what is bound to this one waits for nothing.",
    page="docs/exchanges#properties",
    bad="""
exchanges: {audit: {type: fanout, internal: true}}
queues: {trail: {}}
bindings: [{source: audit, destination: trail}]
""",
    good="""
exchanges: {orders: {type: fanout}, audit: {type: fanout, internal: true}}
queues: {trail: {}}
bindings:
  - {source: orders, destination: audit, destination_type: exchange}
  - {source: audit, destination: trail}
""",
)
def exchange_unreached(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find internal exchanges that nothing feeds."""
    fed = {*wiring.into_exchange, *wiring.alternates.values()}
    fed |= {settings.get("x-dead-letter-exchange", "") for settings in wiring.settings.values()}
    for exchange in wiring.exchanges.values():
        if exchange.internal and exchange.name not in fed:
            message = f"nothing leads to exchange {exchange.name!r}, and nobody can publish to it: it is internal"
            yield exchange, message, "Bind it to another exchange, or leave internal out."


@rule(
    "queue-unreached",
    "hint",
    why="Only the default exchange leads to this queue, under its own name, while its neighbours are bound.",
    page="docs/exchanges#types",
    bad="""
exchanges: {orders: {type: fanout}}
queues: {billing: {}, stock: {}, audit: {}}
bindings: [{source: orders, destination: billing}, {source: orders, destination: stock}]
""",
    good="""
exchanges: {orders: {type: fanout}}
queues: {billing: {}, stock: {}, audit: {}}
bindings:
  - {source: orders, destination: billing}
  - {source: orders, destination: stock}
  - {source: orders, destination: audit}
""",
)
def queue_unreached(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find queues that were probably forgotten: most others are bound."""
    target = wiring.topology.publish
    named = {target.routing_key} if target and not target.exchange else set()
    reached = {*wiring.into_queue, *named, *dead_letter_targets(wiring)}
    left = [queue for queue in wiring.queues.values() if queue.name not in reached and not queue.exclusive]
    for queue in left if len(left) < len(wiring.into_queue) else ():
        message = f"no binding, publish target or dead letter leads to queue {queue.name!r}"
        yield queue, message, "Bind it, if it was forgotten; publishers may also name it directly."


@rule(
    "publish-unroutable",
    "warning",
    why="What `rmqkit publish` sends when it is given no target is dropped, as no binding takes it.",
    page="docs/publishers#unroutable",
    bad="""
exchanges: {orders: {type: topic}}
queues: {billing: {}}
bindings: [{source: orders, destination: billing, routing_key: order.*.paid}]
publish: {exchange: orders, routing_key: order.paid}
""",
    good="""
exchanges: {orders: {type: topic}}
queues: {billing: {}}
bindings: [{source: orders, destination: billing, routing_key: order.*.paid}]
publish: {exchange: orders, routing_key: order.eu.paid}
""",
)
def publish_unroutable(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find a publish target that leads nowhere; where headers decide, or nothing is bound, that is told elsewhere."""
    target = wiring.topology.publish
    if not target or target.exchange not in wiring.out_of:
        return
    found = Entities(wiring.topology).follow(Route(target.exchange, (target.routing_key,)))
    passed = {target.exchange, *(leg.destination for leg in found.legs if leg.to_exchange)}
    if found.unroutable and not any(wiring.type_of(name) == "headers" for name in passed):
        about = wiring.exchanges.get(target.exchange, Exchange(target.exchange))
        message = f"a message to the target of publish:, {target}, reaches no queue: {found.why}"
        yield about, message, "Name a routing key in publish: that a binding takes, or bind a queue."
