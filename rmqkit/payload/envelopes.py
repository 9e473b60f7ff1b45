"""A message as one line of JSON, and back, byte for byte.

    {"exchange": "", "routing_key": "orders", "headers": {"n": 1}, "delivery_mode": 2, "consumer_tag": "ctag1",
     "redelivered": false, "received_at": "2026-01-31T12:00:00.123456Z", "body": "hi"}

The names are AMQP's. `body_base64` holds a body that is not UTF-8; of compressed text, `body` shows the contents beside
it. `body_file` names a file in the same folder; `amqp_json` explains header values that JSON lacks. A property that is
not set is left out, except `delivery_mode`, whose absence means persistent here. `received_at` is when the line was
written.

Of properties that would not be the same bytes again, `properties_base64` holds the bytes, which are published as they
are; `routing_key_base64` does so for a routing key that is not UTF-8. The readable values beside them are for people.
"""

from __future__ import annotations

import base64
import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from rmqkit.errors import Location, PayloadError
from rmqkit.message import Delivery, Message, Origin, Properties
from rmqkit.payload import amqp_json, formats, properties
from rmqkit.payload.compression import contents
from rmqkit.payload.field_table import decode_properties, join_properties, keep_all, split_header, split_properties

_PROPERTIES = tuple(field.name for field in fields(Properties))
_OF_A_DELIVERY = ("consumer_tag", "redelivered", "malformed")  # written by `consume`; nothing to publish
SUFFIX = ".properties.json"  # of a file with one envelope, next to the file with its body
_BODIES = ("body", "body_base64", "body_file")
_KEY, _RAW_KEY, _RAW_PROPERTIES = "routing_key", "routing_key_base64", "properties_base64"
_NAMES = frozenset(
    (*_PROPERTIES, *_OF_A_DELIVERY, "exchange", _KEY, "received_at", *_BODIES, _RAW_KEY, _RAW_PROPERTIES)
)


class Envelope(NamedTuple):
    """A message, whether it names its target, when it was written (None: unknown), and its place in the input."""

    message: Message
    addressed: bool
    received_at: datetime | None
    where: Location


class EnvelopeWriter:
    """Writes deliveries as envelopes; the part that deliveries of one origin share is encoded once."""

    def __init__(self) -> None:
        self._origin: Origin | None = None
        self._head = b""

    def write(self, delivery: Delivery, *, body_file: str = "") -> bytes:
        """Return the envelope, without a line end; `body_file` is named instead of including the body."""
        if delivery.origin is not self._origin:
            self._head = _head(delivery.origin)
            self._origin = delivery.origin
        redelivered = b"true" if delivery.redelivered else b"false"
        body = b'"body_file": "%s"' % body_file.encode() if body_file else _body(delivery)
        now = datetime.now(UTC).isoformat(timespec="microseconds")[:-6].encode()  # without +00:00
        return b'%s, "redelivered": %s, "received_at": "%sZ", %s}' % (self._head, redelivered, now, body)


def _head(origin: Origin) -> bytes:
    key, given = origin.routing_key.encode("utf-8", "surrogateescape"), origin.properties
    shown, is_text = _shown(given)
    shared: dict[str, Any] = {"exchange": origin.exchange, _KEY: key.decode("utf-8", "replace"), **shown}
    shared["consumer_tag"] = origin.consumer_tag
    if origin.malformed:
        shared["malformed"] = origin.malformed
    if shared[_KEY] != origin.routing_key:
        shared[_RAW_KEY] = base64.b64encode(key).decode()
    if not is_text or not keep_all(given):
        shared[_RAW_PROPERTIES] = base64.b64encode(origin.header).decode()
    return json.dumps(shared, ensure_ascii=False).encode("utf-8", "backslashreplace")[:-1]


def _shown(given: Properties) -> tuple[dict[str, Any], bool]:
    """Return the properties that an envelope shows, and whether they show every byte of their texts.

    A byte that is not UTF-8 is shown as a replacement character; of names that look the same then, one is shown.
    """
    shown: dict[str, Any] = {}
    for name in _PROPERTIES:
        value = getattr(given, name)
        if value is not None or name == "delivery_mode":
            shown[name] = amqp_json.format_timestamp(value) if name == "timestamp" else amqp_json.to_json(value)
    text = json.dumps(shown, ensure_ascii=False).encode("utf-8", "surrogateescape")
    try:
        text.decode()
    except UnicodeDecodeError:
        return json.loads(text.decode("utf-8", "replace")), False
    return shown, True


def _body(delivery: Delivery) -> bytes:
    """Return the body as text, in base64, or, if it holds compressed text, as both."""
    raw = delivery.body
    try:
        shown = contents(raw, delivery.properties.content_encoding, Location("the body"))
        text = b'"body": ' + json.dumps(shown.decode(), ensure_ascii=False).encode()
    except (UnicodeDecodeError, PayloadError):
        return b'"body_base64": "%s"' % base64.b64encode(raw)
    return text if shown is raw else b'%s, "body_base64": "%s"' % (text, base64.b64encode(raw))


class EnvelopeReader:
    """Reads envelopes as messages; equal properties become one object, which is checked and marshalled once.

    `folder` holds the files that envelopes name; without it such envelopes are refused.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._last_written = ""
        self._last = Properties()

    def read(self, line: bytes, where: Location) -> Envelope:
        """Parse an envelope; `where` is the place of the line's first byte. Raises PayloadError with that place."""
        envelope = json.loads(formats.check_json(line, where))
        if not isinstance(envelope, dict):
            raise _error(where, 'an envelope is an object, like {"body": "hi"}')
        unknown = sorted(envelope.keys() - _NAMES)
        if unknown:
            raise _error(where, f"unknown name {unknown[0]!r}{_did_you_mean(unknown[0])}")
        if "malformed" in envelope and _RAW_PROPERTIES not in envelope:
            raise _error(
                where, "its properties could not be read completely; remove 'malformed' to publish those it has"
            )
        try:
            exchange, routing_key = envelope.get("exchange", ""), _routing_key(envelope)
            properties.check_target(exchange, routing_key)
            message = Message(self._body(envelope), routing_key, exchange, self._properties(envelope))
            moment = envelope.get("received_at")
            received_at = None if moment is None else amqp_json.parse_timestamp(moment)
        except (ValueError, PayloadError) as exc:
            raise _error(where, str(exc)) from exc
        return Envelope(message, not envelope.keys().isdisjoint(("exchange", _KEY, _RAW_KEY)), received_at, where)

    def _body(self, envelope: dict[str, Any]) -> bytes:
        given = [name for name in _BODIES if name in envelope]
        if given == ["body", "body_base64"]:
            encoding, raw = envelope.get("content_encoding"), amqp_json.parse_base64(envelope["body_base64"])
            shown = contents(raw, encoding if isinstance(encoding, str) else None, Location("the body"))
            if shown is not raw:
                if shown != str(envelope["body"]).encode():
                    raise ValueError("'body_base64' and 'body' hold different bodies; remove one of them")
                return raw
        if len(given) != 1:
            raise ValueError("an envelope has either 'body', 'body_base64' or, in a folder, 'body_file'")
        value = envelope[given[0]]
        if given[0] == "body_base64":
            return amqp_json.parse_base64(value)
        if not isinstance(value, str):
            raise ValueError(f"'{given[0]}' must be text; write JSON as text too, with its quotes escaped")  # noqa: TRY004
        return value.encode() if given[0] == "body" else self._read_file(value)

    def _read_file(self, name: str) -> bytes:
        if self._folder is None:
            raise ValueError("'body_file' needs a folder of envelopes as the input")
        if PurePath(name).name != name or "\0" in name:
            raise ValueError("'body_file' must name a file in the same folder")
        try:
            return (self._folder / name).read_bytes()
        except OSError as exc:
            raise ValueError(f"its body, {name}, cannot be read: {exc.strerror}") from exc

    def _properties(self, envelope: dict[str, Any]) -> Properties:
        values = {name: envelope[name] for name in _PROPERTIES if name in envelope}
        raw = envelope.get(_RAW_PROPERTIES)
        written = repr((values, raw))  # as text: 1, 1.0 and true are equal in Python, but three types on the wire
        if written != self._last_written and raw is not None:
            self._last, self._last_written = _raw_properties(raw, values), written
        elif written != self._last_written:
            if values.get("headers") is not None:
                values["headers"] = amqp_json.from_json(values["headers"])
            if values.get("timestamp") is not None:
                values["timestamp"] = amqp_json.parse_timestamp(values["timestamp"])
            found = Properties(**values)
            properties.check(found)
            self._last, self._last_written = found, written
        return self._last


def _routing_key(envelope: dict[str, Any]) -> Any:
    shown, raw = envelope.get(_KEY, ""), envelope.get(_RAW_KEY)
    if raw is None:
        return shown
    key = amqp_json.parse_base64(raw)
    if shown != key.decode("utf-8", "replace"):
        raise ValueError(f"{_RAW_KEY!r} and {_KEY!r} hold different routing keys; remove one of them")
    return key.decode("utf-8", "surrogateescape")


def _raw_properties(raw: str, values: dict[str, Any]) -> Properties:
    header = amqp_json.parse_base64(raw)
    if join_properties(split_properties(header)) != header:
        raise ValueError(f"{_RAW_PROPERTIES!r} holds no encoded properties")
    split_header(header)
    found, _ = decode_properties(header)
    if _shown(found)[0] != values:
        raise ValueError(f"{_RAW_PROPERTIES!r} differs from the properties shown; remove it to publish those")
    return found


def _did_you_mean(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - lazy: only for an error

    close = get_close_matches(name, _NAMES, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _error(where: Location, message: str) -> PayloadError:
    return formats.error_at(Location(where.file, where.line or 1, where.column or 1), message, summary="Bad envelope")
