"""Check for retries that lose messages, or do not wait as long as they say."""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.model import Queue
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.dead_letters import EXCHANGE, KEY, leads_nowhere
from rmqkit.topology.lint.rule import Violation, check
from rmqkit.topology.policies import policy_of, queue_type
from rmqkit.topology.retry import waiting_queues

_LIMITS = ("x-max-length", "x-max-length-bytes")


def _retried(index: TopologyIndex) -> Iterator[tuple[Queue, list[Queue]]]:
    """Yield the queues that have a retry, each with the queues in which its messages wait."""
    for queue in index.queues.values():
        if queue.retry:
            yield queue, [index.queues[each.name] for each in waiting_queues(queue) if each.name in index.queues]


@check("retry-loses")
def retry_loses(index: TopologyIndex) -> Iterator[Violation]:
    """Find queues that may be deleted or full when a message has waited, and waiting queues that are deleted."""
    for queue, waiting in _retried(index):
        settings = index.settings(queue.name)
        if queue.auto_delete or "x-expires" in settings:
            reason = "auto_delete" if queue.auto_delete else "x-expires"
            message = f"{reason} deletes queue {queue.name!r}, and messages waiting for a retry are lost"
            yield queue, message, "Keep the queue, or remove the retry."
        for each in waiting:
            if "x-expires" in index.settings(each.name):
                message = f"queue {each.name!r}, in which messages wait for a retry, expires by {_policy(index, each)}"
                yield queue, message, "Narrow the policy's pattern: a waiting queue has no consumer, so it is unused."
        overflow = settings.get("x-overflow")
        refuses = overflow == "reject-publish" or (overflow == "reject-publish-dlx" and EXCHANGE not in settings)
        if refuses and queue_type(queue) == "classic" and any(limit in settings for limit in _LIMITS):
            message = f"queue {queue.name!r} refuses messages while it is full, and those that return to it are lost"
            yield queue, message, "Choose type: quorum, whose waiting queues keep them, or remove x-overflow."


@check("retry-delay-changed")
def retry_delay_changed(index: TopologyIndex) -> Iterator[Violation]:
    """Find policies that shorten how long messages wait."""
    for queue, waiting in _retried(index):
        for each in waiting:
            settings, own = index.settings(each.name), each.arguments
            names = [name for name in ("x-message-ttl", *_LIMITS) if settings.get(name) != own.get(name)]
            if names:
                message = f"{_policy(index, each)} sets {' and '.join(names)} of queue {each.name!r}, in which messages"
                yield queue, f"{message} wait for a retry", "Narrow the policy's pattern."


@check("retry-changes-key")
def retry_changes_key(index: TopologyIndex) -> Iterator[Violation]:
    """Find retries after which dead letters match no binding: a message returns with the queue's name as its key."""
    for queue, _ in _retried(index):
        settings = index.settings(queue.name)
        exchange = settings.get(EXCHANGE, "")
        if exchange and KEY not in settings and leads_nowhere(index, exchange, queue.name):
            message = f"after a retry, dead letters of queue {queue.name!r} have its name as their routing key, which"
            message += f" no binding of exchange {exchange!r} matches"
            yield queue, message, "Set x-dead-letter-routing-key to one that leads to a queue."


def _policy(index: TopologyIndex, queue: Queue) -> str:
    policy = policy_of(index.topology, queue)
    return f"policy {policy.name!r}" if policy else "its arguments"
