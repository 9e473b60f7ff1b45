"""Compare two topologies: that of the files, and that of a broker or of other files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.plan import Difference, Kind, Outcome, Step
from rmqkit.topology.file.names import any_part

EVERYTHING = ("*",)  # the scope of every name
_TEMPORARY = re.compile(r"(^|\.)rmqkit\.[a-z]+$")  # entities that exist during a replacement
_NOT_TEXT = ("none", "null", "true", "false")
_Named = TypeVar("_Named", Exchange, Queue, Policy)
_Properties = Mapping[str, Any]


def compare(expected: Topology, actual: Topology, *, default_queue_type: str = "classic") -> tuple[Step, ...]:
    """Return a step for each expected entity, with its differences, then a step for each extra entity.

    A queue without a type has the `default_queue_type` (https://www.rabbitmq.com/docs/vhosts#default-queue-type).
    """
    exchanges = {each.name: _of_exchange(each) for each in actual.exchanges}
    queues = {each.name: _of_queue(each, default_queue_type) for each in actual.queues}
    policies = {each.name: _of_policy(each) for each in actual.policies}
    bindings = {binding_key(each) for each in actual.bindings}
    steps = [
        *(_step("exchange", each, _of_exchange(each), exchanges) for each in expected.exchanges),
        *(_step("queue", each, _of_queue(each, default_queue_type), queues) for each in expected.queues),
        *(_binding_step(each, exists=binding_key(each) in bindings) for each in expected.bindings),
        *(_step("policy", each, _of_policy(each), policies) for each in expected.policies),
    ]
    extra = extras(expected, actual)
    steps += [Step("exchange", each.name, Outcome.EXTRA) for each in extra.exchanges]
    steps += [Step("queue", each.name, Outcome.EXTRA) for each in extra.queues]
    steps += [Step("binding", str(each), Outcome.EXTRA) for each in extra.bindings]
    steps += [Step("policy", each.name, Outcome.EXTRA) for each in extra.policies]
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Diff:
    """The entities of only one of two topologies, and those that differ; the first is the expected one."""

    only_first: tuple[Step, ...]
    only_second: tuple[Step, ...]
    different: tuple[Step, ...]

    @property
    def equal(self) -> bool:
        """Tell whether there is no difference."""
        return not (self.only_first or self.only_second or self.different)


def diff(first: Topology, second: Topology, *, default_queue_type: str = "classic") -> Diff:
    """Compare the exchanges, queues, bindings and policies of two topologies, in their order."""
    steps = compare(first, second, default_queue_type=default_queue_type)
    missing = tuple(step for step in steps if step.outcome is Outcome.CREATE)
    added = tuple(step for step in compare(second, first) if step.outcome is Outcome.CREATE)
    return Diff(missing, added, tuple(step for step in steps if step.differences))


def extras(expected: Topology, actual: Topology) -> Topology:
    """Return the actual entities that are in the scope of the expected topology, and not part of it, sorted by name.

    A name is in scope if a pattern of `scope` matches it, a binding if its destination is expected or in scope. Never
    in scope are external entities, exclusive queues (they end with their connection), the default exchange, and
    entities that the broker created for itself.
    """
    declared = {("exchange", each.name) for each in expected.exchanges}
    declared |= {("queue", each.name) for each in expected.queues} | {
        ("policy", each.name) for each in expected.policies
    }
    foreign = {("exchange", name) for name in ("", *expected.external_exchanges)}
    foreign |= {("queue", name) for name in expected.external_queues}
    foreign |= {("exchange", each.name) for each in actual.exchanges if is_internal(each)}
    foreign |= {("queue", each.name) for each in actual.queues if each.exclusive or is_internal(each)}
    bindings = {binding_key(each) for each in expected.bindings}
    scope = [any_part(pattern) for pattern in expected.scope]

    def in_scope(kind: str, name: str) -> bool:
        return (kind, name) not in foreign and any(pattern.fullmatch(name) for pattern in scope)

    def extra(kind: Kind, entities: Iterable[_Named]) -> tuple[_Named, ...]:
        found = (each for each in entities if (kind, each.name) not in declared and in_scope(kind, each.name))
        return tuple(sorted(found, key=lambda each: each.name))

    def extra_binding(binding: Binding) -> bool:
        end = (binding.destination_type, binding.destination)
        return bool(binding.source) and (end in declared or in_scope(*end)) and binding_key(binding) not in bindings

    return Topology(
        exchanges=extra("exchange", actual.exchanges),
        queues=extra("queue", actual.queues),
        bindings=tuple(sorted(filter(extra_binding, actual.bindings), key=binding_key)),
        policies=extra("policy", actual.policies),
    )


def is_internal(entity: Exchange | Queue) -> bool:
    """Tell whether the broker created an entity for itself, as federation does, or rmqkit for a replacement."""
    internal = (
        entity.name.startswith("amq.") or "x-internal-purpose" in entity.arguments or _TEMPORARY.search(entity.name)
    )
    return bool(internal) or (isinstance(entity, Exchange) and entity.type == "x-federation-upstream")


def binding_key(binding: Binding) -> str:
    """Return a key that identifies a binding on a broker; unlike ==, it distinguishes true from 1."""
    return json.dumps([getattr(binding, name) for name in binding.__slots__ if name != "where"], sort_keys=True)


def _of_exchange(exchange: Exchange) -> _Properties:
    names = ("type", "durable", "auto_delete", "internal")
    return {name: getattr(exchange, name) for name in names} | dict(exchange.arguments)


def _of_queue(queue: Queue, default_type: str) -> _Properties:
    names = ("durable", "auto_delete", "exclusive")
    properties = {name: getattr(queue, name) for name in names} | dict(queue.arguments)
    return {"x-queue-type": default_type} | properties


def _of_policy(policy: Policy) -> _Properties:
    properties = {"pattern": policy.pattern, "apply-to": policy.apply_to, "priority": policy.priority}
    return properties | dict(policy.definition)


def _step(kind: Kind, entity: _Named, wanted: _Properties, existing: Mapping[str, _Properties]) -> Step:
    outcome: Outcome = Outcome.CREATE
    differences: tuple[Difference, ...] = ()
    if (live := existing.get(entity.name)) is not None:
        differences = tuple(_differences(wanted, live))
        changed = Outcome.CHANGE if kind == "policy" else Outcome.CONFLICT
        outcome = changed if differences else Outcome.UNCHANGED
    return Step(kind, entity.name, outcome, differences, entity=entity)


def _binding_step(binding: Binding, *, exists: bool) -> Step:
    return Step("binding", str(binding), Outcome.UNCHANGED if exists else Outcome.CREATE, entity=binding)


def _differences(wanted: _Properties, live: _Properties) -> Iterator[Difference]:
    for name in [*wanted, *sorted(live.keys() - wanted.keys())]:
        expected, actual = _shown(wanted, name), _shown(live, name)
        if expected != actual:
            yield Difference(name, actual, expected)


def _shown(properties: _Properties, name: str) -> str:
    """Write a value unambiguously; a word is written without quotes."""
    if name not in properties:
        return "none"
    value = properties[name]
    plain = isinstance(value, str) and value.replace("-", "").isalpha() and value not in _NOT_TEXT
    return value if plain else json.dumps(value, ensure_ascii=False, sort_keys=True)
