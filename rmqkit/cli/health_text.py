"""Results of checks as text, JSON, metrics of Prometheus, and in the format of Nagios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from rmqkit.cli import output
from rmqkit.cli.output import Style


class Level(IntEnum):
    """The result of a check: the exit codes of Nagios's plugins (https://nagios-plugins.org/doc/guidelines.html)."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_SEVERITY = (Level.CRITICAL, Level.UNKNOWN, Level.WARNING, Level.OK)
_STYLES: dict[Level, Style | None] = {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "red"}


def number(value: float) -> str:
    """Write a number with all its digits, and without an exponent."""
    return f"{value:.15g}"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that was checked, such as `ready_messages`, and its limit, if there is one."""

    name: str
    value: float
    limit: float | None = None
    is_minimum: bool = False

    @property
    def range(self) -> str:
        """Return the range outside of which it is critical, as Nagios writes it; empty without a limit."""
        return "" if self.limit is None else f"{number(self.limit)}{':' * self.is_minimum}"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: its name, such as `alarms`, and the queue it is about, if any."""

    name: str
    level: Level
    message: str
    queue: str = ""
    metrics: tuple[Metric, ...] = ()

    @property
    def title(self) -> str:
        """Return the name and the queue."""
        return f"{self.name} {self.queue}".strip()


def worst(checks: Iterable[Check]) -> Level:
    """Return the worst result: a check that failed counts for more than one that could not be made."""
    return min((each.level for each in checks), key=_SEVERITY.index, default=Level.OK)


def as_table(checks: Sequence[Check]) -> str:
    """Return a line for each check."""
    rows = [(each.level.name.lower(), each.title, each.message) for each in checks]
    return output.table(rows, styles=[_STYLES.get(each.level, "yellow") for each in checks], shortened=(1, 2))


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as `--json` prints them."""
    listed = [asdict(each) | {"level": each.level.name.lower()} for each in checks]
    return {"level": worst(checks).name.lower(), "checks": listed}


def as_metrics(checks: Sequence[Check]) -> str:
    """Return Prometheus's text format, for the textfile collector of its node exporter or a push gateway."""
    lines = [
        "# HELP rmqkit_check_level Result of a check: 0 ok, 1 warning, 2 critical, 3 unknown.",
        "# TYPE rmqkit_check_level gauge",
    ]
    lines += [f"rmqkit_check_level{_labels(check=each.name, queue=each.queue)} {each.level:d}" for each in checks]
    names = dict.fromkeys((each.name, metric.name) for each in checks for metric in each.metrics)
    for check, name in names:
        full = f"rmqkit_{check}_{name}"
        lines.append(f"# TYPE {full} gauge")
        for each in checks:
            values = (metric.value for metric in each.metrics if (each.name, metric.name) == (check, name))
            lines += [f"{full}{_labels(queue=each.queue)} {number(value)}" for value in values]
    return "\n".join(lines)


def _labels(**labels: str) -> str:
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
    shown = [f'{name}="{value.translate(escapes)}"' for name, value in labels.items() if value]
    return f"{{{','.join(shown)}}}" if shown else ""


def as_nagios(checks: Sequence[Check]) -> str:
    """Return the first line, with the numbers that were checked behind a bar, and a line for each check."""
    level = worst(checks)
    bad = [f"{each.title}: {each.message}" for each in checks if each.level == level and level is not Level.OK]
    summary = "; ".join(bad) or f"{len(checks)} checks passed"
    data = [
        f"{_quoted(f'{each.queue} {metric.name}'.strip())}={number(metric.value)};;{metric.range}"
        for each in checks
        for metric in each.metrics
    ]
    first = f"RABBITMQ {level.name} - {summary}".replace("|", "/").replace("\n", " ")
    details = [f"{each.level.name}: {each.title}: {each.message}".replace("|", "/") for each in checks]
    return "\n".join([f"{first} | {' '.join(data)}" if data else first, *map(output.safe, details)])


def _quoted(label: str) -> str:
    return "'" + label.replace("'", "''").replace("=", "_").replace("\n", " ").replace("|", "/") + "'"
