"""Check for dead letters that are lost, or return to where they were."""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.model import Arguments, Queue
from rmqkit.topology.cycles import find_cycles
from rmqkit.topology.dead_letters import dead_letters_at_least_once
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import Violation, check
from rmqkit.topology.policies import queue_type

EXCHANGE, KEY = "x-dead-letter-exchange", "x-dead-letter-routing-key"


def dead_letter_targets(index: TopologyIndex) -> set[str]:
    """Return the queues that dead letters may reach, and those in which retries end."""
    targets = {queue.retry.then for queue in index.queues.values() if queue.retry}
    for queue in index.queues:
        for exchange, key in _targets(index, queue):
            targets |= index.reached(exchange, key, certainly=False)
    return targets


def _targets(index: TopologyIndex, queue: str) -> list[tuple[str, str | None]]:
    """Return the exchange and routing key of a queue's dead letters, for each key they may have."""
    settings = index.settings(queue)
    if (exchange := settings.get(EXCHANGE)) is None:
        return []
    own = settings.get(KEY)
    return [(exchange, key) for key in ([own] if own is not None else index.keys_into(queue))]


def _limits(index: TopologyIndex, queue: str) -> list[str]:
    """Return the settings by which a queue drops messages."""
    settings = index.settings(queue)
    full = ("x-max-length", "x-max-length-bytes") if settings.get("x-overflow", "drop-head") == "drop-head" else ()
    limits = [name for name in ("x-message-ttl", *full) if name in settings]
    limit = settings.get("x-delivery-limit")
    return [*limits, "x-delivery-limit"] if isinstance(limit, int) and limit >= 0 else limits


def _without_dead_letters(index: TopologyIndex) -> Iterator[Queue]:
    """Yield the lasting queues that have no dead-letter exchange and do not hold the dead letters of others."""
    targets = dead_letter_targets(index)
    for queue in index.queues.values():
        temporary = queue.exclusive or queue.auto_delete or queue_type(queue) == "stream"
        if not temporary and queue.name not in targets and EXCHANGE not in index.settings(queue.name):
            yield queue


@check("drops-silently")
def drops_silently(index: TopologyIndex) -> Iterator[Violation]:
    """Find queues that drop messages by a limit."""
    for queue in _without_dead_letters(index):
        if limits := _limits(index, queue.name):
            message = f"queue {queue.name!r} drops messages by {' and '.join(limits)}, and has no dead-letter exchange"
            yield queue, message, "Give it an x-dead-letter-exchange, or suppress this if dropping is intended."


@check("delivery-limit-drops")
def delivery_limit_drops(index: TopologyIndex) -> Iterator[Violation]:
    """Find quorum queues that drop poison messages by default."""
    for queue in _without_dead_letters(index):
        if queue_type(queue) == "quorum" and "x-delivery-limit" not in index.settings(queue.name):
            message = f"queue {queue.name!r} drops poison messages, and has no dead-letter exchange"
            yield queue, message, "Give it an x-dead-letter-exchange, or set x-delivery-limit: -1 for no limit."


@check("dead-letter-nowhere")
def dead_letter_nowhere(index: TopologyIndex) -> Iterator[Violation]:
    """Find dead letters whose routing key matches no binding; an exchange without bindings has its own rule."""
    for queue in index.queues.values():
        targets = _targets(index, queue.name)
        lost = [(exchange, key) for exchange, key in targets if key is not None and leads_nowhere(index, exchange, key)]
        if lost:
            exchange, key = lost[0]
            others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            verb = "have the routing key" if KEY in index.settings(queue.name) else "keep their routing key"
            fault = f"no binding of exchange {exchange!r} matches" if exchange else "names no queue"
            message = f"dead letters of queue {queue.name!r} {verb} {key!r}{others}, which {fault}"
            yield queue, message, "Set x-dead-letter-routing-key to one that leads to a queue."


def leads_nowhere(index: TopologyIndex, exchange: str, key: str) -> bool:
    """Tell whether a message certainly reaches no queue; an exchange without bindings has its own rule."""
    if not exchange:
        return not index.is_known_queue(key)
    if exchange not in index.exchanges or exchange in index.alternates or exchange not in index.out_of:
        return False
    return all(index.accepts(binding, key) is False for binding in index.out_of[exchange])


@check("dead-letter-key-alone")
def dead_letter_key_alone(index: TopologyIndex) -> Iterator[Violation]:
    """Find queues whose policy sets the key alone; as arguments the file itself would be refused."""
    for queue in index.queues.values():
        if KEY in index.settings(queue.name) and EXCHANGE not in index.settings(queue.name):
            message = f"queue {queue.name!r} has a dead-letter routing key, and no dead-letter exchange"
            yield queue, message, 'Add dead-letter-exchange, "" for the default exchange.'


@check("at-least-once-ignored")
def at_least_once_ignored(index: TopologyIndex) -> Iterator[Violation]:
    """Find quorum queues that request at-least-once dead-lettering without its precondition."""
    for queue, settings in _quorum_with_dead_letters(index):
        if settings.get("x-dead-letter-strategy") == "at-least-once" and settings.get("x-overflow") != "reject-publish":
            message = f"queue {queue.name!r} dead-letters at most once, although at-least-once is requested"
            yield queue, message, "Add x-overflow: reject-publish."


@check("dead-letter-at-most-once")
def dead_letter_at_most_once(index: TopologyIndex) -> Iterator[Violation]:
    """Find quorum queues that could dead-letter at least once, and choose no strategy."""
    for queue, settings in _quorum_with_dead_letters(index):
        if "x-dead-letter-strategy" not in settings:
            message = f"dead letters of the quorum queue {queue.name!r} may be lost on their way"
            advice = "Add x-dead-letter-strategy: at-least-once and x-overflow: reject-publish, or write at-most-once."
            yield queue, message, advice


@check("dead-letter-to-stream")
def dead_letter_to_stream(index: TopologyIndex) -> Iterator[Violation]:
    """Find streams that get dead letters from some versions of RabbitMQ only."""
    streams = {name for name, queue in index.queues.items() if queue_type(queue) == "stream"}
    for queue in index.queues.values() if streams else ():
        if queue.name in streams or dead_letters_at_least_once(queue, index.settings(queue.name)):
            continue
        reached = {name for each in _targets(index, queue.name) for name in index.reached(*each, certainly=False)}
        if lost := sorted(reached & streams):
            message = f"dead letters of queue {queue.name!r} may not arrive in stream {', '.join(map(repr, lost))}"
            advice = "Send them to a queue, or write type: quorum with x-dead-letter-strategy: at-least-once."
            yield queue, message, advice


def _quorum_with_dead_letters(index: TopologyIndex) -> Iterator[tuple[Queue, Arguments]]:
    for queue in index.queues.values():
        if queue_type(queue) == "quorum" and EXCHANGE in (settings := index.settings(queue.name)):
            yield queue, settings


@check("dead-letter-expiry-cycle")
def dead_letter_expiry_cycle(index: TopologyIndex) -> Iterator[Violation]:
    """Find cycles of queues that all have a TTL; in a retry one has none, and its messages wait for a consumer."""
    for cycle in _cycles(index):
        if all("x-message-ttl" in index.settings(queue.name) for queue in cycle):
            path = " -> ".join(queue.name for queue in [*cycle, cycle[0]])
            message = f"messages that expire go round in a cycle, and are dropped: {path}"
            yield cycle[0], message, "Remove x-message-ttl from one of the queues, or send the last one's elsewhere."


@check("dead-letter-hot-loop")
def dead_letter_hot_loop(index: TopologyIndex) -> Iterator[Violation]:
    """Find queues whose dead letters return directly; in a larger cycle another consumer has to reject them too."""
    for cycle in _cycles(index):
        if len(cycle) == 1 and "x-message-ttl" not in index.settings(cycle[0].name):
            message = f"messages rejected from queue {cycle[0].name!r} return to it at once"
            yield cycle[0], message, "Send them through a queue with x-message-ttl, or to one in which they stay."


def _cycles(index: TopologyIndex) -> Iterator[list[Queue]]:
    """Yield the cycles that dead letters certainly take, each once, from the queue that is first in the file."""
    edges: dict[tuple[str, str | None], list[tuple[str, str | None]]] = {}  # queue and routing key; None is any key
    pending = [(queue, key) for queue in index.queues for key in index.keys_into(queue) if _targets(index, queue)]
    while pending:
        node = queue, key = pending.pop()
        if node in edges:
            continue
        settings = index.settings(queue)
        exchange, next_key = settings.get(EXCHANGE), settings.get(KEY, key)
        reached = index.reached(exchange, next_key, certainly=True) if exchange is not None else set()
        edges[node] = [(each, next_key) for each in sorted(reached & index.queues.keys())]
        pending += edges[node]
    order = {name: position for position, name in enumerate(index.queues)}
    found: set[frozenset[str]] = set()
    for cycle in find_cycles(edges):
        names = [name for name, _ in cycle]
        if frozenset(names) not in found:
            found.add(frozenset(names))
            first = names.index(min(names, key=order.__getitem__))
            yield [index.queues[name] for name in names[first:] + names[:first]]
