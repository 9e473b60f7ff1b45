"""What differs between two topologies: that of the files, and that of a broker or of other files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.plan import Difference, Kind, Outcome, Step
from rmqkit.topology.file.names import any_part

EVERYTHING = ("*",)  # the scope that holds every name
_OURS = re.compile(r"(^|\.)rmqkit\.[a-z]+$")  # what stands in while something is replaced
_NOT_TEXT = ("none", "null", "true", "false")
_Named = TypeVar("_Named", Exchange, Queue, Policy)
_Properties = Mapping[str, Any]


def compare(expected: Topology, actual: Topology, *, default_queue_type: str = "classic") -> tuple[Step, ...]:
    """Tell for each expected entity whether it is there, and how else; then what is extra.

    A queue without a type has the `default_queue_type` (https://www.rabbitmq.com/docs/vhosts#default-queue-type).
    """
    exchanges = {each.name: _of_exchange(each) for each in actual.exchanges}
    queues = {each.name: _of_queue(each, default_queue_type) for each in actual.queues}
    policies = {each.name: _of_policy(each) for each in actual.policies}
    bindings = {binding_key(each) for each in actual.bindings}
    steps = [
        *(_step("exchange", each, _of_exchange(each), exchanges) for each in expected.exchanges),
        *(_step("queue", each, _of_queue(each, default_queue_type), queues) for each in expected.queues),
        *(_binding_step(each, there=binding_key(each) in bindings) for each in expected.bindings),
        *(_step("policy", each, _of_policy(each), policies) for each in expected.policies),
    ]
    beyond = extras(expected, actual)
    steps += [Step("exchange", each.name, Outcome.EXTRA) for each in beyond.exchanges]
    steps += [Step("queue", each.name, Outcome.EXTRA) for each in beyond.queues]
    steps += [Step("binding", str(each), Outcome.EXTRA) for each in beyond.bindings]
    steps += [Step("policy", each.name, Outcome.EXTRA) for each in beyond.policies]
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Diff:
    """What only one of two topologies has, and what both have and differs; a difference is expected by the first."""

    only_first: tuple[Step, ...]
    only_second: tuple[Step, ...]
    different: tuple[Step, ...]

    @property
    def equal(self) -> bool:
        """Tell whether there is nothing to tell."""
        return not (self.only_first or self.only_second or self.different)


def diff(first: Topology, second: Topology, *, default_queue_type: str = "classic") -> Diff:
    """Tell how two topologies differ in exchanges, queues, bindings and policies, in their order."""
    steps = compare(first, second, default_queue_type=default_queue_type)
    missing = tuple(step for step in steps if step.outcome is Outcome.CREATE)
    beyond = tuple(step for step in compare(second, first) if step.outcome is Outcome.CREATE)
    return Diff(missing, beyond, tuple(step for step in steps if step.differences))


def extras(expected: Topology, actual: Topology) -> Topology:
    """Return what is there and not expected, within the scope of what is expected; each kind sorted by name.

    In scope is a name that a pattern of `scope` matches, and a binding into what is expected or in scope: it belongs to
    whom it feeds. What is listed as external never is, nor are exclusive queues, which go with their connection, the
    default exchange and what the broker made for itself.
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

    def beyond(kind: Kind, there: Iterable[_Named]) -> tuple[_Named, ...]:
        found = (each for each in there if (kind, each.name) not in declared and in_scope(kind, each.name))
        return tuple(sorted(found, key=lambda each: each.name))

    def stray(binding: Binding) -> bool:
        end = (binding.destination_type, binding.destination)
        return bool(binding.source) and (end in declared or in_scope(*end)) and binding_key(binding) not in bindings

    return Topology(
        exchanges=beyond("exchange", actual.exchanges),
        queues=beyond("queue", actual.queues),
        bindings=tuple(sorted(filter(stray, actual.bindings), key=binding_key)),
        policies=beyond("policy", actual.policies),
    )


def is_internal(entity: Exchange | Queue) -> bool:
    """Tell whether the broker made it for itself, as federation does, or rmqkit did, to stand in for another."""
    made = entity.name.startswith("amq.") or "x-internal-purpose" in entity.arguments or _OURS.search(entity.name)
    return bool(made) or (isinstance(entity, Exchange) and entity.type == "x-federation-upstream")


def binding_key(binding: Binding) -> str:
    """Return what tells a binding from all others of a broker; unlike ==, it tells true from 1."""
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


def _step(kind: Kind, entity: _Named, wanted: _Properties, there: Mapping[str, _Properties]) -> Step:
    outcome: Outcome = Outcome.CREATE
    differences: tuple[Difference, ...] = ()
    if (live := there.get(entity.name)) is not None:
        differences = tuple(_differences(wanted, live))
        changed = Outcome.CHANGE if kind == "policy" else Outcome.CONFLICT
        outcome = changed if differences else Outcome.UNCHANGED
    return Step(kind, entity.name, outcome, differences, entity=entity)


def _binding_step(binding: Binding, *, there: bool) -> Step:
    return Step("binding", str(binding), Outcome.UNCHANGED if there else Outcome.CREATE, entity=binding)


def _differences(wanted: _Properties, live: _Properties) -> Iterator[Difference]:
    for name in [*wanted, *sorted(live.keys() - wanted.keys())]:
        expected, actual = _shown(wanted, name), _shown(live, name)
        if expected != actual:
            yield Difference(name, actual, expected)


def _shown(properties: _Properties, name: str) -> str:
    """Write a value so that it differs from every other; a word stands without quotes."""
    if name not in properties:
        return "none"
    value = properties[name]
    plain = isinstance(value, str) and value.replace("-", "").isalpha() and value not in _NOT_TEXT
    return value if plain else json.dumps(value, ensure_ascii=False, sort_keys=True)
