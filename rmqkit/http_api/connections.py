"""The connections and channels of clients and the consumers of queues, from RabbitMQ's HTTP API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rmqkit.http_api.client import HttpApiClient, path_part
from rmqkit.http_api.mapping import rate_of, rates_of, read

# Only the fields that are read, for clusters with thousands of clients.
_CONNECTION_FIELDS = (
    "name,user_provided_name,client_properties,user,vhost,peer_host,peer_port,protocol,ssl,state,channels,connected_at,"
    "recv_oct_details,send_oct_details,frame_max"
)
_CHANNEL_FIELDS = (
    "name,number,user,vhost,connection_details,state,consumer_count,prefetch_count,messages_unacknowledged,"
    "messages_unconfirmed,message_stats,idle_since"
)


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """A connection of a client; `name` is RabbitMQ's, `client_name` the one that the client chose, if any.

    `client` and `version` are those of its library, `state` is running, flow, blocked, ... The rates are in bytes a
    second, to the broker (`received`) and from it. A `frame_max` of 0 is unlimited, or not negotiated yet.
    """

    name: str
    client_name: str = ""
    user: str = ""
    vhost: str = ""
    host: str = ""
    port: int = 0
    client: str = ""
    version: str = ""
    protocol: str = ""
    tls: bool = False
    state: str = ""
    channels: int = 0
    connected_at: datetime | None = None
    received_per_s: float = 0.0
    sent_per_s: float = 0.0
    frame_max: int = 0

    @property
    def place(self) -> str:
        """Return where the client is: its host and port."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ClientChannel:
    """A channel, and the connection it belongs to; `name` is RabbitMQ's, the rates are in messages a second.

    `unacknowledged` counts messages that its consumers hold, `unconfirmed` those that RabbitMQ has not confirmed yet.
    """

    name: str
    connection: ClientConnection
    number: int = 0
    vhost: str = ""
    state: str = ""
    consumers: int = 0
    prefetch: int = 0
    unacknowledged: int = 0
    unconfirmed: int = 0
    published_per_s: float = 0.0
    delivered_per_s: float = 0.0
    acknowledged_per_s: float = 0.0
    idle_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class QueueConsumer:
    """A consumer of a queue of a virtual host, and the connection it belongs to, as far as the user may see it.

    `unacknowledged`, the rates and `idle_since` are those of its channel, which has `consumers_on_channel` consumers; a
    prefetch of 0 is unlimited. `active` is false while another consumer is the single active one. `timeout_ms` is the
    time to acknowledge a message, if RabbitMQ reports it (4.3 and later).
    """

    tag: str
    queue: str
    connection: ClientConnection
    channel: int = 0
    prefetch: int = 0
    active: bool = True
    exclusive: bool = False
    ack_required: bool = True
    unacknowledged: int | None = None
    consumers_on_channel: int = 1
    delivered_per_s: float | None = None
    acknowledged_per_s: float | None = None
    idle_since: datetime | None = None
    timeout_ms: int | None = None
    vhost: str = ""

    @property
    def is_full(self) -> bool:
        """Tell whether it receives no more messages until it acknowledges one, as far as is known."""
        return bool(self.prefetch) and (self.unacknowledged or 0) >= self.prefetch * self.consumers_on_channel


def connections(api: HttpApiClient, *, all_vhosts: bool = False) -> tuple[ClientConnection, ...]:
    """Return the connections to the virtual host, or to all, that the user may see, sorted by client name and place.

    Raises the errors of `HttpApiClient.live`.
    """
    path = f"{'' if all_vhosts else 'vhosts/{vhost}/'}connections?columns={_CONNECTION_FIELDS}"
    return tuple(sorted(api.fetch(path, _connections), key=lambda each: (each.client_name, each.place)))


def sees_all(api: HttpApiClient) -> bool:
    """Tell whether the user sees the connections and channels of other users, too.

    See https://www.rabbitmq.com/docs/management#permissions. Raises the errors of `HttpApiClient.live`.
    """
    return not {"administrator", "monitoring"}.isdisjoint(api.user_tags())


def channels(api: HttpApiClient, *, all_vhosts: bool = False) -> tuple[ClientChannel, ...]:
    """Return the channels of the virtual host, or of all, that the user may see, sorted as their connections are.

    Raises the errors of `HttpApiClient.live`.
    """
    known = {each.name: each for each in connections(api, all_vhosts=all_vhosts)}
    found = (_channel(each, known) for each in _channels(api, all_vhosts=all_vhosts).values())
    return tuple(sorted(found, key=lambda each: (each.connection.client_name, each.connection.place, each.number)))


def consumers(api: HttpApiClient, queue: str | None = None, *, all_vhosts: bool = False) -> tuple[QueueConsumer, ...]:
    """Return the consumers of a queue, of the virtual host or of all, those that hold the most messages first.

    Raises NotFound, and the errors of `HttpApiClient.live`.
    """
    known = {each.name: each for each in connections(api, all_vhosts=all_vhosts)}
    channels = _channels(api, all_vhosts=all_vhosts)

    def convert(found: Iterable[Mapping[str, Any]]) -> list[QueueConsumer]:
        return [_consumer(each, known, channels) for each in found]

    if queue is None:
        listed = api.fetch(f"consumers{'' if all_vhosts else '/{vhost}'}", convert)
    else:
        path = f"queues/{{vhost}}/{path_part(queue)}"
        listed = api.fetch(path, lambda found: convert(found.get("consumer_details") or ()))
    return tuple(sorted(listed, key=lambda each: (-(each.unacknowledged or 0), each.connection.name, each.tag)))


def _channels(api: HttpApiClient, *, all_vhosts: bool) -> dict[str, Mapping[str, Any]]:
    """Return the channels by their names; one that was closed meanwhile has none."""
    path = f"{'' if all_vhosts else 'vhosts/{vhost}/'}channels?columns={_CHANNEL_FIELDS}"
    return api.fetch(path, lambda found: {each["name"]: each for each in found if "name" in each})


def _connections(found: Iterable[Mapping[str, Any]]) -> list[ClientConnection]:
    return [_connection(each) for each in found if "name" in each]  # else it was closed meanwhile


def _connection(found: Mapping[str, Any]) -> ClientConnection:
    properties = found.get("client_properties") or {}
    own = {
        "client_name": found.get("user_provided_name") or properties.get("connection_name") or "",
        "host": found.get("peer_host") or "",
        "port": _port(found),
        "client": properties.get("product", ""),
        "version": properties.get("version", ""),
        "tls": bool(found.get("ssl")),
        "connected_at": to_time(found.get("connected_at")),
        "received_per_s": rate_of(found, "recv_oct"),
        "sent_per_s": rate_of(found, "send_oct"),
        "frame_max": found.get("frame_max") or 0,
    }
    return read(ClientConnection, dict.fromkeys(("user", "vhost", "protocol", "state"), "") | dict(found) | own)


def _channel(found: Mapping[str, Any], known: Mapping[str, ClientConnection]) -> ClientChannel:
    counts = {"consumers": "consumer_count", "prefetch": "prefetch_count"}
    counts |= {field: f"messages_{field}" for field in ("unacknowledged", "unconfirmed")}
    own = {
        "connection": _owner(found.get("connection_details") or {}, found.get("user", ""), known),
        "state": found.get("state", ""),
        "idle_since": to_time(found.get("idle_since")),
    }
    own |= rates_of(found.get("message_stats") or {})
    return read(ClientChannel, dict(found) | own | {field: found.get(name, 0) for field, name in counts.items()})


def _owner(place: Mapping[str, Any], user: str, known: Mapping[str, ClientConnection]) -> ClientConnection:
    """Return the connection of a channel, as far as the user may see it."""
    name = place.get("connection_name") or place.get("name", "")
    own = ClientConnection(name, user=user, host=place.get("peer_host") or "", port=_port(place))
    return known.get(name) or own


def _consumer(
    found: Mapping[str, Any], known: Mapping[str, ClientConnection], channels: Mapping[str, Mapping[str, Any]]
) -> QueueConsumer:
    place = found.get("channel_details") or {}  # empty at first, and once the channel is closed
    channel = channels.get(place.get("name", ""), {})
    stats = channel.get("message_stats") or {}
    return read(
        QueueConsumer,
        {
            "tag": found["consumer_tag"],
            "queue": found["queue"]["name"],
            "vhost": found["queue"].get("vhost", ""),
            "connection": _owner(place, place.get("user", ""), known),
            "channel": place.get("number", 0),
            "prefetch": found["prefetch_count"],
            "active": found.get("active", True),
            "exclusive": found["exclusive"],
            "ack_required": found["ack_required"],
            "unacknowledged": channel.get("messages_unacknowledged"),
            "consumers_on_channel": channel.get("consumer_count") or 1,
            "delivered_per_s": rate_of(stats, "deliver") if channel else None,
            "acknowledged_per_s": rate_of(stats, "ack") if channel else None,
            "idle_since": to_time(channel.get("idle_since")),
            "timeout_ms": timeout if isinstance(timeout := found.get("consumer_timeout"), int) else None,
        },
    )


def _port(found: Mapping[str, Any]) -> int:
    port = found.get("peer_port")
    return port if isinstance(port, int) else 0  # or "unknown"


def to_time(value: object) -> datetime | None:
    """Return a time that RabbitMQ writes in milliseconds since 1970, or as text, in UTC unless it says otherwise.

    None stands for none, and for one beyond the year 9999.
    """
    if isinstance(value, int):
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(value / 1000, UTC)
    if not isinstance(value, str):
        return None
    found = datetime.fromisoformat(value)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
