"""`rmqkit trace`."""

from __future__ import annotations

import json as json_module
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from enum import Enum

import typer

from rmqkit import exit_codes
from rmqkit.cli import firehose_switch, output, signals, topology_source
from rmqkit.cli.handler_options import FILTER_HELP, delivery_filter
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option_field
from rmqkit.connection import Connection
from rmqkit.deploy.route_predictor import Prediction, RoutePredictor
from rmqkit.errors import BrokerError
from rmqkit.handlers.delivery_filter import DeliveryFilter
from rmqkit.handlers.printer import Printer
from rmqkit.messaging.firehose import Firehose, TracedMessage
from rmqkit.model import Topology
from rmqkit.payload import properties
from rmqkit.payload.envelopes import EnvelopeWriter
from rmqkit.plural import plural
from rmqkit.settings import Settings
from rmqkit.stop import Stop

_HEADER = ("event", "exchange", "routing key", "queues", "from")
_WIDTHS = (9, 12, 16, 16, 0)  # the least, of all columns


class TraceFormat(Enum):
    """The format in which messages are printed."""

    TABLE = "table"
    ENVELOPE = "envelope"


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """The messages to trace, the topology to compare them with, and their format."""

    exchange: str | None = option_field(
        "-e --exchange NAME", 'Show only messages published to this exchange; "" is the default exchange.'
    )
    queue: str | None = option_field("-q --queue NAME", "Show only messages routed to or delivered from this queue.")
    filter: str | None = option_field("--filter EXPRESSION", FILTER_HELP.replace("Handle", "Show"))
    count: int | None = option_field("-n --count N", "Stop after N messages.", min=1)
    idle_timeout: float | None = option_field(
        "--idle-timeout SECONDS", "Stop after this long without a message.", min=0
    )
    topology: list[str] = option_field(
        "--topology FILE",
        "Compare with this topology file instead of the bindings on the broker; repeatable.",
        default_factory=list,
    )
    check: bool = option_field("--check", "Exit with 9 if a message was not routed as predicted.", default=False)
    format: TraceFormat = option_field(
        "--format",
        "table: a line per message; envelope: an envelope per published message, for `publish --envelopes`.",
        default=TraceFormat.TABLE,
        show_default=False,
    )
    buffer: int = option_field(
        "--buffer N",
        "Keep at most N messages in the trace's own queue; the oldest are dropped.",
        default=10_000,
        min=1,
    )
    no_switch: bool = option_field(
        "--no-switch", "Do not switch tracing on and off: `rabbitmqctl trace_on` has switched it on.", default=False
    )

    def keys(self) -> list[str]:
        """Return the routing keys of the firehose that the wanted messages have."""
        published = "publish.#" if self.exchange is None else f"publish.{self.exchange}"
        delivered = "deliver.#" if self.queue is None else f"deliver.{self.queue}"
        return [published] if self.format is TraceFormat.ENVELOPE else [published, delivered]


@grouped
def trace(broker: ConnectionOptions, *, options: TraceOptions, json: Json = False) -> None:
    """Show the messages that a virtual host receives and delivers, and whether they are routed as predicted.

    RabbitMQ's tracing (firehose) is switched on for the virtual host, and off again at the end unless it was on before.
    If the command is killed, its next run switches tracing off. This needs RabbitMQ's HTTP API and the tag
    administrator. While tracing is on, the broker copies every message of the virtual host at each step, which slows it
    down. With --json, each message is one object per line.
    """
    if json and options.format is TraceFormat.ENVELOPE:
        raise typer.BadParameter("--json cannot be combined with --format envelope: --json has the envelope, too")
    properties.check_names({"exchange": options.exchange, "queue": options.queue})
    files = options.topology
    topology = topology_source.load_topology(files) if files else None
    settings = topology_source.in_vhost_of(topology, broker.settings())
    matches = delivery_filter(options.filter)

    def body(stop: Stop) -> int:
        with connect(settings) as connection:
            api = None if options.no_switch else connection.http_api()
            shown = _Shown(options, _predictor(connection, topology, options), matches, json, stop)
            switch = firehose_switch.switched_on(api, settings) if api else nullcontext(lambda: None)
            with (
                switch as ensure,
                connection.trace(
                    *options.keys(),
                    max_length=options.buffer,
                    idle_timeout_s=options.idle_timeout,
                    on_open=ensure,
                    stop=stop,
                    on_warning=output.warn,
                ) as firehose,
            ):
                shown.show_all(firehose, settings)
                firehose.count_dropped()
        output.note(output.safe(shown.summary(firehose, ", ".join(files) or "the bindings on the broker")))
        return exit_codes.TEST_FAILED if options.check and shown.differences else exit_codes.DONE

    signals.run_and_exit(body)


def _predictor(connection: Connection, topology: Topology | None, options: TraceOptions) -> RoutePredictor | None:
    """Return what predicts by the files, or else by the broker; None if that is impossible and not required."""
    if topology:
        return RoutePredictor(lambda: topology, live=False)
    try:
        return RoutePredictor(lambda: connection.live().topology, live=True)
    except BrokerError as error:
        if options.check or not options.no_switch:
            raise
        output.warn(f"routes are not predicted: {error.message}")
        return None


@dataclass
class _Shown:
    """Prints the wanted messages, and counts them."""

    options: TraceOptions
    predictor: RoutePredictor | None
    matches: DeliveryFilter | None
    as_json: bool
    stop: Stop
    counts: Counter[str] = field(default_factory=Counter)
    differences: int = 0

    def show_all(self, firehose: Firehose, settings: Settings) -> None:
        """Print messages until the trace ends, or as many as wanted are printed."""
        output.note(output.safe(f"Tracing virtual host {settings.addresses[0].vhost!r}, which slows down the broker."))
        printer = Printer(as_json=True)
        writer = EnvelopeWriter()
        widths = _widths()
        if self.options.format is TraceFormat.TABLE and not self.as_json:
            output.out(output.paint(_line(_HEADER, widths), "bold", sys.stdout))
        for batch in firehose.batches():
            for traced in filter(self._is_wanted, batch):
                prediction = self.predictor.predict(traced) if self.predictor else None
                differs = prediction is not None and prediction.differs
                self.counts[traced.event] += 1
                self.differences += differs
                if self.options.format is TraceFormat.ENVELOPE:
                    printer.write([traced.message], self.stop)
                elif not output.out(
                    _as_json(traced, prediction, writer) if self.as_json else _row(traced, prediction, widths)
                ):
                    return
                if self.counts.total() == self.options.count:
                    return

    def _is_wanted(self, traced: TracedMessage) -> bool:
        wanted = self.options
        if wanted.exchange not in (None, traced.message.exchange) or (
            wanted.queue and wanted.queue not in traced.queues
        ):
            return False
        return self.matches is None or self.matches(traced.message)

    def summary(self, firehose: Firehose, source: str) -> str:
        """Return the counts in a sentence."""
        events = ", ".join(f"{count:,} {event}" for event, count in sorted(self.counts.items(), reverse=True))
        parts = [f"Traced {plural(self.counts.total(), 'message')}{events and f': {events}'}"]
        if self.counts and self.predictor:
            parts.append(f"{plural(self.differences, 'difference')} from {source}")
        if firehose.dropped:
            parts.append(f"{firehose.dropped:,} dropped before they were read (--buffer)")
        return f"{'; '.join(parts)}."


def _row(traced: TracedMessage, prediction: Prediction | None, widths: Sequence[int]) -> str:
    """Return the line of a message, highlighted with the difference if it was not routed as predicted."""
    message, client = traced.message, traced.connection.partition(" -> ")[0]
    queues = ", ".join(traced.queues) or "none"
    cells = (
        traced.event,
        message.exchange or "(default)",
        ", ".join(traced.routing_keys),
        queues,
        f"{traced.user} {client}",
    )
    line = _line(cells, widths)
    if prediction is None or not prediction.differs:
        return output.paint(line, "dim" if traced.delivered_from is not None else "", sys.stdout)
    difference = output.safe("! " + "; ".join(_differences(traced, prediction)))
    end = "\n" + " " * (_WIDTHS[0] + 2) if output.is_terminal(sys.stdout) else "  "
    return output.paint(f"{line}{end}{difference}", "red", sys.stdout)


def _differences(traced: TracedMessage, prediction: Prediction) -> Iterator[str]:
    if prediction.missing:
        yield f"not routed to {', '.join(prediction.missing)}"
    if prediction.unexpected:
        verb = "routed to" if traced.delivered_from is None else "delivered from"
        yield f"unexpectedly {verb} {', '.join(prediction.unexpected)}"


def _widths() -> list[int]:
    """Return the widths of the columns: on a terminal they share its width."""
    if not output.is_terminal(sys.stdout):
        return list(_WIDTHS)
    room = shutil.get_terminal_size().columns - _WIDTHS[0] - 2 * (len(_WIDTHS) - 1)
    part = room // (len(_WIDTHS) - 1)
    return [_WIDTHS[0], *[part] * (len(_WIDTHS) - 2), room - part * (len(_WIDTHS) - 2)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    safe = [output.safe(cell).replace("\n", "\\n") for cell in cells]
    if output.is_terminal(sys.stdout):
        safe = [output.shorten(cell, width) for cell, width in zip(safe, widths, strict=True)]
    padded = [cell + " " * (width - output.width(cell)) for cell, width in zip(safe, widths, strict=True)]
    return "  ".join(padded).rstrip()


def _as_json(traced: TracedMessage, prediction: Prediction | None, writer: EnvelopeWriter) -> str:
    """Return a message as one line of JSON."""
    place = {name: getattr(traced, name) for name in ("user", "node", "connection", "channel")}
    found = {
        "event": traced.event,
        "exchange": traced.message.exchange,
        "routing_keys": list(traced.routing_keys),
        "queues": list(traced.queues),
        **place,
        "redelivered": traced.message.redelivered,
        "prediction": prediction and asdict(prediction),
        "message": json_module.loads(writer.write(traced.message)),
    }
    return output.to_json(found, indent=None)
