"""The temporary entities of a replacement, under names that follow from the entity's name. Pure.

A run that was killed is found by these names alone: there is no state file that could be lost or wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rmqkit.model import Binding, Exchange, Queue

NAME_BYTES = 255  # the longest name (AMQP 0-9-1 section 4.2.5.3)
MARKER = Exchange("rmqkit.replacing", "fanout", internal=True)  # exists as long as a replacement is unfinished
# It is deleted with the connection of the run that holds it.
LOCK = Queue(MARKER.name, durable=False, exclusive=True, arguments={"x-queue-type": "classic"})

EntityT = TypeVar("EntityT", bound=Exchange | Queue)


def temporary_name(name: str, role: str) -> str:
    """Return the name of a temporary entity; a hash stands for a long name."""
    full = f"{name}.rmqkit.{role}"
    return full if len(full.encode()) <= NAME_BYTES else f"{hashlib.sha256(name.encode()).hexdigest()}.rmqkit.{role}"


@dataclass(frozen=True, slots=True)
class TemporaryEntities:
    """The temporary entities of a queue.

    Its bindings lead to `ingress`, whose alternate exchange `overflow` leads to the queue `new_messages`. The messages
    of the old queue are moved through `drain` to `old_messages`, and all are moved through `refill` to the new queue.
    """

    ingress: Exchange
    overflow: Exchange
    drain: Exchange
    refill: Exchange
    old_messages: Queue
    new_messages: Queue

    @classmethod
    def of(cls, queue: Queue, types: Sequence[str] = ()) -> TemporaryEntities:
        """Return the temporary entities of a queue, as safe as its old and new types; an empty type is the default.

        Where a policy limits the temporary queues after all, they reject a message rather than drop one.
        """
        arguments = {"x-overflow": "reject-publish"}
        if "quorum" in types or "" not in types:
            arguments["x-queue-type"] = "quorum" if "quorum" in types else "classic"
        overflow = temporary_name(queue.name, "overflow")
        alternate = {"alternate-exchange": overflow}
        return cls(
            ingress=Exchange(temporary_name(queue.name, "ingress"), "fanout", internal=True, arguments=alternate),
            overflow=Exchange(overflow, "fanout", internal=True),
            drain=Exchange(temporary_name(queue.name, "drain"), "fanout"),
            refill=Exchange(temporary_name(queue.name, "refill"), "fanout"),
            old_messages=Queue(temporary_name(queue.name, "old-messages"), arguments=arguments),
            new_messages=Queue(temporary_name(queue.name, "new-messages"), arguments=arguments),
        )


def temporary_exchange(exchange: Exchange) -> Exchange:
    """Return the exchange that routes as the new one will; every message that reaches it finds a binding."""
    arguments = {name: value for name, value in exchange.arguments.items() if name != "alternate-exchange"}
    return replace(
        exchange,
        name=temporary_name(exchange.name, "temporary"),
        internal=False,
        auto_delete=False,
        arguments=arguments,
    )


def trial_of(entity: EntityT) -> EntityT:
    """Return the entity that shows, before anything is changed, whether the broker accepts the new one."""
    return replace(entity, name=temporary_name(entity.name, "trial"))


def bindings_of_queue(queue: Queue, temporary: TemporaryEntities, bindings: Iterable[Binding]) -> list[Binding]:
    """Return the bindings of a queue, each once: those to `ingress` included, those from temporary entities not."""
    names = {queue.name: "queue", temporary.ingress.name: "exchange"}
    exchanges = (temporary.ingress, temporary.overflow, temporary.drain, temporary.refill)
    excluded = {"", MARKER.name, *(each.name for each in exchanges)}
    return _distinct(
        replace(each, destination=queue.name, destination_type="queue")
        for each in bindings
        if names.get(each.destination) == each.destination_type and each.source not in excluded
    )


def bindings_of_exchange(exchange: Exchange, temporary: Exchange, bindings: Iterable[Binding]) -> list[Binding]:
    """Return the bindings from an exchange and to it, each once; those of its temporary exchange count as its own."""

    def own(binding: Binding) -> Binding:
        if binding.source == temporary.name:
            binding = replace(binding, source=exchange.name)
        if (binding.destination_type, binding.destination) == ("exchange", temporary.name):
            binding = replace(binding, destination=exchange.name)
        return binding

    found = []
    for each in map(own, bindings):
        leads_here = (each.destination_type, each.destination) == ("exchange", exchange.name)
        if leads_here != (each.source == exchange.name) and each.source != MARKER.name:  # both: between the two
            found.append(each)
    return _distinct(found)


def match_key(binding: Binding) -> tuple[str, str]:
    """Return the part of a binding that decides which messages match it."""
    return binding.routing_key, repr(sorted(binding.arguments.items()))


def _distinct(bindings: Iterable[Binding]) -> list[Binding]:
    by_key = {(each.source, each.destination, each.destination_type, *match_key(each)): each for each in bindings}
    return list(by_key.values())
