"""Results as markdown, written between the markers of docs/performance.md."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.clients import CONSUME, PUBLISH, Contestant

BEGIN = "<!-- benchmark: begin (written by tests.benchmarks.{}, RabbitMQ {}) -->"
END = "<!-- benchmark: end -->"

Rates = dict[Contestant, list[float]]


@dataclass(frozen=True)
class Requirement:
    """A requirement, the measured and the needed number in words, and whether it is met."""

    what: str
    measured: str
    needed: str
    met: bool

    @property
    def word(self) -> str:
        return "PASS" if self.met else "FAIL"


def require_rate(ours: Contestant, peer: Contestant, factor: float, rates: Rates) -> Requirement:
    """Compare two median rates."""
    ratio = statistics.median(rates[ours]) / statistics.median(rates[peer])
    what = f"{ours.work}: {ours} against {peer}"
    return Requirement(what, f"{ratio:.2f} times", f"{factor:g} times at least", ratio >= factor)


def require_most(what: str, measured: float, most: float, unit: str) -> Requirement:
    """Compare a number with the most it may be."""
    return Requirement(what, f"{measured:.2f} {unit}", f"{most:g} {unit} at most", measured <= most)


def rate_table(ours: Contestant, rates: Rates, scale: int) -> list[str]:
    """Tabulate one kind of work, the fastest first."""
    own = statistics.median(rates[ours])
    lines = [
        f"| {ours.work} | messages | median /s | slowest to fastest /s | rmqkit's rate is |",
        "|---|---:|---:|---:|---:|",
    ]
    mine = {each: found for each, found in rates.items() if each.work == ours.work}
    for each, found in sorted(mine.items(), key=lambda item: -statistics.median(item[1])):
        median = statistics.median(found)
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        times = "" if each is ours else f"{own / median:.2f} times that"
        lines.append(f"| {each} | {each.count // scale:,} | {median:,.0f} | {spread} | {times} |")
    return [*lines, ""]


def requirement_table(requirements: Sequence[Requirement]) -> list[str]:
    """Tabulate the requirements."""
    if not requirements:
        return []
    rows = [f"| {each.what} | {each.measured} | {each.needed} | {each.word} |" for each in requirements]
    return ["| must be reached | measured | needed | |", "|---|---:|---:|---|", *rows, ""]


def render(
    rates: Rates, requirements: Sequence[Requirement], left_out: Sequence[str], versions: dict[str, str], scale: int
) -> str:
    """Return everything between the markers."""
    command = " ".join(["python", "-m", "tests.benchmarks.publish_consume", *sys.argv[1:]])
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, `{command}`. {machine()}. Python {platform.python_version()}, {packages}.",
        *([f"Not installed, so left out: {', '.join(left_out)}."] if left_out else []),
        "",
        *rate_table(PUBLISH, rates, scale),
        *rate_table(CONSUME, rates, scale),
        *requirement_table(requirements),
    ]
    return "\n".join(lines)


def write(file: Path, text: str, program: str, rabbitmq: str) -> None:
    """Replace the text between the markers of a benchmark on this series of RabbitMQ, such as 4.3."""
    begin = BEGIN.format(program, ".".join(rabbitmq.split(".")[:2]))
    before, found, rest = file.read_text().partition(begin)
    if not found:
        sys.exit(f"{file} has no line {begin}")
    after = rest.partition(END)[2]
    file.write_text(f"{before}{begin}\n\n{text}\n{END}{after}")


def machine() -> str:
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    release = ".".join(platform.release().split(".")[:2])
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {release}"
