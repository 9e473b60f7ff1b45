"""From what the user named to the messages of one run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rmqkit.errors import Location, PayloadError
from rmqkit.message import Message
from rmqkit.payload import amqp_json, formats, properties, sources
from rmqkit.payload.input_stream import STDIN, InputPosition, InputStream
from rmqkit.payload.sources import MessageDefaults
from rmqkit.stop import Stop, StopRequested

if TYPE_CHECKING:
    from rmqkit.payload.message_template import MessageTemplate
    from rmqkit.payload.resume import Resume


class Contradiction(Exception):
    """Flags that do not go together."""


@dataclass(frozen=True, slots=True)
class InputChoice:
    """What was named as input: payloads and files go together, everything else excludes the rest.

    `template` is a body to be filled in, or @ and the name of a file that has it; `resume` names a state.
    """

    payloads: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    lines: str | None = None
    envelopes: str | None = None
    count: int | None = None
    rows: str | None = None
    template: str | None = None
    seed: int | None = None
    timing: float | None = None
    resume: str | None = None

    @property
    def streams(self) -> dict[str, str]:
        """Return what is read message by message: by which flag, and from where."""
        named = {"--lines": self.lines, "--rows": self.rows, "--envelopes": self.envelopes}
        return {flag: path for flag, path in named.items() if path is not None}

    @property
    def templated(self) -> bool:
        """Tell whether body, routing key and headers are filled in."""
        return self.template is not None or self.rows is not None

    def check(self) -> None:
        """Raise Contradiction unless the input is of one kind, and all flags are of use."""
        streams, named = list(self.streams), bool(self.payloads or self.files)
        source = [*streams, "--template"][0]
        nothing = not (streams or named or self.template is not None or self.count is not None)
        faults = (
            (len(streams) > 1, f"{' and '.join(streams)} are two ways to read one input: give one of them"),
            (streams and named, f"{source} takes its messages from a stream: give no payload and no --file with it"),
            (
                streams and self.count is not None,
                f"{source} takes what comes: --count goes with payloads, files, or alone",
            ),
            (self.template is not None and named, "--template makes the bodies: give no payload and no --file with it"),
            (
                self.template is not None and streams not in ([], ["--rows"]),
                f"--template and {source} both make the bodies: give one of them, or --rows for what varies",
            ),
            (self.seed is not None and not self.templated, "--seed is for --template and --rows"),
            (self.timing is not None and self.envelopes is None, "--timing is for --envelopes, which tell the time"),
            (
                self.resume is not None and (not streams or STDIN in self.streams.values()),
                "--resume goes with a file that is read message by message: --lines, --rows or --envelopes FILE",
            ),
            (self.files.count(STDIN) > 1, "standard input can be read only once"),
            (
                nothing and os.isatty(0),
                "nothing to publish: give a payload, a --file, --lines, a --template, a --count, or pipe lines in",
            ),
        )
        for fault, message in faults:
            if fault:
                raise Contradiction(message)


class PublishInput:
    """The messages of a run. `total` is their number, None if only the end of the input tells.

    `routing_key` and `headers` are templates, if the input is `templated`; `job` names this run in a state to go on
    from, which is then `resume`. Making one checks everything that is there to be checked: raises PayloadError, and
    StopRequested while it waits. Iterating it never raises PayloadError: input that fails on the way ends it, and
    `failure` says why. `ended` tells that all was taken.
    """

    def __init__(
        self,
        inputs: InputChoice,
        outline: MessageDefaults,
        stop: Stop,
        *,
        override_target: bool,
        routing_key: str | None = None,
        headers: Sequence[str] = (),
        job: str = "",
    ) -> None:
        self.failure: PayloadError | None = None
        self.total: int | None = None
        self.resume: Resume | None = None
        self.ended = False
        self._stop = stop
        self._override = override_target
        stencil = _stencil(inputs, outline, stop, routing_key, headers) if inputs.templated else None
        self._messages = (
            self._streamed(inputs, outline, stencil, job)
            if inputs.streams or (stencil is None and not (inputs.payloads or inputs.files or inputs.count is not None))
            else self._counted(inputs, outline, stencil)
        )

    def _counted(
        self, inputs: InputChoice, outline: MessageDefaults, stencil: MessageTemplate | None
    ) -> Iterable[Message]:
        count = 1 if inputs.count is None else inputs.count
        self.total = count
        if stencil is not None:
            stencil.check_names()
            list(stencil.numbered(min(count, 1)))
            return stencil.numbered(count)
        if not (inputs.payloads or inputs.files):
            return sources.numbers(outline, count)
        payloads = sources.arguments(outline, inputs.payloads)
        files = sources.InputFiles(outline, inputs.files, self._stop)
        self.total *= len(payloads) + len(files)
        return sources.repeated(_Both(payloads, files), count)

    def _streamed(
        self, inputs: InputChoice, outline: MessageDefaults, stencil: MessageTemplate | None, job: str
    ) -> Iterable[Message | None]:
        kind, path = next(iter(inputs.streams.items()), ("--lines", STDIN))
        replay = None
        if kind == "--envelopes":
            from rmqkit.payload.replay import EnvelopeReplay  # noqa: PLC0415 - start-up time

            replay = EnvelopeReplay(outline, self._stop, override=self._override, speed=inputs.timing)
            if Path(path).is_dir() and inputs.resume is None:
                return replay.folder(path)
        stream = InputStream(path, self._stop)

        def read(place: InputPosition) -> Iterator[Message | None]:
            if stencil is not None:
                return stencil.rows(stream, place)
            if stream.rereadable:
                stream.seek(place)
            return replay.lines(stream) if replay else sources.lines(outline, stream)

        begin: InputPosition = InputPosition()
        if inputs.resume is not None:
            from rmqkit.payload.resume import Resume  # noqa: PLC0415 - start-up time

            self.resume = Resume(inputs.resume, f"{kind[2:]} {job}", stream, read)
            begin = self.resume.place
        if stencil is not None and stream.rereadable:
            for _ in read(begin):
                pass
            if self._stop.requested:
                raise StopRequested
        return self.resume.messages() if self.resume else read(begin)

    def __iter__(self) -> Iterator[Message | None]:
        try:
            yield from self._messages
            self.ended = not self._stop.requested
        except PayloadError as exc:
            self.failure = exc
        except StopRequested:
            return


def _stencil(
    inputs: InputChoice, outline: MessageDefaults, stop: Stop, routing_key: str | None, headers: Sequence[str]
) -> MessageTemplate:
    from rmqkit.payload.message_template import MessageTemplate  # noqa: PLC0415 - start-up time

    text, origin = inputs.template, "--template"
    if text is not None and text.startswith("@"):
        stream = InputStream(text[1:], stop)
        try:
            text, origin = formats.decode(stream.read_all(), Location(stream.name), "a template"), stream.name
        finally:
            stream.close()
    return MessageTemplate(
        outline, body=text, origin=origin, routing_key=routing_key, headers=headers, seed=inputs.seed
    )


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
        return amqp_json.parse_timestamp(text)
    except ValueError as exc:
        raise PayloadError(f"--timestamp: {exc}, or now") from exc


def header_table(arguments: Iterable[str]) -> dict[str, object] | None:
    """Read `-H`; None when there are none. Raises PayloadError."""
    return properties.parse_headers(arguments) or None
