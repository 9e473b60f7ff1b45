"""Parts of `rmqkit bench`: histograms, numbers of messages, comparisons."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.bench.comparison import compare, load_report
from rmqkit.bench.latency import Histogram
from rmqkit.bench.load import Load
from rmqkit.bench.report import as_json, whole_seconds
from rmqkit.bench.run import Measured
from rmqkit.bench.sequences import Reader, ReceivedNumbers, published_bits
from rmqkit.errors import InputError


@given(st.lists(st.integers(0, 10**12), min_size=1), st.sampled_from([0.0, 0.5, 0.75, 0.99, 1.0]))
def test_a_quantile_is_within_half_a_percent_of_the_value_at_its_place(values: list[int], part: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)

    exact = sorted(values)[max(math.ceil(part * len(values)), 1) - 1] / 1e6

    assert histogram.quantiles(part) == [pytest.approx(exact, rel=0.004)]


@given(st.lists(st.integers(0, 40)), st.lists(st.integers(0, 40)), st.sets(st.integers(0, 29)))
def test_lost_and_duplicated_messages_of_two_consumers_are_counted(
    first: list[int], second: list[int], failed: set[int]
) -> None:
    reader = Reader({})
    for numbers in (first, second):
        received = ReceivedNumbers()
        for number in numbers:
            if number == received.next:
                received.next += 1
            else:
                received.jump(number, redelivered=False)
        reader.add({"7": received.as_json()})

    both = first + second

    assert reader.missing(7, published_bits(30, failed)) == len(set(range(30)) - failed - set(both))
    assert reader.duplicated == len(both) - len(set(both))


def test_a_lower_number_is_out_of_order_unless_it_was_redelivered_or_is_a_duplicate() -> None:
    received = ReceivedNumbers()
    for number, redelivered in ((3, False), (2, True), (5, False), (4, False), (3, False)):
        received.jump(number, redelivered=redelivered)

    assert received.as_json() | {"bits": ""} == {"bits": "", "duplicated": 1, "out_of_order": 1}


def test_a_second_without_messages_is_reported_too() -> None:
    measured = Measured(Load(warm_up_s=1.5), publish_s=7.1, consume_s=7.2)
    for second in (3, 0):
        measured.seconds[second].confirmed = 10

    seconds = as_json(measured)["seconds"]

    assert [(each["second"], each["published"]) for each in seconds] == [
        (second, 10 if second in (0, 3) else 0) for second in range(-2, 7)
    ]
    measured.load, measured.publish_s, measured.consume_s = Load(), 0.2, 0.1
    assert [each["second"] for each in as_json(measured)["seconds"]] == [0, 1, 2, 3]
    assert as_json(Measured(Load()))["seconds"] == []


def test_whole_seconds_of_deliveries_begin_when_consumers_start() -> None:
    measured = Measured(Load(fill_first=True), publish_s=5.2, consume_from_s=5.2, consume_s=3.0)
    for second in range(9):
        measured.seconds[second].confirmed = measured.seconds[second].received = second
    report = as_json(measured)

    assert whole_seconds(report, "published") == [(second, second) for second in range(5)]
    assert whole_seconds(report, "delivered") == [(6, 6), (7, 7)]
    measured.consume_s = 0.3
    assert whole_seconds(as_json(measured), "delivered") == [(5, 5)]


def report(rate: float, seconds: list[int], median: float = 1.0) -> dict[str, Any]:
    return {
        "load": {"delay_s": 0, "preset": "work"},
        "published": {"rate": rate, "start": 0, "seconds": len(seconds)},
        "delivered": {"rate": 0.0, "start": 0, "seconds": len(seconds)},
        "confirm_ms": {"median": median, "p99": 1.0},
        "latency_ms": None,
        "seconds": [
            {"second": number, "published": each, "confirm_median_ms": median, "confirm_p99_ms": 1.0}
            for number, each in enumerate(seconds)
        ],
    }


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (report(1000, [1000] * 6), report(950, [950] * 6), "same"),
        (report(1000, [1000] * 6), report(850, [850] * 6), "worse"),
        (report(1000, [1000] * 6), report(1200, [1200] * 6), "better"),
        (report(1000, [600, 800, 1000, 1100, 1500]), report(850, [500, 800, 800, 950, 1200]), "unclear"),
        (report(1000, [600, 1400]), report(850, [500, 1200]), "worse"),
    ],
)
def test_a_rate_is_worse_if_the_seconds_of_both_runs_say_so(
    old: dict[str, Any], new: dict[str, Any], verdict: str
) -> None:
    assert compare(old, new, 0.1)[0]["verdict"] == verdict


@pytest.mark.parametrize("missing", ["published", "seconds", "latency_ms", "load"])
@pytest.mark.parametrize("value", [5, "x", [5], {"rate": "x"}])
def test_a_damaged_report_is_no_report(tmp_path: Path, missing: str, value: object) -> None:
    file = tmp_path / "old.json"
    good = {"format": 1, **report(1000, [1000] * 6)}
    file.write_text(json.dumps(good))
    assert load_report(str(file)) == good

    for damaged in ({**good, missing: value}, {key: each for key, each in good.items() if key != missing}):
        file.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="is not a report of a benchmark"):
            load_report(str(file))


def test_a_longer_time_is_worse() -> None:
    compared = compare(report(1000, [1000] * 6, median=1.0), report(1000, [1000] * 6, median=2.0), 0.1)

    assert {each["metric"]: each["verdict"] for each in compared} == {
        "confirmed, /s": "same", "confirm, median ms": "worse", "confirm, 99 % ms": "same",
    }  # fmt: skip
