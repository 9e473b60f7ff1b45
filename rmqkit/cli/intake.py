"""From what the user named to the messages of one run.

Comes in: payloads, files, a count, standard input, and what the flags say about the messages. Goes out: an iterable of
messages that remembers why its input ended before its time. Room: cli.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rmqkit.errors import PayloadError
from rmqkit.message import Message
from rmqkit.payload import properties, sources, tagged
from rmqkit.payload.sources import Outline
from rmqkit.payload.streams import STDIN, Stream
from rmqkit.stop import Stop, StopRequested


class Contradiction(Exception):
    """Flags that do not go together."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was named as input: payloads and files go together, everything else excludes the rest."""

    payloads: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    lines: str | None = None
    envelopes: str | None = None
    count: int | None = None

    def check(self) -> None:
        """Raise Contradiction unless the input is of one kind."""
        streams = [
            f"--{name}" for name, given in (("lines", self.lines), ("envelopes", self.envelopes)) if given is not None
        ]
        if len(streams) > 1:
            raise Contradiction("--lines and --envelopes are two ways to read one input: give one of them")
        if streams and (self.payloads or self.files):
            raise Contradiction(f"{streams[0]} takes its messages from a stream: give no payload and no --file with it")
        if streams and self.count is not None:
            raise Contradiction(f"{streams[0]} takes what comes: --count goes with payloads, files, or alone")
        if self.files.count(STDIN) > 1:
            raise Contradiction("standard input can be read only once")
        if not (streams or self.payloads or self.files or self.count is not None) and os.isatty(0):
            raise Contradiction("nothing to publish: give a payload, a --file, --lines, a --count, or pipe lines in")


class Intake:
    """The messages of a run. `total` is their number, None if only the end of the input tells.

    Making one checks everything that is there to be checked: raises PayloadError, and StopRequested while it waits.
    Iterating it never raises PayloadError: input that fails on the way ends it, and `failure` says why.
    """

    def __init__(self, inputs: Inputs, outline: Outline, stop: Stop, *, override_target: bool) -> None:
        self.failure: PayloadError | None = None
        self.total: int | None = None
        self._messages: Iterable[Message | None]
        if inputs.envelopes is not None:
            stream = Stream(inputs.envelopes, stop)
            self._messages = sources.envelope_lines(outline, stream, override=override_target)
        elif inputs.payloads or inputs.files:
            self._messages = self._named(inputs, outline, stop)
        elif inputs.count is not None and inputs.lines is None:
            self.total = inputs.count
            self._messages = sources.numbers(outline, inputs.count)
        else:
            self._messages = sources.lines(outline, Stream(inputs.lines or STDIN, stop))

    def _named(self, inputs: Inputs, outline: Outline, stop: Stop) -> Iterable[Message]:
        payloads = sources.arguments(outline, inputs.payloads)
        files = sources.Files(outline, inputs.files, stop)
        count = 1 if inputs.count is None else inputs.count
        self.total = count * (len(payloads) + len(files))
        return sources.repeated(_Both(payloads, files), count)

    def __iter__(self) -> Iterator[Message | None]:
        try:
            yield from self._messages
        except PayloadError as exc:
            self.failure = exc
        except StopRequested:
            return


@dataclass(frozen=True, slots=True)
class _Both:
    """Two sources, one after the other, as often as they are iterated."""

    first: Iterable[Message]
    second: Iterable[Message]

    def __iter__(self) -> Iterator[Message]:
        yield from self.first
        yield from self.second


def moment(text: str | None) -> datetime | None:
    """Read `--timestamp`: seconds since 1970, ISO 8601, or `now`. Raises PayloadError."""
    if text is None:
        return None
    if text == "now":
        return datetime.fromtimestamp(int(time.time()), UTC)
    try:
        return tagged.parse_timestamp(text)
    except ValueError as exc:
        raise PayloadError(f"--timestamp: {exc}, or now") from exc


def header_table(arguments: Iterable[str]) -> dict[str, object] | None:
    """Read `-H`; None when there are none. Raises PayloadError."""
    return properties.parse_headers(arguments) or None
