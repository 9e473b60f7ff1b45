"""From a topology to a plan, and from a plan to exchanges, queues and bindings.

Comes in: a Topology. Goes out: a Plan, to be done or done. Room: broker.

Over AMQP alone an entity is looked at in two steps: a passive declare tells whether it is there, and a declare of what
is there changes nothing but is refused when it differs (AMQP 0-9-1 sections 1.6.2.1 and 1.7.2.1). A refusal names one
property; putting the broker's value in its place and asking again brings out the next. Bindings cannot be seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pika import spec

from rmqkit.broker.channel import Channel
from rmqkit.broker.link import Link
from rmqkit.errors import Location, NotFound, Problem, PropertyMismatch, Refused, ResourceLocked
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.payload import properties
from rmqkit.report import Difference, Outcome, Plan, QueueState, Step

_PROBES = 20  # an entity has no more properties than that
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for .*: received (?P<expected>.+) but current is (?P<actual>.+)$"
)
_VALUE = re.compile(r"^(?:the value )?'(?P<value>.*)' of type '(?P<type>\w+)'$")
_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "longstr": str,
    "bool": lambda text: text == "true",
    **dict.fromkeys(("byte", "short", "signedint", "long", "unsignedbyte", "unsignedshort", "unsignedint"), int),
}
_REPLACE = "Give the entity another name, or delete it on the broker once it may go, and apply again."


def plan(link: Link, topology: Topology) -> Plan:
    """Find out what applying would do; nothing is declared.

    Raises AccessRefused, ConnectionLost.
    """
    looker = _Looker(link)
    try:
        steps = [
            *(looker.look(each) for each in topology.exchanges),
            *(looker.look(each) for each in topology.queues),
            *(_binding_step(each) for each in topology.bindings),
        ]
    finally:
        looker.close()
    return Plan(tuple(steps))


def apply(link: Link, topology: Topology) -> Plan:
    """Carry out the plan of a topology, unless something conflicts.

    Raises PropertyMismatch with all conflicts as problems, before anything was changed; AccessRefused, ConnectionLost.
    """
    planned = plan(link, topology)
    if planned.conflicts:
        raise conflict(planned)
    channel = link.channel()
    try:
        by_step: Iterable[Exchange | Queue | Binding] = (*topology.exchanges, *topology.queues, *topology.bindings)
        for step, entity in zip(planned.steps, by_step, strict=True):
            if step.outcome is not Outcome.UNCHANGED:
                _declare(channel, entity)
    finally:
        channel.close()
    return replace(planned, applied=True)


def queue_state(link: Link, name: str) -> QueueState:
    """Ask how many messages and consumers a queue has (AMQP 0-9-1 section 1.7.2.1: passive).

    Raises NotFound, ResourceLocked, AccessRefused, ConnectionLost.
    """
    channel = link.channel()
    try:
        passive = spec.Queue.Declare(queue=name, passive=True)
        answer = channel.call(passive, spec.Queue.DeclareOk, subject=f"queue {name!r}")
    finally:
        channel.close()
    return QueueState(name, answer.message_count, answer.consumer_count)


def conflict(planned: Plan) -> PropertyMismatch:
    """Return the error that lists every conflict of a plan."""
    problems = [
        Problem(step.where or Location(f"{step.kind} {step.name!r}"), f"{step.kind} {step.name!r}: {_reason(step)}")
        for step in planned.conflicts
    ]
    number = len(problems)
    subject = f"{number} {'entity' if number == 1 else 'entities'}"
    message = f"{subject} {'is' if number == 1 else 'are'} there with other properties; nothing was changed"
    error = PropertyMismatch(406, "PRECONDITION_FAILED", subject, message=message, advice=_REPLACE, problems=problems)
    error.report = planned
    return error


def _reason(step: Step) -> str:
    return "; ".join(map(str, step.differences)) or step.note


def _binding_step(binding: Binding) -> Step:
    return Step("binding", str(binding), Outcome.DECLARE, where=binding.where)


def _subject(entity: Exchange | Queue | Binding) -> str:
    if isinstance(entity, Binding):
        return f"binding {entity}"
    return f"{'exchange' if isinstance(entity, Exchange) else 'queue'} {entity.name!r}"


def _declare(channel: Channel, entity: Exchange | Queue | Binding, *, passive: bool = False) -> None:
    method, answer = _method(entity, passive=passive)
    channel.call(method, answer, subject=_subject(entity), arguments=entity.arguments)


def _method(entity: Exchange | Queue | Binding, *, passive: bool) -> tuple[Any, type[Any]]:
    """Return the method that declares an entity, but for its arguments, and the broker's answer to it."""
    properties.check_arguments(_subject(entity), entity.arguments)
    if isinstance(entity, Binding):
        properties.check_target(entity.source, entity.routing_key)
        ends = {"source" if entity.destination_type == "exchange" else "exchange": entity.source}
        ends["destination" if entity.destination_type == "exchange" else "queue"] = entity.destination
        room = spec.Exchange if entity.destination_type == "exchange" else spec.Queue
        return room.Bind(**ends, routing_key=entity.routing_key), room.BindOk
    properties.check_target(entity.name, "")
    common = {"passive": passive, "durable": entity.durable, "auto_delete": entity.auto_delete}
    if isinstance(entity, Exchange):
        exchange = spec.Exchange.Declare(exchange=entity.name, type=entity.type, internal=entity.internal, **common)
        return exchange, spec.Exchange.DeclareOk
    return spec.Queue.Declare(queue=entity.name, exclusive=entity.exclusive, **common), spec.Queue.DeclareOk


class _Looker:
    """Looks at live entities, on a channel that is opened anew after each refusal."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: Channel | None = None

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def look(self, entity: Exchange | Queue) -> Step:
        """Compare one entity with the broker's."""
        kind = "exchange" if isinstance(entity, Exchange) else "queue"
        step = Step(kind, entity.name, Outcome.UNCHANGED, where=entity.where)  # type: ignore[arg-type]
        if isinstance(self._try(entity, passive=True), NotFound):
            return replace(step, outcome=Outcome.CREATE)
        differences, note = self._compare(entity)
        if differences or note:
            return replace(step, outcome=Outcome.CONFLICT, differences=tuple(differences), note=note)
        return step

    def _try(self, entity: Exchange | Queue, *, passive: bool) -> Refused | None:
        if self._channel is None:
            self._channel = self._link.channel()
        try:
            _declare(self._channel, entity, passive=passive)
        except (NotFound, PropertyMismatch, ResourceLocked) as exc:
            self._channel = None
            return exc
        return None

    def _compare(self, entity: Exchange | Queue) -> tuple[list[Difference], str]:
        differences: list[Difference] = []
        for _ in range(_PROBES):
            refusal = self._try(entity, passive=False)
            if refusal is None:
                return differences, ""
            found = _INEQUIVALENT.search(refusal.reply_text)
            if found is None:
                return differences, refusal.reply_text
            differences.append(Difference(found["name"], _plain(found["actual"]), _plain(found["expected"])))
            probe = _with_actual(entity, found["name"], found["actual"])
            if probe is None:
                return differences, "there may be more differences, which cannot be seen behind this one"
            entity = probe
        return differences, ""


def _plain(value: str) -> str:
    """Turn `the value '10' of type 'signedint'` into `10`."""
    found = _VALUE.match(value)
    return found["value"] if found else value.strip("'")


def _with_actual(entity: Exchange | Queue, name: str, actual: str) -> Exchange | Queue | None:
    """Put the broker's value in place of the file's; None if it cannot be told from the text."""
    changes: dict[str, Any]
    if name in ("durable", "auto_delete", "exclusive", "internal"):
        changes = {name: _plain(actual) == "true"}
    elif name == "type" and isinstance(entity, Exchange):
        changes = {"type": _plain(actual)}
    elif actual.startswith("none"):
        changes = {"arguments": {key: value for key, value in entity.arguments.items() if key != name}}
    else:
        found = _VALUE.match(actual)
        convert = _CONVERSIONS.get(found["type"]) if found else None
        if found is None or convert is None:
            return None
        changes = {"arguments": {**entity.arguments, name: convert(found["value"])}}
    return replace(entity, **changes)
