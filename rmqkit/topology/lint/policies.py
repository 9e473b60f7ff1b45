"""Check policies: their patterns, their settings, and which of them apply."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

from rmqkit.model import QUEUE_TYPES, Exchange, Policy, Queue
from rmqkit.topology.file.schema import validator
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.queue_types import known_arguments
from rmqkit.topology.lint.rule import Violations, check, listed
from rmqkit.topology.names import BUILT_IN, suggest
from rmqkit.topology.policies import applies, effective, matches_name, policy_of, queue_type

_ARGUMENTS_ONLY = ("max-priority", "queue-type", "quorum-initial-group-size", "single-active-consumer")
_POLICIES_ONLY = (  # of RabbitMQ 3.10 to 4.3 and its bundled plugins
    "alternate-exchange", "federation-upstream", "federation-upstream-pattern", "federation-upstream-set", "ha-mode",
    "ha-params", "ha-promote-on-failure", "ha-promote-on-shutdown", "ha-sync-batch-size", "ha-sync-mode",
    "member-placement-tag", "routing-key", "selector-field-max-bytes", "selector-fields", "shards-per-node",
    "target-group-size",
)  # fmt: skip
_MANY = 3  # queues with the same settings: from here on a policy is better


@cache
def _settings() -> tuple[str, ...]:
    return (*(name.removeprefix("x-") for name in known_arguments()), *_POLICIES_ONLY)


def _could_apply(policy: Policy, entity: Exchange | Queue) -> bool:
    """Tell whether a policy would apply to an entity if its settings did; a queue without a type may have any."""
    policy = replace(policy, definition={})
    if isinstance(entity, Queue) and "x-queue-type" not in entity.arguments and policy.apply_to != "exchanges":
        policy = replace(policy, apply_to="all")
    return applies(policy, entity)


@check
def policy_unread(index: TopologyIndex) -> Violations:
    """Find patterns that Python, and maybe RabbitMQ, cannot read, or that its releases read otherwise."""
    yield from ((policy, {"fault": "cannot be read, or not by every release"}) for policy in index.unread)
    for policy in index.policies:
        names = [each.name for each in index.entities if matches_name(policy, each.name) is None]
        if names:
            yield policy, {"fault": f"matches {listed(names)} or not, depending on the release"}


@check
def policy_refused(index: TopologyIndex) -> Violations:
    """Find settings that no policy can have; unknown ones pass, as a plugin may define them."""
    for policy in index.policies:
        for key, value in policy.definition.items():
            if key in _ARGUMENTS_ONLY:
                fault = f"cannot set {key}: only an argument of the queue can"
                yield policy, {"fault": fault, "advice": f"Write x-{key} under the queue's arguments."}
            elif key not in _settings() and (guess := suggest(key, {*_settings()} - {*_ARGUMENTS_ONLY})):
                yield policy, {"fault": f"sets {key!r}, which is unknown", "advice": f"Did you mean {guess}?"}
            elif not _is_valid(key, value):
                fault = f"cannot set {key} to {json.dumps(value, default=str)}"
                yield policy, {"fault": fault, "advice": f"See x-{key} in the topology file reference."}


def _is_valid(key: str, value: Any) -> bool:
    return bool(validator(known_arguments().get(f"x-{key}", {})).is_valid(value))


@check
def policy_target_undeclared(index: TopologyIndex) -> Violations:
    """Find exchanges and queues that only a policy names; as arguments the file itself would be refused."""
    for policy in index.policies:
        if any(applies(policy, entity) for entity in index.entities):
            for key in ("dead-letter-exchange", "alternate-exchange"):
                exchange = policy.definition.get(key, "")
                if isinstance(exchange, str) and not index.is_known_exchange(exchange):
                    yield policy, {"target": f"{key} {exchange!r}", "section": "exchanges"}
            queue = policy.definition.get("dead-letter-routing-key", "")
            to_queue = policy.definition.get("dead-letter-exchange") == "" and isinstance(queue, str)
            if to_queue and queue and not index.is_known_queue(queue):
                yield policy, {"target": f"dead-letter queue {queue!r}", "section": "queues"}


@check
def policy_matches_nothing(index: TopologyIndex) -> Violations:
    """Find policies that match nothing the file declares or lists as external."""
    others: list[Exchange | Queue] = [Exchange(name) for name in (*index.topology.external_exchanges, *BUILT_IN)]
    others += [Queue(name) for name in index.topology.external_queues]
    for policy in index.policies:
        if not any(_could_apply(policy, entity) for entity in (*index.entities, *others)):
            kind = "exchange or queue" if policy.apply_to == "all" else policy.apply_to.replace("_", " ").rstrip("s")
            yield policy, {"kind": kind}


def _rivals(index: TopologyIndex) -> Iterator[tuple[Exchange | Queue, list[Policy], list[Policy]]]:
    """Yield each entity with the policies of the highest priority that apply to it, and the others that would."""
    for entity in index.entities:
        found = [policy for policy in index.policies if applies(policy, entity)]
        highest = max((policy.priority for policy in found), default=0)
        first = [policy for policy in found if policy.priority == highest]
        yield entity, first, [policy for policy in found if policy.priority < highest]


@check
def policy_tie(index: TopologyIndex) -> Violations:
    """Find pairs of policies of which either may apply."""
    reported: set[tuple[str, str]] = set()
    for entity, rivals, _ in _rivals(index):
        for first, other in pairwise(rivals):
            if first.definition != other.definition and (first.name, other.name) not in reported:
                reported.add((first.name, other.name))
                yield other, {"first": first.name, "target": entity.name}


@check
def policy_outranked(index: TopologyIndex) -> Violations:
    """Find policies that match entities, none of which they apply to, nor to others that applications may declare."""
    winners: dict[str, dict[str, None]] = defaultdict(dict)
    applied: set[str] = set()
    for _, first, others in _rivals(index):
        applied |= {policy.name for policy in first}
        for policy in others:
            winners[policy.name] |= dict.fromkeys(each.name for each in first)
    for policy in index.policies:
        if policy.name in winners and policy.name not in applied:
            higher = [each for each in index.policies if each.priority > policy.priority]
            if all(any(applies(each, entity) for each in higher) for entity in _made_up(policy)):
                yield policy, {"winners": listed(winners[policy.name])}


def _made_up(policy: Policy) -> Iterator[Exchange | Queue]:
    """Yield entities of each kind to which a policy would apply, with names that resemble its pattern."""
    word = re.sub(r"\\(.)|[][\\^$*+?(){}|]", r"\1", policy.pattern)
    for name in (word, f"{word}-z", f"z-{word}", f"z-{word}-z"):
        queues = [Queue(name, arguments={"x-queue-type": kind}) for kind in QUEUE_TYPES]
        entities: list[Exchange | Queue] = [Exchange(name), *queues]
        yield from (entity for entity in entities if applies(policy, entity))


@check
def policy_overruled(index: TopologyIndex) -> Violations:
    """Find settings of policies that an argument overrides; of two limits the lower one applies."""
    for entity in index.entities:
        if policy := policy_of(index.topology, entity):
            settings, prefix = effective(index.topology, entity), "x-" if isinstance(entity, Queue) else ""
            overruled = [
                prefix + key
                for key, value in policy.definition.items()
                if prefix + key in entity.arguments and settings[prefix + key] != value
            ]
            if overruled:
                yield entity, {"arguments": overruled, "policy": policy.name}


@check
def policy_passed_over(index: TopologyIndex) -> Violations:
    """Find policies that match queues by name but not by type."""
    for policy in index.policies:
        passed: dict[str, list[str]] = defaultdict(list)
        for queue in index.queues.values():
            if "x-queue-type" in queue.arguments and _could_apply(policy, queue) and not applies(policy, queue):
                passed[queue_type(queue)].append(queue.name)
        if passed:
            plural = {kind: "queue" if len(names) == 1 else "queues" for kind, names in passed.items()}
            queues = [f"the {kind} {plural[kind]} {listed(names)}" for kind, names in passed.items()]
            yield policy, {"queues": queues}


@check
def better_as_policy(index: TopologyIndex) -> Violations:
    """Find the settings that most queues of a file share as a whole, since only one policy applies; one per file."""
    alike: dict[str, dict[str, list[Queue]]] = defaultdict(lambda: defaultdict(list))
    possible = {f"x-{key}" for key in _settings() if key not in _ARGUMENTS_ONLY}
    for queue in index.queues.values():
        if settings := {name: value for name, value in queue.arguments.items() if name in possible}:
            file = queue.where.file if queue.where else ""
            alike[file][json.dumps(settings, sort_keys=True, default=repr)].append(queue)
    for groups in alike.values():
        common, queues = max(groups.items(), key=lambda group: len(group[1]))
        if len(queues) >= _MANY:
            yield queues[0], {"number": len(queues), "settings": [*json.loads(common)]}
