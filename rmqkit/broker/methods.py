"""What AMQP is told to declare, bind and delete entities.

Comes in: entities of a topology. Goes out: pika's methods, called one by one or many at a time. Room: broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pika import spec

from rmqkit.broker.channel import Call, Channel
from rmqkit.model import Binding, Exchange, Queue
from rmqkit.payload import properties

Entity = Exchange | Queue | Binding


def subject(entity: Entity) -> str:
    """Name an entity in errors: `queue 'orders'`."""
    if isinstance(entity, Binding):
        return f"binding {entity}"
    return f"{'exchange' if isinstance(entity, Exchange) else 'queue'} {entity.name!r}"


def declare(channel: Channel, entity: Entity, *, passive: bool = False) -> Any:
    """Declare one entity and return the broker's answer; `passive` only asks whether it is there.

    Raises PayloadError for what AMQP cannot carry, Refused, ConnectionLost.
    """
    call = declaring(entity, passive=passive)
    return channel.call(call.method, call.answer, subject=call.subject, arguments=call.arguments)


def declare_all(channel: Channel, entities: Iterable[Entity]) -> Iterator[None]:
    """Declare entities in order, without waiting for each answer before the next; yield once for each that is done.

    Raises what `declare` raises, about the entity that was refused; those before it are done, those behind it are not.
    """
    return channel.call_each(map(declaring, entities))


def declaring(entity: Entity, *, passive: bool = False) -> Call:
    """Return the call that declares an entity; raise PayloadError for what AMQP cannot carry."""
    properties.check_arguments(subject(entity), entity.arguments)
    if isinstance(entity, Binding):
        return _binding(entity, "Bind")
    properties.check_target(entity.name, "")
    common = {"passive": passive, "durable": entity.durable, "auto_delete": entity.auto_delete}
    method: Any
    if isinstance(entity, Exchange):
        method = spec.Exchange.Declare(exchange=entity.name, type=entity.type, internal=entity.internal, **common)
        return Call(method, spec.Exchange.DeclareOk, subject(entity), entity.arguments)
    method = spec.Queue.Declare(queue=entity.name, exclusive=entity.exclusive, **common)
    return Call(method, spec.Queue.DeclareOk, subject(entity), entity.arguments)


def unbinding(binding: Binding) -> Call:
    """Return the call that removes a binding; one that is not there is no error."""
    return _binding(binding, "Unbind")


def _binding(binding: Binding, verb: str) -> Call:
    properties.check_target(binding.source, binding.routing_key)
    room: Any
    if binding.destination_type == "exchange":
        ends, room = {"source": binding.source, "destination": binding.destination}, spec.Exchange
    else:
        ends, room = {"exchange": binding.source, "queue": binding.destination}, spec.Queue
    method = getattr(room, verb)(**ends, routing_key=binding.routing_key)
    return Call(method, getattr(room, f"{verb}Ok"), subject(binding), binding.arguments)
