"""Recorded messages, published again: as fast as it goes, or in the time they came."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rmqkit.errors import Location, PayloadError, Problem
from rmqkit.message import Message
from rmqkit.payload import envelopes
from rmqkit.payload.envelopes import Envelope
from rmqkit.payload.input_stream import InputStream
from rmqkit.payload.sources import MessageDefaults
from rmqkit.stop import Stop, StopRequested

_LONG_S = 0.05  # what is worth waiting for confirms before
_NAP_S = 3600.0  # a wait may be longer than a system call takes


@dataclass(frozen=True, slots=True)
class EnvelopeReplay:
    """How a recording is published again.

    A message goes where its envelope says, or to the outline's target if `override`, or if the envelope names none.
    `speed` 1 keeps the times between messages, 10 makes them a tenth, None does not wait at all.
    """

    outline: MessageDefaults
    stop: Stop
    override: bool = False
    speed: float | None = None

    def lines(self, stream: InputStream) -> Iterator[Message | None]:
        """Yield the message of each envelope, one a line, and None before a wait; empty lines are skipped.

        Raises PayloadError at the first bad one.
        """
        return self._messages(_read_lines(stream))

    def folder(self, path: str) -> Iterator[Message | None]:
        """Return the messages of the envelopes in a folder, sorted by name; what was left half-written is none.

        All are read twice, the first time now: raises PayloadError with every bad one, and StopRequested.
        """
        files = sorted(each for each in Path(path).glob(f"*{envelopes.SUFFIX}") if not each.name.startswith("."))
        problems: list[Problem] = []
        read = partial(_read_file, envelopes.EnvelopeReader(Path(path)))
        for file in files:
            if self.stop.requested:
                raise StopRequested
            try:
                envelope = read(file)
                self._due(envelope)
                self._message(envelope)
            except PayloadError as exc:
                problems += exc.problems
        if not files:
            problems.append(Problem(Location(path), f"a folder with no *{envelopes.SUFFIX} in it"))
        if problems:
            raise PayloadError("Nothing was published: not every envelope can be read", problems=problems)
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
                if due_s - time.monotonic() > _LONG_S:
                    yield None
                if not self._wait_until(due_s):
                    return
            yield self._message(envelope)

    def _message(self, envelope: Envelope) -> Message:
        """Return the message, with its target, if its body keeps the contract there."""
        message, outline = envelope.message, self.outline
        if self.override or not envelope.addressed:
            message = replace(message, exchange=outline.exchange, routing_key=outline.routing_key)
        if check := outline.contract_of(message.exchange, message.routing_key):
            check(message.body, Location(f"the body in {envelope.where}"))
        return message

    def _due(self, envelope: Envelope) -> datetime | None:
        if self.speed and envelope.received_at is None:
            said = "'received_at' is missing, and --timing needs it"
            raise PayloadError("Bad envelope", problems=[Problem(envelope.where, said)])
        return envelope.received_at

    def _wait_until(self, due_s: float) -> bool:
        """Tell whether the moment came, rather than a stop."""
        while not self.stop.requested and (ahead_s := due_s - time.monotonic()) > 0:
            self.stop.wait(min(ahead_s, _NAP_S))
        return not self.stop.requested


def _read_lines(stream: InputStream) -> Iterator[Envelope | None]:
    reader = envelopes.EnvelopeReader()
    for line in stream.lines():
        if line is None:
            yield None
        elif line.strip():
            yield reader.read(line, Location(stream.name, stream.line, 1))


def _read_file(reader: envelopes.EnvelopeReader, file: Path) -> Envelope:
    try:
        line = file.read_bytes()
    except OSError as exc:
        said = f"cannot be read: {exc.strerror}"
        raise PayloadError("Bad envelope", problems=[Problem(Location(str(file)), said)]) from exc
    return reader.read(line, Location(str(file), 1, 1))
