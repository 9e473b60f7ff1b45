"""The options of `rmqkit consume` and `subscribe` that choose deliveries and their handler."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rmqkit.cli import output
from rmqkit.cli.options import connect, option_field
from rmqkit.errors import OutputError
from rmqkit.handlers.command import CommandHandler, parse
from rmqkit.handlers.file_saver import FileSaver
from rmqkit.handlers.forwarder import Forwarder
from rmqkit.handlers.function import FunctionHandler, load
from rmqkit.handlers.handler import Handler
from rmqkit.handlers.printer import Printer
from rmqkit.message import Verdict
from rmqkit.options import ConsumeOptions, FailurePolicy, Offset
from rmqkit.payload import amqp_json, properties
from rmqkit.settings import Settings, load_settings

if TYPE_CHECKING:
    from rmqkit.handlers.delivery_filter import DeliveryFilter

FILTER_HELP = (
    "Handle only messages for which this Jinja2 expression is true; it may use body (if JSON), headers, properties,"
    " routing_key, exchange, redelivered, and death.reason, .queue, .exchange, .routing_keys, .count, .time,"
    " .age (in seconds)."
)
OFFSET_HELP = "Where to begin in a stream: first, last, next, an offset, an age such as 5m, or a time."
_option = partial(option_field, panel="Handling")


class PrintFormat(Enum):
    """The format in which messages are printed."""

    RAW = "raw"
    JSON = "json"


def delivery_filter(expression: str | None) -> DeliveryFilter | None:
    """Return a function that tells whether a delivery matches. Raises PayloadError for a bad expression."""
    if expression is None:
        return None
    from rmqkit.handlers.delivery_filter import DeliveryFilter  # noqa: PLC0415 - start-up time: jinja2

    return DeliveryFilter(expression, output.warn)


@dataclass(frozen=True, slots=True)
class HandlerOptions:
    """Which deliveries are handled, how many at most, and how: they are printed unless another handler is named."""

    format: PrintFormat = _option(
        "--format",
        "raw: print each body and a newline; json: an envelope per line, for `publish --envelopes`.",
        default=PrintFormat.RAW,
        show_default=False,
    )
    save_to: str | None = _option("--save-to FOLDER", "Save each body as a file, with its properties in another.")
    exec: str | None = _option(
        "--exec COMMAND",
        "Run a command for each message, without a shell: the body is its standard input, RMQKIT_* variables"
        " hold the rest. Exit code 0 acknowledges, 3 rejects, 4 requeues; any other is a failure.",
    )
    timeout: float | None = _option("--timeout SECONDS", "End a command that takes longer.", min=0.001)
    concurrency: int | None = _option("--concurrency N", "Run N commands at a time.", min=1, max=10_000)
    handler: str | None = _option("--handler MODULE:FUNCTION", "Call a Python function with each delivery.")
    on_failure: FailurePolicy | None = _option(
        "--on-failure",
        "When the handler fails on a message: stop (the message stays in its queue), requeue it, or reject it."
        " [default: its retry or dead-letter exchange, else stop]",
    )
    to_exchange: str | None = _option("--to-exchange NAME", "Forward to this exchange, with confirms.")
    to_queue: str | None = _option("--to-queue NAME", "Forward to this queue.")
    to_routing_key: str | None = _option(
        "--to-routing-key KEY", "Forward with this routing key, not the message's own."
    )
    to_url: str | None = _option("--to-url URL", "Forward to this broker.")
    filter: str | None = _option("--filter EXPRESSION", FILTER_HELP)
    unmatched: Verdict | None = _option(
        "--unmatched", "Verdict on messages that do not match; requeue, the default, holds them until the end."
    )
    count: int | None = option_field("-n --count N", "Stop after N messages.", min=1)
    idle_timeout: float | None = option_field(
        "--idle-timeout SECONDS", "Stop after this long without a message.", min=0
    )
    prefetch: int | None = option_field(
        "--prefetch N",
        "Maximum number of unacknowledged messages per consumer. [default: 1000; with --exec, 2 per command]",
        min=1,
        max=65535,
    )

    @property
    def prints(self) -> bool:
        """Return whether deliveries are printed."""
        return not self._named()

    @property
    def may_fail(self) -> bool:
        """Return whether the handler may fail on a message."""
        return self.exec is not None or self.handler is not None

    def check(self) -> None:
        """Raise a usage error or RmqkitError for invalid options, and OutputError if standard output is closed."""
        if sys.stdout is None:  # closed, as by `>&-`: its number may be reused for any other file
            raise OutputError("standard output is closed")
        named = self._named()
        if len(named) > 1:
            raise typer.BadParameter(f"{' and '.join(named)} cannot be combined")
        if named and self.format is PrintFormat.JSON:
            raise typer.BadParameter(f"--format applies to printing and cannot be combined with {named[0]}")
        if self.to_queue is not None and (self.to_exchange is not None or self.to_routing_key is not None):
            raise typer.BadParameter("--to-queue cannot be combined with --to-exchange or --to-routing-key")
        names = {"queue": self.to_queue, "exchange": self.to_exchange, "routing_key": self.to_routing_key}
        properties.check_names(names)
        if self.exec is not None:
            parse(self.exec)
        elif self.timeout is not None or self.concurrency is not None:
            raise typer.BadParameter("--timeout and --concurrency require --exec")
        if self.filter is not None:
            from rmqkit.handlers.delivery_filter import DeliveryFilter  # noqa: PLC0415 - start-up time: jinja2

            DeliveryFilter(self.filter)
        elif self.unmatched is not None:
            raise typer.BadParameter("--unmatched requires --filter")

    def check_policy(self, *, checked: bool) -> None:
        """Raise a usage error for a policy without failures; `checked` says whether there is a contract."""
        if self.on_failure and not (self.may_fail or checked):
            raise typer.BadParameter("--on-failure requires --exec, --handler or a contract")

    def check_target(self, settings: Settings, *, queue: str = "", exchange: str = "") -> None:
        """Raise a usage error if forwarded messages would return to the queue, or to the exchange it is bound to."""
        if not self._forwards or not same_broker(settings, self._target_settings(settings)):
            return
        to_queue = self.to_queue if self.to_exchange != "" else self.to_routing_key
        if queue and to_queue == queue:
            raise typer.BadParameter(f"the messages are already in queue {queue!r}, and would return to it forever")
        if exchange and not self.to_routing_key and to_queue is None and self.to_exchange in (None, exchange):
            raise typer.BadParameter(f"the messages come from exchange {exchange!r}, and would return to it forever")

    def consume_options(self, *, no_ack: bool = False, offset: Offset | None = None) -> ConsumeOptions:
        """Return the options of the consumer; its prefetch is enough for all commands.

        A command may take long, so by default only those to be run next wait here: other consumers may be free.
        """
        concurrency = self.concurrency or 1
        default = 1000 if self.exec is None or self.filter is not None else 2 * concurrency
        prefetch = max(self.prefetch or default, concurrency)
        return ConsumeOptions(prefetch, self.count, self.idle_timeout, no_ack, offset)

    def make(self, queue: str, settings: Settings, lock_fd: int | None) -> Handler:
        """Make the handler; `settings` are those of the consuming connection, Printer explains `lock_fd`.

        Raises RmqkitError when it cannot be made.
        """
        if self.save_to is not None:
            return FileSaver(Path(self.save_to))
        if self.exec is not None:
            return CommandHandler(parse(self.exec), queue, concurrency=self.concurrency or 1, timeout_s=self.timeout)
        if self.handler is not None:
            return FunctionHandler(load(self.handler))
        if self._forwards:
            target = self._target_settings(settings)
            exchange, key = (self.to_exchange, self.to_routing_key) if self.to_queue is None else ("", self.to_queue)
            own = queue if same_broker(settings, target) else None
            return Forwarder(connect(target), exchange, key, own, output.warn)
        return Printer(as_json=self.format is PrintFormat.JSON, lock_fd=lock_fd)

    @property
    def _forwards(self) -> bool:
        return any(each is not None for each in (self.to_exchange, self.to_queue, self.to_routing_key, self.to_url))

    def _target_settings(self, settings: Settings) -> Settings:
        return settings if self.to_url is None else load_settings([self.to_url], source="--to-url")

    def _named(self) -> list[str]:
        options = {"--save-to": self.save_to, "--exec": self.exec, "--handler": self.handler}
        return [name for name, value in options.items() if value is not None] + ["--to-..."] * self._forwards


def same_broker(one: Settings, other: Settings) -> bool:
    """Tell whether two settings have an address in common."""
    places = [{(each.broker, each.vhost) for each in settings.addresses} for settings in (one, other)]
    return not places[0].isdisjoint(places[1])


def parse_offset(text: str | None) -> Offset | None:
    """Return where to begin in a stream. Raises a usage error for an invalid offset."""
    if text is None or re.fullmatch(r"first|last|next|\d+[YMDhms]", text):
        return text
    if text.isdecimal():
        return int(text)
    try:
        return amqp_json.parse_timestamp(text)
    except ValueError as exc:
        raise typer.BadParameter(f"--offset: {exc}; or first, last, next, an offset, or an age like 5m") from exc
