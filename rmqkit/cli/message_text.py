"""Messages in a queue as a table, or one by one with everything they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from rmqkit.cli import output
from rmqkit.cli.report_text import age
from rmqkit.errors import Location, PayloadError
from rmqkit.message import Delivery, Message
from rmqkit.messaging.peek import PeekedMessage, PeekReport
from rmqkit.payload import amqp_json
from rmqkit.payload.compression import contents
from rmqkit.payload.death_headers import DELIVERY_COUNT, Death, deaths, known_time
from rmqkit.payload.envelopes import EnvelopeWriter

_SHOWN_CHARACTERS = 60  # of a body in a table
_HEADER = ("#", "age", "bytes", "redelivered", "exchange", "routing key", "died", "body")


def table(messages: Sequence[PeekedMessage]) -> str:
    """Tabulate messages, with the beginning of each body."""
    now = datetime.now(UTC)
    rows = [_row(each, now) for each in messages]
    return output.table(rows, header=_HEADER, numbers=(0, 1, 2), shortened=(4, 5, 6, 7))


def in_full(messages: Sequence[PeekedMessage]) -> str:
    """Show all properties, deaths and the whole body of each message."""
    now = datetime.now(UTC)
    return "\n\n".join(output.safe("\n".join(_lines(each, now))) for each in messages)


def as_json(report: PeekReport) -> dict[str, Any]:
    """Return a report as `--json` prints it: each message with its envelope."""
    writer = EnvelopeWriter()
    return {
        "type": report.type,
        "ready": report.ready,
        "consumers": report.consumers,
        "scanned": report.scanned,
        "delivery_limit": report.delivery_limit,
        "side_effects": report.side_effects,
        "cut_short": report.cut_short,
        "messages": [_message_as_json(each, writer) for each in report.messages],
        "seconds": round(report.seconds, 3),
    }


def _message_as_json(message: PeekedMessage, writer: EnvelopeWriter) -> dict[str, Any]:
    headers, time = message.delivery.properties.headers, known_time(message.delivery.properties)
    died = [{**_death(each), "time": each.time and amqp_json.format_timestamp(each.time)} for each in deaths(headers)]
    return {
        "position": message.position,
        "time": time and amqp_json.format_timestamp(time),
        "deliveries_left": message.deliveries_left,
        "deaths": died,
        "envelope": json.loads(writer.write(message.delivery)),
    }


def _death(death: Death) -> dict[str, Any]:
    return {each.name: getattr(death, each.name) for each in fields(death)}


def _row(message: PeekedMessage, now: datetime) -> tuple[str, ...]:
    delivery = message.delivery
    time, died = known_time(delivery.properties), deaths(delivery.properties.headers)
    return (
        f"{message.position:,}",
        age(time, now) if time else "-",
        f"{len(delivery.body):,}",
        _redelivered(message),
        delivery.exchange or "(default)",
        delivery.routing_key or "-",
        f"{died[0].reason} in {died[0].queue}" if died else "-",
        beginning(delivery),
    )


def _redelivered(message: PeekedMessage) -> str:
    failed = (message.delivery.properties.headers or {}).get(DELIVERY_COUNT)
    parts = [f"{failed} failed" if failed else "yes" if message.delivery.redelivered else "no"]
    if message.deliveries_left is not None:
        parts.append(f"{message.deliveries_left} left")
    return ", ".join(parts)


def _lines(message: PeekedMessage, now: datetime) -> Iterator[str]:
    delivery, given = message.delivery, message.delivery.properties
    yield f"message {message.position:,}: {len(delivery.body):,} bytes"
    yield f"  exchange: {delivery.exchange or '(default)'}"
    yield f"  routing key: {delivery.routing_key or '-'}"
    yield f"  redelivered: {_redelivered(message)}"
    if time := known_time(given):
        yield f"  age: {age(time, now)}"
    for each in fields(given):
        value = getattr(given, each.name)
        if each.name != "headers" and value is not None:
            yield f"  {each.name}: {amqp_json.format_timestamp(value) if isinstance(value, datetime) else value}"
    for name, value in (given.headers or {}).items():
        yield f"  header {name}: {json.dumps(amqp_json.to_json(value), ensure_ascii=False)}"
    if delivery.origin.malformed:
        yield f"  malformed: {delivery.origin.malformed}"
    for death in deaths(given.headers):
        when = f", first {age(death.time, now)} ago" if death.time else ""
        yield f"  died: {death.reason} in {death.queue}, {death.count:,} times{when}".replace(" 1 times", " once")
    yield ""
    yield _text(delivery)


def beginning(message: Delivery | Message) -> str:
    """Return the first characters of a body."""
    return _text(message)[:_SHOWN_CHARACTERS]


def _text(delivery: Delivery | Message) -> str:
    """Return the body as text, decompressed if need be; of any other body, its type."""
    given = delivery.properties
    try:
        return contents(delivery.body, given.content_encoding, Location("the body")).decode()
    except (UnicodeDecodeError, PayloadError):
        return f"({given.content_type or 'no text'})"
