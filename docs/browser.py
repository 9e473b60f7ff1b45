#!/usr/bin/env python3
"""Check the report of a benchmark in headless Chromium: on a phone and a desktop, in dark and in light mode.

`make docs` checks one with made-up numbers; with HTML files as arguments, it checks those instead.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from html import unescape
from itertools import product
from pathlib import Path

from rmqkit.bench import report as reports
from rmqkit.bench.html import render
from rmqkit.bench.latency import Counts
from rmqkit.bench.load import Load
from rmqkit.bench.run import Measured

WIDTHS = {"a phone": 390, "a desktop": 1440}
SCHEMES = {"dark": 0, "light": 1}  # as Chromium numbers them
_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Finds what is wider than the window, text that is small or pale, and labels of a plot that overlap.
_PROBE = """<script>addEventListener("load", () => {
  const problems = [], wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) problems.push(`${wide} pixels wide`);
  const light = text => text.match(/[0-9.]+/g).slice(0, 3).map(each => each / 255)
    .map(each => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
  const back = element => { const found = getComputedStyle(element).backgroundColor;
    return found !== "rgba(0, 0, 0, 0)" || !element.parentElement ? found : back(element.parentElement) };
  for (const each of document.querySelectorAll("h1, h2, p, th, td, caption, svg text")) {
    const style = getComputedStyle(each), svg = each.ownerSVGElement, name = each.textContent.slice(0, 40);
    const size = parseFloat(style.fontSize) * (svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1);
    if (size < 10.5) problems.push(`${size.toFixed(1)} pixels high: ${name}`);
    const [low, high] = [light(svg ? style.fill : style.color), light(back(each))].sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < 4.5) problems.push(`pale: ${name}`);
  }
  for (const svg of document.querySelectorAll("svg[role=img]")) {
    const boxes = [...svg.querySelectorAll("text")].map(each => [each.textContent, each.getBoundingClientRect()]);
    boxes.forEach(([name, a], index) => boxes.slice(index + 1).forEach(([other, b]) => {
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
        problems.push(`${name} overlaps ${other}`);
    }));
    const frame = svg.getBoundingClientRect();
    for (const [name, box] of boxes)
      if (box.left < frame.left - 1 || box.right > frame.right + 1) problems.push(`${name} is cut off`);
  }
  document.title = JSON.stringify([getComputedStyle(document.body).backgroundColor, problems]);
})</script>"""


def benchmark_page() -> str:
    """Return the report of a made-up benchmark, with every part that a report can have."""
    measured = Measured(
        Load("fanout", queues=3, consumers=3, rate=20_000.0), broker="4.3.6", publish_s=30, consume_s=30
    )
    for second in range(-1, 30):
        counts = measured.seconds[second]
        counts.confirmed, counts.received = 20_000 + 31 * second, 60_000 - 37 * second
        for number in range(200):
            counts.confirm.record(300_000 * (1 + number % 19) ** 2 + 1000 * second)
            counts.latency.record(90_000 * (1 + number % 23) ** 3)
        measured.total.add(counts.since(Counts()))
    measured.check.update(published=600_000, confirmed=600_000, expected=1_800_000, lost=3, out_of_order=1)
    report = reports.as_json(measured)
    metric = {"metric": "published, /s", "old": 31_234.5, "new": 20_000.1, "change": -0.36, "verdict": "worse"}
    return render(report, [metric])


def problems(name: str, page: str) -> list[str]:
    """Return the problems of a self-contained page, at each width and in each color scheme."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        return [f"no browser to look at {name}: install chromium-headless-shell"]
    found, colors = [], set()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "page.html")
        file.write_text(page.replace("</body>", f"{_PROBE}</body>"), "utf-8")
        for (device, width), (scheme, number) in product(WIDTHS.items(), SCHEMES.items()):
            options = (f"--window-size={width},1000", f"--blink-settings=preferredColorScheme={number}")
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *options, "--dump-dom", file.as_uri()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
            title = re.search("<title>(.*?)</title>", done.stdout)
            if not title or not title[1].startswith("["):
                return [f"{name}: {browser} did not show it: {done.stderr[-300:]}"]
            color, wrong = json.loads(unescape(title[1]))
            colors.add(color)
            found += [f"{name}, on {device}, {scheme}: {each}" for each in wrong]
    if len(colors) != len(SCHEMES):
        found.append(f"{name} looks the same in dark and in light")
    return found


def main(files: list[str]) -> int:
    """Check the files, or the report with made-up numbers, and print the problems."""
    pages = {file: Path(file).read_text("utf-8") for file in files} or {"the report of a benchmark": benchmark_page()}
    found = [each for name, page in pages.items() for each in problems(name, page)]
    sys.stderr.writelines(f"{each}\n" for each in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
