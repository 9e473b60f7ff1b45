"""Check policies: their patterns, their settings, and which of them apply."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from rmqkit.model import Exchange, Policy, Queue
from rmqkit.topology.file.names import BUILT_IN, suggest
from rmqkit.topology.file.schema import schema
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import Violation, check
from rmqkit.topology.policies import applies, effective, policy_of, queue_type

_SETTINGS = (  # of RabbitMQ 3.10 to 4.3 and the plugins that come with it
    "alternate-exchange", "consumer-disconnected-timeout", "consumer-timeout", "dead-letter-exchange",
    "dead-letter-routing-key", "dead-letter-strategy", "delayed-retry-max", "delayed-retry-min", "delayed-retry-type",
    "delivery-limit", "expires", "federation-upstream", "federation-upstream-pattern", "federation-upstream-set",
    "ha-mode", "ha-params", "ha-promote-on-failure", "ha-promote-on-shutdown", "ha-sync-batch-size", "ha-sync-mode",
    "initial-cluster-size", "max-age", "max-in-memory-bytes", "max-in-memory-length", "max-length", "max-length-bytes",
    "member-placement-tag", "message-ttl", "overflow", "queue-leader-locator", "queue-master-locator", "queue-mode",
    "queue-version", "routing-key", "selector-field-max-bytes", "selector-fields", "shards-per-node",
    "stream-filter-size-bytes", "stream-max-segment-size-bytes", "target-group-size",
)  # fmt: skip
_ARGUMENTS_ONLY = ("max-priority", "queue-type", "quorum-initial-group-size", "single-active-consumer")
_UNDECLARED = "Declare it under {}:, or list it under external: if it is declared elsewhere."
_MANY = 3  # queues with the same settings: from here on a policy is better


def _entities(index: TopologyIndex) -> list[Exchange | Queue]:
    return [*index.exchanges.values(), *index.queues.values()]


def _could_apply(policy: Policy, entity: Exchange | Queue) -> bool:
    """Tell whether a policy would apply to an entity if its settings did; a queue without a type may have any."""
    policy = replace(policy, definition={})
    if isinstance(entity, Queue) and "x-queue-type" not in entity.arguments and policy.apply_to != "exchanges":
        policy = replace(policy, apply_to="all")
    return applies(policy, entity)


@check("policy-unread")
def policy_unread(index: TopologyIndex) -> Iterator[Violation]:
    """Find patterns that Python, and maybe RabbitMQ, cannot read."""
    for policy in index.unread:
        message = f"the pattern {policy.pattern!r} of policy {policy.name!r} cannot be read"
        yield policy, message, r"Write a regular expression that Erlang and Python both support, like ^orders\."


@check("policy-refused")
def policy_refused(index: TopologyIndex) -> Iterator[Violation]:
    """Find settings that no policy can have; unknown ones pass, as a plugin may define them."""
    for policy in index.policies:
        for key, value in policy.definition.items():
            if key in _ARGUMENTS_ONLY:
                message = f"policy {policy.name!r} cannot set {key}: only an argument of the queue can"
                yield policy, message, f"Write x-{key} under the queue's arguments."
            elif key not in _SETTINGS and (guess := suggest(key, _SETTINGS)):
                yield policy, f"policy {policy.name!r} sets {key!r}, which is unknown", f"Did you mean {guess}?"
            elif not _is_valid(key, value):
                message = f"{key} of policy {policy.name!r} cannot be {json.dumps(value, default=str)}"
                yield policy, message, f"See x-{key} in the topology file reference for valid values."


def _is_valid(key: str, value: Any) -> bool:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only where there are policies

    rules = schema()["$defs"]["queue"]["properties"]["arguments"]["properties"]
    return bool(Draft202012Validator(rules.get(f"x-{key}", {})).is_valid(value))


@check("policy-target-undeclared")
def policy_target_undeclared(index: TopologyIndex) -> Iterator[Violation]:
    """Find exchanges and queues that only a policy names; as arguments the file itself would be refused."""
    for policy in index.policies:
        if not any(applies(policy, entity) for entity in _entities(index)):
            continue
        for key in ("dead-letter-exchange", "alternate-exchange"):
            exchange = policy.definition.get(key, "")
            if isinstance(exchange, str) and not index.is_known_exchange(exchange):
                message = f"the {key} {exchange!r} of policy {policy.name!r} is not declared"
                yield policy, message, _UNDECLARED.format("exchanges")
        queue = policy.definition.get("dead-letter-routing-key", "")
        to_queue = policy.definition.get("dead-letter-exchange") == "" and isinstance(queue, str)
        if to_queue and queue and not index.is_known_queue(queue):
            message = f"the dead-letter queue {queue!r} of policy {policy.name!r} is not declared"
            yield policy, message, _UNDECLARED.format("queues")


@check("policy-matches-nothing")
def policy_matches_nothing(index: TopologyIndex) -> Iterator[Violation]:
    """Find policies that match nothing the file declares or lists as external."""
    others: list[Exchange | Queue] = [Exchange(name) for name in (*index.topology.external_exchanges, *BUILT_IN)]
    others += [Queue(name) for name in index.topology.external_queues]
    for policy in index.policies:
        if not any(_could_apply(policy, entity) for entity in (*_entities(index), *others)):
            kind = "exchange or queue" if policy.apply_to == "all" else policy.apply_to.replace("_", " ").rstrip("s")
            message = f"the pattern {policy.pattern!r} of policy {policy.name!r} matches no {kind} here"
            yield policy, message, "Check the spelling, or list the name it should match under external:."


@check("policy-tie")
def policy_tie(index: TopologyIndex) -> Iterator[Violation]:
    """Find pairs of policies of which either may apply."""
    reported: set[tuple[str, str]] = set()
    for entity in _entities(index):
        found = [policy for policy in index.policies if applies(policy, entity)]
        highest = max((policy.priority for policy in found), default=0)
        rivals = [policy for policy in found if policy.priority == highest]
        for first, other in pairwise(rivals):
            if first.definition != other.definition and (first.name, other.name) not in reported:
                reported.add((first.name, other.name))
                message = f"policies {first.name!r} and {other.name!r} both match {entity.name!r} with equal priority"
                yield other, message, "Give a higher priority to the one that should apply."


@check("policy-overruled")
def policy_overruled(index: TopologyIndex) -> Iterator[Violation]:
    """Find settings of policies that an argument overrides; of two limits the lower one applies."""
    for entity in _entities(index):
        if not (policy := policy_of(index.topology, entity)):
            continue
        settings = effective(index.topology, entity)
        for key, value in policy.definition.items():
            name = f"x-{key}" if isinstance(entity, Queue) else key
            if name in entity.arguments and settings[name] != value:
                message = f"{name} of {entity.name!r} overrides {key} of policy {policy.name!r}"
                yield entity, message, "Leave one of the two out."


@check("policy-passed-over")
def policy_passed_over(index: TopologyIndex) -> Iterator[Violation]:
    """Find queues that a policy matches by name but not by type."""
    for policy in index.policies:
        for queue in index.queues.values():
            typed = "x-queue-type" in queue.arguments
            if typed and _could_apply(policy, queue) and not applies(policy, queue):
                message = f"policy {policy.name!r} does not apply to the {queue_type(queue)} queue {queue.name!r}"
                yield policy, message, "Write a policy for each type of queue, with apply-to."
                break


@check("better-as-policy")
def better_as_policy(index: TopologyIndex) -> Iterator[Violation]:
    """Find the settings that most queues of a file share as a whole, since only one policy applies; one per file."""
    alike: dict[str, dict[str, list[Queue]]] = defaultdict(lambda: defaultdict(list))
    for queue in index.queues.values():
        settings = {name: value for name, value in queue.arguments.items() if name.removeprefix("x-") in _SETTINGS}
        if settings:
            file = queue.where.file if queue.where else ""
            alike[file][json.dumps(settings, sort_keys=True, default=repr)].append(queue)
    for groups in alike.values():
        common, queues = max(groups.items(), key=lambda group: len(group[1]))
        if len(queues) >= _MANY:
            names = " and ".join(json.loads(common))
            message = f"{len(queues)} queues have the same {names}, which a policy could set"
            yield queues[0], message, "Move it to policies:, if RabbitMQ's HTTP API is available."
