"""What becomes of a message that a queue does not keep (https://www.rabbitmq.com/docs/dlx)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, get_args

from rmqkit.model import Queue, Topology
from rmqkit.topology.death_cycles import Reason, cycle, orders
from rmqkit.topology.matching import PERHAPS
from rmqkit.topology.policies import doubt, queue_type
from rmqkit.topology.routing import Entities, Route

MAX_CYCLES = 10


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Where a message goes that leaves `queue` for any of `reasons`.

    `cycles` name the queues it may come back to, each as the way from that queue round to itself, the shortest first
    and MAX_CYCLES at most; RabbitMQ drops a message that went round without a rejection on the way.
    """

    queue: str
    reasons: tuple[Reason, ...]
    route: Route
    cycles: tuple[tuple[str, ...], ...] = ()


def dead_letter(topology: Topology, route: Route, queue: str, reason: Reason) -> Route:
    """Return where a message goes on to that came to a queue by `route`, and left it for `reason`.

    If nowhere, `why` says what becomes of it. A message expires in a queue without TTL too, if it was published with an
    expiration.

        first = route(topology, Target("orders", "order.eu.paid"))
        print(dead_letter(topology, first, "billing", "rejected").queues)
    """
    entities = Entities(topology)
    onward = _leave(entities, route, queue, reason)
    ways = {name: [cycle(name, order) for order in orders(onward.deaths)] for name in onward.queues}
    closed = {name: round_[-1] for name, round_ in ways.items() if all(round_)}
    for name, round_ in ways.items():
        if any(round_) and name not in closed:
            doubt = f"whether RabbitMQ drops it before queue {name!r}, as a cycle, depends on its version"
            onward = replace(_without(onward, {name}), unknown=(*onward.unknown, doubt))
    if not closed:
        return onward
    onward = replace(_without(onward, closed.keys()), cycles=tuple(closed.values()))
    if onward.queues or onward.unknown:
        return onward
    sentence = f"the cycle {' -> '.join(onward.cycles[0])} has no rejection in it"
    return replace(onward, why=f"{_fate(entities, queue)}: {sentence}")


def _without(route: Route, queues: Collection[str]) -> Route:
    """Return a route that leads to some queues no more."""
    legs = tuple(leg for leg in route.legs if leg.to_exchange or leg.destination not in queues)
    return replace(route, queues=tuple(name for name in route.queues if name not in queues), legs=legs)


def dead_letters(topology: Topology, route: Route) -> tuple[DeadLetter, ...]:
    """Return what becomes of a message in each queue of a route, and in each that it goes on to, told once."""
    entities = Entities(topology)
    found: list[DeadLetter] = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    ahead: list[tuple[str, Route, tuple[str, ...]]] = [(queue, route, ()) for queue in reversed(route.queues)]
    while ahead:
        queue, came, chain = ahead.pop()
        key = _own_key(entities, queue)
        state = queue, came.keys if key is None else (key,)
        if state in seen:
            continue
        seen.add(state)
        chain = (*chain, queue)
        for reasons, onward in _outcomes(entities, came, queue):
            ends, backward = set(onward.queues), range(len(chain) - 1, -1, -1)
            cycles = ((*chain[start:], chain[start]) for start in backward if chain[start] in ends)
            found.append(DeadLetter(queue, reasons, onward, tuple(islice(cycles, MAX_CYCLES))))
            ahead += [(name, onward, chain) for name in reversed(onward.queues)]
    return tuple(found)


def _outcomes(entities: Entities, came: Route, queue: str) -> Iterator[tuple[tuple[Reason, ...], Route]]:
    """Yield where a message goes on to, each with all the reasons that lead there."""
    outcomes = [(reason, _leave(entities, came, queue, reason)) for reason in _reasons(entities, queue)]
    while outcomes:
        first = outcomes[0][1]
        same = [(reason, each) for reason, each in outcomes if (each.legs, each.why) == (first.legs, first.why)]
        yield tuple(reason for reason, _ in same), first
        outcomes = [each for each in outcomes if each not in same]


def _reasons(entities: Entities, name: str) -> tuple[Reason, ...]:
    """Return for what reasons a message may leave a queue, whatever it was published with."""
    reasons: tuple[Reason, ...] = get_args(Reason)
    queue = entities.queues.get(name)
    if not queue or _doubt(entities, name):
        return reasons
    ttl = "x-message-ttl" in entities.settings(queue)
    return tuple(each for each in reasons if (ttl or each != "expired") and not _kept(entities, queue, each))


def _doubt(entities: Entities, name: str) -> str:
    """Say why it is not known what becomes of messages in a queue, or nothing."""
    queue = entities.queues.get(name)
    if not queue:
        return f"queue {name!r} is not declared here: where its dead letters go is not known"
    return "" if _is_stream(queue) else doubt(entities.topology, queue)


def _kept(entities: Entities, queue: Queue, reason: Reason) -> str:
    """Say why no message leaves a queue for a reason, or nothing."""
    kind, settings = queue_type(queue), entities.settings(queue)
    if _is_stream(queue):
        return f"{queue.name!r} is a stream: it dead-letters nothing"
    if reason == "maxlen":
        if not {"x-max-length", "x-max-length-bytes"} & settings.keys():
            return f"queue {queue.name!r} has no length limit: nothing is pushed out of it"
        if settings.get("x-overflow") == "reject-publish":
            return f"a full queue {queue.name!r} refuses new messages: nothing is pushed out of it"
    if reason == "delivery_limit" and (kind != "quorum" or settings.get("x-delivery-limit") == -1):
        return f"queue {queue.name!r} has no delivery limit"
    return ""


def _own_key(entities: Entities, name: str) -> str | None:
    """Return the routing key a queue gives to what leaves it; None: it keeps those it has."""
    queue = entities.queues.get(name)
    return entities.settings(queue).get("x-dead-letter-routing-key") if queue else None


def _leave(entities: Entities, came: Route, name: str, reason: Reason) -> Route:
    """Follow a message out of a queue, round cycles too."""
    queue = entities.queues.get(name)
    unknown = _doubt(entities, name)
    if not queue or unknown:
        return Route("", came.keys, unknown=(unknown,))
    settings = entities.settings(queue)
    exchange, key = settings.get("x-dead-letter-exchange"), _own_key(entities, name)
    why = _kept(entities, queue, reason)
    if why or exchange is None:
        return Route("", came.keys, why=why or f"dropped: queue {name!r} has no dead-letter exchange")
    headers = dict(came.headers)
    if key is not None and "CC" in headers:
        headers["CC"] = PERHAPS  # it goes with the keys it stands for, until RabbitMQ 3.13
    if not came.deaths:
        first = {"reason": reason, "queue": name, "exchange": came.exchange}
        headers |= {f"x-first-death-{each}": value for each, value in first.items()}
        headers |= {"x-death": PERHAPS} | {f"x-last-death-{each}": PERHAPS for each in first}  # until, and from 3.13 on
    deaths = ((name, reason), *came.deaths)
    onward = entities.follow_once(Route(exchange, came.keys if key is None else (key,), headers, deaths=deaths))
    if onward.why:
        return replace(onward, why=f"{_fate(entities, name)}: {onward.why}")
    streams = [each for each in onward.queues if each in entities.queues and _is_stream(entities.queues[each])]
    if not streams or dead_letters_at_least_once(queue, settings):
        return onward
    doubts = tuple(f"whether stream {each!r} gets dead letters depends on RabbitMQ's version" for each in streams)
    return replace(_without(onward, streams), unknown=(*onward.unknown, *doubts))  # it does from 3.12 on


def _is_stream(queue: Queue) -> bool:
    return queue_type(queue) == "stream"


def dead_letters_at_least_once(queue: Queue, settings: Mapping[str, Any]) -> bool:
    """Tell whether a queue of these settings waits until its dead letters have arrived."""
    asked = settings.get("x-dead-letter-strategy"), settings.get("x-overflow")
    return queue_type(queue) == "quorum" and asked == ("at-least-once", "reject-publish")


def _fate(entities: Entities, name: str) -> str:
    """Say what becomes of a dead letter that has nowhere to go."""
    queue = entities.queues[name]
    safe = dead_letters_at_least_once(queue, entities.settings(queue))
    return f"kept in queue {name!r} until there is a way" if safe else "dropped"
