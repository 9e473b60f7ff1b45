"""Sources of messages: arguments, numbers, files and folders, lines, envelopes; rows have their own module.

Creating a source checks all that already exists, so that nothing is sent if any of it is bad; iterating it yields
messages as they arrive. A stream cannot be checked in advance: it yields the good ones, and then raises PayloadError.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from rmqkit.errors import Location, PayloadError, Problem
from rmqkit.message import PERSISTENT, Message, Properties
from rmqkit.payload import formats
from rmqkit.payload import properties as property_checks
from rmqkit.payload.compression import contents
from rmqkit.payload.death_headers import CC, COUNTS, X_DEATH, set_aside
from rmqkit.payload.envelopes import SUFFIX, Envelope, EnvelopeReader
from rmqkit.payload.field_table import decode_properties, encode_properties, join_header, split_header
from rmqkit.payload.formats import Check, ContentType, Format, error_at
from rmqkit.payload.input_stream import STDIN, InputStream
from rmqkit.plural import plural
from rmqkit.stop import Stop, StopRequested

_HELD_BYTES = 64 * 1024 * 1024  # files up to this total are read once; the others again when it is their turn
_CONFIRM_BEFORE_S = 0.05  # confirms are awaited before a longer wait
_MAX_WAIT_S = 3600.0  # a wait may be longer than a system call accepts

T = TypeVar("T")
ContractOf = Callable[[str, str], Check | None]


@dataclass(eq=False)
class MessageDefaults:
    """The target, properties and format that all messages of a run share.

    `contract_of` returns the check of the bodies for an exchange and routing key, if they have a contract. A content
    type in `properties` is kept; None means that of the body. Raises PayloadError for values AMQP cannot carry.
    """

    exchange: str = ""
    routing_key: str = ""
    properties: Properties = PERSISTENT
    format: Format | None = None
    contract_of: ContractOf = lambda _exchange, _routing_key: None
    _typed: dict[ContentType, Properties] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        property_checks.check_target(self.exchange, self.routing_key)
        property_checks.check(self.properties)

    @cached_property
    def contract(self) -> Check | None:
        """Return the check of the bodies, if they have a contract."""
        return self.contract_of(self.exchange, self.routing_key)

    def check(self, body: bytes, where: Location, name: str = "") -> None:
        """Refuse a body that breaks the contract or, without one, its format or its file's. Raises PayloadError."""
        if self.contract is not None:
            self.contract(contents(body, self.properties.content_encoding, where), where)
        else:
            formats.check(body, self.format or formats.format_of(name), where)

    def message(self, body: bytes, name: str = "") -> Message:
        """Make a message of a body; `name` is that of the file it was read from."""
        return Message(body, self.routing_key, self.exchange, self.typed(formats.content_type(body, self.format, name)))

    def typed(self, content_type: ContentType) -> Properties:
        """Return the properties with a content type; equal ones are one object, which is marshalled once."""
        given = self.properties
        if given.content_type is not None:
            return given
        if content_type not in self._typed:
            encoding = given.content_encoding or content_type.encoding
            self._typed[content_type] = replace(given, content_type=content_type.type, content_encoding=encoding)
        return self._typed[content_type]


def _nothing_published(problems: Sequence[Problem], counts: Mapping[str, int]) -> PayloadError:
    """Return the error of a source that is refused as a whole; `counts` has how many there are of each kind."""
    found = ", ".join(plural(count, kind) for kind, count in counts.items() if count)
    return PayloadError(f"Nothing was published: {found}", problems=problems)


def numbers(defaults: MessageDefaults, count: int) -> Iterator[Message]:
    """Return the bodies 0 to count-1, as text, in order. Raises PayloadError for one that breaks the contract."""
    shared = defaults.typed(formats.TEXT)
    routing_key, exchange = defaults.routing_key, defaults.exchange
    messages = (Message(b"%d" % number, routing_key, exchange, shared) for number in range(count))
    if defaults.contract is None:
        return messages
    if count:
        defaults.check(b"0", Location("message 0"))
    return _checked(defaults, messages)


def _checked(defaults: MessageDefaults, messages: Iterable[Message]) -> Iterator[Message]:
    for number, message in enumerate(messages):
        defaults.check(message.body, Location(f"message {number}"))
        yield message


def arguments(defaults: MessageDefaults, payloads: Sequence[str]) -> list[Message]:
    """Return a message per argument, its bytes as the shell passed them. Raises PayloadError with every bad one."""
    bodies = list(map(os.fsencode, payloads))
    numbered = [(body, Location(f"payload {number}")) for number, body in enumerate(bodies, 1)]
    _check_all(numbered, lambda each: defaults.check(*each), "invalid payload")
    return [defaults.message(body) for body in bodies]


def _check_all(items: Iterable[T], check: Callable[[T], object], kind: str) -> None:
    """Raise PayloadError with the problems of all items that `check` refuses."""
    problems: list[Problem] = []
    invalid = 0
    for item in items:
        try:
            check(item)
        except PayloadError as exc:
            problems += exc.problems
            invalid += 1
    if problems:
        raise _nothing_published(problems, {kind: invalid})


class InputFiles:
    """A message per file, byte for byte; of a folder, one per file in it and below, sorted by path, but hidden ones.

    `-` is standard input as one body. Everything is read and checked at once: raises PayloadError with every bad file,
    and StopRequested if asked to stop while waiting for input.
    """

    def __init__(self, defaults: MessageDefaults, paths: Sequence[str], stop: Stop) -> None:
        self._defaults = defaults
        self._stop = stop
        self._files: list[tuple[str, bytes | None]] = []  # a body of None is read again when it is its turn
        problems: list[Problem] = []
        invalid = unreadable = 0
        free = _HELD_BYTES
        for name in (name for path in paths for name in _expand(path, problems)):
            try:
                body, rereadable = self._read(name)
            except PayloadError as exc:
                invalid += bool(exc.problems)
                unreadable += not exc.problems
                problems += exc.problems or [Problem(Location(name), str(exc).removeprefix(f"{name}: "))]
                continue
            held = len(body) <= free or not rereadable
            free -= len(body) if held else 0
            self._files.append((name, body if held else None))
        if problems:
            unreadable = unreadable or int(not invalid)
            raise _nothing_published(problems, {"invalid file": invalid, "unreadable file": unreadable})

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages. Raises PayloadError for a file that was changed or removed in the meantime."""
        for path, held in self._files:
            body = self._read(path)[0] if held is None else held
            yield self._defaults.message(body, "" if path == STDIN else path)

    def _read(self, path: str) -> tuple[bytes, bool]:
        with closing(InputStream(path, self._stop)) as stream:
            body = stream.read_all()
        self._defaults.check(body, Location(stream.name), path)
        return body, stream.rereadable


def _expand(path: str, problems: list[Problem]) -> Iterator[str]:
    """Yield the files a path names; add those that cannot be listed to `problems`."""
    if path == STDIN or not os.path.isdir(path):  # noqa: PTH112 - never fails
        yield path
        return

    def unreadable(exc: OSError) -> None:
        problems.append(Problem(Location(str(exc.filename)), f"cannot be read: {exc.strerror}"))

    found = []
    for folder, subfolders, names in os.walk(path, onerror=unreadable):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = [Path(folder, name) for name in names if not name.startswith(".")]
        found += [each for each in paths if each.is_file() or each.is_symlink()]
    if not found:
        problems.append(Problem(Location(path), "no file in this folder (hidden ones do not count)"))
    yield from map(str, sorted(found))


def lines(defaults: MessageDefaults, stream: InputStream) -> Iterator[Message | None]:
    """Yield a message per line, even an empty one, and None before a wait. Raises PayloadError at the first bad one."""
    for line in stream.lines():
        if line is None:
            yield None
            continue
        if defaults.format is not None or defaults.contract is not None:
            defaults.check(line, Location(stream.name, stream.line, 1))
        yield defaults.message(line)


@dataclass(frozen=True, slots=True)
class EnvelopeReplay:
    """Publishes a recording again: as fast as possible, or with its original timing.

    A message goes to the target its envelope names, or to the default target if `override`, or if the envelope names
    none. `speed` 1 keeps the times between messages, 10 makes them a tenth, None does not wait at all.
    """

    defaults: MessageDefaults
    stop: Stop
    override: bool = False
    speed: float | None = None

    def lines(self, stream: InputStream) -> Iterator[Message | None]:
        """Yield the message of each line but empty ones, None before a wait. Raises PayloadError at a bad one."""
        return self._messages(_read_lines(stream))

    def folder(self, path: str) -> Iterator[Message | None]:
        """Return the messages of the envelopes in a folder, sorted by name; half-written files are ignored.

        All are read twice, the first time now: raises PayloadError with every bad one, and StopRequested.
        """
        files = sorted(each for each in Path(path).glob(f"*{SUFFIX}") if not each.name.startswith("."))
        if not files:
            raise error_at(Location(path), f"no *{SUFFIX} file in this folder", summary="Nothing was published")
        read = partial(_read_file, EnvelopeReader(Path(path)))

        def check(file: Path) -> None:
            if self.stop.requested:
                raise StopRequested
            envelope = read(file)
            self._due(envelope)
            self._message(envelope)

        _check_all(files, check, "invalid envelope")
        return self._messages(map(read, files))

    def _messages(self, found: Iterable[Envelope | None]) -> Iterator[Message | None]:
        begun_s, first = time.monotonic(), None
        for envelope in found:
            if envelope is None:
                yield None
                continue
            if (moment := self._due(envelope)) and self.speed:
                first = first or moment
                due_s = begun_s + (moment - first).total_seconds() / self.speed
                if due_s - time.monotonic() > _CONFIRM_BEFORE_S:
                    yield None
                while not self.stop.requested and (ahead_s := due_s - time.monotonic()) > 0:
                    self.stop.wait(min(ahead_s, _MAX_WAIT_S))
                if self.stop.requested:
                    return
            yield self._message(envelope)

    def _message(self, envelope: Envelope) -> Message:
        """Return the message, with its target, if its body keeps the contract there."""
        message, defaults = envelope.message, self.defaults
        if self.override or not envelope.addressed:
            message = replace(message, exchange=defaults.exchange, routing_key=defaults.routing_key)
        to_queue = self.override and not message.exchange
        properties = sent_again(message.properties, to_queue=to_queue)
        if properties is not message.properties:
            message = replace(message, properties=properties)
        if check := defaults.contract_of(message.exchange, message.routing_key):
            where = Location(f"the body in {envelope.where}")
            check(contents(message.body, properties.content_encoding, where), where)
        return message

    def _due(self, envelope: Envelope) -> datetime | None:
        if self.speed and envelope.received_at is None:
            raise error_at(envelope.where, "'received_at' is missing, and `timing=` needs it", summary="Bad envelope")
        return envelope.received_at


def sent_again(given: Properties, *, to_queue: bool) -> Properties:
    """Return the properties of a recorded message: its deaths and counts belong to its earlier life."""
    if not (given.headers or {}).keys() & {X_DEATH, CC, *COUNTS}:
        return given
    parts, headers = split_header(encode_properties(given))
    kept = set_aside(headers, to_queue=to_queue)
    return given if kept == headers else decode_properties(join_header(parts, kept))[0]


def _read_lines(stream: InputStream) -> Iterator[Envelope | None]:
    reader = EnvelopeReader()
    for line in stream.lines():
        if line is None:
            yield None
        elif line.strip():
            yield reader.read(line, Location(stream.name, stream.line, 1))


def _read_file(reader: EnvelopeReader, file: Path) -> Envelope:
    try:
        line = file.read_bytes()
    except OSError as exc:
        raise error_at(Location(str(file)), f"cannot be read: {exc.strerror}", summary="Bad envelope") from exc
    return reader.read(line, Location(str(file), 1, 1))
