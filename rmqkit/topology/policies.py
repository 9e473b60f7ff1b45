"""What an entity is set to: its own arguments, and those its policy adds (https://www.rabbitmq.com/docs/policies)."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from rmqkit.errors import TopologyError
from rmqkit.model import Exchange, Policy, Queue, Target, Topology

_STREAM = {"max-age", "stream-max-segment-size-bytes", "initial-cluster-size"}
_QUORUM = {"delivery-limit", "dead-letter-strategy"}
_CLASSIC = {
    "max-priority", "queue-mode", "queue-master-locator", "ha-mode", "ha-params", "ha-sync-mode",
    "ha-promote-on-shutdown", "ha-promote-on-failure",
}  # fmt: skip
_NEVER_IN_STREAMS = {
    "expires", "message-ttl", "dead-letter-exchange", "dead-letter-routing-key", "max-length", "max-in-memory-length",
    "max-in-memory-bytes", "overflow",
}  # fmt: skip
# A policy that holds one of these keys is passed over for queues of the type, as a whole (RabbitMQ 3.10 to 4.x).
_FOREIGN = {
    "classic": _STREAM | _QUORUM,
    "quorum": _STREAM | _CLASSIC,
    "stream": _QUORUM | _CLASSIC | _NEVER_IN_STREAMS,
}
_APPLIES = {"classic": "classic_queues", "quorum": "quorum_queues", "stream": "streams"}
# Of these limits the lower one counts; of all else the argument, but for a few where the policy does.
_LIMITS = {"expires", "message-ttl", "max-length", "max-length-bytes", "delivery-limit"}
_POLICY_WINS = {"quorum": {"overflow"}, "stream": {"max-length-bytes", "max-age", "stream-max-segment-size-bytes"}}


def effective(topology: Topology, entity: Exchange | Queue) -> dict[str, Any]:
    """Return the arguments an exchange or queue has on the broker, in argument form: `x-message-ttl`, ..."""
    arguments = dict(entity.arguments)
    policy = policy_of(topology, entity)
    prefix = "x-" if isinstance(entity, Queue) else ""
    wins = _POLICY_WINS.get(queue_type(entity), set()) if isinstance(entity, Queue) else set()
    for key, value in policy.definition.items() if policy else ():
        own = arguments.setdefault(prefix + key, value)
        if key in wins:
            arguments[prefix + key] = value
        elif key in _LIMITS and isinstance(own, int) and isinstance(value, int):
            arguments[prefix + key] = min(own, value)
    return arguments


def dead_letter_target(topology: Topology, queue: Queue) -> Target | None:
    """Return where what a queue rejects goes; a routing key of "" is the message's own. None: it is dropped."""
    try:
        arguments = effective(topology, queue)
    except TopologyError:  # a policy's pattern, that the broker can read and we cannot
        arguments = dict(queue.arguments)
    exchange, key = arguments.get("x-dead-letter-exchange"), arguments.get("x-dead-letter-routing-key", "")
    return Target(exchange, key) if isinstance(exchange, str) and isinstance(key, str) else None


def policy_of(topology: Topology, entity: Exchange | Queue) -> Policy | None:
    """Return the one policy that counts for an exchange or queue: the first in the file of the highest priority."""
    found = [policy for policy in topology.policies if applies(policy, entity)]
    return max(found, key=lambda policy: policy.priority, default=None)


def queue_type(queue: Queue) -> str:
    """Return a queue's type: classic, quorum, stream, or a newer one; classic where it is the broker's default."""
    return str(queue.arguments.get("x-queue-type", "classic"))


def unread(topology: Topology) -> tuple[Policy, ...]:
    """Return the policies whose pattern cannot be read here; they are left out of account."""
    return tuple(policy for policy in topology.policies if not _pattern(policy.pattern))


def doubt(topology: Topology, entity: Exchange | Queue) -> str:
    """Say why it is not known what an exchange or queue is set to, if a policy that is not read may be for it."""
    for policy in unread(topology):
        if _is_for(policy, entity):
            return (
                f"whether policy {policy.name!r} is for {entity.name!r} is not known: its pattern cannot be read here"
            )
    return ""


def applies(policy: Policy, entity: Exchange | Queue) -> bool:
    """Tell whether a policy is one of those for an entity, whatever others there are."""
    pattern = _pattern(policy.pattern)
    return pattern is not None and _is_for(policy, entity) and bool(pattern.search(entity.name.encode()))


def _is_for(policy: Policy, entity: Exchange | Queue) -> bool:
    """Tell whether a policy is for what an entity is, whatever its name."""
    if isinstance(entity, Exchange):
        return policy.apply_to in ("all", "exchanges")
    kind = queue_type(entity)
    right = policy.apply_to in ("all", "queues", _APPLIES.get(kind))
    return right and not policy.definition.keys() & _FOREIGN.get(kind, set())


@cache
def _pattern(pattern: str) -> re.Pattern[bytes] | None:
    """Compile a pattern as Erlang does, for bytes; None if that is beyond Python, as classes like [:alpha:] are."""
    try:
        return None if "[:" in pattern else re.compile(pattern.encode())
    except re.error:
        return None
