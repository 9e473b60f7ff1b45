"""Apply policies to exchanges and queues (https://www.rabbitmq.com/docs/policies)."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from rmqkit.model import QUEUE_TYPES, Exchange, Policy, Queue, Target, Topology

SUPPORTED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("max-priority", "queue-mode", "queue-version", "queue-master-locator"), ("classic",)),
    **dict.fromkeys(("delivery-limit", "dead-letter-strategy", "quorum-initial-group-size"), ("quorum",)),
    **dict.fromkeys(("max-in-memory-length", "max-in-memory-bytes"), ("quorum",)),
    **dict.fromkeys(("max-age", "stream-max-segment-size-bytes", "initial-cluster-size"), ("stream",)),
    **dict.fromkeys(("expires", "message-ttl", "max-length", "overflow"), ("classic", "quorum")),
    **dict.fromkeys(("dead-letter-exchange", "dead-letter-routing-key"), ("classic", "quorum")),
    "single-active-consumer": ("classic", "quorum"),
}
"""The types of queue whose argument a setting may be, for those that not all types support."""

# A policy with one of these keys, or of mirroring, is skipped as a whole for queues of other types.
_POLICY_FOR = SUPPORTED_BY | {"target-group-size": ("quorum",), "queue-version": QUEUE_TYPES}
# For classic queues: RabbitMQ 3.10 skips a policy with the last, 4.3 one with the others.
_VERSIONS_DIFFER = {"max-in-memory-length", "max-in-memory-bytes", "queue-leader-locator"}
_APPLIES = {"classic": "classic_queues", "quorum": "quorum_queues", "stream": "streams"}
# Of these limits the lower one applies; of other settings the argument, except for a few where the policy does.
_LIMITS = {"expires", "message-ttl", "max-length", "max-length-bytes", "delivery-limit"}
_POLICY_WINS = {"quorum": {"overflow"}, "stream": {"max-length-bytes", "max-age", "stream-max-segment-size-bytes"}}


def effective(topology: Topology, entity: Exchange | Queue) -> dict[str, Any]:
    """Return the arguments of an exchange or queue with its policy applied, in argument form: `x-message-ttl`, ..."""
    policy = policy_of(topology, entity)
    definition = policy.definition if policy else {}
    if isinstance(entity, Queue):
        return with_policy(entity.arguments, definition, queue_type(entity))
    return {**definition, **entity.arguments}


def with_policy(arguments: Mapping[str, Any], definition: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the arguments of a queue of this type together with the settings of its policy, in argument form."""
    merged, wins = dict(arguments), _POLICY_WINS.get(kind, set())
    for key, value in definition.items():
        own = merged.setdefault(f"x-{key}", value)
        if key in wins:
            merged[f"x-{key}"] = value
        elif key in _LIMITS and isinstance(own, int) and isinstance(value, int):
            merged[f"x-{key}"] = min(own, value, key=lambda limit: (limit < 0, limit))  # -1 is no limit
    return merged


def dead_letter_target(topology: Topology, queue: Queue) -> Target | None:
    """Return the target of a queue's dead letters, None if they are dropped; an empty routing key keeps their own."""
    arguments = effective(topology, queue)
    exchange, key = arguments.get("x-dead-letter-exchange"), arguments.get("x-dead-letter-routing-key", "")
    return Target(exchange, key) if isinstance(exchange, str) and isinstance(key, str) else None


def policy_of(topology: Topology, entity: Exchange | Queue) -> Policy | None:
    """Return the only policy that applies to an exchange or queue: the first in the file of the highest priority."""
    found = [policy for policy in topology.policies if applies(policy, entity)]
    return max(found, key=lambda policy: policy.priority, default=None)


def possible(policies: Iterable[Policy], entity: Exchange | Queue) -> tuple[Policy, ...]:
    """Return the policies that may be the one that applies: of those of one priority, or in doubt, all."""
    found = [(policy, matched) for policy in policies if (matched := matches(policy, entity)) is not False]
    highest = max((policy.priority for policy, matched in found if matched), default=-math.inf)
    return tuple(policy for policy, _ in found if policy.priority >= highest)


def queue_type(queue: Queue) -> str:
    """Return a queue's type: classic, quorum, stream, or a newer one; classic where it is the broker's default."""
    return str(queue.arguments.get("x-queue-type", "classic"))


def unread(topology: Topology) -> tuple[Policy, ...]:
    """Return the policies whose pattern cannot be read here; they are never applied."""
    return tuple(policy for policy in topology.policies if not _pattern(policy.pattern))


def doubt(topology: Topology, entity: Exchange | Queue) -> str:
    """Explain why the settings of an exchange or queue are unknown: a policy may or may not apply to it."""
    for policy in possible(topology.policies, entity):
        if matches(policy, entity) is None:
            applying = f"whether policy {policy.name!r} applies to {entity.name!r}"
            if not _pattern(policy.pattern):
                return f"{applying} is unknown: its pattern cannot be read"
            return f"{applying} depends on RabbitMQ's version"
    return ""


def applies(policy: Policy, entity: Exchange | Queue) -> bool:
    """Tell whether a policy certainly matches an entity, even if another has a higher priority."""
    return matches(policy, entity) is True


def matches(policy: Policy, entity: Exchange | Queue) -> bool | None:
    """Tell whether a policy matches an entity, even if another has a higher priority; None if that is unknown."""
    by_type, by_name = _fits_type(policy, entity), matches_name(policy, entity.name)
    return False if False in (by_type, by_name) else by_type and by_name


def _fits_type(policy: Policy, entity: Exchange | Queue) -> bool | None:
    """Tell whether a policy applies to entities of this kind and type, whatever their names."""
    if isinstance(entity, Exchange):
        return policy.apply_to in ("all", "exchanges")
    kind, keys = queue_type(entity), {*policy.definition}
    doubtful = keys & _VERSIONS_DIFFER if kind == "classic" else set()
    fits = policy.apply_to in ("all", "queues", _APPLIES.get(kind))
    if not fits or (kind in QUEUE_TYPES and any(kind not in _policy_for(key) for key in keys - doubtful)):
        return False
    return None if doubtful else True


def _policy_for(key: str) -> tuple[str, ...]:
    return ("classic",) if key.startswith("ha-") else _POLICY_FOR.get(key, QUEUE_TYPES)


def matches_name(policy: Policy, name: str) -> bool | None:
    """Tell whether the pattern of a policy matches a name; None if Erlang, or a version of it, may decide otherwise."""
    pattern = _pattern(policy.pattern)
    if not pattern or (not name.isascii() and _BY_LETTERS.search(policy.pattern)):
        return None
    return bool(pattern.search(name.encode()))


# Erlang takes `{,3}` for text, or since 28 for a quantifier; to it `\v` is any line break, and (?a) or (?L) an error.
_DOUBTFUL = re.compile(r"\[:|\\v|\{(?!\d+(,\d*)?\})[\d ,]+\}|\(\?[a-zA-Z]*[aL]")
_BY_LETTERS = re.compile(r"\\[wWbB]|\(\?[a-zA-Z]*i")  # Erlang up to 27 includes the letters of Latin-1


@cache
def _pattern(pattern: str) -> re.Pattern[bytes] | None:
    """Compile a pattern for bytes, as Erlang does; None if Python cannot, or reads it otherwise."""
    with warnings.catch_warnings(action="ignore"):  # about patterns that a later Python may read differently
        try:
            return None if _DOUBTFUL.search(pattern) else re.compile(pattern.encode())
        except re.error:
            return None
