"""The AMQP methods that declare, bind, unbind and delete entities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from pika import spec

from rmqkit.amqp.channel import Channel, MethodCall
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import ConnectionLost, Problem, Refused
from rmqkit.model import Binding, Exchange, Queue
from rmqkit.payload import properties
from rmqkit.plan import Kind

_CHANNELS = 4  # the broker runs a process for each
_ENTITIES_PER_CHANNEL = 100  # fewer are not worth another channel
Entity = Exchange | Queue | Binding


def kind(entity: Entity) -> Kind:
    """Return the kind of an entity in plans."""
    if isinstance(entity, Binding):
        return "binding"
    return "exchange" if isinstance(entity, Exchange) else "queue"


def subject(entity: Entity) -> str:
    """Name an entity in errors: `queue 'orders'`."""
    return f"binding {entity}" if isinstance(entity, Binding) else f"{kind(entity)} {entity.name!r}"


def declare(channel: Channel, entity: Entity, *, passive: bool = False) -> Any:
    """Declare one entity and return the broker's answer; `passive` only checks whether it exists.

    Raises PayloadError for values that AMQP cannot carry, Refused, ConnectionLost.
    """
    call = declare_call(entity, passive=passive)
    return channel.call(call.method, call.answer, subject=call.subject, arguments=call.arguments)


def declare_all(connection: ReconnectingConnection, entities: Sequence[Entity]) -> Iterator[None]:
    """Declare independent entities on a few channels in parallel; yield once for each declared entity.

    Raises the errors of `declare` for a refused entity; others may be declared already, or not.
    """
    channels = [connection.channel() for _ in range(min(_CHANNELS, len(entities) // _ENTITIES_PER_CHANNEL + 1))]
    try:
        shares = [
            channel.call_each(map(declare_call, entities[first :: len(channels)]))
            for first, channel in enumerate(channels)
        ]
        for answers in zip_longest(*shares):
            yield from (None for answer in answers if answer is not None)
    except Refused as exc:
        if isinstance(exc.__cause__, ConnectionLost) and len(entities) > 1:
            for each in entities:  # answers were perhaps lost with the connection: one by one, the refused one is known
                list(declare_all(connection, [each]))
        places = [each.where for each in entities if subject(each) == exc.subject and each.where]
        exc.problems = exc.problems or tuple(Problem(place, f"{exc.subject}: refused") for place in places[:1])
        raise
    finally:
        for channel in channels:
            channel.close()


def declare_call(entity: Entity, *, passive: bool = False) -> MethodCall:
    """Return the call that declares an entity; raise PayloadError for values that AMQP cannot carry."""
    properties.check_arguments(subject(entity), entity.arguments)
    if isinstance(entity, Binding):
        return _binding(entity, "Bind")
    common = {"passive": passive, "durable": entity.durable, "auto_delete": entity.auto_delete}
    method: Any
    if isinstance(entity, Exchange):
        method = spec.Exchange.Declare(exchange=entity.name, type=entity.type, internal=entity.internal, **common)
        return MethodCall(method, spec.Exchange.DeclareOk, subject(entity), entity.arguments)
    method = spec.Queue.Declare(queue=entity.name, exclusive=entity.exclusive, **common)
    return MethodCall(method, spec.Queue.DeclareOk, subject(entity), entity.arguments)


def unbind_call(binding: Binding) -> MethodCall:
    """Return the call that removes a binding; a missing one is no error."""
    return _binding(binding, "Unbind")


def delete_call(entity: Exchange | Queue, *, if_unused: bool = False, if_empty: bool = False) -> MethodCall:
    """Return the call that deletes an entity; a missing one is no error."""
    action = f"deleting {subject(entity)}"
    if isinstance(entity, Exchange):
        delete: Any = spec.Exchange.Delete(exchange=entity.name, if_unused=if_unused)
        return MethodCall(delete, spec.Exchange.DeleteOk, action)
    delete = spec.Queue.Delete(queue=entity.name, if_unused=if_unused, if_empty=if_empty)
    return MethodCall(delete, spec.Queue.DeleteOk, action)


def _binding(binding: Binding, verb: str) -> MethodCall:
    methods: Any
    if binding.destination_type == "exchange":
        ends, methods = {"source": binding.source, "destination": binding.destination}, spec.Exchange
    else:
        ends, methods = {"exchange": binding.source, "queue": binding.destination}, spec.Queue
    method = getattr(methods, verb)(**ends, routing_key=binding.routing_key)
    return MethodCall(method, getattr(methods, f"{verb}Ok"), subject(binding), binding.arguments)
