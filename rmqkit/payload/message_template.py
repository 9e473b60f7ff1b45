"""Messages from templates: body, routing key and headers, rendered for every message.

With a seed, message `n` has the same random values in every run, wherever the run begins.
"""

from __future__ import annotations

import os
import random
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

from rmqkit.errors import Location, PayloadError
from rmqkit.message import PERSISTENT, Message, Properties
from rmqkit.payload import formats
from rmqkit.payload import properties as property_checks
from rmqkit.payload.formats import Format
from rmqkit.payload.input_stream import BEGINNING, InputPosition, InputStream
from rmqkit.payload.jinja_sandbox import JinjaTemplate, TemplateSandbox
from rmqkit.payload.rows import Row, RowReader
from rmqkit.payload.sources import MessageDefaults
from rmqkit.stop import Stop

NAMES = ("choice", "n", "now", "random_float", "random_int", "random_text", "row", "uuid")
_64_BITS = (1 << 64) - 1
MAX_TEXT = 10_000  # characters of a random text
_LETTERS = string.ascii_letters + string.digits

Fields = Mapping[str, Any]


class SeededRandom(random.Random):
    """Random numbers that depend on the seed and a message's number alone: SplitMix64, which is cheap to start."""

    def start(self, seed: int, n: int) -> None:
        """Start the numbers of message `n`."""
        self._state = (seed + n) & _64_BITS
        self._state = self._next()  # otherwise adjacent messages would have the same numbers, shifted

    def _next(self) -> int:
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _64_BITS
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _64_BITS
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _64_BITS
        return z ^ z >> 31

    def random(self) -> float:
        """Return a number from 0 up to 1."""
        return (self._next() >> 11) / (1 << 53)

    def getrandbits(self, k: int, /) -> int:
        """Return `k` random bits."""
        bits = 0
        for _ in range(0, k, 64):
            bits = bits << 64 | self._next()
        return bits >> (-k % 64)


class _Variables:
    """The variables that the templates of a message share: its number, its row, and generated values."""

    def __init__(self, seed: int | None) -> None:
        self.values: dict[str, Any] = {}
        self._key = os.urandom(64) if seed is None else blake2b(b"%d" % seed).digest()
        self._seed = int.from_bytes(self._key[:8], "big")
        self._random = SeededRandom()
        self._functions: dict[str, Callable[..., Any]] = {
            "choice": self._random.choice,
            "random_float": self._float,
            "random_int": self._random.randint,
            "random_text": self._text,
        }

    def set(self, n: int, row: Fields, uses: frozenset[str]) -> None:
        """Set the variables of message `n`; a row's fields hide the built-in names."""
        values = self.values
        values.clear()
        values.update(self._functions, n=n, row=row)
        if not uses.isdisjoint(self._functions):
            self._random.start(self._seed, n)
        if "uuid" in uses:
            values["uuid"] = str(UUID(bytes=blake2b(b"%d" % n, key=self._key, digest_size=16).digest(), version=4))
        if "now" in uses:
            values["now"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        values.update(row)

    def _float(self, low: float = 0.0, high: float = 1.0) -> float:
        return self._random.uniform(low, high)

    def _text(self, length: int) -> str:
        if not 0 <= length <= MAX_TEXT:
            raise ValueError
        return "".join(self._random.choices(_LETTERS, k=length))


class MessageTemplate:
    """The defaults of a run, with templates for body, routing key and headers.

    Without a `body` it is the row, as JSON. `headers` are texts by name, or written as `name=text` or `name:=JSON`; a
    `routing_key` of None keeps the default one. Raises PayloadError with the place of a fault that shows without a row.
    """

    def __init__(
        self,
        defaults: MessageDefaults,
        *,
        body: str | None = None,
        origin: str = "`template=`",
        routing_key: str | None = None,
        headers: Sequence[str] | Mapping[str, str] = (),
        seed: int | None = None,
    ) -> None:
        sandbox = TemplateSandbox()
        self._defaults = defaults
        self._variables = _Variables(seed)
        self._templates: list[JinjaTemplate] = []

        def compiled(text: str, where: str) -> JinjaTemplate:
            self._templates.append(JinjaTemplate(sandbox, self._variables.values, text, where))
            return self._templates[-1]

        self._body = None if body is None else compiled(body, origin)
        self._key = None if routing_key is None else compiled(routing_key, "`routing_key=`")
        named = [(name, text, False) for name, text in headers.items()] if isinstance(headers, Mapping) else None
        self._headers = [
            (name, compiled(text, f"header {name!r}"), typed)
            for name, text, typed in named or property_checks.split_headers(headers)
        ]
        self._typed = any(typed for _, _, typed in self._headers)
        self._uses = frozenset().union(*(each.uses for each in self._templates))
        self._format = defaults.format or (Format.JSON if body is None else formats.format_of(origin))
        self._plain = defaults.typed(formats.content_type(b"", self._format))
        self._last: tuple[list[str], Properties] = [], self._plain  # the headers' texts, and their properties
        self._last_key = ""

    def check_names(self, fields: Iterable[str] = ()) -> None:
        """Refuse a variable that is neither built in nor a field of the rows. Raises PayloadError with its place."""
        for each in self._templates:
            each.check_names((*NAMES, *fields))

    def numbered(self, count: int) -> Iterator[Message]:
        """Yield messages 0 to count-1. Raises PayloadError for one that cannot be made."""
        for n in range(count):
            yield self._message(n, Location(f"message {n}"))

    def records(self, records: Iterable[Fields]) -> Iterator[Message]:
        """Yield a message per mapping. Raises PayloadError for one that cannot be made."""
        for n, fields in enumerate(records):
            where = Location(f"row {n + 1}")
            yield self._message(n, where, Row(dict(fields), where))

    def rows(self, stream: InputStream, begin: InputPosition = BEGINNING) -> Iterator[Message | None]:
        """Yield a message per row from a place on, and None before a wait. Raises PayloadError at the first bad one."""
        reader, n = RowReader(stream.name), begin.n
        if stream.rereadable:
            stream.seek(BEGINNING)
            if begin.offset:
                for line in stream.lines():
                    if line is not None:
                        reader.read(line, stream.line)
                    if reader.names is not None:
                        break
                stream.seek(begin)
        for line in stream.lines():
            if line is None:
                yield None
                continue
            is_new = reader.names is None
            row = reader.read(line, stream.line)
            if is_new and reader.names:
                self.check_names(reader.names)
            if row is not None:
                yield self._message(n, row.where, row)
                n += 1
        if not stream.stopped:
            reader.finish(stream.line)

    def _message(self, n: int, where: Location, row: Row | None = None) -> Message:
        self._variables.set(n, row.fields if row else {}, self._uses)
        defaults = self._defaults
        try:
            key = defaults.routing_key if self._key is None else self._checked_key(self._key.render())
            properties = self._properties() if self._headers else self._plain
            body = self._body.render().encode() if self._body else row.as_json() if row else b""
        except (ValueError, PayloadError) as exc:
            raise formats.error_at(where, str(exc), summary="A template cannot be rendered") from exc
        if check := defaults.contract_of(defaults.exchange, key):
            check(body, Location(f"the body made for {where}"))
        elif self._body is not None and self._format is not None:
            formats.check(body, self._format, Location(f"the body made for {where}"))
        return Message(body, key, defaults.exchange, properties)

    def _checked_key(self, key: str) -> str:
        if key != self._last_key:
            property_checks.check_target(self._defaults.exchange, key)
            self._last_key = key
        return key

    def _properties(self) -> Properties:
        """Return the properties with the headers rendered; equal ones in succession are one object."""
        texts = [template.render() for _, template, _ in self._headers]
        if texts != self._last[0]:
            table = {
                name: property_checks.parse_typed(name, text) if typed else text  # the text of a typed one is JSON
                for (name, _, typed), text in zip(self._headers, texts, strict=True)
            }
            found = replace(self._plain, headers={**(self._plain.headers or {}), **table})
            if self._typed or not self._last[0]:  # text always fits; names are checked once
                property_checks.check(found)
            self._last = texts, found
        return self._last[1]


def fill(
    body: str | None = None,
    *,
    rows: str | os.PathLike[str] | Iterable[Fields] | None = None,
    count: int = 1,
    exchange: str = "",
    routing_key: str = "",
    headers: Mapping[str, str] | None = None,
    properties: Properties = PERSISTENT,  # as they are, including headers that are not templates
    seed: int | None = None,
) -> Iterator[Message]:
    """Return messages whose body, routing key and headers are templates in Jinja2's language, rendered for each.

    There is one for each of the `rows`, mappings or those of a file (CSV with a header line, or JSON lines), whose
    fields are variables; without a body it is the row, as JSON. Without rows there are `count`. Other variables are
    `n`, from 0, `uuid`, `now`, and functions for random values, which with a `seed` are the same in every run.

    Raises PayloadError for a bad template, at once; for a bad row, when it is its turn.
    """
    if body is None and rows is None:
        raise PayloadError("nothing to render: pass a body, or rows")
    defaults = MessageDefaults(exchange, properties=properties)
    template = MessageTemplate(
        defaults, body=body, origin="the body", routing_key=routing_key, headers=headers or {}, seed=seed
    )
    if rows is None:
        template.check_names()
        return template.numbered(count)
    if isinstance(rows, str | os.PathLike):
        return (each for each in template.rows(InputStream(os.fspath(rows), Stop())) if each is not None)
    return template.records(rows)
