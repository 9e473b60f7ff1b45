"""Messages to publish, deliveries of a consumer, and the verdict on a delivery."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

from rmqkit.errors import PayloadError

Headers = Mapping[str, Any]


class _Encoded:
    __slots__ = ("encoded",)


@dataclass(frozen=True, slots=True)
class Properties(_Encoded):
    """The fourteen properties of AMQP 0-9-1's basic class, under their own names; None means not set.

    `delivery_mode` is 2 (persistent: survives a broker restart in a durable queue) or 1 (transient), `priority` 0 to
    255, `expiration` a time to live in milliseconds as text, `timestamp` a time with a resolution of one second.

    Those of a delivery also keep the bytes that arrived, in `encoded`: published again, they are sent as these bytes.
    A copy made by `dataclasses.replace` has none, and is encoded from its values.
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
_JSON = Properties(content_type="application/json")


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish: a body, byte for byte, and its destination.

    Messages that share one `properties` object are published fastest: it is marshalled once.
    """

    body: bytes
    routing_key: str = ""
    exchange: str = ""
    properties: Properties = field(default=PERSISTENT)

    @classmethod
    def json(cls, value: object, routing_key: str = "", exchange: str = "", **properties: Any) -> Message:
        """Return a message whose body is a value as JSON: `Message.json({"order": 7}, "orders", message_id="7")`.

        Raises PayloadError for a value that JSON has no words for.
        """
        try:
            body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError) as exc:
            raise PayloadError(f"the value cannot be written as JSON: {exc}") from exc
        return cls(body, routing_key, exchange, replace(_JSON, **properties) if properties else _JSON)


class Origin(Protocol):
    """The values that a run of deliveries has in common; `properties` may be decoded on first use."""

    consumer_tag: str
    exchange: str  # empty for the default exchange
    routing_key: str

    @property
    def header(self) -> bytes:
        """Return the properties as they arrived."""

    @property
    def properties(self) -> Properties:
        """Return the properties, as far as they can be decoded."""

    @property
    def malformed(self) -> str:
        """Return why the properties could not be decoded completely; empty if they could."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as a consumer receives it.

    `delivery_tag` counts from 1 on its channel and is void once that channel is closed; `session` identifies the
    channel. `redelivered` is true when the broker may have delivered the message before.
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

    def json(self) -> Any:
        """Return the body as JSON reads it; raise PayloadError, which tells the place, if it is none."""
        try:
            return json.loads(self.body)
        except ValueError as exc:  # of the encoding, too
            raise PayloadError(f"the body is not JSON: {exc}") from exc


class Verdict(Enum):
    """How a delivery is settled once it was handled."""

    ACK = "ack"  # the broker forgets it
    REJECT = "reject"  # dead-lettered, or dropped if the queue has no dead-letter exchange
    REQUEUE = "requeue"  # requeued, and redelivered with that mark
