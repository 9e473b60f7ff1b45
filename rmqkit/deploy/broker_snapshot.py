"""Everything in a virtual host, as far as RabbitMQ's HTTP API shows it."""

from __future__ import annotations

from dataclasses import dataclass

from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import HTTP_API_UNAVAILABLE
from rmqkit.http_api import client as http_api
from rmqkit.http_api.client import HttpApiClient
from rmqkit.http_api.mapping import LiveTopology
from rmqkit.model import Topology


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """The HTTP API and everything in the virtual host, or neither and `unavailable`, the reason.

    A virtual host that `is_new` does not exist yet, so that nothing can be inspected in it.
    """

    api: HttpApiClient | None = None
    live: LiveTopology | None = None
    unavailable: str = ""
    is_new: bool = False

    @property
    def topology(self) -> Topology | None:
        """Return everything in the virtual host, if the HTTP API is available."""
        return self.live.topology if self.live else None


def connect_if_available(connection: ReconnectingConnection) -> tuple[HttpApiClient | None, str]:
    """Return the HTTP API if it answers, which it must if the settings name it; else None and the reason.

    Raises Unreachable, AuthenticationFailed, AccessRefused, SettingsError.
    """
    try:
        return http_api.connect(connection), ""
    except HTTP_API_UNAVAILABLE as exc:
        if connection.settings.api_url:
            raise
        return None, exc.message


def take_snapshot(connection: ReconnectingConnection) -> BrokerSnapshot:
    """Read everything in the virtual host from the HTTP API if it answers, which it must if the settings name it.

    Raises Unreachable, AuthenticationFailed, AccessRefused, SettingsError.
    """
    try:
        api = http_api.connect(connection)
        return BrokerSnapshot(api, api.live())
    except HTTP_API_UNAVAILABLE as exc:
        if connection.settings.api_url:
            raise
        return BrokerSnapshot(unavailable=exc.message)
