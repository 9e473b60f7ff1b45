"""What is changed in a message so that nothing happens to it while it lies aside, and how that is undone. Pure.

Comes in: properties as on the wire. Goes out: the same; what is not named here keeps every byte. Room: broker.

A time to live must not end in a queue that only holds messages for a while, and the broker refuses a user_id that is
not the publisher's own (https://www.rabbitmq.com/docs/validated-user-id): both wait in a header.
"""

from __future__ import annotations

from rmqkit.broker.fields import MalformedField, join_properties, join_table, split_properties, split_table

EXPIRATION = "x-rmqkit-expiration"
USER_ID = "x-rmqkit-user-id"
DELIVERY_COUNT = "x-delivery-count"  # a quorum queue's own, of tries that are over
KEPT_USER_ID = f"keep their user_id in the header {USER_ID}, because it is not that of this login"
_HEADERS = {"expiration": EXPIRATION, "user_id": USER_ID}
_LENGTH_BYTES = 4


def set_aside(header: bytes, username: str) -> tuple[bytes, str]:
    """Move what would act, or be refused, into headers; the note is always empty."""
    parts = _split(header)
    if parts is None or not ("expiration" in parts or "user_id" in parts or "headers" in parts):
        return header, ""
    fields = split_table(parts["headers"]) if "headers" in parts else []
    waiting = []
    for name, waits_as in _HEADERS.items():
        value = parts.get(name, b"")[1:]  # behind its length
        if name in parts and not (name == "user_id" and value == username.encode()):
            waiting.append((waits_as, long_string(value)))
            del parts[name]
    kept = [field for field in fields if field[0] != DELIVERY_COUNT]
    if waiting or len(kept) != len(fields):
        return with_headers(parts, [*waiting, *kept]), ""
    return header, ""


def take_back(header: bytes, username: str) -> tuple[bytes, str]:
    """Undo `set_aside`; the note says what had to stay in a header."""
    parts = _split(header)
    if parts is None or "headers" not in parts:
        return header, ""
    fields, note = split_table(parts["headers"]), ""
    waiting = dict(fields)
    for name, waits_as in _HEADERS.items():
        value = waiting.get(waits_as, b"")[1 + _LENGTH_BYTES :]
        if waits_as not in waiting or name in parts:
            continue
        if name == "user_id" and value != username.encode():
            note = KEPT_USER_ID
            continue
        parts[name] = bytes((len(value),)) + value
        fields = [field for field in fields if field[0] != waits_as]
    kept = [field for field in fields if field[0] != DELIVERY_COUNT]
    return (header if len(kept) == len(waiting) else with_headers(parts, kept)), note


def long_string(value: bytes) -> bytes:
    """Return the value of a header that is a text, its type before it."""
    return b"S" + len(value).to_bytes(_LENGTH_BYTES, "big") + value


def _split(header: bytes) -> dict[str, bytes] | None:
    """Return the properties, or None for what no RabbitMQ sends: better moved as it is than not at all."""
    try:
        parts = split_properties(header)
        split_table(parts.get("headers", bytes(_LENGTH_BYTES)))
    except MalformedField:
        return None
    return parts


def with_headers(parts: dict[str, bytes], fields: list[tuple[str, bytes]]) -> bytes:
    """Put properties together, with these fields in place of their headers."""
    parts.pop("headers", None)
    return join_properties({**parts, "headers": join_table(fields)} if fields else parts)
