"""Messages by templates: body, routing key and headers filled in for every message.

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

from rmqkit.errors import Location, PayloadError, Problem
from rmqkit.message import PERSISTENT, Message, Properties
from rmqkit.payload import formats, properties
from rmqkit.payload.formats import Format
from rmqkit.payload.input_stream import InputPosition, InputStream
from rmqkit.payload.jinja_template import JinjaTemplate, Strict
from rmqkit.payload.rows import Row, RowReader
from rmqkit.payload.sources import MessageDefaults
from rmqkit.stop import Stop

NAMES = ("choice", "n", "now", "random_float", "random_int", "random_text", "row", "uuid")
_64_BITS = (1 << 64) - 1
MAX_TEXT = 10_000  # characters of a random text
_LETTERS = string.ascii_letters + string.digits

Fields = Mapping[str, Any]


class SeededRandom(random.Random):
    """Random numbers that depend on the seed and on a message's number alone: SplitMix64, which is cheap to begin."""

    def begin(self, seed: int, n: int) -> None:
        """Begin with the numbers of message `n`."""
        self._state = (seed + n) & _64_BITS
        self._state = self._next()  # or the numbers of neighbours would be each other's, shifted

    def _next(self) -> int:
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _64_BITS
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _64_BITS
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _64_BITS
        return z ^ z >> 31

    def random(self) -> float:
        """Return a number from 0 up to 1."""
        return (self._next() >> 11) / (1 << 53)

    def getrandbits(self, k: int, /) -> int:
        """Return so many bits."""
        bits = 0
        for _ in range(0, k, 64):
            bits = bits << 64 | self._next()
        return bits >> (-k % 64)


class _Variables:
    """What the templates of one message share: its number, its row, and what is made up for it."""

    def __init__(self, seed: int | None) -> None:
        self.values: dict[str, Any] = {}
        self._key = os.urandom(64) if seed is None else blake2b(b"%d" % seed).digest()
        self._seed = int.from_bytes(self._key[:8], "big")
        self._dice = SeededRandom()
        self._functions: dict[str, Callable[..., Any]] = {
            "choice": self._dice.choice,
            "random_float": self._float,
            "random_int": self._dice.randint,
            "random_text": self._text,
        }

    def fill(self, n: int, row: Fields, uses: frozenset[str]) -> None:
        """Set the variables of message `n`; a row's fields hide ours of the same name."""
        values = self.values
        values.clear()
        values.update(self._functions, n=n, row=row)
        if not uses.isdisjoint(self._functions):
            self._dice.begin(self._seed, n)
        if "uuid" in uses:
            values["uuid"] = str(UUID(bytes=blake2b(b"%d" % n, key=self._key, digest_size=16).digest(), version=4))
        if "now" in uses:
            values["now"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        values.update(row)

    def _float(self, low: float = 0.0, high: float = 1.0) -> float:
        return self._dice.uniform(low, high)

    def _text(self, length: int) -> str:
        if not 0 <= length <= MAX_TEXT:
            raise ValueError
        return "".join(self._dice.choices(_LETTERS, k=length))


class _Header:
    """A header whose value is filled in; typed, it has to be JSON by then."""

    def __init__(self, name: str, template: JinjaTemplate, *, typed: bool) -> None:
        self.name, self.template, self.typed = name, template, typed

    def value(self, text: str) -> Any:
        return properties.parse_typed(self.name, text) if self.typed else text


class MessageTemplate:
    """What all messages of a run are cut by: their outline, with templates for body, routing key and headers.

    Without a `body` it is the row, as JSON. `headers` are texts by name, or written as `name=text` or `name:=JSON`; a
    `routing_key` of None leaves that of the outline. Raises PayloadError with the place of every fault that shows
    before there is a row.
    """

    def __init__(
        self,
        outline: MessageDefaults,
        *,
        body: str | None = None,
        origin: str = "--template",
        routing_key: str | None = None,
        headers: Sequence[str] | Mapping[str, str] = (),
        seed: int | None = None,
    ) -> None:
        sandbox = Strict()
        self._outline = outline
        self._variables = _Variables(seed)

        def compiled(text: str, where: str) -> JinjaTemplate:
            return JinjaTemplate(sandbox, self._variables.values, text, where)

        self._body = None if body is None else compiled(body, origin)
        self._key = None if routing_key is None else compiled(routing_key, "--routing-key")
        self._headers = [
            _Header(name, compiled(text, f"header {name!r}"), typed=typed)
            for name, text, typed in (
                [(name, text, False) for name, text in headers.items()]
                if isinstance(headers, Mapping)
                else properties.split_headers(headers)
            )
        ]
        self._typed = any(each.typed for each in self._headers)
        parts = [self._body, self._key, *(each.template for each in self._headers)]
        self._templates = [each for each in parts if each is not None]
        self._uses = frozenset().union(*(each.uses for each in self._templates))
        self._format = outline.format or (Format.JSON if body is None else formats.format_of(origin))
        self._plain = outline.typed(formats.content_type(b"", self._format))
        self._last: tuple[list[str], Properties] = [], self._plain  # the headers' texts, and what they make
        self._last_key = ""

    def check_names(self, fields: Iterable[str] = ()) -> None:
        """Refuse a variable that is neither ours nor a field of the rows. Raises PayloadError with its place."""
        for each in self._templates:
            each.check_names((*NAMES, *fields))

    def numbered(self, count: int) -> Iterator[Message]:
        """Yield messages 0 to count-1. Raises PayloadError for one that cannot be made."""
        for n in range(count):
            yield self._message(n, Location(f"message {n}"), {})

    def records(self, records: Iterable[Fields]) -> Iterator[Message]:
        """Yield a message per mapping. Raises PayloadError for one that cannot be made."""
        for n, fields in enumerate(records):
            where = Location(f"row {n + 1}")
            yield self._message(n, where, fields, Row(dict(fields), where))

    def rows(self, stream: InputStream, begin: InputPosition = InputPosition()) -> Iterator[Message | None]:  # noqa: B008 - immutable
        """Yield a message per row from a place on, and None before a wait. Raises PayloadError at the first bad one."""
        reader, n = RowReader(stream.name), begin.n
        if stream.rereadable:
            stream.seek(InputPosition())
            if begin.offset:
                self._read_header(reader, stream)
                stream.seek(begin)
        for line in stream.lines():
            if line is None:
                yield None
                continue
            knew = reader.names is not None
            row = reader.read(line, stream.line)
            if not knew and reader.names:
                self.check_names(reader.names)
            if row is not None:
                yield self._message(n, row.where, row.fields, row)
                n += 1
        if not stream.stopped:
            reader.finish(stream.line)

    def _read_header(self, reader: RowReader, stream: InputStream) -> None:
        for line in stream.lines():
            if line is not None:
                reader.read(line, stream.line)
            if reader.names is not None:
                return

    def _message(self, n: int, where: Location, fields: Fields, row: Row | None = None) -> Message:
        """Make message `n`; without a template its body is the row."""
        self._variables.fill(n, fields, self._uses)
        try:
            key = self._outline.routing_key if self._key is None else self._routing_key(self._key.render())
            found = self._properties() if self._headers else self._plain
            body = self._body.render().encode() if self._body else row.as_json() if row else b""
        except (ValueError, PayloadError) as exc:
            raise PayloadError("A template cannot be filled in", problems=[Problem(where, str(exc))]) from exc
        if check := self._outline.contract_of(self._outline.exchange, key):
            check(body, Location(f"the body made for {where}"))
        elif self._body is not None and self._format is not None:
            formats.check(body, self._format, Location(f"the body made for {where}"))
        return Message(body, key, self._outline.exchange, found)

    def _routing_key(self, key: str) -> str:
        if key != self._last_key:
            properties.check_target(self._outline.exchange, key)
            self._last_key = key
        return key

    def _properties(self) -> Properties:
        """Return the properties with the headers filled in; equal ones in a row are one object."""
        texts = [each.template.render() for each in self._headers]
        if texts != self._last[0]:
            table = {each.name: each.value(text) for each, text in zip(self._headers, texts, strict=True)}
            found = replace(self._plain, headers={**(self._plain.headers or {}), **table})
            if self._typed or not self._last[0]:  # text always fits; names are checked once
                properties.check(found)
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
    properties: Properties = PERSISTENT,  # as they are, those headers too that are no templates
    seed: int | None = None,
) -> Iterator[Message]:
    """Return messages whose body, routing key and headers are templates in Jinja2's language, filled in for each.

    There is one for each of the `rows`, mappings or those of a file (CSV with a header line, or JSON lines), whose
    fields are variables; without a body it is the row, as JSON. Without rows there are `count`. Other variables are
    `n`, from 0, `uuid`, `now`, and functions for what is random, which with a `seed` is the same in every run.

    Raises PayloadError for a template that is wrong, at once; for a row that is, when its turn comes.
    """
    if body is None and rows is None:
        raise PayloadError("there is nothing to fill in: give a body, or rows")
    outline = MessageDefaults(exchange, properties=properties)
    stencil = MessageTemplate(
        outline, body=body, origin="the body", routing_key=routing_key, headers=headers or {}, seed=seed
    )
    if rows is None:
        stencil.check_names()
        return stencil.numbered(count)
    if isinstance(rows, str | os.PathLike):
        return (each for each in stencil.rows(InputStream(os.fspath(rows), Stop())) if each is not None)
    return stencil.records(rows)
