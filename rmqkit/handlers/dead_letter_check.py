"""Whether the messages that a queue rejects reach another queue: a dead letter without a binding is dropped."""

from __future__ import annotations

from contextlib import suppress

from rmqkit.connection import Connection
from rmqkit.errors import BrokerError
from rmqkit.message import Delivery
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.matching import PERHAPS
from rmqkit.topology.routing import Route, Router


class DeadLetterCheck:
    """The dead-letter target of a queue and the bindings behind it, as RabbitMQ's HTTP API shows them at first."""

    def __init__(self, connection: Connection, queue: str) -> None:
        """Read the bindings; if they cannot be seen, no message is known to be dropped."""
        self._target, self._router = None, None
        with suppress(BrokerError):
            self._target, live = connection.dead_letter_target(queue), connection.live()
            if not live.unseen:
                self._router = Router(TopologyIndex(live.topology))

    def drops(self, delivery: Delivery) -> bool:
        """Tell whether the message certainly reaches no queue if it is rejected."""
        if self._router is None or self._target is None or delivery.origin.malformed:
            return False
        headers = dict(delivery.properties.headers or {})
        own = (delivery.routing_key, *(each for each in headers.get("CC", ()) if isinstance(each, str)))
        keys = (self._target.routing_key,) if self._target.routing_key else own
        return self._router.follow(Route(self._target.exchange, keys, headers | {"x-death": PERHAPS})).unroutable
