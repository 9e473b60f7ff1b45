"""The report of a run: as JSON, as CSV, and as text."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rmqkit.bench.latency import QUANTILES, Counts, Histogram
from rmqkit.bench.run import Measured
from rmqkit.plural import plural
from rmqkit.version import VERSION

FORMAT = 1  # of the JSON; raised by a change that makes older reports incomparable
FAULTS = ("unconfirmed", "lost", "left", "duplicated", "out_of_order")
_CURVE = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999)
_COLUMNS = (
    "second",
    "published",
    "delivered",
    "confirm_median_ms",
    "confirm_p99_ms",
    "latency_median_ms",
    "latency_p99_ms",
)


def as_json(measured: Measured) -> dict[str, Any]:
    """Return the report; times are in milliseconds, rates in messages a second.

    `published` counts the confirmed messages, or the answered calls, of the measurement, `delivered` the deliveries,
    from `start` on, in seconds; `check` those of the whole run. `seconds` has the numbers of each second, also of those
    without messages; negative seconds are the warm-up.
    """
    total = measured.total
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "rmqkit": VERSION,
        "broker": f"RabbitMQ {measured.broker}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": asdict(measured.load),
        "interrupted": measured.interrupted,
        "blocked": measured.blocked,
        "published": _rate(total.confirmed, 0.0, measured.publish_s),
        "delivered": _rate(total.received, measured.consume_from_s, measured.consume_s),
        "confirm_ms": total.confirm.summary(),
        "latency_ms": total.latency.summary(),
        "curves": {"confirm": _curve(total.confirm), "latency": _curve(total.latency)},
        "cpu_s": {name: round(seconds, 3) for name, seconds in measured.cpu_s.items()},
        "check": dict(measured.check),
        "seconds": [_second(number, measured.seconds.get(number, Counts())) for number in _numbers(measured)],
    }


def _numbers(measured: Measured) -> range:
    """Return the numbers of the seconds, from the warm-up to the last one measured or with messages."""
    busy = [number for number, counts in measured.seconds.items() if counts.confirmed or counts.received]
    if not busy:
        return range(0)
    end = max(max(busy) + 1, int(measured.publish_s), int(measured.consume_from_s + measured.consume_s))
    return range(min(*busy, -math.ceil(measured.load.warm_up_s)), end)


def _curve(histogram: Histogram) -> list[tuple[float, float]]:
    """Return fractions of all values, and the times that they do not exceed, where at least one value is greater."""
    parts = [part for part in _CURVE if (1 - part) * histogram.count >= 1]
    return [(part, round(value, 4)) for part, value in zip(parts, histogram.quantiles(*parts), strict=True)]


def _rate(count: int, start: float, seconds: float) -> dict[str, float]:
    rate = round(count / seconds, 1) if count else 0.0
    return {"messages": count, "start": round(start, 3), "seconds": round(seconds, 3), "rate": rate}


def _second(number: int, counts: Counts) -> dict[str, Any]:
    found: list[float | None] = [number, counts.confirmed, counts.received]
    for histogram in (counts.confirm, counts.latency):
        found += (round(each, 4) for each in histogram.quantiles(0.5, 0.99)) if histogram.count else (None, None)
    return dict(zip(_COLUMNS, found, strict=True))


def whole_seconds(report: Mapping[str, Any], column: str) -> list[tuple[int, float]]:
    """Return the seconds and the numbers of a column, without a first or last second that is not whole.

    If none is whole, return them all.
    """
    rate = report["published" if column.startswith(("published", "confirm")) else "delivered"]
    first, end = rate["start"], rate["start"] + rate["seconds"]
    numbers = {each["second"]: each[column] for each in report["seconds"] if each[column] is not None}
    whole = range(math.ceil(first), int(end)) or range(int(first), math.ceil(end))
    return [(second, number) for second, number in numbers.items() if second in whole or (second < 0 and not first)]


def csv(report: Mapping[str, Any]) -> str:
    """Return the seconds of a report as CSV, with a header."""
    rows = [_COLUMNS, *([each[name] for name in _COLUMNS] for each in report["seconds"])]
    return "".join(",".join("" if cell is None else str(cell) for cell in row) + "\n" for row in rows)


def has_failed(report: Mapping[str, Any]) -> bool:
    """Tell whether a message was not confirmed or was lost, or, with nothing sent twice, duplicated or out of order."""
    check = report["check"]
    again = check.get("republished", 0) + check.get("redelivered", 0)
    strange = 0 if again else check.get("duplicated", 0) + check.get("out_of_order", 0)
    return bool(check.get("unconfirmed", 0) + check.get("lost", 0) + strange)


def names(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the displayed names of rates and times, by their keys."""
    if report["load"]["preset"] == "rpc":
        return {"published": "answered", "delivered": "", "confirm_ms": "reply", "latency_ms": "request"}
    latency = "lateness" if report["load"]["delay_s"] else "end to end"
    return {"published": "confirmed", "delivered": "delivered", "confirm_ms": "confirm", "latency_ms": latency}


def latency_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield rows of times in milliseconds: a name, then the quantiles."""
    for key, name in names(report).items():
        if key.endswith("_ms") and report[key]:
            yield (name, *(_number(report[key][quantile]) for quantile in QUANTILES))


def latency_header() -> tuple[str, ...]:
    """Return the header of `latency_rows`."""
    return ("ms", *(name.replace("_", ".") for name in QUANTILES))


def rate_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what was done to messages, the rate, and the number of messages with their time."""
    noun = "call" if report["load"]["preset"] == "rpc" else "message"
    for key in ("published", "delivered"):
        rate, name = report[key], names(report)[key]
        if rate["messages"] and name:
            yield name, f"{rate['rate']:,.0f}/s", f"{plural(rate['messages'], noun)} in {rate['seconds']:,.2f} s"


def check_sentence(report: Mapping[str, Any]) -> str:
    """Return a sentence about the messages that were not delivered exactly once and in order."""
    check = report["check"]
    texts = {"left": "left in queues", "out_of_order": "out of order"}
    found = ", ".join(f"{check[name]:,} {texts.get(name, name)}" for name in FAULTS if check.get(name))
    again = ", ".join(f"{check[name]:,} {name}" for name in ("republished", "redelivered") if check.get(name))
    whole = plural(check.get("published", 0), "message")
    text = f"Checked {whole}: {found or 'none lost, duplicated or out of order'}"
    return f"{text}; {again}." if again else f"{text}."


def load_sentence(report: Mapping[str, Any]) -> str:
    """Describe the load in a sentence of two lines."""
    load = report["load"]
    queues = plural(load["queues"], "stream" if load["queue_type"] == "stream" else f"{load['queue_type']} queue")
    clients = f"{plural(load['producers'], 'producer')}, {plural(load['consumers'], 'consumer')}"
    parts = [f"bodies of {', '.join(f'{size:,}' for size in load['sizes'])} B"]
    parts += [f"{load['rate']:,g} messages/s"] if load["rate"] else []
    parts += [f"window {load['window']:,}", f"prefetch {load['prefetch']:,}"]
    parts += [] if load["persistent"] else ["transient"]
    return f"{load['preset']} on {report['broker']}: {clients}, {queues},\n{', '.join(parts)}"


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"  # noqa: PLR2004 - no exponents


def comparison_table(compared: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and the rows of a comparison."""
    rows: list[tuple[str, ...]] = [
        (each["metric"], _number(each["old"]), _number(each["new"]), f"{each['change']:+.1%}", each["verdict"])
        for each in compared
    ]
    return ("metric", "before", "now", "change", "verdict"), rows
