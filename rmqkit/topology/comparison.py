"""Compare two topologies: that of the files, and that of a broker or of other files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.plan import Difference, Kind, Outcome, Step
from rmqkit.topology.delays import NAMES
from rmqkit.topology.names import any_part

_SECTIONS: Mapping[Kind, str] = {
    "exchange": "exchanges",
    "queue": "queues",
    "binding": "bindings",
    "policy": "policies",
}
_TEMPORARY = re.compile(r"(^|\.)rmqkit\.[a-z-]+$")  # entities that exist during a replacement
_NOT_TEXT = ("none", "null", "true", "false")
_Named = TypeVar("_Named", Exchange, Queue, Policy)
_Entity = Exchange | Queue | Binding | Policy
_Properties = Mapping[str, Any]


def compare(expected: Topology, actual: Topology, *, default_queue_type: str = "classic") -> tuple[Step, ...]:
    """Return a step for each expected entity, with its differences, then a step for each extra entity.

    A queue without a type has the `default_queue_type` (https://www.rabbitmq.com/docs/vhosts#default-queue-type).
    """
    steps: list[Step] = []
    for kind, section in _SECTIONS.items():
        existing = {_identity(each): _properties(each, default_queue_type) for each in getattr(actual, section)}
        steps += [_step(kind, each, existing, default_queue_type) for each in getattr(expected, section)]
    extra = extras(expected, actual)
    for kind, section in _SECTIONS.items():
        steps += [Step(kind, _label(each), Outcome.EXTRA) for each in getattr(extra, section)]
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
    declared = {(kind, _identity(each)) for kind, section in _SECTIONS.items() for each in getattr(expected, section)}
    foreign = {("exchange", name) for name in ("", *expected.external_exchanges)}
    foreign |= {("queue", name) for name in expected.external_queues}
    foreign |= {("exchange", each.name) for each in actual.exchanges if is_internal(each)}
    foreign |= {("queue", each.name) for each in actual.queues if each.exclusive or is_internal(each)}
    scope = [any_part(pattern) for pattern in expected.scope]

    def in_scope(kind: str, name: str) -> bool:
        return (kind, name) not in foreign and any(pattern.fullmatch(name) for pattern in scope)

    def extra(kind: Kind, entities: Iterable[_Named]) -> tuple[_Named, ...]:
        found = (each for each in entities if (kind, each.name) not in declared and in_scope(kind, each.name))
        return tuple(sorted(found, key=lambda each: each.name))

    def extra_binding(binding: Binding) -> bool:
        end = (binding.destination_type, binding.destination)
        is_declared = ("binding", binding_key(binding)) in declared
        return bool(binding.source) and (end in declared or in_scope(*end)) and not is_declared

    return Topology(
        exchanges=extra("exchange", actual.exchanges),
        queues=extra("queue", actual.queues),
        bindings=tuple(sorted(filter(extra_binding, actual.bindings), key=binding_key)),
        policies=extra("policy", actual.policies),
    )


def is_internal(entity: Exchange | Queue) -> bool:
    """Tell whether the broker created an entity for itself, as federation does, or rmqkit, to replace or delay."""
    internal = entity.name.startswith("amq.") or "x-internal-purpose" in entity.arguments
    federated = isinstance(entity, Exchange) and entity.type == "x-federation-upstream"
    return internal or federated or entity.name.startswith(NAMES) or bool(_TEMPORARY.search(entity.name))


def binding_key(binding: Binding) -> str:
    """Return a key that identifies a binding on a broker; unlike ==, it distinguishes true from 1."""
    return json.dumps([getattr(binding, name) for name in binding.__slots__ if name != "where"], sort_keys=True)


def _identity(entity: _Entity) -> str:
    return binding_key(entity) if isinstance(entity, Binding) else entity.name


def _label(entity: _Entity) -> str:
    return str(entity) if isinstance(entity, Binding) else entity.name


def _properties(entity: _Entity, default_queue_type: str) -> _Properties:
    """Return the properties that may differ; those of a binding are its identity."""
    match entity:
        case Exchange(arguments=arguments):
            names: tuple[str, ...] = ("type", "durable", "auto_delete", "internal")
        case Queue(arguments=arguments):
            names = ("durable", "auto_delete", "exclusive")
        case Policy(definition=arguments):
            names = ("pattern", "apply_to", "priority")
        case _:
            return {}
    default = {"x-queue-type": default_queue_type} if isinstance(entity, Queue) else {}
    return default | {name.replace("_to", "-to"): getattr(entity, name) for name in names} | dict(arguments)


def _step(kind: Kind, entity: _Entity, existing: Mapping[str, _Properties], default_queue_type: str) -> Step:
    outcome: Outcome = Outcome.CREATE
    differences: tuple[Difference, ...] = ()
    if (live := existing.get(_identity(entity))) is not None:
        differences = tuple(_differences(_properties(entity, default_queue_type), live))
        changed = Outcome.CHANGE if kind == "policy" else Outcome.CONFLICT
        outcome = changed if differences else Outcome.UNCHANGED
    return Step(kind, _label(entity), outcome, differences, entity=entity)


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
