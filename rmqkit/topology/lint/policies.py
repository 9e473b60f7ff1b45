"""Rules about policies: whom they reach, what they name, and what of them counts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from rmqkit.model import Exchange, Policy, Queue
from rmqkit.topology.file.names import BUILT_IN
from rmqkit.topology.file.schema import schema, suggest
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.lint.rule import Complaint, rule
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
_TO_POLICIES = "Move it to policies:, where RabbitMQ's HTTP API is at hand."
_LIMITS = """
queues: {orders: {}}
policies: {limits: {pattern: ^orders$, definition: {max-length: 1000, overflow: reject-publish}}}
"""
_MANY = 3  # queues alike: from here on a policy says it better


def _entities(wiring: TopologyIndex) -> list[Exchange | Queue]:
    return [*wiring.exchanges.values(), *wiring.queues.values()]


def _could_apply(policy: Policy, entity: Exchange | Queue) -> bool:
    """Tell whether a policy is for an entity but for what it sets; a queue that has no type may be of any."""
    policy = replace(policy, definition={})
    if isinstance(entity, Queue) and "x-queue-type" not in entity.arguments and policy.apply_to != "exchanges":
        policy = replace(policy, apply_to="all")
    return applies(policy, entity)


@rule(
    "policy-unread",
    "warning",
    why="A pattern is read here as Python reads it: where RabbitMQ's rules differ, the policy is left out of account.",
    page="docs/policies#how-policies-work",
    bad="""
queues: {orders1: {}}
policies: {limits: {pattern: "^orders[[:digit:]]$", definition: {max-length: 1000, overflow: reject-publish}}}
""",
    good="""
queues: {orders1: {}}
policies: {limits: {pattern: "^orders[0-9]$", definition: {max-length: 1000, overflow: reject-publish}}}
""",
)
def policy_unread(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find patterns that cannot be read here, and maybe nowhere."""
    for policy in wiring.unread:
        message = f"the pattern {policy.pattern!r} of policy {policy.name!r} cannot be read"
        yield policy, message, r"Write a regular expression that Erlang and Python both know, like ^orders\."


@rule(
    "policy-refused",
    "error",
    why="RabbitMQ refuses a policy with a setting it does not know, or with a value it cannot use.",
    page="docs/policies#how-policies-work",
    bad=_LIMITS.replace("max-length", "max-lenght"),
    good=_LIMITS,
)
def policy_refused(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find settings that no policy can have; what a plugin may bring passes."""
    for policy in wiring.topology.policies:
        for key, value in policy.definition.items():
            if key in _ARGUMENTS_ONLY:
                message = f"policy {policy.name!r} cannot set {key}: only an argument of the queue can"
                yield policy, message, f"Write x-{key} under the queue's arguments."
            elif key not in _SETTINGS and (guess := suggest(key, _SETTINGS)):
                yield policy, f"policy {policy.name!r} sets {key!r}, which is not known", f"Did you mean {guess}?"
            elif not _is_valid(key, value):
                message = f"{key} of policy {policy.name!r} cannot be {json.dumps(value, default=str)}"
                yield policy, message, f"See x-{key} in the reference of topology files for what it can be."


def _is_valid(key: str, value: Any) -> bool:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only where there are policies

    rules = schema()["$defs"]["queue"]["properties"]["arguments"]["properties"]
    return bool(Draft202012Validator(rules.get(f"x-{key}", {})).is_valid(value))


@rule(
    "policy-target-undeclared",
    "error",
    why="A dead-letter or alternate exchange that does not exist swallows what is sent to it, and nobody is told.",
    page="docs/dlx#using-policies",
    bad="""
queues: {orders: {}}
policies: {failures: {pattern: ^orders$, definition: {dead-letter-exchange: failures}}}
""",
    good="""
exchanges: {failures: {type: fanout}}
queues: {orders: {}, failed: {}}
bindings: [{source: failures, destination: failed}]
policies: {failures: {pattern: ^orders$, definition: {dead-letter-exchange: failures}}}
""",
)
def policy_target_undeclared(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find exchanges and queues that only a policy knows; in arguments the file itself would be refused."""
    for policy in wiring.topology.policies:
        if not any(applies(policy, entity) for entity in _entities(wiring)):
            continue
        for key in ("dead-letter-exchange", "alternate-exchange"):
            exchange = policy.definition.get(key, "")
            if isinstance(exchange, str) and not wiring.is_known(exchange):
                message = f"the {key} {exchange!r} of policy {policy.name!r} is not declared"
                yield policy, message, "Declare it under exchanges:, or list it under external: if others do."
        queue = policy.definition.get("dead-letter-routing-key", "")
        to_queue = policy.definition.get("dead-letter-exchange") == "" and isinstance(queue, str)
        if to_queue and queue and not wiring.is_known_queue(queue):
            message = f"the dead-letter queue {queue!r} of policy {policy.name!r} is not declared"
            yield policy, message, "Declare it under queues:, or list it under external: if others do."


@rule(
    "policy-matches-nothing",
    "warning",
    why="A policy whose pattern matches no name does nothing, and a misspelled one looks just like it.",
    page="docs/policies#troubleshooting",
    bad=_LIMITS.replace("^orders$", "^order$"),
    good=_LIMITS,
)
def policy_matches_nothing(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find policies for nothing that the file declares or knows of."""
    others: list[Exchange | Queue] = [Exchange(name) for name in (*wiring.topology.external_exchanges, *BUILT_IN)]
    others += [Queue(name) for name in wiring.topology.external_queues]
    for policy in wiring.topology.policies:
        if not any(_could_apply(policy, entity) for entity in (*_entities(wiring), *others)):
            what = "exchange or queue" if policy.apply_to == "all" else policy.apply_to.replace("_", " ").rstrip("s")
            message = f"the pattern {policy.pattern!r} of policy {policy.name!r} matches the name of no {what} here"
            yield policy, message, "Check the spelling, or list what it is for under external:."


@rule(
    "policy-tie",
    "warning",
    why="Of several policies only one counts for a queue, and with equal priorities RabbitMQ does not say which.",
    page="docs/policies#priorities",
    bad="""
queues: {orders: {}}
policies:
  length: {pattern: ^orders, definition: {max-length: 1000, overflow: reject-publish}}
  size: {pattern: orders$, definition: {max-length-bytes: 1000000, overflow: reject-publish}}
""",
    good="""
queues: {orders: {}}
policies:
  length: {pattern: ^orders, definition: {max-length: 1000, overflow: reject-publish}}
  size: {pattern: orders$, definition: {max-length-bytes: 1000000, overflow: reject-publish}, priority: 1}
""",
)
def policy_tie(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find pairs of policies of which either may count."""
    told: set[tuple[str, str]] = set()
    for entity in _entities(wiring):
        found = [policy for policy in wiring.topology.policies if applies(policy, entity)]
        highest = max((policy.priority for policy in found), default=0)
        rivals = [policy for policy in found if policy.priority == highest]
        for first, other in pairwise(rivals):
            if first.definition != other.definition and (first.name, other.name) not in told:
                told.add((first.name, other.name))
                message = f"policies {first.name!r} and {other.name!r} both match {entity.name!r}, with one priority"
                yield other, message, "Give the one that is to count a higher priority."


@rule(
    "policy-overruled",
    "hint",
    why="An argument of the queue counts before its policy, so what the policy says has no effect there.",
    page="docs/queues#optional-arguments-precedence",
    bad="""
queues:
  orders: {arguments: {x-max-length: 10, x-overflow: reject-publish}}
policies: {limits: {pattern: ^orders$, definition: {overflow: drop-head}}}
""",
    good="""
queues:
  orders: {arguments: {x-max-length: 10}}
policies: {limits: {pattern: ^orders$, definition: {overflow: reject-publish}}}
""",
)
def policy_overruled(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find settings of policies that an argument puts out of force; of two limits the lower one counts."""
    for entity in _entities(wiring):
        if not (policy := policy_of(wiring.topology, entity)):
            continue
        is_queue = isinstance(entity, Queue)
        settings = effective(wiring.topology, entity)
        for key, value in policy.definition.items():
            name = f"x-{key}" if is_queue else key
            if name in entity.arguments and settings[name] != value:
                message = f"{name} of {entity.name!r} counts, and not {key} of policy {policy.name!r}"
                yield entity, message, "Leave one of the two out."


@rule(
    "policy-passed-over",
    "hint",
    why="A policy with a setting that a type of queue does not take is passed over for such queues, as a whole.",
    page="docs/policies#how-policies-work",
    bad="""
queues: {orders: {type: classic}}
policies: {limits: {pattern: ^orders$, definition: {expires: 60000, delivery-limit: 5}}}
""",
    good="""
queues: {orders: {type: classic}}
policies: {limits: {pattern: ^orders$, definition: {expires: 60000}, apply-to: queues}}
""",
)
def policy_passed_over(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find queues that a policy matches by name, and is not for."""
    for policy in wiring.topology.policies:
        for queue in wiring.queues.values():
            typed = "x-queue-type" in queue.arguments
            if typed and _could_apply(policy, queue) and not applies(policy, queue):
                message = f"policy {policy.name!r} is passed over for the {queue_type(queue)} queue {queue.name!r}"
                yield policy, message, "Write a policy for each type of queue, with apply-to."
                break


@rule(
    "better-as-policy",
    "hint",
    why="An argument can never be changed on a queue that exists; a policy can, for all of them at once.",
    page="docs/policies#why",
    bad="""
queues:
  orders: {arguments: {x-expires: 86400000}}
  stock: {arguments: {x-expires: 86400000}}
  billing: {arguments: {x-expires: 86400000}}
""",
    good="""
queues: {orders: {}, stock: {}, billing: {}}
policies: {idle: {pattern: ^(orders|stock|billing)$, definition: {expires: 86400000}, apply-to: queues}}
""",
)
def better_as_policy(wiring: TopologyIndex) -> Iterator[Complaint]:
    """Find what most queues of a file are set to, as a whole: one policy counts alone. One finding a file."""
    alike: dict[str, dict[str, list[Queue]]] = defaultdict(lambda: defaultdict(list))
    for queue in wiring.queues.values():
        settings = {name: value for name, value in queue.arguments.items() if name.removeprefix("x-") in _SETTINGS}
        if settings:
            file = queue.where.file if queue.where else ""
            alike[file][json.dumps(settings, sort_keys=True, default=repr)].append(queue)
    for groups in alike.values():
        common, queues = max(groups.items(), key=lambda group: len(group[1]))
        if len(queues) >= _MANY:
            names = " and ".join(json.loads(common))
            yield queues[0], f"{len(queues)} queues have the same {names}, which a policy could set", _TO_POLICIES
