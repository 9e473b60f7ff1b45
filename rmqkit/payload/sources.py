"""Where messages come from: arguments, numbers, files and folders, lines; envelopes and rows have modules of their own.

Making a source checks whatever is there to be checked, so that nothing is sent if anything is bad; iterating it yields
messages as they come. A stream cannot be checked beforehand: it yields what is good, and then raises PayloadError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rmqkit.errors import Location, PayloadError, Problem
from rmqkit.message import PERSISTENT, Message, Properties
from rmqkit.payload import formats, properties
from rmqkit.payload.formats import Check, ContentType, Format
from rmqkit.payload.input_stream import STDIN, InputStream
from rmqkit.stop import Stop

_HELD_BYTES = 64 * 1024 * 1024  # files up to this total are read once; what is beyond is read again when its turn comes


ContractOf = Callable[[str, str], Check | None]


def _no_contract(_exchange: str, _routing_key: str) -> None:
    pass


class MessageDefaults:
    """What all messages of a run have in common: where they go, their properties, and the format that was asked for.

    `contract_of` returns what checks a body by its exchange and routing key, if it has a contract. A content type in
    `properties` stands; none means that of the body. Raises PayloadError for what AMQP cannot carry.
    """

    def __init__(
        self,
        exchange: str = "",
        routing_key: str = "",
        properties: Properties = PERSISTENT,
        format: Format | None = None,  # noqa: A002 - the flag's word
        contract_of: ContractOf = _no_contract,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.format = format
        self.contract_of = contract_of
        self._typed: dict[ContentType, Properties] = {}
        _check(exchange, routing_key, properties)

    @cached_property
    def contract(self) -> Check | None:
        """Return what checks the bodies, if they have a contract."""
        return self.contract_of(self.exchange, self.routing_key)

    def check(self, body: bytes, where: Location, name: str = "") -> None:
        """Refuse a body that breaks the contract; else one that is not of its format, or what its file's name promises.

        Raises PayloadError.
        """
        if self.contract is not None:
            self.contract(body, where)
        else:
            formats.check(body, self.format or formats.format_of(name), where)

    def message(self, body: bytes, name: str = "") -> Message:
        """Make a message of a body; `name` is that of the file it was read from."""
        return Message(body, self.routing_key, self.exchange, self.typed(formats.content_type(body, self.format, name)))

    def typed(self, content_type: ContentType) -> Properties:
        """Return the properties with a content type; equal ones are one object, which is marshalled once."""
        if content_type not in self._typed:
            self._typed[content_type] = (
                self.properties
                if self.properties.content_type is not None
                else replace(
                    self.properties,
                    content_type=content_type.type,
                    content_encoding=self.properties.content_encoding or content_type.encoding,
                )
            )
        return self._typed[content_type]


def _check(exchange: str, routing_key: str, given: Properties) -> None:
    properties.check_target(exchange, routing_key)
    properties.check(given)


def numbers(outline: MessageDefaults, count: int) -> Iterator[Message]:
    """Return the bodies 0 to count-1, as text, in order. Raises PayloadError for one that breaks the contract."""
    shared = outline.typed(formats.TEXT)
    routing_key, exchange = outline.routing_key, outline.exchange
    messages = (Message(b"%d" % number, routing_key, exchange, shared) for number in range(count))
    if outline.contract is None:
        return messages
    for number in range(min(count, 1)):
        outline.check(b"%d" % number, Location(f"message {number}"))
    return _checked(outline, messages)


def _checked(outline: MessageDefaults, messages: Iterable[Message]) -> Iterator[Message]:
    for number, message in enumerate(messages):
        outline.check(message.body, Location(f"message {number}"))
        yield message


def arguments(outline: MessageDefaults, payloads: Sequence[str]) -> list[Message]:
    """Return a message per argument, its bytes as the shell gave them. Raises PayloadError with every bad one."""
    messages: list[Message] = []
    problems: list[Problem] = []
    for number, payload in enumerate(payloads, 1):
        body = os.fsencode(payload)
        problems += _problems(outline, body, Location(f"payload {number}"))
        messages.append(outline.message(body))
    if problems:
        raise PayloadError("Nothing was published: not every payload is what it should be", problems=problems)
    return messages


def repeated(messages: Iterable[Message], count: int) -> Iterator[Message]:
    """Yield all of `messages`, which can be iterated again and again, `count` times over."""
    for _ in range(count):
        yield from messages


@dataclass(frozen=True, slots=True)
class _InputFile:
    path: str
    body: bytes | None  # None: read it again when its turn comes


class InputFiles:
    """A message per file, byte for byte; of a folder, per file in it and below, sorted by path, hidden ones left out.

    `-` is standard input as one body. Everything is read and checked when this is made: raises PayloadError with every
    bad file, and StopRequested if asked to stop while waiting for input.
    """

    def __init__(self, outline: MessageDefaults, paths: Sequence[str], stop: Stop) -> None:
        self._outline = outline
        self._files: list[_InputFile] = []
        problems: list[Problem] = []
        room = _HELD_BYTES
        for path in paths:
            for name in _expand(path, problems):
                try:
                    body, rereadable = self._read(name, stop)
                except PayloadError as exc:
                    problems += exc.problems or [Problem(Location(name), str(exc).removeprefix(f"{name}: "))]
                    continue
                keep = len(body) <= room or not rereadable
                room -= len(body) if keep else 0
                self._files.append(_InputFile(name, body if keep else None))
        if problems:
            raise PayloadError(
                "Nothing was published: not every file can be read as what it should be", problems=problems
            )
        self._stop = stop

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages. Raises PayloadError for a file that was changed or removed meanwhile."""
        for file in self._files:
            body = self._read(file.path, self._stop)[0] if file.body is None else file.body
            yield self._outline.message(body, "" if file.path == STDIN else file.path)

    def _read(self, path: str, stop: Stop) -> tuple[bytes, bool]:
        stream = InputStream(path, stop)
        try:
            body = stream.read_all()
        finally:
            stream.close()
        self._outline.check(body, Location(stream.name), path)
        return body, stream.rereadable


def _expand(path: str, problems: list[Problem]) -> Iterator[str]:
    """Yield the files a path stands for; add what is wrong with it to `problems`."""
    if path == STDIN or not Path(path).is_dir():
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
        problems.append(Problem(Location(path), "a folder with no file in it (hidden ones do not count)"))
    yield from map(str, sorted(found))


def lines(outline: MessageDefaults, stream: InputStream) -> Iterator[Message | None]:
    """Yield a message per line, empty ones included, each when it has arrived; None before a wait for input.

    Raises PayloadError at the first bad one.
    """
    for line in stream.lines():
        if line is None:
            yield None
            continue
        if outline.format is not None or outline.contract is not None:
            outline.check(line, Location(stream.name, stream.line, 1))
        yield outline.message(line)


def _problems(outline: MessageDefaults, body: bytes, where: Location) -> Sequence[Problem]:
    try:
        outline.check(body, where)
    except PayloadError as exc:
        return exc.problems
    return ()
