"""`rmqkit call`: requests to a server, and its replies to standard output."""

from __future__ import annotations

import json as codec
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import error_output, output
from rmqkit.cli.files import STANDARD
from rmqkit.cli.handler_options import PrintFormat
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option, parse_target
from rmqkit.cli.publish_input import InputOptions, PublishInput, RequestOptions
from rmqkit.errors import InputError, OutputError, RmqkitError
from rmqkit.model import Target
from rmqkit.payload.sources import MessageDefaults
from rmqkit.report import Answer
from rmqkit.stop import Stop


class _CallCounts:
    """What was done so far; `error` is that of the first request that has one."""

    def __init__(self) -> None:
        self.error: RmqkitError | None = None
        self.requests = self._answered = self._replies = 0
        self._started_s = time.monotonic()

    def count(self, answer: Answer, *, quiet: bool, several: bool) -> None:
        """Take in an answer, and tell its error unless `quiet`."""
        self.requests += 1
        self._answered += answer.error is None
        self._replies += len(answer.replies)
        self.error = self.error or answer.error
        if answer.error is not None and not quiet:
            output.note((f"request {self.requests}: " if several else "") + error_output.as_text(answer.error))

    def as_json(self) -> dict[str, Any]:
        """Return the report that `--json` prints."""
        counts = {"requests": self.requests, "answered": self._answered, "replies": self._replies}
        return counts | {"seconds": round(time.monotonic() - self._started_s, 3)}

    def summary(self) -> str:
        """Say how many requests were answered."""
        seconds = max(time.monotonic() - self._started_s, 1e-6)
        answered = f"{self._answered:,} of {self.requests:,} requests were answered"
        return f"{answered} in {seconds:.2f} s, {self.requests / seconds:,.0f}/s."


@dataclass(frozen=True, slots=True)
class RequestTargetOptions:
    """What is asked, and whom."""

    queue: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUEUE]", help="The queue of the requests; with -e or -r, the first request.", show_default=False
        ),
    ] = None
    payloads: Annotated[
        list[str] | None, typer.Argument(metavar="[PAYLOAD]...", help="A request each.", show_default=False)
    ] = None
    exchange: Annotated[
        str, typer.Option("-e", "--exchange", metavar="NAME", help="An exchange instead of a queue.")
    ] = ""
    routing_key: Annotated[str, typer.Option("-r", "--routing-key", metavar="KEY", help="The routing key for it.")] = ""
    file: Annotated[
        list[str] | None,
        typer.Option("-f", "--file", metavar="PATH", help="A file as one request, - for standard input; repeat it."),
    ] = None
    lines: Annotated[
        str | None,
        option(
            metavar="FILE", help="A request per line; - is standard input, and the default when something is piped in."
        ),
    ] = None

    def intake(self, properties: RequestOptions) -> PublishInput:
        """Return the requests; raise a usage error for what does not go together."""
        words = [*([] if self.queue is None else [self.queue]), *(self.payloads or ())]
        target = parse_target(queue=None, exchange=self.exchange or None, routing_key=self.routing_key or None)
        if target is None and not words:
            raise typer.BadParameter("name the queue of the requests, or an --exchange")
        target = target or Target("", words.pop(0))
        inputs = InputOptions(words, self.file or [], self.lines)
        inputs.check()
        defaults = MessageDefaults(target.exchange, target.routing_key, properties.properties())
        return PublishInput(inputs, defaults, Stop())


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """Which replies are waited for, and where they go."""

    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="How long each request may wait for its replies.")
    ] = 10.0
    replies: Annotated[
        int, typer.Option(metavar="N", min=0, help="Wait for N replies to each; 0: take what comes in time.")
    ] = 1
    window: Annotated[int, typer.Option(metavar="N", min=1, help="How many requests may be on their way at once.")] = 1
    idempotent: Annotated[
        bool, typer.Option("--idempotent", help="Ask again after a lost connection: handling it twice does no harm.")
    ] = False
    format: Annotated[
        PrintFormat, typer.Option(help="raw: each reply's body and a newline; json: an envelope a line.")
    ] = PrintFormat.RAW
    out: Annotated[
        str | None,
        option("-o", "--output", metavar="FILE", help="Write the body of the one reply there, byte for byte."),
    ] = None

    def sink(self) -> Callable[[Answer], object]:
        """Return what takes each answer."""
        from rmqkit.handlers.printer import Printer  # noqa: PLC0415
        from rmqkit.messaging.rpc_reply import error_in  # noqa: PLC0415 - start-up time

        if path := self.out:
            return lambda answer: None if answer.error else _write(path, answer.reply.body)
        printer = Printer(as_json=self.format is PrintFormat.JSON)
        return lambda answer: printer.write([reply for reply in answer.replies if error_in(reply) is None])


@grouped
def call(
    properties: RequestOptions,
    broker: ConnectionOptions,
    *,
    asked: RequestTargetOptions,
    wanted: ReplyOptions,
    json: Json = False,
) -> None:
    """Send requests, and print the reply to each, in their order; the report goes to standard error.

    A reply that does not come in time, or a request that no queue takes, exits with 6; a server that says that it
    failed, with 8. A request that is not answered in time expires, and is not sent again.
    """
    intake = asked.intake(properties)
    several = intake.total != 1
    if wanted.out is not None and (several or wanted.replies != 1):
        raise typer.BadParameter("--output takes the one reply to one request")
    sink, tally, ending = wanted.sink(), _CallCounts(), None
    with connect(broker.settings()) as connection:
        answers = connection.call_many(
            intake,
            timeout_s=wanted.timeout,
            replies=wanted.replies or None,
            window=wanted.window,
            idempotent=wanted.idempotent,
            on_warning=output.warn,
        )
        try:
            for answer in answers:
                tally.count(answer, quiet=json, several=several)
                sink(answer)
        except RmqkitError as exc:
            ending = exc
    ending = ending or intake.failure
    error = ending or tally.error
    if json:
        output.note(codec.dumps(tally.as_json() | (error_output.as_json(error) if error else {}), indent=2))
    else:
        if ending is not None and ending is not tally.error:  # else it was told
            output.note(error_output.as_text(ending))
        if several:
            output.note(tally.summary())
    if isinstance(ending, InputError) and tally.requests:
        raise typer.Exit(exit_codes.PARTLY_DONE)
    raise typer.Exit(exit_codes.exit_code(error))


def _write(path: str, body: bytes) -> None:
    """Write a reply to a file, or to standard output if it is `-`, byte for byte. Raises OutputError."""
    try:
        Path("/dev/stdout" if path == STANDARD else path).write_bytes(body)
    except OSError as exc:
        raise OutputError(f"{path}: {exc.strerror}; the request was answered") from exc
