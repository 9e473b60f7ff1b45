"""Recorded messages, published again: as fast as possible, or with their original timing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rmqkit.errors import Location, PayloadError, Problem
from rmqkit.message import Message
from rmqkit.payload.envelopes import SUFFIX, Envelope, EnvelopeReader
from rmqkit.payload.formats import error_at
from rmqkit.payload.input_stream import InputStream
from rmqkit.payload.sources import MessageDefaults, nothing_published
from rmqkit.stop import Stop, StopRequested

_CONFIRM_BEFORE_S = 0.05  # confirms are awaited before a longer wait
_MAX_WAIT_S = 3600.0  # a wait may be longer than a system call accepts


@dataclass(frozen=True, slots=True)
class EnvelopeReplay:
    """Publishes a recording again.

    A message goes to the target its envelope names, or to the default target if `override`, or if the envelope names
    none. `speed` 1 keeps the times between messages, 10 makes them a tenth, None does not wait at all.
    """

    defaults: MessageDefaults
    stop: Stop
    override: bool = False
    speed: float | None = None

    def lines(self, stream: InputStream) -> Iterator[Message | None]:
        """Yield the message of each envelope, one a line, and None before a wait; empty lines are skipped.

        Raises PayloadError at the first bad one.
        """
        return self._messages(_read_lines(stream))

    def folder(self, path: str) -> Iterator[Message | None]:
        """Return the messages of the envelopes in a folder, sorted by name; half-written files are ignored.

        All are read twice, the first time now: raises PayloadError with every bad one, and StopRequested.
        """
        files = sorted(each for each in Path(path).glob(f"*{SUFFIX}") if not each.name.startswith("."))
        problems: list[Problem] = []
        invalid = 0
        read = partial(_read_file, EnvelopeReader(Path(path)))
        for file in files:
            if self.stop.requested:
                raise StopRequested
            try:
                envelope = read(file)
                self._due(envelope)
                self._message(envelope)
            except PayloadError as exc:
                problems += exc.problems
                invalid += 1
        if not files:
            raise error_at(Location(path), f"no *{SUFFIX} file in this folder", summary="Nothing was published")
        if problems:
            raise nothing_published(problems, {"invalid envelope": invalid})
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
        if check := defaults.contract_of(message.exchange, message.routing_key):
            check(message.body, Location(f"the body in {envelope.where}"))
        return message

    def _due(self, envelope: Envelope) -> datetime | None:
        if self.speed and envelope.received_at is None:
            raise error_at(envelope.where, "'received_at' is missing, and --timing needs it", summary="Bad envelope")
        return envelope.received_at


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
