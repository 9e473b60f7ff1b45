"""Free TCP ports of this machine's loopback address."""

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


def choose(wanted: int | None, last: Ports, *, index: int = 0, epmd: int = 0, avoid: Collection[int] = ()) -> Ports:
    """Choose free ports: the wanted one or an error, the last ones, RabbitMQ's defaults, or any, in this order.

    With 0 as the wanted port the defaults are not used; each node of a cluster adds its `index` to them. `epmd` is the
    port of a running port mapper; `avoid` are reserved ports.
    """
    if wanted and (reason := bind_error(wanted)):
        message = f"port {wanted} is not available: {reason}"
        raise NodeError(message, advice="Choose another --port, or omit it for any free port.")
    known = (0, 0) if wanted == 0 else (5672 + index, 15672 + index)
    ports = Ports(
        wanted or free(last.amqp, known[0], avoid=avoid),
        free(last.management, known[1], avoid=avoid),
        free(last.distribution, avoid=avoid),
        epmd or free(last.epmd, avoid=avoid),
    )
    if len(set(astuple(ports))) == len(astuple(ports)):
        return ports
    return choose(wanted, NO_PORTS, index=index, epmd=epmd, avoid=avoid)


def free(*preferred: int, avoid: Collection[int] = ()) -> int:
    """Return a free port below the ephemeral range, so that no client gets it by chance."""
    anywhere = (random.randrange(10_000, 32_000) for _ in range(1000))  # noqa: S311 - not a secret
    return next(port for port in (*preferred, *anywhere) if port and port not in avoid and not bind_error(port))


def bind_error(port: int) -> str:
    """Return why no server can listen on the port; empty if one can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # lingering connections do no harm
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", "") or str(error)
    return "another program is listening on it" if is_listening(port) else ""


def is_listening(port: int) -> bool:
    """Tell whether a server is listening on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
