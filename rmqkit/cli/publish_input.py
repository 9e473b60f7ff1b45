"""The input of `rmqkit publish` and `rmqkit call`: its options, and the messages they name."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit.cli.options import option_field, parse_target
from rmqkit.errors import InputError, Location, PayloadError
from rmqkit.message import Message, Properties
from rmqkit.messaging.delayed_publishing import check
from rmqkit.model import Target
from rmqkit.payload import amqp_json, formats, properties, sources
from rmqkit.payload.formats import Format
from rmqkit.payload.input_stream import BEGINNING, STDIN, InputPosition, InputStream
from rmqkit.payload.resume import Resume
from rmqkit.payload.sources import EnvelopeReplay, MessageDefaults
from rmqkit.stop import Stop, StopRequested

if TYPE_CHECKING:
    from rmqkit.payload.message_template import MessageTemplate

_input, _templates, _target, _property = (
    partial(option_field, panel=panel) for panel in ("Input", "Templates", "Target", "Properties")
)
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class InputOptions:
    """The messages to publish: payloads and files can be combined, every other kind of input stands alone."""

    payloads: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUEUE] [PAYLOAD]...",
            help="The queue, then one message each; with -q, -e or -r, all are messages.",
            show_default=False,
        ),
    ] = None
    file: list[str] = _input(
        "-f --file PATH",
        "A file as one message, or a folder as one message per file; - is standard input, as one message. Several paths"
        " may be given. Files named .json or .xml are checked.",
        default_factory=list,
    )
    lines: str | None = _input(
        "--lines FILE",
        "One message per line, as it arrives; - is standard input, and the default if input is piped in.",
    )
    envelopes: str | None = _input(
        "--envelopes PATH",
        "Messages as printed by `consume --format json`, or a folder of `consume --save-to`; - is standard"
        " input. They go to their original target unless another is named.",
    )
    timing: float | None = _input("--timing N", "Replay envelopes with their timing, N times as fast.", min=0.001)
    template: str | None = _templates(
        "--template TEXT|@FILE",
        "A Jinja2 template of the body; -r and -H are then rendered, too: {{ n }}, {{ uuid }}, {{ now }},"
        " {{ random_int(1, 6) }}, {{ choice(['a', 'b']) }} and the fields of --rows.",
    )
    rows: str | None = _templates(
        "--rows FILE",
        "One message per row of CSV with a header, or of JSON lines; - is standard input. Without --template"
        " the body is the row, as JSON.",
    )
    seed: int | None = _templates("--seed N", "Make random values, including uuid, the same in every run.", min=0)
    count: int | None = _input(
        "-n --count N", "Publish payloads, files or a template N times; without any, the numbers 0 to N-1.", min=0
    )
    resume: str | None = _input(
        "--resume STATE", "Save progress in STATE and resume from it; with the FILE of --lines, --rows or --envelopes."
    )
    format: Format | None = _input("--format", "Check that every body has this format.")

    @property
    def streams(self) -> dict[str, str]:
        """Return the inputs read message by message: the flag, and the path."""
        named = {"--lines": self.lines, "--rows": self.rows, "--envelopes": self.envelopes}
        return {flag: path for flag, path in named.items() if path is not None}

    @property
    def _paths(self) -> list[str]:
        """Return the payloads that are existing files or folders."""
        return [each for each in self.payloads or () if each and os.path.exists(each)]  # noqa: PTH110

    def sources(self) -> tuple[list[str], list[str]]:
        """Return payloads and files; of `-f *.json`, the shell makes a file and payloads, which are files too."""
        paths = self._paths if self.file else []
        return [each for each in self.payloads or () if each not in paths], [*self.file, *paths]

    def split_queue(self) -> tuple[str | None, InputOptions]:
        """Return the queue that is named before the payloads, if any, and the rest; `-f *.json` names files alone."""
        if not self.payloads or (self.file and self.payloads[0] in self._paths):
            return None, self
        return self.payloads[0], replace(self, payloads=self.payloads[1:])

    @property
    def templated(self) -> bool:
        """Tell whether body, routing key and headers are templates."""
        return self.template is not None or self.rows is not None

    def check(self) -> None:
        """Raise a usage error unless there is one kind of input, and every flag applies to it."""
        streams, named = list(self.streams), bool(self.payloads or self.file)
        source = [*streams, "--template"][0]
        none = not (streams or named or self.template is not None or self.count is not None)
        faults = (
            (len(streams) > 1, f"use only one of {', '.join(streams)}"),
            (streams and named, f"{source} cannot be combined with payloads or --file"),
            (streams and self.count is not None, f"{source} cannot be combined with --count"),
            (self.template is not None and named, "--template cannot be combined with payloads or --file"),
            (
                self.template is not None and streams not in ([], ["--rows"]),
                f"--template and {source} cannot be combined. Use --rows for values that vary.",
            ),
            (self.seed is not None and not self.templated, "--seed needs --template or --rows"),
            (self.timing is not None and self.envelopes is None, "--timing needs --envelopes"),
            (
                self.resume is not None and (not streams or STDIN in self.streams.values()),
                "--resume needs a file that is read message by message: --lines, --rows or --envelopes FILE",
            ),
            (self.file.count(STDIN) > 1, "standard input can be read only once"),
            (
                not self.file and self._paths,
                f"{', '.join(self._paths)}: a payload names a file. Use -f to send the file, or pipe the name in.",
            ),
            (self.format and self.envelopes is not None, "--format cannot be combined with --envelopes"),
            (
                none and os.isatty(0),
                "nothing to publish. Pass a payload after the queue, -f, --lines, --template or -n, or pipe lines in.",
            ),
        )
        for fault, message in faults:
            if fault:
                raise typer.BadParameter(message)


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """The exchange and routing key of the messages."""

    exchange: str | None = _target("-e --exchange NAME", "The exchange.")
    routing_key: str | None = _target("-r --routing-key KEY", "The routing key.")
    queue: str | None = _target("-q --queue NAME", "A queue, through the default exchange.")
    mandatory: bool = _target(
        "--mandatory", "Fail if a message reaches no queue, even of a fanout exchange.", default=False
    )
    allow_unroutable: bool = _target(
        "--allow-unroutable",
        "Do not fail if an exchange routes a message to no queue.",
        default=False,
    )

    def target(self) -> Target | None:
        """Return the target that was named, if any. Raises a usage error."""
        if self.mandatory and self.allow_unroutable:
            raise typer.BadParameter("--mandatory cannot be combined with --allow-unroutable")
        return parse_target(queue=self.queue, exchange=self.exchange, routing_key=self.routing_key)


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The properties of messages, except those that `call` sets itself."""

    header: list[str] = _property(
        "-H --header K=V", "A header: k=text, or k:=JSON for a number, true, a list; repeatable.", default_factory=list
    )
    content_type: str | None = _property(
        "--content-type TYPE", "[default: by the format, the file's name, or the bytes]"
    )
    content_encoding: str | None = _property("--content-encoding NAME", "Such as gzip or utf-8.")
    priority: int | None = _property("--priority 0-255", "For priority queues.")
    expiration: str | None = _property(
        "--expiration TIME", "Time to live in a queue: milliseconds, or a duration such as 5s (ms, s, m, h, d)."
    )
    message_id: str | None = _property("--message-id ID", "The ID of the message.")
    timestamp: str | None = _property("--timestamp WHEN", "Seconds since 1970, ISO 8601, or now.")
    type: str | None = _property("--type NAME", "The type of the message.")
    user_id: str | None = _property("--user-id USER", "The user that is logged in: the broker checks it.")
    app_id: str | None = _property("--app-id NAME", "The program that publishes the message.")

    def properties(self, *, headers: bool = True) -> Properties:
        """Return the properties, with or without the headers. Raises PayloadError."""
        names = ("content_type", "content_encoding", "priority", "message_id", "type", "user_id", "app_id")
        return Properties(
            **{name: getattr(self, name) for name in names},
            headers=(properties.parse_headers(self.header) or None) if headers else None,
            expiration=self.expiration and parse_expiration(self.expiration),
            timestamp=None if self.timestamp is None else _parse_timestamp(self.timestamp),
        )


@dataclass(frozen=True, slots=True)
class PropertyOptions(RequestOptions):
    """The properties of messages."""

    correlation_id: str | None = _property("--correlation-id ID", "The request this is a reply to.")
    reply_to: str | None = _property("--reply-to QUEUE", "The queue for replies.")
    transient: bool = _property("--transient", "Not persistent: lost when the broker restarts.", default=False)

    def properties(self, *, headers: bool = True) -> Properties:
        """Return the properties, with or without the headers. Raises PayloadError."""
        return replace(
            RequestOptions.properties(self, headers=headers),  # `super` does not know a class with slots
            correlation_id=self.correlation_id,
            reply_to=self.reply_to,
            delivery_mode=1 if self.transient else 2,
        )


def parse_expiration(text: str) -> str:
    """Return a duration in milliseconds, the unit of one that names none. Raises PayloadError."""
    found = re.fullmatch(r"(\d{1,10})(ms|s|m|h|d|)", text, re.ASCII)
    ms = int(found[1]) * _UNITS_MS[found[2] or "ms"] if found else -1
    if not 0 <= ms <= properties.MAX_EXPIRATION_MS:
        expected = f"milliseconds (0 to {properties.MAX_EXPIRATION_MS}), or a duration such as 5s"
        raise PayloadError(f"--expiration: expected {expected}")
    return str(ms)


def parse_delay(delay: str | None, at: str | None) -> timedelta | datetime | None:
    """Return the delay that `--delay` or `--at` names. Raises a usage error, InputError."""
    if delay is not None and at is not None:
        raise typer.BadParameter("--delay cannot be combined with --at")
    later: timedelta | datetime | None = None
    if delay is not None:
        if not (found := re.fullmatch(r"(\d{1,8})(s|m|h|d)", delay, re.ASCII)):
            raise InputError(f"--delay {delay}: expected a duration such as 90s, 5m, 2h or 30d")
        later = timedelta(milliseconds=int(found[1]) * _UNITS_MS[found[2]])
    if at is not None:
        try:
            later = datetime.fromisoformat(at)
        except ValueError:
            raise InputError(
                f"--at {at}: expected a time such as 2026-12-24T18:00Z or 2026-12-24T19:00+01:00"
            ) from None
    if later is not None:
        check(later)
    return later


def _parse_timestamp(text: str) -> datetime:
    if text == "now":
        return datetime.fromtimestamp(int(time.time()), UTC)
    try:
        return amqp_json.parse_timestamp(text)
    except ValueError as exc:
        raise PayloadError(f"--timestamp: {exc}, or now") from exc


class PublishInput:
    """The messages of a run. `total` is their number, None if it is not known before the input ends.

    `routing_key` and `headers` are templates, if the input is `templated`; `job` identifies this run in the saved state
    `resume`. Everything that already exists is checked at once: raises PayloadError, and StopRequested while it waits.
    Iterating it never raises PayloadError: input that fails later ends it, and `failure` says why. `ended` is true once
    all was read.
    """

    def __init__(
        self,
        inputs: InputOptions,
        defaults: MessageDefaults,
        stop: Stop,
        *,
        override_target: bool = True,
        routing_key: str | None = None,
        headers: Sequence[str] = (),
        job: str = "",
        check_first: bool = False,
    ) -> None:
        self.failure: PayloadError | None = None
        self.total: int | None = None
        self.resume: Resume | None = None
        self.ended = False
        self._inputs, self._defaults, self._stop = inputs, defaults, stop
        template = self._compile_template(routing_key, headers) if inputs.templated else None
        if inputs.streams or not (template or inputs.payloads or inputs.file or inputs.count is not None):
            self._messages = self._stream(template, job, override_target=override_target, check_first=check_first)
        else:
            self._messages = self._repeat(template, 1 if inputs.count is None else inputs.count)

    def _repeat(self, template: MessageTemplate | None, count: int) -> Iterable[Message]:
        """Return payloads and files, or a template's messages, or numbers, `count` times."""
        inputs, self.total = self._inputs, count
        if template is not None:
            template.check_names()
            list(template.numbered(min(count, 1)))
            return template.numbered(count)
        if not (inputs.payloads or inputs.file):
            return sources.numbers(self._defaults, count)
        texts, paths = inputs.sources()
        payloads = sources.arguments(self._defaults, texts)
        files = sources.InputFiles(self._defaults, paths, self._stop)
        self.total *= len(payloads) + len(files)
        return (message for _ in range(count) for source in (payloads, files) for message in source)

    def _stream(
        self, template: MessageTemplate | None, job: str, *, override_target: bool, check_first: bool
    ) -> Iterable[Message | None]:
        """Return the messages of an input that is read message by message."""
        inputs = self._inputs
        flag, path = next(iter(inputs.streams.items()), ("--lines", STDIN))
        replay = None
        if flag == "--envelopes":
            replay = EnvelopeReplay(self._defaults, self._stop, override=override_target, speed=inputs.timing)
            if os.path.isdir(path) and inputs.resume is None:  # noqa: PTH112 - never fails
                return replay.folder(path)
        stream = InputStream(path, self._stop, decompress=replay is not None)

        def read(place: InputPosition) -> Iterator[Message | None]:
            if template is not None:
                return template.rows(stream, place)
            if stream.rereadable:
                stream.seek(place)
            return replay.lines(stream) if replay else sources.lines(self._defaults, stream)

        begin = BEGINNING
        if inputs.resume is not None:
            self.resume = Resume(inputs.resume, f"{flag[2:]} {job}", stream, read)
            begin = self.resume.place
        if (template is not None or check_first) and stream.rereadable:
            count = sum(1 for _ in read(begin))
            if self._stop.requested:
                raise StopRequested
            if check_first:
                self.total = count
        return self.resume.messages() if self.resume else read(begin)

    def __iter__(self) -> Iterator[Message | None]:
        try:
            yield from self._messages
            self.ended = not self._stop.requested
        except PayloadError as exc:
            self.failure = exc
        except StopRequested:
            return

    def _compile_template(self, routing_key: str | None, headers: Sequence[str]) -> MessageTemplate:
        from rmqkit.payload.message_template import MessageTemplate  # noqa: PLC0415 - start-up time: jinja2

        text, origin = self._inputs.template, "--template"
        if text is not None and text.startswith("@"):
            stream = InputStream(text[1:], self._stop)
            try:
                text, origin = formats.decode(stream.read_all(), Location(stream.name), "a template"), stream.name
            finally:
                stream.close()
        return MessageTemplate(
            self._defaults,
            body=text,
            origin=origin,
            routing_key=routing_key,
            headers=headers,
            seed=self._inputs.seed,
        )
