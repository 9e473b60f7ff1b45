"""Rules about dead letters that come back to where they were."""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.model import Queue
from rmqkit.topology.dead_letters import dead_letters_at_least_once
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.cycles import cycles
from rmqkit.topology.lint.rule import Complaint, rule
from rmqkit.topology.policies import queue_type

EXCHANGE, KEY = "x-dead-letter-exchange", "x-dead-letter-routing-key"
_AT_LEAST_ONCE = """
queues:
  orders:
    type: quorum
    arguments:
      x-dead-letter-exchange: ""
      x-dead-letter-routing-key: {0}
      x-dead-letter-strategy: at-least-once
      x-overflow: reject-publish
  {0}: {{type: {1}}}
"""  # the queue of dead letters, and its type


def dead_letter_targets(wiring: TopologyIndex) -> set[str]:
    """Return the queues that dead letters may reach; what retries end in is one, too."""
    targets = {queue.retry.then for queue in wiring.queues.values() if queue.retry}
    for queue in wiring.queues:
        for exchange, key in letters(wiring, queue):
            targets |= wiring.reached(exchange, key, surely=False)
    return targets


def letters(wiring: TopologyIndex, queue: str) -> list[tuple[str, str | None]]:
    """Return where a queue's dead letters go: exchange and routing key, for each key they may have."""
    settings = wiring.settings[queue]
    if (exchange := settings.get(EXCHANGE)) is None:
        return []
    own = settings.get(KEY)
    return [(exchange, key) for key in ([own] if own is not None else wiring.keys_into(queue))]


def _limits(wiring: TopologyIndex, queue: Queue) -> list[str]:
    """Return the settings by which a queue drops messages on its own."""
    settings = wiring.settings[queue.name]
    names = ["x-message-ttl"]
    if settings.get("x-overflow", "drop-head") == "drop-head":
        names += ["x-max-length", "x-max-length-bytes"]
    found = [name for name in names if name in settings]
    limit = settings.get("x-delivery-limit")
    return [*found, "x-delivery-limit"] if isinstance(limit, int) and limit >= 0 else found


def _without_dead_letters(wiring: TopologyIndex) -> Iterator[Queue]:
    """Yield the queues that keep messages for others, and are neither with a dead-letter exchange nor its last stop."""
    last_stops = dead_letter_targets(wiring)
    for queue in wiring.queues.values():
        temporary = queue.exclusive or queue.auto_delete or queue_type(queue) == "stream"
        if not temporary and queue.name not in last_stops and EXCHANGE not in wiring.settings[queue.name]:
            yield queue


@rule(
    "drops-silently",
    "warning",
    why="What expires or is pushed out of a queue with no dead-letter exchange is gone, and nobody is told.",
    page="docs/dlx#overview",
    bad="queues: {orders: {arguments: {x-message-ttl: 60000}}}",
    good="""
queues:
  orders: {arguments: {x-message-ttl: 60000, x-dead-letter-exchange: "", x-dead-letter-routing-key: expired}}
  expired: {}
""",
)
def drops_silently(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find queues that drop messages by a limit of their own."""
    for queue in _without_dead_letters(wiring):
        if limits := _limits(wiring, queue):
            message = f"queue {queue.name!r} drops messages by {' and '.join(limits)}, and has no dead-letter exchange"
            yield queue, message, "Give it an x-dead-letter-exchange, or silence this where dropping is meant."


@rule(
    "delivery-limit-drops",
    "hint",
    why="From RabbitMQ 4.0 on a quorum queue drops a message that was delivered again more than 20 times.",
    page="docs/quorum-queues#poison-message-handling",
    bad="queues: {orders: {type: quorum}}",
    good=_AT_LEAST_ONCE.format("poison", "quorum"),
)
def delivery_limit_drops(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find quorum queues whose poison messages vanish by default."""
    for queue in _without_dead_letters(wiring):
        if queue_type(queue) == "quorum" and "x-delivery-limit" not in wiring.settings[queue.name]:
            message = f"queue {queue.name!r} drops what fails too often, and has no dead-letter exchange"
            yield queue, message, "Give it an x-dead-letter-exchange; x-delivery-limit: -1 is no limit at all."


@rule(
    "dead-letter-nowhere",
    "warning",
    why="A dead letter that no binding takes is dropped, and nobody is told.",
    page="docs/dlx#routing",
    bad="""
exchanges: {failures: {}}
queues:
  orders: {arguments: {x-dead-letter-exchange: failures, x-dead-letter-routing-key: order}}
  failed: {}
bindings: [{source: failures, destination: failed, routing_key: orders}]
""",
    good="""
exchanges: {failures: {}}
queues:
  orders: {arguments: {x-dead-letter-exchange: failures, x-dead-letter-routing-key: orders}}
  failed: {}
bindings: [{source: failures, destination: failed, routing_key: orders}]
""",
)
def dead_letter_nowhere(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find dead letters whose routing key nothing takes; an exchange with no binding at all is told of elsewhere."""
    for queue in wiring.queues.values():
        ways = letters(wiring, queue.name)
        lost = [(exchange, key) for exchange, key in ways if key is not None and _is_nowhere(wiring, exchange, key)]
        if lost:
            exchange, key = lost[0]
            rest = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            how = "have the routing key" if KEY in wiring.settings[queue.name] else "keep their routing key,"
            what = f"no binding of exchange {exchange!r} takes" if exchange else "names no queue"
            message = f"dead letters of queue {queue.name!r} {how} {key!r}{rest}, which {what}"
            yield queue, message, "Set x-dead-letter-routing-key to one that leads to a queue."


def _is_nowhere(wiring: TopologyIndex, exchange: str, key: str) -> bool:
    if not exchange:
        return not wiring.is_known_queue(key)
    if exchange not in wiring.exchanges or exchange in wiring.alternates or exchange not in wiring.out_of:
        return False
    return all(wiring.takes(binding, key) is False for binding in wiring.out_of[exchange])


@rule(
    "dead-letter-key-alone",
    "warning",
    why="A dead-letter routing key without a dead-letter exchange does nothing: dead letters are dropped.",
    page="docs/dlx#using-policies",
    bad="""
queues: {orders: {}}
policies: {failures: {pattern: ^orders$, definition: {dead-letter-routing-key: failed}}}
""",
    good="""
queues: {orders: {}, failed: {}}
policies: {failures: {pattern: ^orders$, definition: {dead-letter-exchange: "", dead-letter-routing-key: failed}}}
""",
)
def dead_letter_key_alone(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find queues with the key and no exchange; in arguments the file itself would be refused."""
    for queue in wiring.queues.values():
        if KEY in wiring.settings[queue.name] and EXCHANGE not in wiring.settings[queue.name]:
            message = f"queue {queue.name!r} has a dead-letter routing key, and no dead-letter exchange"
            yield queue, message, 'Add dead-letter-exchange, "" for the default exchange.'


@rule(
    "at-least-once-ignored",
    "warning",
    why="A quorum queue dead-letters at least once only if it refuses messages when full: otherwise at most once.",
    page="docs/quorum-queues#dead-lettering",
    bad="""
queues:
  orders:
    type: quorum
    arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: failed, x-dead-letter-strategy: at-least-once}
  failed: {type: quorum}
""",
    good=_AT_LEAST_ONCE.format("failed", "quorum"),
)
def at_least_once_ignored(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find quorum queues that ask for at-least-once dead letters and do not get them."""
    for queue, settings in _quorum_with_dead_letters(wiring):
        if settings.get("x-dead-letter-strategy") == "at-least-once" and settings.get("x-overflow") != "reject-publish":
            message = f"queue {queue.name!r} dead-letters at most once, though at-least-once is asked for"
            yield queue, message, "Add x-overflow: reject-publish."


@rule(
    "dead-letter-at-most-once",
    "hint",
    why="By default a dead letter is lost if its target is full or away at that moment; a quorum queue can wait.",
    page="docs/quorum-queues#dead-lettering",
    bad="""
queues:
  orders: {type: quorum, arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: failed}}
  failed: {type: quorum}
""",
    good=_AT_LEAST_ONCE.format("failed", "quorum"),
)
def dead_letter_at_most_once(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find quorum queues that could dead-letter at least once, and do not say which they want."""
    for queue, settings in _quorum_with_dead_letters(wiring):
        if "x-dead-letter-strategy" not in settings:
            message = f"dead letters of the quorum queue {queue.name!r} may be lost on their way"
            advice = "Add x-dead-letter-strategy: at-least-once and x-overflow: reject-publish, or say at-most-once."
            yield queue, message, advice


@rule(
    "dead-letter-to-stream",
    "warning",
    why="Up to RabbitMQ 3.11 a stream gets no dead letters but from queues that dead-letter at least once.",
    page="docs/quorum-queues#dead-lettering",
    bad="""
queues:
  orders: {type: classic, arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: failures}}
  failures: {type: stream}
""",
    good=_AT_LEAST_ONCE.format("failures", "stream"),
)
def dead_letter_to_stream(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find streams that get dead letters from some versions of RabbitMQ only."""
    streams = {name for name, queue in wiring.queues.items() if queue_type(queue) == "stream"}
    for queue in wiring.queues.values() if streams else ():
        if queue.name in streams or dead_letters_at_least_once(queue, wiring.settings[queue.name]):
            continue
        reached = {name for each in letters(wiring, queue.name) for name in wiring.reached(*each, surely=False)}
        if lost := sorted(reached & streams):
            message = f"dead letters of queue {queue.name!r} may not arrive in stream {', '.join(map(repr, lost))}"
            advice = "Lead them to a queue, or write type: quorum with x-dead-letter-strategy: at-least-once."
            yield queue, message, advice


def _quorum_with_dead_letters(wiring: TopologyIndex) -> Iterator[tuple[Queue, dict[str, object]]]:
    for queue in wiring.queues.values():
        settings = dict(wiring.settings[queue.name])
        if queue_type(queue) == "quorum" and EXCHANGE in settings:
            yield queue, settings


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
def dead_letter_expiry_cycle(wiring: TopologyIndex) -> Iterator[Complaint]:
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
def dead_letter_hot_loop(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find queues whose dead letters come straight back; in a larger circle another consumer has to reject them too."""
    for circle in _circles(wiring):
        if len(circle) == 1 and "x-message-ttl" not in wiring.settings[circle[0].name]:
            message = f"what is rejected from queue {circle[0].name!r} comes back to it at once"
            yield circle[0], message, "Lead it through a queue with x-message-ttl, or to one where it stays."


def _way(circle: list[Queue]) -> str:
    return " -> ".join(queue.name for queue in [*circle, circle[0]])


def _circles(wiring: TopologyIndex) -> Iterator[list[Queue]]:
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
