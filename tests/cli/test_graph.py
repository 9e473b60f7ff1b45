"""`rmqkit graph`: pictures of topology files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import rmqkit

YAML = """
exchanges: {orders: {type: topic}}
queues: {all: {}}
bindings: [{source: orders, destination: all, routing_key: "#"}]
"""


def graph(folder: Path, *arguments: str, stdin: str = "", path: str = "") -> subprocess.CompletedProcess[str]:
    return rmqkit("graph", *arguments, folder=folder, stdin=stdin, env={"PATH": path or os.environ["PATH"]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.yaml").write_text(YAML)
    return tmp_path


def fake_dot(folder: Path, script: str) -> str:
    """Return a PATH with nothing on it but a program `dot`."""
    (folder / "bin").mkdir()
    (folder / "bin" / "dot").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "dot").chmod(0o755)
    return str(folder / "bin")


def test_a_tree_is_drawn_by_default(folder: Path) -> None:
    tree = "orders  topic\n└─ # → all\n"
    assert graph(folder, "t.yaml").stdout == tree
    assert graph(folder, "-", stdin=YAML).stdout == tree
    assert graph(folder, "t.yaml", "-o", "out.txt").stdout == ""
    assert (folder / "out.txt").read_text() == tree


@pytest.mark.parametrize(("name", "begin"), [("a.mmd", "flowchart LR\n"), ("a.dot", "digraph"), ("a.gv", "digraph")])
def test_the_suffix_of_the_output_file_chooses_the_format(folder: Path, name: str, begin: str) -> None:
    assert graph(folder, "t.yaml", "-o", name).returncode == 0
    assert (folder / name).read_text().startswith(begin)
    again = graph(folder, "t.yaml", "-o", name)
    assert (again.returncode, "already exists" in again.stderr) == (2, True)


def test_entities_that_are_not_drawn_are_counted_and_all_draws_them(folder: Path) -> None:
    (folder / "many.yaml").write_text("queues:\n" + "".join(f"  q{each}: {{}}\n" for each in range(300)))
    few, whole = graph(folder, "many.yaml"), graph(folder, "many.yaml", "--all")
    assert (len(few.stdout.splitlines()), len(whole.stdout.splitlines())) == (5, 301)
    assert few.stderr == "297 similar entities are not drawn. Draw them with --all.\n"
    assert whole.stderr == ""


def test_an_unreadable_policy_is_reported_and_the_rest_is_drawn(folder: Path) -> None:
    policy = "policies: {odd: {pattern: '[[:alpha:]]', definition: {max-length: 5}}}\n"
    drawn = graph(folder, "-", stdin=YAML + policy)
    assert drawn.stdout == graph(folder, "t.yaml").stdout
    assert drawn.stderr == "warning: policy 'odd' is not drawn: Python cannot read its pattern\n"


def test_a_name_cannot_control_the_terminal(folder: Path) -> None:
    (folder / "t.yaml").write_text('queues: {"\\e[31m\\tred": {}}')
    assert graph(folder, "t.yaml").stdout.splitlines()[1] == "└─ \\x1b[31m\\tred"


def test_svg_without_graphviz_is_an_error_with_advice(folder: Path) -> None:
    done = graph(folder, "t.yaml", "-o", "a.svg", path="/nowhere")
    assert done.returncode == 2
    assert "its program dot is not installed\n  Install graphviz" in done.stderr
    assert not (folder / "a.svg").exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no font >&2; exit 3", "Graphviz failed: no font"),
        ("exit 1", "Graphviz failed"),
        ("kill -9 $$", "Graphviz failed"),
    ],
)
def test_a_graphviz_that_fails_leaves_no_file(folder: Path, script: str, message: str) -> None:
    done = graph(folder, "t.yaml", "-o", "a.svg", path=fake_dot(folder, script))
    assert (done.returncode, message in done.stderr, (folder / "a.svg").exists()) == (2, True, False)


def test_the_output_of_graphviz_is_written(folder: Path) -> None:
    path = fake_dot(folder, 'read -r first; echo "<svg>$1 $first</svg>"')
    assert graph(folder, "t.yaml", "-o", "a.svg", path=path).returncode == 0
    assert (folder / "a.svg").read_text() == "<svg>-Tsvg digraph topology {</svg>\n"


def test_graphviz_itself_draws_an_svg(folder: Path) -> None:
    done = graph(folder, "t.yaml", "--format", "svg")
    assert done.returncode == 0
    assert "</svg>" in done.stdout
    assert "orders" in done.stdout
