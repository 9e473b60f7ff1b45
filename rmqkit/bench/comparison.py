"""Compare two reports: a verdict for each rate and time."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rmqkit.bench.report import FORMAT, names, whole_seconds
from rmqkit.errors import InputError

WORSE = "worse"
_ENOUGH = 4  # seconds that show how much a number varies
_LENGTH = ("duration_s", "warm_up_s", "count")  # may differ: they are not the load itself
# The metric, where a report has it, the column of its seconds, and whether more of it is better.
_METRICS = (
    ("{published}, /s", ("published", "rate"), "published", True),
    ("delivered, /s", ("delivered", "rate"), "delivered", True),
    ("{confirm_ms}, median ms", ("confirm_ms", "median"), "confirm_median_ms", False),
    ("{confirm_ms}, 99 % ms", ("confirm_ms", "p99"), "confirm_p99_ms", False),
    ("{latency_ms}, median ms", ("latency_ms", "median"), "latency_median_ms", False),
    ("{latency_ms}, 99 % ms", ("latency_ms", "p99"), "latency_p99_ms", False),
)


def load_report(file: str) -> dict[str, Any]:
    """Read a report that `rmqkit bench --json` wrote. Raises InputError for any other file."""
    try:
        report: dict[str, Any] = json.loads(Path(file).read_bytes())
        form = report["format"]
        if form == FORMAT:
            compare(report, report, -1)  # fails if something is missing, or not a number
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"{file} is not a report of a benchmark", advice="Write one with `rmqkit bench` and `json=True`."
        ) from error
    if form != FORMAT:
        raise InputError(f"{file} was written by another version of rmqkit (format {form}): measure again")
    return report


def check_loads(file: str, old: Mapping[str, Any], load: Mapping[str, Any]) -> None:
    """Raise InputError if the report in a file is that of a different load, or of a run that was interrupted."""
    before = json.loads(json.dumps(old["load"]))
    now = json.loads(json.dumps(load))
    different = [
        f"{name.removesuffix('_s').replace('_', ' ')} {before.get(name)} (now {now.get(name)})"
        for name in now
        if name not in _LENGTH and before.get(name) != now.get(name)
    ]
    if different:
        advice = "Compare runs of the same load."
        raise InputError(f"{file} is the report of a different load: {', '.join(different)}", advice=advice)
    if old.get("interrupted"):
        raise InputError(f"{file} is the report of a run that was interrupted: measure again")


def compare(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> list[dict[str, Any]]:
    """Return a verdict for each metric that both reports have: better, same, worse or unclear.

    A metric is the same if it differs by at most `tolerance`, a fraction of the old value. Otherwise it is better or
    worse if the interquartile ranges of the two runs' seconds do not overlap, and unclear if they do. With fewer than
    four seconds in a run, the tolerance alone decides.
    """
    return list(_verdicts(old, new, tolerance))


def _verdicts(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Iterator[dict[str, Any]]:
    shown = names(new)
    for name, (part, key), column, more_is_better in _METRICS:
        before, now = (report[part] and report[part][key] for report in (old, new))
        if not before or now is None:
            continue
        change = now / before - 1
        if abs(change) <= tolerance:
            verdict = "same"
        elif _overlap(_middle(old, column), _middle(new, column)):
            verdict = "unclear"
        else:
            verdict = "better" if (change > 0) == more_is_better else WORSE
        yield {
            "metric": name.format(**shown),
            "old": before,
            "new": now,
            "change": round(change, 4),
            "verdict": verdict,
        }


def _middle(report: Mapping[str, Any], column: str) -> tuple[float, float] | None:
    """Return the first and third quartile of a column over the whole seconds measured; None if those are too few."""
    numbers = [value for second, value in whole_seconds(report, column) if second >= 0]
    if len(numbers) < _ENOUGH:
        return None
    low, _, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return low, high


def _overlap(first: tuple[float, float] | None, second: tuple[float, float] | None) -> bool:
    return first is not None and second is not None and first[0] <= second[1] and second[0] <= first[1]
