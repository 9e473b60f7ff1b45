"""Curves as one SVG file, which needs no other file and follows the reader's light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from rmqkit.bench.plot import Axis, Frame, Line, Points, decades, draw, short, steps

_FRAME = Frame(640, 360, left=64, right=32, top=92, bottom=48)
_KEY = 210  # the width of an entry of the key
_STYLES = ("a", "b dash", "c dots")
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #59636e } .title { font-size: 15px; font-weight: 600; fill: #1b1f24 }
.back { fill: #fff; stroke: #d1d9e0 } .axis { stroke: #d1d9e0 } path { fill: none; stroke-linejoin: round }
.a, .b, .c { stroke-width: 2 } .dash { stroke-dasharray: 7 4 } .dots { stroke-dasharray: 2 4 }
circle { stroke-width: 0 !important }
.a { stroke: #0b62c4 } .b { stroke: #b35000 } .c { stroke: #1a7f37 }
circle.a { fill: #0b62c4 } circle.b { fill: #b35000 } circle.c { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #9da7b3 } .title { fill: #e6edf3 } .back { fill: #0d1117; stroke: #3d444d } .axis { stroke: #3d444d }
.a { stroke: #58a6ff } .b { stroke: #f0883e } .c { stroke: #56d364 }
circle.a { fill: #58a6ff } circle.b { fill: #f0883e } circle.c { fill: #56d364 }
}
""".strip()


class Quantity(NamedTuple):
    """What an axis shows, how it writes a number, and whether equal lengths are equal factors."""

    name: str
    text: Callable[[float], str] = short
    logarithmic: bool = False


def svg(title: str, curves: Sequence[tuple[str, Points]], x: Quantity, y: Quantity) -> str:
    """Draw at most three curves, each a name and its points, over a logarithmic axis with a mark at each point."""
    lines = [Line(name, style, points) for (name, points), style in zip(curves, _STYLES, strict=False)]
    marks = sorted({first for line in lines for first, _ in line.points})
    numbers = [second for line in lines for _, second in line.points]
    upward = decades(lines) if y.logarithmic else Axis(float, steps([0, *numbers]), y.text)
    words = [
        _text(16, 26, title, "title"),
        _text(16, _FRAME.top - 16, y.name),
        _text(_FRAME.width - _FRAME.right, _FRAME.height - 10, x.name, end=True),
    ]
    for number, line in enumerate(lines):
        start = 16 + number * _KEY
        words += [f'<path class="{line.style}" d="M{start} 46h28"/>', _text(start + 36, 50, line.name)]
    width, height = _FRAME.width, _FRAME.height
    head = f'<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">'
    back = f'<rect class="back" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6"/>'
    plot = draw(_FRAME, lines, Axis(math.log10, marks, x.text), upward, dots=True)
    return "\n".join([head, f"<title>{escape(title)}</title><style>{_STYLE}</style>", back, *words, plot, "</svg>", ""])


def _text(left: int, top: int, words: str, style: str = "", *, end: bool = False) -> str:
    anchor = "end" if end else "start"
    return f'<text class="{style}" x="{left}" y="{top}" text-anchor="{anchor}">{escape(words)}</text>'
