"""The options of `rmqkit consume` that say what becomes of a delivery, and the handler they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmqkit.cli.options import connect
from rmqkit.message import Delivery, Verdict
from rmqkit.settings import Settings, load_settings

if TYPE_CHECKING:
    from rmqkit.handlers.handler import Handler

Predicate = Callable[[Delivery], bool]


class PrintFormat(Enum):
    """How a message is printed."""

    RAW = "raw"
    JSON = "json"


def _handling(*names: str, metavar: str | None = None, help: str, **more: Any) -> Any:  # noqa: A002 - Typer's word
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Handling", show_default=False, **more)


@dataclass(frozen=True, slots=True)
class HandlerOptions:
    """What is done with a delivery: it is printed, unless one of the others is named."""

    format: Annotated[
        PrintFormat,
        _handling("--format", help="raw: print each body and a newline; json: an envelope a line, as `publish` reads."),
    ] = PrintFormat.RAW
    save_to: Annotated[
        str | None, _handling("--save-to", metavar="FOLDER", help="Save each body in a file, its properties beside it.")
    ] = None
    exec: Annotated[
        str | None,
        _handling(
            "--exec",
            metavar="COMMAND",
            help="Run a command for each, without a shell: the body is its input, RMQKIT_* variables tell the rest."
            " Exit code 0 acknowledges, 3 rejects, 4 requeues; any other has failed.",
        ),
    ] = None
    timeout: Annotated[
        float | None, _handling("--timeout", metavar="SECONDS", min=0.001, help="End a command that takes longer.")
    ] = None
    concurrency: Annotated[
        int | None, _handling("--concurrency", metavar="N", min=1, max=10_000, help="Run N commands at a time.")
    ] = None
    handler: Annotated[
        str | None,
        _handling("--handler", metavar="MODULE:FUNCTION", help="Call a Python function with each delivery."),
    ] = None
    to_exchange: Annotated[
        str | None, _handling("--to-exchange", metavar="NAME", help="Forward to this exchange, confirmed.")
    ] = None
    to_queue: Annotated[str | None, _handling("--to-queue", metavar="NAME", help="Forward to one queue.")] = None
    to_routing_key: Annotated[
        str | None, _handling("--to-routing-key", metavar="KEY", help="Forward with this key, not the message's own.")
    ] = None
    to_url: Annotated[str | None, _handling("--to-url", metavar="URL", help="Forward to this broker.")] = None

    @property
    def prints(self) -> bool:
        """Tell whether deliveries are printed."""
        return not self._named()

    @property
    def may_fail(self) -> bool:
        """Tell whether the handler may fail on a message."""
        return self.exec is not None or self.handler is not None

    def check(self) -> None:
        """Refuse what does not go together, and a command that is not there: a usage error, or SettingsError."""
        named = self._named()
        if len(named) > 1:
            raise typer.BadParameter(f"{' and '.join(named)}: a delivery is handled in one way")
        if named and self.format is PrintFormat.JSON:
            raise typer.BadParameter(f"--format is for printing, and {named[0]} prints nothing")
        if self.to_queue is not None and (self.to_exchange is not None or self.to_routing_key is not None):
            raise typer.BadParameter("--to-queue is a target of its own: leave --to-exchange and --to-routing-key out")
        if self.exec is not None:
            from rmqkit.handlers.command import parse  # noqa: PLC0415 - start-up time

            parse(self.exec)
        elif self.timeout is not None or self.concurrency is not None:
            raise typer.BadParameter("--timeout and --concurrency are for --exec")

    def prefetch(self, given: int | None, *, filtered: bool) -> int:
        """Return how many deliveries may be under way: what was given, but enough for all commands.

        A command may take long, so no more wait here than can be begun next: other consumers may be free.
        """
        concurrency = self.concurrency or 1
        default = 1000 if self.exec is None or filtered else 2 * concurrency
        return max(given or default, concurrency)

    def make(self, queue: str, settings: Settings, lock_fd: int | None) -> Handler:
        """Make the handler; `settings` are those of the broker consumed from, `lock_fd` is explained at Printer.

        Raises RmqkitError when that cannot be done.
        """
        if self.save_to is not None:
            from rmqkit.handlers.file_saver import FileSaver  # noqa: PLC0415 - only what is needed is imported

            return FileSaver(Path(self.save_to))
        if self.exec is not None:
            from rmqkit.handlers.command import CommandHandler, parse  # noqa: PLC0415

            return CommandHandler(parse(self.exec), queue, concurrency=self.concurrency or 1, timeout_s=self.timeout)
        if self.handler is not None:
            from rmqkit.handlers.function import FunctionHandler, load  # noqa: PLC0415

            return FunctionHandler(load(self.handler))
        if self._forwards:
            from rmqkit.handlers.forwarder import Forwarder  # noqa: PLC0415

            target = settings if self.to_url is None else load_settings([self.to_url], source="--to-url")
            exchange, key = (self.to_exchange, self.to_routing_key) if self.to_queue is None else ("", self.to_queue)
            return Forwarder(connect(target), exchange, key)
        from rmqkit.handlers.printer import Printer  # noqa: PLC0415

        return Printer(as_json=self.format is PrintFormat.JSON, lock_fd=lock_fd)

    @property
    def _forwards(self) -> bool:
        return any(each is not None for each in (self.to_exchange, self.to_queue, self.to_routing_key, self.to_url))

    def _named(self) -> list[str]:
        ways = {"--save-to": self.save_to, "--exec": self.exec, "--handler": self.handler}
        return [name for name, value in ways.items() if value is not None] + ["--to-..."] * self._forwards


FILTER_HELP = (
    "Only what this is true for, in Jinja2's language: of body (if JSON), headers, properties, routing_key,"
    " exchange, redelivered, and death.reason, .queue, .exchange, .routing_keys, .count, .time, .age (in seconds)."
)


@dataclass(frozen=True, slots=True)
class FilterOptions:
    """Which deliveries are handled, and what becomes of the others."""

    filter: Annotated[str | None, _handling("--filter", metavar="EXPRESSION", help=FILTER_HELP)] = None
    unmatched: Annotated[
        Verdict | None,
        _handling("--unmatched", help="What becomes of the others; requeue, the default, holds them until the end."),
    ] = None

    @property
    def verdict(self) -> Verdict:
        """Return what becomes of what does not match."""
        return self.unmatched or Verdict.REQUEUE

    def check(self) -> None:
        """Refuse a bad expression, or what makes no sense without one: PayloadError, or a usage error."""
        if self.filter is None and self.unmatched is not None:
            raise typer.BadParameter("--unmatched is for --filter")
        self.make(lambda _: None)

    def make(self, warn: Callable[[str], None]) -> Predicate | None:
        """Return what tells whether a delivery matches; None if all do. Raises PayloadError."""
        if self.filter is None:
            return None
        from rmqkit.handlers.delivery_filters import DeliveryFilter  # noqa: PLC0415 - start-up time: jinja2

        return DeliveryFilter(self.filter, warn)
