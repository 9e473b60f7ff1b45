"""What stands in for a queue or an exchange while it is replaced, by names that follow from its own. Pure.

Comes in: the entity as the file has it. Goes out: the exchanges and queues that a replacement needs. Room: broker.

A run that was killed is found again by these names alone: there is no file that could be lost or be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rmqkit.model import Binding, Exchange, Queue

NAME_BYTES = 255  # the longest name (AMQP 0-9-1 section 4.2.5.3)
MARKER = Exchange("rmqkit.replacing", "fanout", internal=True)  # is there as long as something is being replaced
LOCK = Queue(MARKER.name, durable=False, exclusive=True)  # goes with the connection of the run that holds it


def sibling(name: str, part: str) -> str:
    """Return the name of a sibling; of a long name a hash stands for it."""
    full = f"{name}.rmqkit.{part}"
    return full if len(full.encode()) <= NAME_BYTES else f"{hashlib.sha256(name.encode()).hexdigest()}.rmqkit.{part}"


@dataclass(frozen=True, slots=True)
class QueueSiblings:
    """The siblings of a queue.

    Its bindings lead to `way`; what finds no queue behind `way` takes the `turn`, to `came`. What was in the queue goes
    `out`, to `kept`. The way `back` is to the new queue.
    """

    way: Exchange
    turn: Exchange
    out: Exchange
    back: Exchange
    kept: Queue
    came: Queue

    @classmethod
    def of(cls, queue: Queue, *, quorum: bool = False) -> QueueSiblings:
        """Return the siblings of a queue; `quorum` makes them as safe as the queue is, or will be."""
        kind = {"x-queue-type": "quorum" if quorum else "classic"}
        turn = sibling(queue.name, "turn")
        return cls(
            way=Exchange(sibling(queue.name, "way"), "fanout", internal=True, arguments={"alternate-exchange": turn}),
            turn=Exchange(turn, "fanout", internal=True),
            out=Exchange(sibling(queue.name, "out"), "fanout"),
            back=Exchange(sibling(queue.name, "back"), "fanout"),
            kept=Queue(sibling(queue.name, "kept"), arguments=kind),
            came=Queue(sibling(queue.name, "came"), arguments=kind),
        )


def exchange_sibling(exchange: Exchange) -> Exchange:
    """Return the exchange that routes as the new one will; what reaches it always finds a binding."""
    arguments = {name: value for name, value in exchange.arguments.items() if name != "alternate-exchange"}
    return replace(
        exchange, name=sibling(exchange.name, "gate"), internal=False, auto_delete=False, arguments=arguments
    )


def trial_of(entity: Exchange | Queue) -> Exchange | Queue:
    """Return what shows, before anything is changed, whether the broker would take the new entity."""
    return replace(entity, name=sibling(entity.name, "trial"))


def bindings_of(name: str, stand_in: str, kind: str, bindings: Iterable[Binding]) -> list[Binding]:
    """Return the bindings that lead to an entity or from it, also through its stand-in, each once and as its own.

    `kind` is queue or exchange. Those of the default exchange need no declaring, and the marker's are ours.
    """
    found: dict[tuple[object, ...], Binding] = {}
    for each in bindings:
        binding = each
        if binding.source in ("", MARKER.name):
            continue
        if binding.destination_type == "exchange" and binding.destination == stand_in:
            binding = replace(binding, destination=name, destination_type=kind)  # type: ignore[arg-type]
        if kind == "exchange" and binding.source == stand_in:
            binding = replace(binding, source=name)
        leads_to = binding.destination_type == kind and binding.destination == name
        if leads_to or (kind == "exchange" and binding.source == name):
            key = (binding.source, binding.destination, binding.destination_type, binding.routing_key)
            found.setdefault((*key, repr(sorted(binding.arguments.items()))), binding)
    return [each for each in found.values() if each.source != each.destination or each.destination_type != "exchange"]
