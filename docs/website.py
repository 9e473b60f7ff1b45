#!/usr/bin/env python3
"""Build the documentation site in build/site, which needs nothing from other hosts; `make docs` runs it.

The pages of docs/, CONTRIBUTING.md, CHANGELOG.md and SECURITY.md are put into one folder, with links that are right
there and diagrams drawn by Graphviz, and zensical makes HTML of them. Exits with 1 for stale generated pages, pages
that docs/mkdocs.yml does not list, dead links, whatever would come from another host, and a report of `rmqkit bench`
that cannot be read on a phone or a desktop, in dark or in light.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import yaml

from docs import browser
from docs.generate import OTHERS, nav, sources

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
BUILD = ROOT / "build"
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHIPPED = re.compile(r"\(((?:\.\./)*topologies/(\w+\.yaml))\)\)\n\n" + _MERMAID.pattern, re.MULTILINE | re.DOTALL)


def text(place: str, page: Path) -> str:
    """Return the text of a page as it stands on the site."""

    def link(match: re.Match[str]) -> str:
        target = (page.parent / match[1]).resolve()
        if target.is_relative_to(DOCS) and target != DOCS:
            there = target.relative_to(DOCS).as_posix()
        else:
            first, *inner = target.relative_to(ROOT).parts
            if first not in OTHERS:
                raise SystemExit(f"{page.relative_to(ROOT)} links to {match[1]}, which is not on the site")
            there = "/".join((OTHERS[first], *inner))
        if not (target.exists() or (BUILD / "pages" / there).exists()):  # a diagram is drawn there
            raise SystemExit(f"{page.relative_to(ROOT)} links to {match[1]}, which does not exist")
        if target.is_dir():
            there += "/README.md"
        return f"]({os.path.relpath(there, Path(place).parent)}{match[2] or ''})"

    drawn = _SHIPPED.sub(
        lambda match: f"({match[1]}))\n\n![{match[2]}]({_draw_topology(match[2])})", page.read_text("utf-8")
    )
    drawn = _MERMAID.sub(lambda match: f"![Diagram]({_draw(place, _dot(match[1]))})", drawn)
    return _LINK.sub(link, drawn)


def _draw_topology(name: str) -> str:
    from rmqkit.topology.diagram.graph import build_diagram, collapse  # noqa: PLC0415
    from rmqkit.topology.diagram.mermaid_dot import dot  # noqa: PLC0415
    from rmqkit.topology.file.loader import load  # noqa: PLC0415

    return _draw(name, dot(collapse(build_diagram(load(ROOT / "topologies" / name)))))


def _dot(mermaid: str) -> str:
    """Return a flowchart in the few forms of Mermaid that our pages use, as DOT."""
    labels = dict(re.findall(r'(\w+)\["([^"]*)"\]', mermaid))
    edges = re.findall(r"^ *(\w+)(?:\[.*?\])? (-->|-\..*?\.->) (\w+)", mermaid, re.MULTILINE)
    lines = [f'"{name}" [label="{label}"];' for name, label in labels.items()]
    lines += [
        f'"{tail}" -> "{head}" [style="{"solid" if arrow == "-->" else "dashed"}"];' for tail, arrow, head in edges
    ]
    return "digraph { node [shape=box fontname=Helvetica fontsize=11]; " + "\n".join(lines) + "}"


def _draw(name: str, dot: str) -> str:
    pictures = BUILD / "pages" / "pictures"
    file = pictures / f"{Path(name).stem}-diagram.svg"
    subprocess.run(["dot", "-Tsvg", "-Gbgcolor=white", "-Gpad=0.1", "-o", file], input=dot, text=True, check=True)  # noqa: S603, S607
    return str(DOCS / "pictures" / file.name)  # which `link` makes relative


def foreign(site: Path) -> list[str]:
    """Return the scripts, styles, fonts and pictures that pages would load from other hosts."""
    loaded = re.compile(
        r'<(?:script|img|iframe|source)\b[^>]*\ssrc="?(https?:[^"\s>]+)|<link\b[^>]*\shref="?(https?:[^"\s>]+)'
    )
    return sorted(
        {f"{page.name}: {a or b}" for page in site.rglob("*.html") for a, b in loaded.findall(page.read_text("utf-8"))}
    )


def main() -> int:
    """Build the site, and report what is wrong with it."""
    if subprocess.run([sys.executable, DOCS / "generate.py", "--check"], check=False).returncode:  # noqa: S603
        return 1
    pages, site = BUILD / "pages", BUILD / "site"
    for old in (pages, site):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(DOCS / "pictures", pages / "pictures")
    shutil.copytree(ROOT / "topologies", pages / "shipped")
    for folder in ("curves", "deployment", "services"):
        shutil.copytree(DOCS / folder, pages / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for place, page in sources().items():
        (pages / place).parent.mkdir(exist_ok=True)
        (pages / place).write_text(text(place, page), "utf-8")
    text("README.md", ROOT / "README.md")  # it is not on the site, but its links must be right
    shutil.copy(DOCS / "llms.txt", pages)
    sections = groupby(nav(), itemgetter(0))
    config = yaml.safe_load((DOCS / "mkdocs.yml").read_text("utf-8")) | {
        "docs_dir": "pages",
        "site_dir": "site",
        "nav": [{section: [{title: place} for _, title, place in listed]} for section, listed in sections],
    }
    (BUILD / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    command: list[str | Path] = [
        Path(sys.executable).with_name("zensical"),
        "build",
        "--strict",
        "--clean",
        "-f",
        BUILD / "mkdocs.yml",
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if built.returncode:
        problems = [re.sub(r"\x1b\[[\d;]*m", "", built.stdout + built.stderr.partition("Traceback")[0])]
    else:
        problems = foreign(site) + browser.problems("the report of a benchmark", browser.benchmark_page())
        for place in sources():  # llms.txt links to them
            shutil.copy(pages / place, site / place)
    sys.stderr.writelines(f"{each}\n" for each in problems)
    if not problems:
        sys.stdout.write(f"{site}/index.html; to search, serve it: python3 -m http.server -d build/site\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
