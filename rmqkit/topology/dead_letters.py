"""Follow messages that leave a queue as dead letters (https://www.rabbitmq.com/docs/dlx)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, get_args

from rmqkit.model import Queue, Topology
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.matching import PERHAPS
from rmqkit.topology.policies import doubt, queue_type
from rmqkit.topology.routing import DeathReason, Deaths, Route, Router

MAX_CYCLES = 10
_UNATTENDED: tuple[DeathReason, ...] = ("expired", "maxlen")  # deaths without a consumer


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The route of a message that leaves `queue` for any of `reasons`.

    `cycles` are the queues to which it may return, each as the path from that queue back to itself, the shortest first,
    at most MAX_CYCLES. RabbitMQ drops a message that has gone through a cycle without a rejection.
    """

    queue: str
    reasons: tuple[DeathReason, ...]
    route: Route
    cycles: tuple[tuple[str, ...], ...] = ()


def x_death_orders(deaths: Deaths) -> tuple[Deaths, Deaths]:
    """Return the order of a message's x-death up to RabbitMQ 3.12, and since 3.13.3, each death once, the last first.

    Newer releases list those before it by age; older ones reverse them each time. (3.13.0 to 3.13.2 keep no order.)
    """
    older: Deaths = ()
    for death in reversed(deaths):
        older = (death, *(each for each in reversed(older) if each != death))
    return older, tuple(dict.fromkeys(deaths))


def x_death_cycle(queue: str, x_death: Deaths) -> tuple[str, ...]:
    """Return the path by which a message has returned to a queue without a rejection; empty if it has not.

    RabbitMQ, which reads x-death in order, drops such a message (https://www.rabbitmq.com/docs/dlx#dead-letter-cycle).
    """
    path = [queue]
    for name, reason in x_death:
        if reason == "rejected":
            break
        path.append(name)
        if name == queue:
            return tuple(reversed(path))
    return ()


def dead_letter(topology: Topology, route: Route, queue: str, reason: DeathReason) -> Route:
    """Return the route of a message that reached a queue by `route` and leaves it for `reason`.

    If it leads nowhere, `why` explains what happens to the message. A message may expire in a queue without TTL too: if
    it was published with an expiration.

        first = route(topology, Target("orders", "order.eu.paid"))
        print(dead_letter(topology, first, "billing", "rejected").queues)
    """
    router = Router(TopologyIndex(topology))
    following = _leave(router, route, queue, reason)
    dropped: dict[str, tuple[str, ...]] = {}
    for name in following.queues:
        cycles = [x_death_cycle(name, order) for order in x_death_orders(following.deaths)]
        if all(cycles):
            dropped[name] = cycles[-1]
        elif any(cycles):
            sentence = f"whether RabbitMQ drops it before queue {name!r}, as a cycle, depends on its version"
            following = replace(_without(following, {name}), unknown=(*following.unknown, sentence))
    if not dropped:
        return following
    following = replace(_without(following, dropped.keys()), cycles=tuple(dropped.values()))
    if following.queues or following.unknown:
        return following
    sentence = f"the cycle {' -> '.join(following.cycles[0])} has no rejection in it"
    return replace(following, why=f"{_fate(router, queue)}: {sentence}")


def _without(route: Route, queues: Collection[str]) -> Route:
    legs = tuple(leg for leg in route.legs if leg.to_exchange or leg.destination not in queues)
    return replace(route, queues=tuple(name for name in route.queues if name not in queues), legs=legs)


def dead_letters(topology: Topology, route: Route) -> tuple[DeadLetter, ...]:
    """Return where a message may go from each queue of a route, and from each queue it reaches then, each once."""
    router = Router(TopologyIndex(topology))
    letters: list[DeadLetter] = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    pending: list[tuple[str, Route, tuple[str, ...]]] = [(queue, route, ()) for queue in reversed(route.queues)]
    while pending:
        queue, arrival, passed = pending.pop()
        key = _dead_letter_key(router, queue)
        state = queue, arrival.keys if key is None else (key,)
        if state in seen:
            continue
        seen.add(state)
        passed = (*passed, queue)
        for reasons, following in _outcomes(router, arrival, queue):
            reached, backward = set(following.queues), range(len(passed) - 1, -1, -1)
            cycles = ((*passed[start:], passed[start]) for start in backward if passed[start] in reached)
            letters.append(DeadLetter(queue, reasons, following, tuple(islice(cycles, MAX_CYCLES))))
            pending += [(name, following, passed) for name in reversed(following.queues)]
    return tuple(letters)


def return_path(router: Router, route: Route, queue: str) -> tuple[str, ...]:
    """Return the queues through which the messages of a route reach a queue by themselves; empty if they do not.

    They leave each because they expire by its TTL, or to make room for others. Of several paths, the shortest counts.
    """
    pending: deque[tuple[str, Route, tuple[str, ...]]] = deque((name, route, (name,)) for name in route.queues)
    seen: set[str] = set()
    while pending:
        name, arrival, path = pending.popleft()
        if name in seen:
            continue
        seen.add(name)
        for reason in sorted(set(_UNATTENDED).intersection(_reasons(router, name))):
            following = _leave(router, arrival, name, reason)
            if queue in following.queues:
                return path
            pending += [(each, following, (*path, each)) for each in following.queues]
    return ()


def _outcomes(router: Router, arrival: Route, queue: str) -> Iterator[tuple[tuple[DeathReason, ...], Route]]:
    """Yield each route by which a message may leave a queue, with all the reasons that lead to it."""
    outcomes = [(reason, _leave(router, arrival, queue, reason)) for reason in _reasons(router, queue)]
    while outcomes:
        first = outcomes[0][1]
        same = [(reason, each) for reason, each in outcomes if (each.legs, each.why) == (first.legs, first.why)]
        yield tuple(reason for reason, _ in same), first
        outcomes = [each for each in outcomes if each not in same]


def _reasons(router: Router, name: str) -> tuple[DeathReason, ...]:
    """Return the reasons for which a message may leave a queue, whatever its own properties."""
    reasons: tuple[DeathReason, ...] = get_args(DeathReason)
    queue = router.index.queues.get(name)
    if not queue or _doubt(router, name):
        return reasons
    ttl = "x-message-ttl" in router.index.settings(name)
    return tuple(each for each in reasons if (ttl or each != "expired") and not _kept(router, queue, each))


def _doubt(router: Router, name: str) -> str:
    """Explain why the dead letters of a queue are unknown; an empty string if they are known."""
    queue = router.index.queues.get(name)
    if not queue:
        return f"queue {name!r} is not declared here, so the destination of its dead letters is unknown"
    return "" if queue_type(queue) == "stream" else doubt(router.topology, queue)


def _kept(router: Router, queue: Queue, reason: DeathReason) -> str:
    """Explain why no message leaves a queue for a reason; an empty string if one may."""
    settings = router.index.settings(queue.name)
    if queue_type(queue) == "stream":
        return f"{queue.name!r} is a stream, and streams do not dead-letter messages"
    if reason == "maxlen":
        if not {"x-max-length", "x-max-length-bytes"} & settings.keys():
            return f"queue {queue.name!r} has no length limit, so it never drops messages to make room"
        if settings.get("x-overflow") == "reject-publish":
            return f"queue {queue.name!r} rejects new messages when full, so it never drops old ones to make room"
    if reason == "delivery_limit" and (queue_type(queue) != "quorum" or settings.get("x-delivery-limit") == -1):
        return f"queue {queue.name!r} has no delivery limit"
    return ""


def _dead_letter_key(router: Router, name: str) -> str | None:
    """Return the routing key a queue gives to its dead letters; None if they keep their own."""
    return router.index.settings(name).get("x-dead-letter-routing-key") if name in router.index.queues else None


def _leave(router: Router, arrival: Route, name: str, reason: DeathReason) -> Route:
    """Follow a message out of a queue, through cycles too."""
    queue = router.index.queues.get(name)
    unknown = _doubt(router, name)
    if not queue or unknown:
        return Route("", arrival.keys, unknown=(unknown,))
    exchange, key = router.index.settings(name).get("x-dead-letter-exchange"), _dead_letter_key(router, name)
    why = _kept(router, queue, reason)
    if why or exchange is None:
        return Route("", arrival.keys, why=why or f"dropped: queue {name!r} has no dead-letter exchange")
    headers = dict(arrival.headers)
    if key is not None and "CC" in headers:
        headers["CC"] = PERHAPS  # removed along with the keys it holds, up to RabbitMQ 3.13
    if not arrival.deaths:
        first = {"reason": reason, "queue": name, "exchange": arrival.exchange}
        headers |= {f"x-first-death-{each}": value for each, value in first.items()}
        headers |= {"x-death": PERHAPS} | {f"x-last-death-{each}": PERHAPS for each in first}  # up to, and since 3.13
    deaths = ((name, reason), *arrival.deaths)
    keys = arrival.keys if key is None else (key,)
    following = router.follow_dead_letter(Route(exchange, keys, headers, deaths=deaths))
    if following.why:
        return replace(following, why=f"{_fate(router, name)}: {following.why}")
    streams = [
        each
        for each in following.queues
        if (target := router.index.queues.get(each)) and queue_type(target) == "stream"
    ]
    if not streams or dead_letters_at_least_once(queue, router.index.settings(name)):
        return following
    doubts = tuple(f"whether stream {each!r} gets dead letters depends on RabbitMQ's version" for each in streams)
    return replace(_without(following, streams), unknown=(*following.unknown, *doubts))  # it does since 3.12


def dead_letters_at_least_once(queue: Queue, settings: Mapping[str, Any]) -> bool:
    """Tell whether a queue with these settings keeps a dead letter until it has arrived."""
    wanted = settings.get("x-dead-letter-strategy"), settings.get("x-overflow")
    return queue_type(queue) == "quorum" and wanted == ("at-least-once", "reject-publish")


def _fate(router: Router, name: str) -> str:
    """Describe the fate of a dead letter that no queue accepts."""
    safe = dead_letters_at_least_once(router.index.queues[name], router.index.settings(name))
    return f"kept in queue {name!r} until a queue takes it" if safe else "dropped"
