"""What a command is told about its message: environment variables, with nothing secret among them.

Comes in: a delivery, and our own environment. Goes out: a command's environment. Room: handlers.

    RMQKIT_QUEUE RMQKIT_EXCHANGE RMQKIT_ROUTING_KEY RMQKIT_REDELIVERED RMQKIT_DELIVERY_TAG
    RMQKIT_HEADERS (JSON), and the other properties that are set, as RMQKIT_MESSAGE_ID, RMQKIT_CONTENT_TYPE, ...

A name never comes from a message. A value is any text but NUL, which no variable can hold: U+FFFD stands for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields

from rmqkit.message import Delivery, Origin, Properties
from rmqkit.payload import tagged
from rmqkit.settings import API_URL_VARIABLE, PASSWORD_VARIABLE, URL_VARIABLES

_PREFIX = "RMQKIT_"
_PROPERTIES = tuple(field.name for field in fields(Properties))
_OF_A_DELIVERY = ("queue", "exchange", "routing_key", "redelivered", "delivery_tag")
_NOT_INHERITED = {
    *(name.encode() for name in (*URL_VARIABLES, API_URL_VARIABLE, PASSWORD_VARIABLE)),  # they hold passwords
    *((_PREFIX + name.upper()).encode() for name in (*_PROPERTIES, *_OF_A_DELIVERY)),  # of a message around us
}


class Environments:
    """Deliveries of one queue to environments; what deliveries of one origin share is made once."""

    def __init__(self, queue: str, inherited: Mapping[bytes, bytes]) -> None:
        self._common = {name: value for name, value in inherited.items() if name not in _NOT_INHERITED}
        self._common[b"RMQKIT_QUEUE"] = _value(queue)
        self._last: tuple[Origin, dict[bytes, bytes]] | None = None

    def make(self, delivery: Delivery) -> dict[bytes, bytes]:
        """Return the whole environment of the command for a delivery; any thread may call this."""
        last = self._last
        if last is None or last[0] is not delivery.origin:
            self._last = last = (delivery.origin, self._common | _describe(delivery.origin))
        return last[1] | {
            b"RMQKIT_REDELIVERED": b"true" if delivery.redelivered else b"false",
            b"RMQKIT_DELIVERY_TAG": b"%d" % delivery.delivery_tag,
        }


def _describe(origin: Origin) -> dict[bytes, bytes]:
    told = {"exchange": origin.exchange, "routing_key": origin.routing_key}
    for name in _PROPERTIES:
        value = getattr(origin.properties, name)
        if value is not None:
            told[name] = _text(name, value)
    return {(_PREFIX + name.upper()).encode(): _value(value) for name, value in told.items()}


def _text(name: str, value: object) -> str:
    if name == "headers":
        return json.dumps(tagged.to_json(value))
    return tagged.format_timestamp(value) if name == "timestamp" else str(value)  # type: ignore[arg-type]


def _value(text: str) -> bytes:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "surrogateescape")
