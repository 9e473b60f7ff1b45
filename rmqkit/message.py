"""A message on its way out, a delivery on its way in, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

Headers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Properties:
    """The fourteen properties of AMQP 0-9-1's basic class, under their own names; None means not set.

    `delivery_mode` is 2 (persistent: survives a broker restart in a durable queue) or 1 (transient), `priority` 0 to
    255, `expiration` a time to live in milliseconds as text, `timestamp` a moment with one second's resolution.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Headers | None = None
    delivery_mode: int | None = 2
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


PERSISTENT = Properties()


@dataclass(frozen=True, slots=True)
class Message:
    """What a producer hands to an exchange: a body, byte for byte, and where it goes.

    Messages that share one `properties` object are published fastest: it is marshalled once.
    """

    body: bytes
    routing_key: str = ""
    exchange: str = ""
    properties: Properties = field(default=PERSISTENT)


class Origin(Protocol):
    """What a run of deliveries has in common; `properties` may be decoded only when asked for."""

    @property
    def consumer_tag(self) -> str:
        """Name the consumer the broker delivered to."""
        ...

    @property
    def exchange(self) -> str:
        """Name the exchange the message was published to; empty for the default exchange."""
        ...

    @property
    def routing_key(self) -> str:
        """Return the key the message was published with."""
        ...

    @property
    def properties(self) -> Properties:
        """Return the properties, as far as they can be decoded."""
        ...

    @property
    def malformed(self) -> str:
        """Say why the properties could not be decoded whole; empty when they could."""
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as a consumer gets it.

    `delivery_tag` counts from 1 on its channel, and is worth nothing after that channel is gone: `session` tells
    channels apart. `redelivered` is true when the broker may have handed the message out before.
    """

    body: bytes
    delivery_tag: int
    redelivered: bool
    origin: Origin = field(repr=False)
    session: int = 0

    @property
    def exchange(self) -> str:
        """Name the exchange the message was published to; empty for the default exchange."""
        return self.origin.exchange

    @property
    def routing_key(self) -> str:
        """Return the key the message was published with."""
        return self.origin.routing_key

    @property
    def properties(self) -> Properties:
        """Return the properties, as far as they can be decoded: see `Origin.malformed`."""
        return self.origin.properties


class Verdict(Enum):
    """What becomes of a delivery once it was handled."""

    ACK = "ack"  # done with: the broker forgets it
    REJECT = "reject"  # not wanted: dead-lettered, or dropped where no dead-letter exchange is set
    REQUEUE = "requeue"  # back into the queue, marked redelivered
