"""Plots as SVG: lines between two axes, with colors from the style sheet of the page or file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_EDGE = 20  # room that a centered text needs
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


class Frame(NamedTuple):
    """The size of a plot, and its margins."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


def draw(frame: Frame, lines: Sequence[Line], x: Axis, y: Axis, *, dots: bool = False) -> str:
    """Return the elements of a plot; `dots` mark the points."""
    places = [x.place(each) for line in lines for each, _ in line.points]
    left, right = min(places), max(places)
    low, high = y.place(y.marks[0]), y.place(y.marks[-1])
    end = frame.width - frame.right

    def across(value: float) -> float:
        return frame.left + (x.place(value) - left) / ((right - left) or 1) * (end - frame.left)

    def down(value: float) -> float:
        bottom = frame.height - frame.bottom
        return bottom - (y.place(value) - low) / ((high - low) or 1) * (bottom - frame.top)

    drawn = [
        f'<path class="axis" d="M{frame.left} {down(mark):.1f}H{end}"/>'
        f'<text x="{frame.left - 5}" y="{down(mark) + 3:.1f}" text-anchor="end">{escape(y.text(mark))}</text>'
        for mark in y.marks
    ]
    for mark in x.marks:
        place, top = across(mark), frame.height - frame.bottom + 16
        if frame.left <= place <= end + 1:
            place, anchor = (place, "middle") if place < frame.width - _EDGE else (frame.width, "end")
            drawn.append(f'<text x="{place:.1f}" y="{top}" text-anchor="{anchor}">{escape(x.text(mark))}</text>')
    for line in lines:
        points = [(across(first), down(second)) for first, second in line.points]
        path = "L".join(f"{first:.1f} {second:.1f}" for first, second in points)
        drawn.append(f'<path class="{line.style}" d="M{path}"/>')
        for first, second in points if dots else ():
            drawn.append(f'<circle class="{line.style}" cx="{first:.1f}" cy="{second:.1f}" r="3"/>')
    return "".join(drawn)


def steps(numbers: Sequence[float], *, whole: bool = False) -> list[float]:
    """Return about five round numbers from the lowest to the highest."""
    low, high = min(numbers), max(numbers)
    rough = max((high - low) / 5, 1 if whole else 1e-9)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def decades(lines: Sequence[Line]) -> Axis:
    """Return a logarithmic axis for the second numbers of the points."""
    found = [y for line in lines for _, y in line.points if y > 0] or [1]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    marks = [10.0**power for power in range(low, max(high, low + 1) + 1)]
    return Axis(lambda value: math.log10(max(value, marks[0])), marks, short)


def short(number: float) -> str:
    """Write a number in thousands or millions."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"
