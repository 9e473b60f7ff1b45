"""`rmqkit bench`."""

from __future__ import annotations

import difflib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.bench import comparison
from rmqkit.bench import report as reports
from rmqkit.bench.html import render
from rmqkit.bench.latency import Counts
from rmqkit.bench.load import PRESETS, Load, QueueType, preset
from rmqkit.bench.run import Run
from rmqkit.cli import files, output, signals
from rmqkit.cli.last_applied import state_file
from rmqkit.cli.options import ConnectionOptions, Json, grouped, option, option_field
from rmqkit.stop import Stop

_log = logging.getLogger("rmqkit.bench")


def _complete(incomplete: str) -> list[tuple[str, str]]:
    return [(name, each.sentence) for name, each in PRESETS.items() if name.startswith(incomplete)]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The options of the load; None stands for the value of the preset."""

    producers: int | None = option_field(
        "-x --producers N", "Producers, each with a connection. [default: 1]", min=1, max=1000
    )
    consumers: int | None = option_field(
        "-y --consumers N", "Consumers, each with a connection. [default: one per queue]", min=0, max=1000
    )
    queues: int | None = option_field("--queues N", "Queues. [default: 1; fanout 3, topic 4]", min=1, max=1000)
    queue_type: QueueType | None = option_field(
        "--type TYPE", "Queue type: classic, quorum or stream. [default: classic]"
    )
    size: list[int] | None = option_field(
        "-s --size BYTES", "Body size, at least 16; repeat it to alternate between sizes. [default: 1024]"
    )
    rate: float | None = option_field(
        "--rate N", "Publish N messages a second, all producers together. [default: unlimited]", min=0.01
    )
    window: int | None = option_field(
        "--window N", "Maximum number of unconfirmed messages, or calls, per producer. [default: 1000; rpc 100]", min=1
    )
    prefetch: int | None = option_field(
        "--prefetch N",
        "Maximum number of unacknowledged messages per consumer. [default: 1000; rpc 100]",
        min=1,
        max=65535,
    )
    transient: bool = option_field(
        "--transient", "Publish transient messages, which a restart of the broker may lose.", default=False
    )
    duration: float = option_field("-t --duration SECONDS", "Time to measure.", default=10.0, min=0.1)
    count: int | None = option_field("-n --count N", "Measure N messages, however long it takes.", min=1)
    warm_up: float | None = option_field(
        "--warm-up SECONDS", "Time to run before measuring. [default: 1, or 0 with --count]", min=0
    )
    delay: int | None = option_field(
        "--delay SECONDS", "Delay of the messages of the preset `delay`. [default: 2]", min=1, max=3600
    )
    fill_first: bool = option_field("--fill-first", "Start consuming once all messages are published.", default=False)

    def load(self, name: str) -> Load:
        """Return the load of a preset with these values. Raises BadParameter, and the errors of `Load.check`."""
        if name not in PRESETS:
            close = difflib.get_close_matches(name, PRESETS, 1)
            advice = f"Did you mean {close[0]}?" if close else f"The presets are {', '.join(PRESETS)}."
            raise typer.BadParameter(f"unknown preset {name!r}. {advice}")
        if self.delay and name != "delay":
            raise typer.BadParameter("--delay needs the preset delay")
        load = preset(
            name,
            producers=self.producers,
            consumers=self.consumers,
            queues=self.queues,
            queue_type=self.queue_type,
            sizes=tuple(self.size) if self.size else None,
            rate=self.rate,
            window=self.window,
            prefetch=self.prefetch,
            persistent=not self.transient,
            duration_s=self.duration,
            count=self.count,
            warm_up_s=float(self.count is None) if self.warm_up is None else self.warm_up,
            delay_s=self.delay,
            fill_first=self.fill_first,
        )
        load.check()
        return load


@grouped
def bench(
    broker: ConnectionOptions,
    options: LoadOptions,
    *,
    name: Annotated[
        str, typer.Argument(metavar="[PRESET]", help="One of the presets above.", autocompletion=_complete)
    ] = "work",
    csv: Annotated[str | None, option("--csv FILE", "Write the numbers of each second to this file.")] = None,
    html: Annotated[str | None, option("--html FILE", "Write a report with plots to this file.")] = None,
    compare: Annotated[
        str | None, option("--compare OLD", "Compare with an earlier report, a file that --json wrote.")
    ] = None,
    tolerance: Annotated[float, option("--tolerance PERCENT", "Ignore smaller differences.", min=0)] = 10.0,
    json: Json = False,
) -> None:
    """Measure a broker's throughput and latency under a load, and check that no message is lost.

    The queues are temporary, and are deleted afterward. The exit code is 6 if messages were unconfirmed or lost, or
    duplicated or out of order without a redelivery, and 9 if --compare finds a number that is worse.
    """
    load = options.load(name)
    if compare:
        old = comparison.load_report(compare)
        comparison.check_loads(compare, old, asdict(load))
    for file in filter(None, (csv, html)):
        files.check_writable(file)
    settings = replace(broker.settings(), on_blocked=None)

    def body(stop: Stop) -> int:
        folder = state_file(settings, "bench").with_suffix("")
        with _live() as show:
            measured = Run(settings, load, stop=stop, on_second=show, on_warning=output.warn).run(folder)
        report = reports.as_json(measured)
        compared = comparison.compare(old, report, tolerance / 100) if compare and not measured.interrupted else []
        report["comparison"] = compared
        if json:
            output.out_json(report)
        else:
            output.out(_text(report))
        if csv:
            files.write(csv, reports.csv(report), force=True)
        if html:
            files.write(html, render(report, compared), force=True)
        return _exit_code(report)

    signals.run_and_exit(body)


_WIDTH = max(map(len, PRESETS))
bench.__doc__ = f"{inspect.cleandoc(bench.__doc__ or '')}\n\n\b\n" + "\n".join(
    f"{name:<{_WIDTH}}  {each.sentence}" for name, each in PRESETS.items()
)


def _exit_code(report: dict[str, Any]) -> int:
    if reports.has_failed(report):
        return exit_codes.NOT_CONFIRMED
    worse = any(each["verdict"] == comparison.WORSE for each in report["comparison"])
    return exit_codes.TEST_FAILED if worse else exit_codes.DONE


def _text(report: dict[str, Any]) -> str:
    lines = [reports.load_sentence(report), "", output.table(list(reports.rate_rows(report)), numbers=(1,))]
    if rows := list(reports.latency_rows(report)):
        lines += ["", output.table(rows, header=reports.latency_header(), numbers=range(1, 8))]
    if report["comparison"]:
        header, compared = reports.comparison_table(report["comparison"])
        lines += ["", output.table(compared, header=header, styles=_styles(report), numbers=range(1, 4))]
    return "\n".join([*lines, "", reports.check_sentence(report)])


def _styles(report: dict[str, Any]) -> list[str | None]:
    looks = {"worse": "red", "better": "green", "unclear": "yellow"}
    return [looks.get(each["verdict"]) for each in report["comparison"]]


@contextmanager
def _live() -> Iterator[Callable[[int, Counts, str], None]]:
    """Yield a function that shows a second: on a terminal in one line, else in the log."""
    drawn = output.is_terminal(sys.stderr) and not output.is_quiet and not output.logs_json()

    def draw(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    def show(second: int, counts: Counts, blocked: str) -> None:
        text = f"{second + 1:>3} s {counts.confirmed:>9,}/s confirmed {counts.received:>9,}/s delivered"
        if counts.latency.count:
            text += "  {:,.3g} ms (99 %: {:,.3g} ms)".format(*counts.latency.quantiles(0.5, 0.99))
        if second < 0:
            text = f"{text} (warm-up)"
        if blocked:
            text = f"{text}  blocked: {output.safe(blocked)}"
        if drawn:
            draw(output.shorten(text, (output.columns_of(sys.stderr) or 80) - 1))
        else:
            _log.info(text)

    try:
        yield show
    finally:
        if drawn:
            draw("")
