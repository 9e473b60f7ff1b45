"""Apply policies to exchanges and queues (https://www.rabbitmq.com/docs/policies)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from rmqkit.errors import TopologyError
from rmqkit.model import Exchange, Policy, Queue, Target, Topology

_STREAM = {"max-age", "stream-max-segment-size-bytes", "initial-cluster-size"}
_QUORUM = {"delivery-limit", "dead-letter-strategy", "target-group-size"}
_CLASSIC = {
    "max-priority", "queue-mode", "queue-master-locator", "ha-mode", "ha-params", "ha-sync-mode",
    "ha-promote-on-shutdown", "ha-promote-on-failure",
}  # fmt: skip
_NEVER_IN_STREAMS = {
    "expires", "message-ttl", "dead-letter-exchange", "dead-letter-routing-key", "max-length", "max-in-memory-length",
    "max-in-memory-bytes", "overflow",
}  # fmt: skip
# RabbitMQ 3.10 to 4.x skips a policy with one of these keys, as a whole, for queues of the type.
_UNSUPPORTED = {
    "classic": _STREAM | _QUORUM,
    "quorum": _STREAM | _CLASSIC,
    "stream": _QUORUM | _CLASSIC | _NEVER_IN_STREAMS,
}
_APPLIES = {"classic": "classic_queues", "quorum": "quorum_queues", "stream": "streams"}
# Of these limits the lower one applies; of other settings the argument, except for a few where the policy does.
_LIMITS = {"expires", "message-ttl", "max-length", "max-length-bytes", "delivery-limit"}
_POLICY_WINS = {"quorum": {"overflow"}, "stream": {"max-length-bytes", "max-age", "stream-max-segment-size-bytes"}}


def effective(topology: Topology, entity: Exchange | Queue) -> dict[str, Any]:
    """Return the arguments of an exchange or queue with its policy applied, in argument form: `x-message-ttl`, ..."""
    arguments = dict(entity.arguments)
    policy = policy_of(topology, entity)
    prefix = "x-" if isinstance(entity, Queue) else ""
    wins = _POLICY_WINS.get(queue_type(entity), set()) if isinstance(entity, Queue) else set()
    for key, value in policy.definition.items() if policy else ():
        own = arguments.setdefault(prefix + key, value)
        if key in wins:
            arguments[prefix + key] = value
        elif key in _LIMITS and isinstance(own, int) and isinstance(value, int):
            arguments[prefix + key] = min(own, value, key=lambda limit: (limit < 0, limit))  # -1 is no limit
    return arguments


def dead_letter_target(topology: Topology, queue: Queue) -> Target | None:
    """Return the target of a queue's dead letters, None if they are dropped; an empty routing key keeps their own."""
    try:
        arguments = effective(topology, queue)
    except TopologyError:  # a policy's pattern that only the broker can read
        arguments = dict(queue.arguments)
    exchange, key = arguments.get("x-dead-letter-exchange"), arguments.get("x-dead-letter-routing-key", "")
    return Target(exchange, key) if isinstance(exchange, str) and isinstance(key, str) else None


def policy_of(topology: Topology, entity: Exchange | Queue) -> Policy | None:
    """Return the only policy that applies to an exchange or queue: the first in the file of the highest priority."""
    found = [policy for policy in topology.policies if applies(policy, entity)]
    return max(found, key=lambda policy: policy.priority, default=None)


def possible(policies: Iterable[Policy], entity: Exchange | Queue) -> tuple[Policy, ...]:
    """Return the policies that may be the one that applies: of those of one priority, or that cannot be read, all."""
    matching = [each for each in policies if applies(each, entity)]
    highest = max((each.priority for each in matching), default=-math.inf)
    found = (each for each in policies if each in matching or (not _pattern(each.pattern) and _fits_type(each, entity)))
    return tuple(each for each in found if each.priority >= highest)


def queue_type(queue: Queue) -> str:
    """Return a queue's type: classic, quorum, stream, or a newer one; classic where it is the broker's default."""
    return str(queue.arguments.get("x-queue-type", "classic"))


def unread(topology: Topology) -> tuple[Policy, ...]:
    """Return the policies whose pattern cannot be read here; they are never applied."""
    return tuple(policy for policy in topology.policies if not _pattern(policy.pattern))


def doubt(topology: Topology, entity: Exchange | Queue) -> str:
    """Explain why the settings of an exchange or queue are unknown: a policy that cannot be read may apply to it."""
    for policy in unread(topology):
        if _fits_type(policy, entity):
            return f"whether policy {policy.name!r} applies to {entity.name!r} is unknown: its pattern cannot be read"
    return ""


def applies(policy: Policy, entity: Exchange | Queue) -> bool:
    """Tell whether a policy matches an entity, even if another has a higher priority."""
    pattern = _pattern(policy.pattern)
    return pattern is not None and _fits_type(policy, entity) and bool(pattern.search(entity.name.encode()))


def _fits_type(policy: Policy, entity: Exchange | Queue) -> bool:
    """Tell whether a policy applies to entities of this kind and type, whatever their names."""
    if isinstance(entity, Exchange):
        return policy.apply_to in ("all", "exchanges")
    kind = queue_type(entity)
    right = policy.apply_to in ("all", "queues", _APPLIES.get(kind))
    return right and not policy.definition.keys() & _UNSUPPORTED.get(kind, set())


@cache
def _pattern(pattern: str) -> re.Pattern[bytes] | None:
    """Compile a pattern for bytes, as Erlang does; None if Python cannot, as with classes like [:alpha:]."""
    try:
        return None if "[:" in pattern else re.compile(pattern.encode())
    except re.error:
        return None
