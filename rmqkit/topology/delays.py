"""The queues in which delayed messages wait: a ladder of levels, each of which holds a message twice as long.

    rmqkit.delay.2 -4 s-> rmqkit.delay.1 -2 s-> rmqkit.delay.0 -1 s-> rmqkit.delay.deliver -> ... -> the target

A message enters at the highest bit of its delay in seconds. Each level is an exchange and a queue: the exchange routes
a message to the queue if the header of that bit is set, and otherwise to the next lower level, as its alternate
exchange (https://www.rabbitmq.com/docs/ae). The queue dead-letters the message there when its time is over; all
messages in it wait equally long, so none waits behind another. The last queue, one for each target, dead-letters it
without a key, so that the target sees the message's own (https://www.rabbitmq.com/docs/dlx#routing).

Quorum queues keep a dead letter until a queue has taken it
(https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering).
"""

from __future__ import annotations

from dataclasses import replace

from rmqkit.errors import PayloadError
from rmqkit.message import Properties
from rmqkit.model import Binding, Exchange, Queue, Target, Topology
from rmqkit.topology.names import check_length

LEVELS = 24  # 2^24 seconds are 194 days
MAX_DELAY_S = 180 * 86_400
NAMES = "rmqkit.delay."  # the beginning of all names
DELIVER = Exchange(f"{NAMES}deliver", "headers")
HEADERS = "x-rmqkit-delay-"  # the beginning of the names of all headers
_EXCHANGE, _QUEUE = f"{HEADERS}exchange", f"{HEADERS}queue"  # the headers with the target
_TOGETHER = {"x-match": "all-with-x"}  # `all` leaves out the headers whose names begin with x-
_SAFE = {
    "x-queue-type": "quorum",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-delivery-limit": 1_000_000,  # those who look at messages must not drop them; releases before 4.0 refuse -1
}


def ladder() -> Topology:
    """Return all levels; the exchange from which messages are delivered is the last one."""
    levels = range(LEVELS)
    below = [DELIVER.name, *map(_level, levels)]
    exchanges = (Exchange(_level(each), "headers", arguments={"alternate-exchange": below[each]}) for each in levels)
    queues = (_queue(_level(each), below[each], 1000 << each) for each in levels)
    bindings = (
        Binding(_level(each), _level(each), arguments=_TOGETHER | {f"{HEADERS}{each}": True}) for each in levels
    )
    return Topology(exchanges=(*exchanges, DELIVER), queues=tuple(queues), bindings=tuple(bindings))


def expand(topology: Topology) -> Topology:
    """Add the levels to a topology with `delay`, except those that it declares."""
    if not topology.delay:
        return topology
    levels = ladder()
    return replace(
        topology,
        exchanges=tuple({each.name: each for each in (*levels.exchanges, *topology.exchanges)}.values()),
        queues=tuple({each.name: each for each in (*levels.queues, *topology.queues)}.values()),
        bindings=(*(each for each in levels.bindings if each not in topology.bindings), *topology.bindings),
    )


def last_queue(target: Target) -> Queue:
    """Return the queue from which messages are dead-lettered to a target.

    Targets are exchanges, and the queues of the default exchange. Raises PayloadError if its name would be too long.
    """
    header, name = _address(target)
    queue = _queue(f"{NAMES}{header.removeprefix(HEADERS)}.{name}", target.exchange, 0)
    if fault := check_length(f"the queue from which messages are delivered to {target}", queue.name):
        raise PayloadError(f"cannot delay messages: {fault[0]}", advice=fault[1])
    return queue


def last_binding(target: Target) -> Binding:
    """Return the binding that leads to the last queue of a target."""
    header, name = _address(target)
    return Binding(DELIVER.name, last_queue(target).name, arguments=_TOGETHER | {header: name})


def entrance(seconds: int) -> str:
    """Return the exchange at which a message enters that is delayed by 1 to `MAX_DELAY_S` seconds."""
    return _level(seconds.bit_length() - 1)


def delayed_properties(properties: Properties, target: Target, seconds: int) -> Properties:
    """Return the properties of a message that is delayed by 1 to `MAX_DELAY_S` seconds, with the headers that route it.

    Raises PayloadError for an expiration, which would end the delay.
    """
    if properties.expiration is not None:
        advice = "Leave the expiration out, or give the queue a message TTL."
        raise PayloadError("a message with an expiration cannot be delayed: it would expire early", advice=advice)
    header, name = _address(target)
    kept = {key: value for key, value in (properties.headers or {}).items() if not key.startswith(HEADERS)}
    levels = {f"{HEADERS}{level}": True for level in range(LEVELS) if seconds >> level & 1}
    return replace(properties, headers=kept | levels | {header: name})


def _address(target: Target) -> tuple[str, str]:
    """Return the header that names a target, and its value."""
    return (_EXCHANGE, target.exchange) if target.exchange else (_QUEUE, target.routing_key)


def _level(number: int) -> str:
    return f"{NAMES}{number}"


def _queue(name: str, exchange: str, ttl_ms: int) -> Queue:
    return Queue(name, arguments={**_SAFE, "x-message-ttl": ttl_ms, "x-dead-letter-exchange": exchange})
