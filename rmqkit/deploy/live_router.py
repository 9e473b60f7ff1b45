"""Routes on a live broker, by the bindings that RabbitMQ's HTTP API shows when the first route is asked for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from typing import Protocol

from rmqkit.errors import BrokerError
from rmqkit.http_api.mapping import LiveTopology
from rmqkit.message import Headers
from rmqkit.model import Target
from rmqkit.payload.death_headers import CC, X_DEATH
from rmqkit.topology.dead_letters import return_path
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.matching import PERHAPS
from rmqkit.topology.routing import Route, Router

_TIMEOUT_S = 5.0  # of the HTTP API: messages wait for it


class HttpApi(Protocol):
    """What shows the entities of a virtual host, and where a queue sends the messages it rejects."""

    def live(self, *, timeout_s: float) -> LiveTopology: ...  # noqa: D102

    def dead_letter_target(self, queue: str) -> Target | None: ...  # noqa: D102


class LiveRouter:
    """Tells where messages would go; None where the HTTP API does not answer, or shows this user too little."""

    def __init__(self, http_api: HttpApi) -> None:
        self._http_api = http_api
        self._dead_letter_target = cache(http_api.dead_letter_target)

    @cached_property
    def _live(self) -> tuple[Router, bool] | None:
        """The router, and whether it knows the policies too."""
        with suppress(BrokerError):
            live = self._http_api.live(timeout_s=_TIMEOUT_S)
            return Router(TopologyIndex(live.topology)), not live.unseen
        return None

    def leads_to(self, queue: str, exchange: str, key: str, headers: Headers) -> bool | None:
        """Tell whether a message with this routing key, and those of its CC header, certainly reaches a queue."""
        return self._live and queue in self._live[0].follow(_message(exchange, key, headers)).queues

    def return_path(self, queue: str, exchange: str, key: str, headers: Headers) -> tuple[str, ...]:
        """Return the queues through which such a message reaches a queue by itself; empty if that is not known.

        The last one dead-letters it there, because it expires or makes room for others.
        """
        if self._live is None:
            return ()
        router = self._live[0]
        return return_path(router, router.follow(_message(exchange, key, headers)), queue)

    def drops_dead_letter(self, queue: str, key: str, headers: Headers) -> bool | None:
        """Tell whether a message with this routing key certainly reaches no queue if this one rejects it."""
        if self._live is None or not self._live[1]:
            return None
        try:
            target = self._dead_letter_target(queue)
        except BrokerError:
            return None
        if target is None:
            return True
        message = _message(target.exchange, key, {**headers, X_DEATH: PERHAPS})
        if target.routing_key:
            message = replace(message, keys=(target.routing_key,))
        return self._live[0].follow(message).unroutable


def _message(exchange: str, key: str, headers: Headers) -> Route:
    return Route(exchange, (key, *(each for each in headers.get(CC, ()) if isinstance(each, str))), headers)
