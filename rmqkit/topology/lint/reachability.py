"""Check for exchanges and queues that no message reaches, and exchanges that no message leaves."""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.model import Exchange
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.dead_letters import dead_letter_targets
from rmqkit.topology.lint.rule import Violation, check
from rmqkit.topology.retry import waiting_queues
from rmqkit.topology.routing import Route, Router


@check("nothing-bound")
def nothing_bound(index: TopologyIndex) -> Iterator[Violation]:
    """Find exchanges that lead nowhere."""
    for exchange in index.exchanges.values():
        if exchange.name not in index.out_of and exchange.name not in index.alternates:
            message = f"nothing is bound to exchange {exchange.name!r}, and it has no alternate exchange"
            yield exchange, message, "Bind a queue to it, or give it an alternate-exchange."


@check("exchange-unreached")
def exchange_unreached(index: TopologyIndex) -> Iterator[Violation]:
    """Find internal exchanges that nothing feeds."""
    fed = {*index.into_exchange, *index.alternates.values()}
    fed |= {index.settings(queue).get("x-dead-letter-exchange", "") for queue in index.queues}
    for exchange in index.exchanges.values():
        if exchange.internal and exchange.name not in fed:
            message = f"nothing leads to exchange {exchange.name!r}, and clients cannot publish to it: it is internal"
            yield exchange, message, "Bind it to another exchange, or leave internal out."


@check("queue-unreached")
def queue_unreached(index: TopologyIndex) -> Iterator[Violation]:
    """Find queues that were probably forgotten: most others are bound."""
    target = index.topology.publish
    targeted = {target.routing_key} if target and not target.exchange else set()
    waiting = {each.name for queue in index.queues.values() for each in waiting_queues(queue)}
    reached = {*index.into_queue, *targeted, *waiting, *dead_letter_targets(index)}
    unreached = [queue for queue in index.queues.values() if queue.name not in reached and not queue.exclusive]
    for queue in unreached if len(unreached) < len(index.into_queue) else ():
        message = f"no binding, publish target or dead letter leads to queue {queue.name!r}"
        yield queue, message, "Bind it, if it was forgotten; publishers may also name it directly."


@check("publish-unroutable")
def publish_unroutable(index: TopologyIndex) -> Iterator[Violation]:
    """Find a publish target that leads nowhere, unless headers decide or nothing is bound, which has its own rule."""
    target = index.topology.publish
    if not target or target.exchange not in index.out_of:
        return
    found = Router(index).follow(Route(target.exchange, (target.routing_key,)))
    passed = {target.exchange, *(leg.destination for leg in found.legs if leg.to_exchange)}
    if found.unroutable and not any(index.type_of(name) == "headers" for name in passed):
        exchange = index.exchanges.get(target.exchange, Exchange(target.exchange))
        message = f"a message to the target of publish:, {target}, reaches no queue: {found.why}"
        yield exchange, message, "Set a routing key in publish: that matches a binding, or bind a queue."
