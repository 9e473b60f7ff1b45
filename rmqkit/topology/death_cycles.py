"""How RabbitMQ tells that a dead letter goes round, and drops it (https://www.rabbitmq.com/docs/dlx#dead-letter-cycle)."""

from __future__ import annotations

from typing import Literal

Reason = Literal["rejected", "expired", "maxlen", "delivery_limit"]
"""Why a message leaves a queue for the dead-letter exchange, in RabbitMQ's words."""

Deaths = tuple[tuple[str, Reason], ...]
"""Queues that a message left as a dead letter, and why."""


def orders(deaths: Deaths) -> tuple[Deaths, Deaths]:
    """Return the order of a message's x-death up to RabbitMQ 3.12, and from 3.13.3 on; each death is there once.

    The last one stands first. Newer releases put those before it by their age; older ones turn them round each time.
    (3.13.0 to 3.13.2 go by no order.)
    """
    turned: Deaths = ()
    for death in reversed(deaths):
        turned = (death, *(each for each in reversed(turned) if each != death))
    return turned, tuple(dict.fromkeys(deaths))


def cycle(queue: str, deaths: Deaths) -> tuple[str, ...]:
    """Return the way from a queue round to it, or nothing if it was not there before, or rejected since.

    What is before and since is told by the order of x-death.
    """
    way = [queue]
    for name, reason in deaths:
        if reason == "rejected":
            break
        way.append(name)
        if name == queue:
            return tuple(reversed(way))
    return ()
