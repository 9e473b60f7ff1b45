"""Properties as bytes of the wire: made at random, published and received by pika as they are."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.queues import ready

_TEXT, _TABLE, _OCTET, _TIME = range(4)
_KINDS = (_TEXT, _TEXT, _TABLE, _OCTET, _OCTET, _TEXT, _TEXT, _TEXT, _TEXT, _TIME, _TEXT, _TEXT, _TEXT, _TEXT)
_TIMES = (0, 1_700_000_000, 1_700_000_000_000, 2**64 - 1, 2**63)
_DEEP = 150  # tables in tables: more than rmqkit decodes
UUID = bytes(range(0xF0, 0x100))


class RawProperties(pika.BasicProperties):
    """Properties that pika sends and receives without decoding them."""

    def __init__(self, raw: bytes = b"") -> None:
        super().__init__()
        self.raw = raw

    def encode(self) -> list[bytes]:
        """Return the bytes."""
        return [self.raw]

    def decode(self, encoded: bytes, offset: int = 0) -> RawProperties:
        """Keep the bytes."""
        self.raw = bytes(encoded[offset:])
        return self


class Raw(NamedTuple):
    """A message: its routing key and its properties, as on the wire, and its body."""

    routing_key: bytes
    header: bytes
    body: bytes


def short(text: bytes) -> bytes:
    """Encode a short string."""
    return bytes((len(text),)) + text


def sized(data: bytes) -> bytes:
    """Encode a long string, a table or an array without its type."""
    return struct.pack(">I", len(data)) + data


def properties(**given: bytes) -> bytes:
    """Join encoded values of properties, by name."""
    names = ("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
             "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id")  # fmt: skip
    flags = sum(1 << (15 - names.index(name)) for name in given)
    return struct.pack(">H", flags) + b"".join(given[name] for name in names if name in given)


def odd_messages() -> Iterator[Raw]:
    """Yield messages whose values a client of another language sends, and Python's types cannot hold."""
    deep = b""
    for _ in range(_DEEP):
        deep = sized(short(b"n") + b"F" + (deep or sized(b"")))
    headers = {
        "milliseconds": b"T" + struct.pack(">Q", 1_700_000_000_000),
        "before 1970": b"T" + struct.pack(">q", -1),
        "text": b"S" + sized(b"caf\xe9"),
        "float": b"f" + struct.pack(">f", 0.1),
        "decimal": b"D" + struct.pack(">Bi", 2, 100),
        "void": b"V",
        "octet": b"b\xff",
        "short": b"s\xff\xfe",
        "narrow": b"l" + struct.pack(">q", 5),
        "array": b"A" + sized(b"A" + sized(b"V" + b"f" + struct.pack(">f", 1e-30)) + b"x" + sized(b"\0\xff")),
        "deep": b"F" + deep,
    }
    for name, value in headers.items():
        yield Raw(b"key", properties(headers=sized(short(name.encode()) + value), delivery_mode=b"\2"), name.encode())
    twice = sized(2 * (short(b"n\xff") + b"I\0\0\0\1"))
    yield Raw(b"key", properties(headers=twice), b"a name twice, not UTF-8")
    yield Raw(b"key", properties(headers=sized(b"")), b"an empty table")
    yield Raw(b"key", properties(timestamp=struct.pack(">Q", 1_700_000_000_000), type=short(b"t")), b"milliseconds")
    yield Raw(b"key", properties(correlation_id=short(UUID), message_id=short(86 * b"\xff")), b"UUID")
    yield Raw(b"k\xff\x80.a", properties(priority=b"\7", app_id=short(255 * b"\xfe")), b"a key that is not UTF-8")
    yield Raw(b"key", properties(), b"nothing")


def random_messages(source: random.Random, number: int) -> Iterator[Raw]:
    """Yield messages with random properties that RabbitMQ accepts."""
    for each in range(number):
        values = {}
        for name, kind in zip(pika.BasicProperties().__dict__, _KINDS, strict=True):
            if source.random() < 0.4 and name not in ("expiration", "user_id"):
                values[name] = _value(source, kind)
        yield Raw(_bytes(source, 20), properties(**values), b"random %d" % each)


def _value(source: random.Random, kind: int) -> bytes:
    match kind:
        case 0:
            return short(_bytes(source, 255))
        case 1:
            return sized(_table(source, 0))
        case 2:
            return bytes((source.choice((1, 2)),))
        case _:
            return struct.pack(">Q", source.choice(_TIMES))


def _bytes(source: random.Random, most: int) -> bytes:
    return source.choice((source.randbytes, lambda size: size * b"a"))(source.randint(0, source.choice((3, most))))


def _table(source: random.Random, depth: int) -> bytes:
    return b"".join(short(b"h" + _bytes(source, 20)) + _field(source, depth) for _ in range(source.randint(0, 3)))


def _field(source: random.Random, depth: int) -> bytes:
    tag = source.choice("tbsIlfdTDSxVAF" if depth < 4 else "tbsIlfdTDSxV")
    match tag:
        case "A":
            value = sized(b"".join(_field(source, depth + 1) for _ in range(source.randint(0, 3))))
        case "F":
            value = sized(_table(source, depth + 1))
        case "S" | "x":
            value = sized(_bytes(source, 40))
        case "f" | "d":
            value = struct.pack(f">{tag}", source.uniform(-1e9, 1e9))
        case "T":
            value = struct.pack(">Q", source.choice(_TIMES))
        case "t":
            value = bytes((source.randint(0, 1),))
        case _:
            value = source.randbytes({"b": 1, "s": 2, "I": 4, "l": 8, "D": 5, "V": 0}[tag])
    return tag.encode() + value


def publish(channel: BlockingChannel, messages: list[Raw], exchange: str) -> None:
    """Publish messages as they are."""
    for each in messages:
        channel.basic_publish(exchange, each.routing_key, each.body, RawProperties(each.header))  # type: ignore[arg-type]


def drain(channel: BlockingChannel, queue: str) -> list[Raw]:
    """Empty a queue; the channel's connection has to receive `RawProperties`."""
    found = []
    for _ in range(ready(channel, queue)):
        method, given, body = channel.basic_get(queue, auto_ack=True)
        key: Any = method.routing_key
        found.append(Raw(key.encode() if isinstance(key, str) else key, given.raw, body or b""))
    return found
