"""Rules about messages that expire, are pushed out or rejected: where they go, and whether they arrive.

Comes in: Wiring. Goes out: complaints. Room: topology, pure. Source: https://www.rabbitmq.com/docs/dlx
"""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.model import Queue
from rmqkit.topology.dead_letters import dead_letters_at_least_once
from rmqkit.topology.policies import queue_type
from rmqkit.topology.rules.rule import Complaint, rule
from rmqkit.topology.rules.wiring import Wiring

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


def dead_letter_targets(wiring: Wiring) -> set[str]:
    """Return the queues that dead letters may reach; what retries end in is one, too."""
    targets = {queue.retry.then for queue in wiring.queues.values() if queue.retry}
    for queue in wiring.queues:
        for exchange, key in letters(wiring, queue):
            targets |= wiring.reached(exchange, key, surely=False)
    return targets


def letters(wiring: Wiring, queue: str) -> list[tuple[str, str | None]]:
    """Return where a queue's dead letters go: exchange and routing key, for each key they may have."""
    settings = wiring.settings[queue]
    if (exchange := settings.get(EXCHANGE)) is None:
        return []
    own = settings.get(KEY)
    return [(exchange, key) for key in ([own] if own is not None else wiring.keys_into(queue))]


def _limits(wiring: Wiring, queue: Queue) -> list[str]:
    """Return the settings by which a queue drops messages on its own."""
    settings = wiring.settings[queue.name]
    names = ["x-message-ttl"]
    if settings.get("x-overflow", "drop-head") == "drop-head":
        names += ["x-max-length", "x-max-length-bytes"]
    found = [name for name in names if name in settings]
    limit = settings.get("x-delivery-limit")
    return [*found, "x-delivery-limit"] if isinstance(limit, int) and limit >= 0 else found


def _without_dead_letters(wiring: Wiring) -> Iterator[Queue]:
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
def drops_silently(wiring: Wiring) -> Iterator[Complaint]:
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
def delivery_limit_drops(wiring: Wiring) -> Iterator[Complaint]:
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
def dead_letter_nowhere(wiring: Wiring) -> Iterator[Complaint]:
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


def _is_nowhere(wiring: Wiring, exchange: str, key: str) -> bool:
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
def dead_letter_key_alone(wiring: Wiring) -> Iterator[Complaint]:
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
def at_least_once_ignored(wiring: Wiring) -> Iterator[Complaint]:
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
def dead_letter_at_most_once(wiring: Wiring) -> Iterator[Complaint]:
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
def dead_letter_to_stream(wiring: Wiring) -> Iterator[Complaint]:
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


def _quorum_with_dead_letters(wiring: Wiring) -> Iterator[tuple[Queue, dict[str, object]]]:
    for queue in wiring.queues.values():
        settings = dict(wiring.settings[queue.name])
        if queue_type(queue) == "quorum" and EXCHANGE in settings:
            yield queue, settings
