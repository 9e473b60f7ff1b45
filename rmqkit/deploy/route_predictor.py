"""Compare the routes of traced messages with a topology: that of files, or the one on the broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rmqkit.errors import BrokerError
from rmqkit.messaging.firehose import TracedMessage
from rmqkit.model import Topology
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.routing import Route, Router

_REPLIES = "amq.rabbitmq.reply-to."  # queues that exist on a channel only


@dataclass(frozen=True, slots=True)
class Prediction:
    """The queues that a topology leads a message to, in comparison with those of a traced message.

    Queues are `missing` if a published message was not routed to them, and `unexpected` if the topology certainly does
    not lead it to them.
    """

    queues: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Tell whether the message was routed otherwise than the topology says."""
        return bool(self.missing or self.unexpected)


class RoutePredictor:
    """Predicts by a topology where messages go.

    `read` reads the topology. That of a broker changes: if it is `live`, it is read again for each new difference, and
    a message differs only if both route it otherwise.
    """

    def __init__(self, read: Callable[[], Topology], *, live: bool) -> None:
        self._read = read
        self._live = live
        self._router = Router(TopologyIndex(read()))
        self._known: set[tuple[object, ...]] = set()  # differences that were there when the topology was read again

    def predict(self, traced: TracedMessage) -> Prediction | None:
        """Compare the route of a message with the topology; None if this does not have its exchange."""
        found = _predict(self._router, traced)
        if not (self._live and found and found.differs):
            return found
        difference = traced.event, traced.message.exchange, traced.routing_keys, traced.queues
        if difference not in self._known:
            try:
                self._router = Router(TopologyIndex(self._read()))
            except BrokerError:  # it may have changed
                return None
            found = _predict(self._router, traced)
            if found and found.differs:
                self._known.add(difference)
        return found


def _predict(router: Router, traced: TracedMessage) -> Prediction | None:
    """Compare the route of a message with that of a topology; None if the topology does not have its exchange."""
    message, index = traced.message, router.index
    exchange, keys = message.exchange, traced.routing_keys or ("",)
    route = router.follow(Route(exchange, keys, message.properties.headers or {}))
    known = route.queues if not exchange else exchange in index.exchanges or exchange in index.out_of
    if not known or any(key.startswith(_REPLIES) for key in keys):
        return None
    reached, actual = set(route.queues), set(traced.queues)
    missing = () if traced.delivered_from is not None else tuple(sorted(reached - actual))
    return Prediction(route.queues, missing, () if route.unknown else tuple(sorted(actual - reached)))
