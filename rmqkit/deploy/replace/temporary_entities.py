"""What stands in for a queue or an exchange while it is replaced, by names that follow from its own. Pure.

A run that was killed is found again by these names alone: there is no file that could be lost or be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rmqkit.model import Binding, Exchange, Queue

NAME_BYTES = 255  # the longest name (AMQP 0-9-1 section 4.2.5.3)
MARKER = Exchange("rmqkit.replacing", "fanout", internal=True)  # is there as long as something is being replaced
# It goes with the connection of the run that holds it.
LOCK = Queue(MARKER.name, durable=False, exclusive=True, arguments={"x-queue-type": "classic"})


def temporary_name(name: str, part: str) -> str:
    """Return the name of a sibling; of a long name a hash stands for it."""
    full = f"{name}.rmqkit.{part}"
    return full if len(full.encode()) <= NAME_BYTES else f"{hashlib.sha256(name.encode()).hexdigest()}.rmqkit.{part}"


@dataclass(frozen=True, slots=True)
class TemporaryEntities:
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
    def of(cls, queue: Queue, kinds: Sequence[str] = ()) -> TemporaryEntities:
        """Return the siblings of a queue, as safe as the old one and the new one, whose types are `kinds`.

        An empty one is the virtual host's default.
        """
        kind = {"x-queue-type": "quorum" if "quorum" in kinds else "classic"}
        if "" in kinds and "quorum" not in kinds:
            kind = {}
        turn = temporary_name(queue.name, "turn")
        return cls(
            way=Exchange(
                temporary_name(queue.name, "way"), "fanout", internal=True, arguments={"alternate-exchange": turn}
            ),
            turn=Exchange(turn, "fanout", internal=True),
            out=Exchange(temporary_name(queue.name, "out"), "fanout"),
            back=Exchange(temporary_name(queue.name, "back"), "fanout"),
            kept=Queue(temporary_name(queue.name, "kept"), arguments=kind),
            came=Queue(temporary_name(queue.name, "came"), arguments=kind),
        )


def temporary_exchange(exchange: Exchange) -> Exchange:
    """Return the exchange that routes as the new one will; what reaches it always finds a binding."""
    arguments = {name: value for name, value in exchange.arguments.items() if name != "alternate-exchange"}
    return replace(
        exchange, name=temporary_name(exchange.name, "gate"), internal=False, auto_delete=False, arguments=arguments
    )


def trial_of(entity: Exchange | Queue) -> Exchange | Queue:
    """Return what shows, before anything is changed, whether the broker would take the new entity."""
    return replace(entity, name=temporary_name(entity.name, "trial"))


def bindings_of_queue(queue: Queue, siblings: TemporaryEntities, bindings: Iterable[Binding]) -> list[Binding]:
    """Return the bindings of a queue, each once; those to `way` are its own, and those from siblings are not."""
    names = {queue.name: "queue", siblings.way.name: "exchange"}
    ours = {"", MARKER.name, *(each.name for each in (siblings.way, siblings.turn, siblings.out, siblings.back))}
    return _distinct(
        replace(each, destination=queue.name, destination_type="queue")
        for each in bindings
        if names.get(each.destination) == each.destination_type and each.source not in ours
    )


def bindings_of_exchange(exchange: Exchange, gate: Exchange, bindings: Iterable[Binding]) -> list[Binding]:
    """Return the bindings from an exchange and to it, each once; those of its gate are its own."""

    def own(binding: Binding) -> Binding:
        if binding.source == gate.name:
            binding = replace(binding, source=exchange.name)
        if (binding.destination_type, binding.destination) == ("exchange", gate.name):
            binding = replace(binding, destination=exchange.name)
        return binding

    found = []
    for each in map(own, bindings):
        leads_here = (each.destination_type, each.destination) == ("exchange", exchange.name)
        if leads_here != (each.source == exchange.name) and each.source != MARKER.name:  # both: between it and its gate
            found.append(each)
    return _distinct(found)


def way_key(binding: Binding) -> tuple[str, str]:
    """Return what decides which messages a binding takes."""
    return binding.routing_key, repr(sorted(binding.arguments.items()))


def _distinct(bindings: Iterable[Binding]) -> list[Binding]:
    by_key = {(each.source, each.destination, each.destination_type, *way_key(each)): each for each in bindings}
    return list(by_key.values())
