"""`rmqkit call`: send requests to a server, and print its replies."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import error_output, output, report_text
from rmqkit.cli.files import STANDARD
from rmqkit.cli.handler_options import PrintFormat
from rmqkit.cli.options import ConnectionOptions, connect, grouped, option, option_field, parse_target
from rmqkit.cli.publish_input import InputOptions, PublishInput, RequestOptions
from rmqkit.errors import InputError, OutputError, RmqkitError
from rmqkit.handlers.printer import Printer
from rmqkit.messaging.rpc_reply import find_error
from rmqkit.model import Target
from rmqkit.payload.sources import MessageDefaults
from rmqkit.report import Answer
from rmqkit.stop import Stop


class _CallCounts:
    """The counts so far; `error` is that of the first request that failed."""

    def __init__(self) -> None:
        self.error: RmqkitError | None = None
        self.requests = self._answered = self._replies = 0
        self._started_s = time.monotonic()

    def count(self, answer: Answer, *, quiet: bool, several: bool) -> None:
        """Count an answer, and print its error unless `quiet`."""
        self.requests += 1
        self._answered += answer.error is None
        self._replies += len(answer.replies)
        self.error = self.error or answer.error
        if answer.error is not None and not quiet:
            error_output.show(answer.error, f"request {self.requests}: " if several else "")

    def as_json(self) -> dict[str, Any]:
        """Return the report that `--json` prints."""
        counts = {"requests": self.requests, "answered": self._answered, "replies": self._replies}
        return counts | {"seconds": round(time.monotonic() - self._started_s, 3)}

    def summary(self) -> str:
        """Summarize the counts in one line."""
        seconds = max(time.monotonic() - self._started_s, 1e-6)
        answered = f"{self._answered:,} of {self.requests:,} requests were answered"
        return f"{answered} in {report_text.time_and_rate(self.requests, seconds)}."


@dataclass(frozen=True, slots=True)
class RequestTargetOptions:
    """The requests, and the queue or exchange they go to."""

    queue: Annotated[
        str | None,
        typer.Argument(metavar="[QUEUE]", help="The queue; with -e or -r, the first request.", show_default=False),
    ] = None
    payloads: Annotated[
        list[str] | None, typer.Argument(metavar="[PAYLOAD]...", help="One request each.", show_default=False)
    ] = None
    exchange: str = option_field("-e --exchange NAME", "An exchange instead of a queue.", default="")
    routing_key: str = option_field("-r --routing-key KEY", "The routing key of the requests.", default="")
    file: list[str] | None = option_field("-f --file PATH", "A file as one request, - for standard input; repeatable.")
    lines: str | None = option_field(
        "--lines FILE", "One request per line; - is standard input, the default if input is piped in."
    )

    def requests(self, properties: RequestOptions) -> PublishInput:
        """Return the requests. Raises a usage error for options that contradict each other."""
        words = [*([] if self.queue is None else [self.queue]), *(self.payloads or ())]
        target = parse_target(queue=None, exchange=self.exchange or None, routing_key=self.routing_key or None)
        if target is None and not words:
            raise typer.BadParameter("name the queue of the requests, or an --exchange")
        target = target or parse_target(queue=words.pop(0), exchange=None, routing_key=None) or Target()
        inputs = InputOptions(words, self.file or [], self.lines)
        inputs.check()
        defaults = MessageDefaults(target.exchange, target.routing_key, properties.properties())
        return PublishInput(inputs, defaults, Stop())


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """The replies to wait for, and their destination."""

    timeout: float = option_field(
        "--timeout SECONDS", "Time to wait for the replies to each request.", default=10.0, min=0.001
    )
    replies: int = option_field(
        "--replies N", "Wait for N replies to each request; 0 waits for all that arrive in time.", default=1, min=0
    )
    window: int = option_field("--window N", "Maximum number of requests in flight.", default=1, min=1)
    idempotent: bool = option_field(
        "--idempotent", "Send again after a lost connection: handling a request twice does no harm.", default=False
    )
    format: PrintFormat = option_field(
        "--format", "raw: print each body and a newline; json: an envelope per line.", default=PrintFormat.RAW
    )
    out: str | None = option_field("-o --output FILE", "Write the body of the only reply to this file, byte for byte.")

    def sink(self) -> Callable[[Answer], object]:
        """Return the function that writes the replies of an answer."""
        if path := self.out:
            return lambda answer: None if answer.error else _write(path, answer.reply.body)
        printer = Printer(as_json=self.format is PrintFormat.JSON)
        return lambda answer: printer.write([reply for reply in answer.replies if find_error(reply) is None])


@grouped
def call(
    properties: RequestOptions,
    broker: ConnectionOptions,
    *,
    target: RequestTargetOptions,
    wanted: ReplyOptions,
    json: Annotated[bool, option("--json", "Print the report, or the error, as JSON.")] = False,
) -> None:
    """Send requests, and print the replies in the order of the requests; the report goes to standard error.

    The exit code is 6 if a reply does not arrive in time or a request reaches no queue, 8 if the server reports a
    failure. A request that is not answered in time expires, and is not sent again.
    """
    requests = target.requests(properties)
    several = requests.total != 1
    if wanted.out is not None and (several or wanted.replies != 1):
        raise typer.BadParameter("--output requires exactly one request and one reply")
    write, counts, ending = wanted.sink(), _CallCounts(), None
    with connect(broker.settings()) as connection:
        answers = connection.call_many(
            requests,
            timeout_s=wanted.timeout,
            replies=wanted.replies or None,
            window=wanted.window,
            idempotent=wanted.idempotent,
            on_warning=output.warn,
        )
        try:
            for answer in answers:
                counts.count(answer, quiet=json, several=several)
                write(answer)
        except RmqkitError as exc:
            ending = exc
    ending = ending or requests.failure
    error = ending or counts.error
    if json:
        output.report(counts.as_json() | (error_output.as_json(error) if error else {}))
    else:
        if ending is not None and ending is not counts.error:  # else it was printed already
            error_output.show(ending)
        if several:
            output.note(counts.summary())
    if isinstance(ending, InputError) and counts.requests:
        raise typer.Exit(exit_codes.PARTLY_DONE)
    raise typer.Exit(exit_codes.exit_code(error))


def _write(path: str, body: bytes) -> None:
    """Write a reply to a file, or to standard output if it is `-`, byte for byte. Raises OutputError."""
    try:
        Path("/dev/stdout" if path == STANDARD else path).write_bytes(body)
    except OSError as exc:
        raise OutputError(f"{path}: {exc.strerror}; the request was answered") from exc
