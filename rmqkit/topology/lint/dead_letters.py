"""Check for dead letters and retries that are lost, or return to where they were."""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.model import Arguments, Queue
from rmqkit.topology.cycles import find_cycles
from rmqkit.topology.dead_letters import dead_letters_at_least_once
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import Violations, check, listed
from rmqkit.topology.policies import policy_of, queue_type
from rmqkit.topology.retry import waiting_queues

EXCHANGE, KEY, STRATEGY = "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy"
_LIMITS = ("x-max-length", "x-max-length-bytes")


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


def _without_dead_letters(index: TopologyIndex) -> Iterator[tuple[Queue, Arguments]]:
    """Yield the lasting queues that have no dead-letter exchange and do not hold the dead letters of others."""
    targets = dead_letter_targets(index)
    for queue in index.queues.values():
        temporary = queue.exclusive or queue.auto_delete or queue_type(queue) == "stream"
        if not temporary and queue.name not in targets and EXCHANGE not in (settings := index.settings(queue.name)):
            yield queue, settings


@check
def drops_silently(index: TopologyIndex) -> Violations:
    for queue, settings in _without_dead_letters(index):
        full = _LIMITS if settings.get("x-overflow", "drop-head") == "drop-head" else ()
        limits = [name for name in ("x-message-ttl", *full) if name in settings]
        limit = settings.get("x-delivery-limit")
        limits += ["x-delivery-limit"] if isinstance(limit, int) and limit >= 0 else []
        if limits:
            yield queue, {"limits": limits}


@check
def delivery_limit_drops(index: TopologyIndex) -> Violations:
    for queue, settings in _without_dead_letters(index):
        if queue_type(queue) == "quorum" and "x-delivery-limit" not in settings:
            yield queue, {}


@check
def dead_letter_nowhere(index: TopologyIndex) -> Violations:
    """Find dead letters whose routing key matches no binding; an exchange without bindings has its own rule."""
    for queue in index.queues.values():
        targets = _targets(index, queue.name)
        lost = [(exchange, key) for exchange, key in targets if key is not None and leads_nowhere(index, exchange, key)]
        if lost:
            exchange, key = lost[0]
            own = KEY in index.settings(queue.name)
            verb = "have the routing key" if own else "keep their routing key"
            others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            fault = f"no binding of exchange {exchange!r} matches" if exchange else "names no queue"
            unless = "" if own else ", unless a CC header adds one"
            yield queue, {"keys": f"{verb} {key!r}{others}", "fault": fault, "unless": unless}


def leads_nowhere(index: TopologyIndex, exchange: str, key: str) -> bool:
    """Tell whether a message certainly reaches no queue; an exchange without bindings has its own rule."""
    if not exchange:
        return not index.is_known_queue(key)
    if exchange not in index.exchanges or exchange in index.alternates or exchange not in index.out_of:
        return False
    return all(index.accepts(binding, key) is False for binding in index.out_of[exchange])


@check
def dead_letter_key_alone(index: TopologyIndex) -> Violations:
    """Find queues whose policy sets the key alone; as arguments the file itself would be refused."""
    for queue in index.queues.values():
        if KEY in (settings := index.settings(queue.name)) and EXCHANGE not in settings:
            yield queue, {}


@check
def at_least_once_ignored(index: TopologyIndex) -> Violations:
    for queue, settings in _quorum_with_dead_letters(index):
        if settings.get(STRATEGY) == "at-least-once" and settings.get("x-overflow") != "reject-publish":
            yield queue, {}


@check
def dead_letter_at_most_once(index: TopologyIndex) -> Violations:
    return ((queue, {}) for queue, settings in _quorum_with_dead_letters(index) if STRATEGY not in settings)


@check
def dead_letter_to_stream(index: TopologyIndex) -> Violations:
    streams = {name for name, queue in index.queues.items() if queue_type(queue) == "stream"}
    for queue in index.queues.values() if streams else ():
        if queue.name in streams or dead_letters_at_least_once(queue, index.settings(queue.name)):
            continue
        reached = {name for each in _targets(index, queue.name) for name in index.reached(*each, certainly=False)}
        if reached & streams:
            yield queue, {"streams": listed(sorted(reached & streams))}


def _quorum_with_dead_letters(index: TopologyIndex) -> Iterator[tuple[Queue, Arguments]]:
    for queue in index.queues.values():
        if queue_type(queue) == "quorum" and EXCHANGE in (settings := index.settings(queue.name)):
            yield queue, settings


@check
def dead_letter_expiry_cycle(index: TopologyIndex) -> Violations:
    """Find cycles of queues that all have a TTL; in a retry one has none, and its messages wait for a consumer."""
    for cycle in _cycles(index):
        if all("x-message-ttl" in index.settings(queue.name) for queue in cycle):
            yield cycle[0], {"path": " -> ".join(queue.name for queue in [*cycle, cycle[0]])}


@check
def dead_letter_hot_loop(index: TopologyIndex) -> Violations:
    """Find queues whose dead letters return directly; in a larger cycle another consumer has to reject them too."""
    for cycle in _cycles(index):
        if len(cycle) == 1 and "x-message-ttl" not in index.settings(cycle[0].name):
            yield cycle[0], {}


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


def _retried(index: TopologyIndex) -> Iterator[tuple[Queue, Arguments, list[Queue]]]:
    """Yield the queues that have a retry, each with its settings and the queues in which its messages wait."""
    for queue in index.queues.values():
        if queue.retry:
            waiting = [index.queues[each.name] for each in waiting_queues(queue) if each.name in index.queues]
            yield queue, index.settings(queue.name), waiting


@check
def retry_loses(index: TopologyIndex) -> Violations:
    """Find queues that may be deleted or full when a message has waited, and waiting queues that are deleted."""
    for queue, settings, waiting in _retried(index):
        if queue.auto_delete or "x-expires" in settings:
            reason = "auto_delete" if queue.auto_delete else "x-expires"
            fault = f"{reason} deletes queue {queue.name!r}, and messages waiting for a retry are lost"
            yield queue, {"fault": fault, "advice": "Keep the queue, or remove the retry."}
        for each in waiting:
            if "x-expires" in index.settings(each.name):
                fault = f"queue {each.name!r}, in which messages wait for a retry, expires by {_policy(index, each)}"
                advice = "Narrow the policy's pattern: a waiting queue has no consumer, so it is unused."
                yield queue, {"fault": fault, "advice": advice}
        overflow = settings.get("x-overflow")
        refuses = overflow == "reject-publish" or (overflow == "reject-publish-dlx" and EXCHANGE not in settings)
        if refuses and queue_type(queue) == "classic" and any(limit in settings for limit in _LIMITS):
            fault = f"queue {queue.name!r} refuses messages while it is full, and those that return to it are lost"
            advice = "Choose type: quorum, whose waiting queues keep them, or remove x-overflow."
            yield queue, {"fault": fault, "advice": advice}


@check
def retry_delay_changed(index: TopologyIndex) -> Violations:
    for queue, _, waiting in _retried(index):
        for each in waiting:
            settings, own = index.settings(each.name), each.arguments
            names = [name for name in ("x-message-ttl", *_LIMITS) if settings.get(name) != own.get(name)]
            if names:
                yield queue, {"by": _policy(index, each), "settings": names, "waiting": each.name}


@check
def retry_changes_key(index: TopologyIndex) -> Violations:
    for queue, exchange in _lost_by_name(index):
        if queue.retry and not queue.retry.native:
            yield queue, {"exchange": exchange}


@check
def return_changes_key(index: TopologyIndex) -> Violations:
    """Find queues whose dead letters arrive by their own keys; not those that hold the dead letters of others."""
    targets = dead_letter_targets(index)
    for queue, exchange in _lost_by_name(index):
        arrives = (key is None or not leads_nowhere(index, exchange, key) for key in index.keys_into(queue.name))
        if not queue.retry and queue.name not in targets and any(arrives):
            yield queue, {"exchange": exchange}


def _lost_by_name(index: TopologyIndex) -> Iterator[tuple[Queue, str]]:
    """Yield the queues that drop dead letters whose routing key is the queue's name, each with the exchange."""
    for queue in index.queues.values():
        settings = index.settings(queue.name)
        exchange = settings.get(EXCHANGE, "")
        if exchange and KEY not in settings and leads_nowhere(index, exchange, queue.name):
            yield queue, exchange


def _policy(index: TopologyIndex, queue: Queue) -> str:
    policy = policy_of(index.topology, queue)
    return f"policy {policy.name!r}" if policy else "its arguments"
