"""The options of `rmqkit publish`, in groups."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmqkit.cli.options import option
from rmqkit.payload.formats import Format

if TYPE_CHECKING:
    from rmqkit.cli.publish_input import InputChoice
    from rmqkit.message import Properties
    from rmqkit.model import Target


_input, _filled_in, _target = (partial(option, panel=panel) for panel in ("Input", "Templates", "Target"))


def _property(name: str, metavar: str | None, help: str, short: str = "") -> Any:  # noqa: A002 - Typer's word
    names = [short, name] if short else [name]
    return option(*names, metavar=metavar, help=help, panel="Properties")


@dataclass(frozen=True, slots=True)
class InputOptions:
    """What to publish."""

    payloads: Annotated[
        list[str] | None, typer.Argument(metavar="[PAYLOAD]...", help="A message each.", show_default=False)
    ] = None
    file: Annotated[
        list[str],
        _input(
            "-f",
            "--file",
            metavar="PATH",
            help="A file as one message, a folder as a message per file, - for standard input as one; repeat it for"
            " more. What is named .json or .xml is checked.",
        ),
    ] = field(default_factory=list)
    lines: Annotated[
        str | None,
        _input(
            "--lines",
            metavar="FILE",
            help="A message per line, as it arrives; - is standard input, and the default when something is piped in.",
        ),
    ] = None
    envelopes: Annotated[
        str | None,
        _input(
            "--envelopes",
            metavar="PATH",
            help="Messages as `consume --format json` prints them, or a folder of `consume --save-to`; - is standard"
            " input. They go where they came from unless a target is named.",
        ),
    ] = None
    timing: Annotated[
        float | None,
        _input("--timing", metavar="N", min=0.001, help="Envelopes in the time they came, N times as fast."),
    ] = None
    template: Annotated[
        str | None,
        _filled_in(
            "--template",
            metavar="TEXT|@FILE",
            help="A body to be filled in (Jinja2), as are -r and -H then: {{ n }}, {{ uuid }}, {{ now }},"
            " {{ random_int(1, 6) }}, {{ choice(['a', 'b']) }} and the fields of --rows.",
        ),
    ] = None
    rows: Annotated[
        str | None,
        _filled_in(
            "--rows",
            metavar="FILE",
            help="A message per row of CSV with a header, or of JSON lines; - is standard input. Without a --template"
            " the row is the body, as JSON.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        _filled_in(
            "--seed", metavar="N", min=0, help="Random values, uuid among them, that are the same in every run."
        ),
    ] = None
    count: Annotated[
        int | None,
        _input(
            "-n",
            "--count",
            metavar="N",
            min=0,
            help="Payloads, files or a template N times; without any, the numbers 0 to N-1.",
        ),
    ] = None
    resume: Annotated[
        str | None,
        _input(
            "--resume",
            metavar="STATE",
            help="Keep in this file how far it came, and go on from there: with the FILE of --lines, --rows or"
            " --envelopes.",
        ),
    ] = None
    format: Annotated[Format | None, _input("--format", help="What every body has to be: it is checked.")] = None

    def inputs(self) -> InputChoice:
        """Return what was named; raise a usage error for what does not go together."""
        from rmqkit.cli.publish_input import Contradiction, InputChoice  # noqa: PLC0415 - start-up time

        inputs = InputChoice(
            tuple(self.payloads or ()),
            tuple(self.file),
            self.lines,
            self.envelopes,
            self.count,
            self.rows,
            self.template,
            self.seed,
            self.timing,
            self.resume,
        )
        try:
            inputs.check()
        except Contradiction as exc:
            raise typer.BadParameter(str(exc)) from exc
        if self.format and self.envelopes is not None:
            raise typer.BadParameter("envelopes say what their bodies are: leave --format out")
        return inputs


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """Where the messages go."""

    exchange: Annotated[str | None, _target("-e", "--exchange", metavar="NAME", help="The exchange.")] = None
    routing_key: Annotated[str | None, _target("-r", "--routing-key", metavar="KEY", help="The routing key.")] = None
    queue: Annotated[
        str | None, _target("-q", "--queue", metavar="NAME", help="One queue, through the default exchange.")
    ] = None
    mandatory: Annotated[
        bool, _target("--mandatory", help="A message that reaches no queue is an error, whatever the exchange.")
    ] = False

    def target(self) -> Target | None:
        """Return the target that was named, None if none was; raise a usage error for two."""
        from rmqkit.model import Target  # noqa: PLC0415 - start-up time

        if self.queue is not None:
            if self.exchange is not None or self.routing_key is not None:
                raise typer.BadParameter("--queue is a target of its own: leave --exchange and --routing-key out")
            return Target("", self.queue)
        if self.exchange is None and self.routing_key is None:
            return None
        return Target(self.exchange or "", self.routing_key or "")


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What the messages say about themselves, but for what a call says itself."""

    header: Annotated[
        list[str],
        _property("--header", "K=V", "A header: k=text, or k:=JSON for a number, true, a list; repeat it.", "-H"),
    ] = field(default_factory=list)
    content_type: Annotated[
        str | None, _property("--content-type", "TYPE", "Else that of the format, the file's name, or the bytes.")
    ] = None
    content_encoding: Annotated[str | None, _property("--content-encoding", "NAME", "Like gzip or utf-8.")] = None
    priority: Annotated[int | None, _property("--priority", "0-255", "For priority queues.")] = None
    expiration: Annotated[str | None, _property("--expiration", "MS", "How long it may wait in a queue.")] = None
    message_id: Annotated[str | None, _property("--message-id", "ID", "The message's own name.")] = None
    timestamp: Annotated[str | None, _property("--timestamp", "WHEN", "Seconds since 1970, ISO 8601, or now.")] = None
    type: Annotated[str | None, _property("--type", "NAME", "What kind of message this is.")] = None
    user_id: Annotated[str | None, _property("--user-id", "USER", "Has to be the login: the broker checks it.")] = None
    app_id: Annotated[str | None, _property("--app-id", "NAME", "Which program it comes from.")] = None

    def properties(self) -> Properties:
        """Return the properties; raise PayloadError."""
        from rmqkit.cli.publish_input import header_table, moment  # noqa: PLC0415 - start-up time
        from rmqkit.message import Properties  # noqa: PLC0415

        return Properties(
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            headers=header_table(self.header),
            priority=self.priority,
            expiration=self.expiration,
            message_id=self.message_id,
            timestamp=moment(self.timestamp),
            type=self.type,
            user_id=self.user_id,
            app_id=self.app_id,
        )


@dataclass(frozen=True, slots=True)
class PropertyOptions(RequestOptions):
    """What the messages say about themselves."""

    correlation_id: Annotated[str | None, _property("--correlation-id", "ID", "Which request this answers.")] = None
    reply_to: Annotated[str | None, _property("--reply-to", "QUEUE", "Where answers go.")] = None
    transient: Annotated[bool, _property("--transient", None, "Not persistent: gone when the broker restarts.")] = False

    def properties(self) -> Properties:
        """Return the properties; raise PayloadError."""
        return replace(
            RequestOptions.properties(self),  # `super` does not know a class with slots
            correlation_id=self.correlation_id,
            reply_to=self.reply_to,
            delivery_mode=1 if self.transient else 2,
        )
