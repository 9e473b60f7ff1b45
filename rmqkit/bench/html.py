"""A report as one HTML file, with plots that need neither scripts nor a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from rmqkit.bench import report as reports
from rmqkit.bench.plot import Axis, Frame, Line, decades, draw, short, steps

_FRAME = Frame(330, 200, left=40, right=10, top=10, bottom=24)
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

    time = Axis(float, steps([each["second"] for each in seconds], whole=True), lambda second: f"{second:g} s")
    rates = lines((names["published"], "a", "published"), (names["delivered"] or "requests", "b", "delivered"))
    numbers = [y for line in rates for _, y in line.points]
    if numbers:
        yield _plot("Messages per second", rates, time, Axis(float, steps([0, *numbers]), short))
    times = lines(
        *((f"{names[f'{key}_ms']}, {text}", f"{style}{more}", f"{key}_{column}_ms")
          for key, style in (("confirm", "a"), ("latency", "b"))
          for column, text, more in (("median", "median", ""), ("p99", "99 %", " dash")))
    )  # fmt: skip
    if times:
        yield _plot("Latency in each second, ms", times, time, decades(times))
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
        yield _plot("Latency by percentile, ms", curves, parts, decades(curves))


def _plot(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Draw a plot, with a key above it."""
    keys = "".join(
        f'<span class=key><svg viewBox="0 0 24 8" aria-hidden="true"><path class="{line.style}" d="M0 4H24"/></svg> '
        f"{escape(line.name)}</span>"
        for line in lines
    )
    return (
        f"<section><h2>{escape(title)}</h2><p>{keys}</p>"
        f'<svg viewBox="0 0 {_FRAME.width} {_FRAME.height}" role="img" aria-label="{escape(title)}">'
        f"{draw(_FRAME, lines, x, y)}</svg></section>"
    )


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(each, "td") for each in rows)
    return f"<div class=scroll><table><caption>{escape(caption)}</caption>{row(header, 'th')}{body}</table></div>"
