"""A report as one HTML file, with plots that need neither scripts nor a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from rmqkit.bench import report as reports

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 330, 200, 40, 10, 10, 24  # of a plot, and its margins
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #59636e; --line: #d1d9e0; --back: #fff; --card: #f6f8fa;
  --a: #0b62c4; --b: #b35000; --bad: #b42318; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9da7b3; --line: #3d444d; --back: #0d1117;
  --card: #151b23; --a: #58a6ff; --b: #f0883e; --bad: #ff7b72; --good: #56d364; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 16px; max-width: 1200px; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--back); }
h1 { font-size: 24px; margin: 8px 0; } h2 { font-size: 17px; margin: 0 0 4px; } p { margin: 4px 0; }
.dim, caption { color: var(--dim) } .bad { color: var(--bad) } .good { color: var(--good) }

.grid { display: grid; gap: 16px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)) }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
.big { font-size: 28px; font-weight: 600; } .scroll { overflow-x: auto; margin: 16px 0 }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left } th, td { padding: 4px 8px; text-align: right; border-top: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--dim); }
@media (min-width: 1040px) { svg text { font-size: 8px } }
svg path { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.a { stroke: var(--a) } .b { stroke: var(--b) } .dash { stroke-dasharray: 5 4 }
.axis { stroke: var(--line); stroke-width: 1 !important; }
.key { display: inline-block; margin-right: 16px; font-size: 14px; } .key svg { display: inline; width: 24px; }
"""
Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """A line of a plot: its name, the classes of its style, and its points."""

    name: str
    style: str
    points: Points


class Axis(NamedTuple):
    """An axis: a function that makes numbers proportional to lengths, the marks, and the text of one."""

    place: Callable[[float], float]
    marks: Sequence[float]
    text: Callable[[float], str]


def render(report: Mapping[str, Any], compared: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the page of a report, and of its comparison with another."""
    title = f"rmqkit bench: {report['load']['preset']}"
    wrong = reports.has_failed(report)
    facts = f"{report['time']}, {report['broker']}, rmqkit {report['rmqkit']}, {report['cores']} cores"
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(reports.load_sentence(report))}</p><p class=dim>{escape(facts)}</p>",
        f"<p class={'bad' if wrong else 'good'}>{escape(reports.check_sentence(report))}</p>",
        "<div class=grid>",
        *(f"<section><h2>{name.capitalize()}</h2><p class=big>{rate}</p><p class=dim>{text}</p></section>"
          for name, rate, text in reports.rate_rows(report)),
        "</div>",
    ]  # fmt: skip
    times = [reports.latency_header(), *reports.latency_rows(report)]
    if len(times) > 1:
        header, *rows = zip(*times, strict=True)
        parts.append(_table("Latency by percentile", header, rows))
    if compared:
        parts.append(_table("Compared with the earlier run", *reports.comparison_table(compared)))
    parts += ["<div class=grid>", *_plots(report), "</div>"]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body>\n{body}\n</body></html>\n"
    )


def _plots(report: Mapping[str, Any]) -> Iterable[str]:
    seconds, names = report["seconds"], reports.names(report)

    def lines(*wanted: tuple[str, str, str]) -> list[Line]:
        return [
            Line(name, style, reports.whole_seconds(report, column))
            for name, style, column in wanted
            if any(y for _, y in reports.whole_seconds(report, column))
        ]

    time = Axis(float, _steps([each["second"] for each in seconds], whole=True), lambda second: f"{second:g} s")
    rates = lines((names["published"], "a", "published"), (names["delivered"] or "requests", "b", "delivered"))
    numbers = [y for line in rates for _, y in line.points]
    if numbers:
        yield _plot("Messages a second", rates, time, Axis(float, _steps([0, *numbers]), _short))
    times = lines(
        *((f"{names[f'{key}_ms']}, {text}", f"{style}{more}", f"{key}_{column}_ms")
          for key, style in (("confirm", "a"), ("latency", "b"))
          for column, text, more in (("median", "median", ""), ("p99", "99 %", " dash")))
    )  # fmt: skip
    if times:
        yield _plot("Latency in each second, ms", times, time, _decades(times))
    curves = [
        Line(names[f"{key}_ms"], style, report["curves"][key])
        for key, style in (("confirm", "a"), ("latency", "b"))
        if report["curves"][key]
    ]
    if curves:
        parts = Axis(
            lambda part: -math.log10(1 - part),
            (0, 0.9, 0.99, 0.999, 0.9999),
            lambda part: f"{part:.4%}".rstrip("0%").rstrip(".") + " %" if part else "0 %",
        )
        yield _plot("Latency by percentile, ms", curves, parts, _decades(curves))


def _steps(numbers: Sequence[float], *, whole: bool = False) -> list[float]:
    """Return about five round numbers from the lowest to the highest."""
    low, high = min(numbers), max(numbers)
    rough = max((high - low) / 5, 1 if whole else 1e-9)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _decades(lines: Sequence[Line]) -> Axis:
    found = [y for line in lines for _, y in line.points if y > 0] or [1]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    marks = [10.0**power for power in range(low, max(high, low + 1) + 1)]
    return Axis(lambda value: math.log10(max(value, marks[0])), marks, _short)


def _short(number: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


def _plot(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Draw a plot, with a key above it."""
    places = [x.place(each) for line in lines for each, _ in line.points]
    left, right = min(places), max(places)
    low, high = y.place(y.marks[0]), y.place(y.marks[-1])

    def across(value: float) -> float:
        return _LEFT + (x.place(value) - left) / ((right - left) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _HEIGHT - _BOTTOM - (y.place(value) - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    drawn = [
        f'<path class="axis" d="M{_LEFT} {down(mark):.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 5}" y="{down(mark) + 3:.1f}" text-anchor="end">{escape(y.text(mark))}</text>'
        for mark in y.marks
    ]
    for mark in x.marks:
        place = across(mark)
        if _LEFT <= place <= _WIDTH - _RIGHT + 1:
            anchor = "middle" if place < _WIDTH - 2 * _RIGHT else "end"
            place = place if anchor == "middle" else _WIDTH
            drawn.append(
                f'<text x="{place:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{escape(x.text(mark))}</text>'
            )
    for line in lines:
        path = "L".join(f"{across(first):.1f} {down(second):.1f}" for first, second in line.points)
        drawn.append(f'<path class="{line.style}" d="M{path}"/>')
    keys = "".join(
        f'<span class=key><svg viewBox="0 0 24 8" aria-hidden="true"><path class="{line.style}" d="M0 4H24"/></svg> '
        f"{escape(line.name)}</span>"
        for line in lines
    )
    return (
        f"<section><h2>{escape(title)}</h2><p>{keys}</p>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(drawn)}</svg></section>"
    )


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(each, "td") for each in rows)
    return f"<div class=scroll><table><caption>{escape(caption)}</caption>{row(header, 'th')}{body}</table></div>"
