"""Rules about dead letters that come back to where they were.

Comes in: Wiring. Goes out: complaints. Room: topology, pure.
Source: https://www.rabbitmq.com/docs/dlx#dead-letter-cycle: only a circle without a rejection ends in a drop.
"""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.model import Queue
from rmqkit.topology.rules.dead_letters import EXCHANGE, KEY, letters
from rmqkit.topology.rules.graph import cycles
from rmqkit.topology.rules.rule import Complaint, rule
from rmqkit.topology.rules.wiring import Wiring

Stop = tuple[str, str | None]
"""A queue that a dead letter lies in, and its routing key; None is any."""


@rule(
    "dead-letter-expiry-cycle",
    "warning",
    why="RabbitMQ drops a message that comes back to a queue by expiring all the way round, with no rejection between.",
    page="docs/dlx#dead-letter-cycle",
    bad="""
queues:
  first: {arguments: {x-message-ttl: 1000, x-dead-letter-exchange: "", x-dead-letter-routing-key: second}}
  second: {arguments: {x-message-ttl: 1000, x-dead-letter-exchange: "", x-dead-letter-routing-key: first}}
""",
    good="""
queues:
  jobs: {arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: waiting}}
  waiting: {arguments: {x-message-ttl: 1000, x-dead-letter-exchange: "", x-dead-letter-routing-key: jobs}}
""",
)
def dead_letter_expiry_cycle(wiring: Wiring) -> Iterator[Complaint]:
    """Find circles of queues that all have a time to live; in a retry one has none, and waits for a consumer."""
    for circle in _circles(wiring):
        if all("x-message-ttl" in wiring.settings[queue.name] for queue in circle):
            message = f"messages that expire go round in a circle, and are dropped: {_way(circle)}"
            yield circle[0], message, "Let one of the queues have no x-message-ttl, or lead the last one elsewhere."


@rule(
    "dead-letter-hot-loop",
    "warning",
    why="A rejected message is back in its queue at once, so one that always fails keeps its consumer busy for ever.",
    page="docs/dlx#dead-letter-cycle",
    bad="""
exchanges: {work: {}}
queues: {jobs: {arguments: {x-dead-letter-exchange: work}}}
bindings: [{source: work, destination: jobs, routing_key: job}]
""",
    good="""
exchanges: {work: {}, retry: {}}
queues:
  jobs: {arguments: {x-dead-letter-exchange: retry}}
  waiting: {arguments: {x-message-ttl: 1000, x-dead-letter-exchange: work}}
bindings:
  - {source: work, destination: jobs, routing_key: job}
  - {source: retry, destination: waiting, routing_key: job}
""",
)
def dead_letter_hot_loop(wiring: Wiring) -> Iterator[Complaint]:
    """Find queues whose dead letters come straight back; in a larger circle another consumer has to reject them too."""
    for circle in _circles(wiring):
        if len(circle) == 1 and "x-message-ttl" not in wiring.settings[circle[0].name]:
            message = f"what is rejected from queue {circle[0].name!r} comes back to it at once"
            yield circle[0], message, "Lead it through a queue with x-message-ttl, or to one where it stays."


def _way(circle: list[Queue]) -> str:
    return " -> ".join(queue.name for queue in [*circle, circle[0]])


def _circles(wiring: Wiring) -> Iterator[list[Queue]]:
    """Yield the circles that dead letters surely run in, each once, from the queue that is first in the file."""
    onward: dict[Stop, list[Stop]] = {}
    todo = [(queue, key) for queue in wiring.queues for key in wiring.keys_into(queue) if letters(wiring, queue)]
    while todo:
        stop = queue, key = todo.pop()
        if stop in onward:
            continue
        settings = wiring.settings[queue]
        exchange, then = settings.get(EXCHANGE), settings.get(KEY, key)
        reached = wiring.reached(exchange, then, surely=True) if exchange is not None else set()
        onward[stop] = [(each, then) for each in sorted(reached & wiring.queues.keys())]
        todo += onward[stop]
    order = {name: index for index, name in enumerate(wiring.queues)}
    told: set[frozenset[str]] = set()
    for circle in cycles(onward):
        names = [name for name, _ in circle]
        if frozenset(names) not in told:
            told.add(frozenset(names))
            first = names.index(min(names, key=order.__getitem__))
            yield [wiring.queues[name] for name in names[first:] + names[:first]]
