"""Free TCP ports of this machine's loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from dataclasses import astuple, dataclass

from rmqkit.errors import NodeError


@dataclass(frozen=True, slots=True)
class Ports:
    """The TCP ports of a node, all on 127.0.0.1."""

    amqp: int
    management: int
    distribution: int
    epmd: int


NO_PORTS = Ports(0, 0, 0, 0)


def choose(wanted: int | None, last: Ports, *, turn: int = 0, epmd: int = 0, avoid: Collection[int] = ()) -> Ports:
    """Choose free ports: the wanted one or an error, those used last, RabbitMQ's own, or any, in this order.

    With a wanted port of 0 RabbitMQ's own are not used; the nodes of a cluster, by their `turn`, begin so much above
    them. An `epmd` is one that listens already; `avoid` are ports that others are about to use.
    """
    if wanted and (why := taken(wanted)):
        raise NodeError(
            f"port {wanted} cannot be used: {why}", advice="Name another one, or leave out --port for any free one."
        )
    known = (0, 0) if wanted == 0 else (5672 + turn, 15672 + turn)
    ports = Ports(
        wanted or free(last.amqp, known[0], avoid=avoid),
        free(last.management, known[1], avoid=avoid),
        free(last.distribution, avoid=avoid),
        epmd or free(last.epmd, avoid=avoid),
    )
    distinct = set(astuple(ports))
    return (
        ports if len(distinct) == len(astuple(ports)) else choose(wanted, NO_PORTS, turn=turn, epmd=epmd, avoid=avoid)
    )


def free(*preferred: int, avoid: Collection[int] = ()) -> int:
    """Return a free port, below those that the system hands out to clients: nobody takes it by chance."""
    anywhere = (random.randrange(10_000, 32_000) for _ in range(1000))  # noqa: S311 - not a secret
    return next(port for port in (*preferred, *anywhere) if port and port not in avoid and not taken(port))


def taken(port: int) -> str:
    """Say why nobody can listen on the port; empty when one can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do no harm
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", "") or str(error)
    return "somebody listens there" if listens(port) else ""


def listens(port: int) -> bool:
    """Tell whether somebody does."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
