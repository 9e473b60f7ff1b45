"""`rmqkit graph`."""

import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import PurePath
from typing import Annotated

import typer

from rmqkit.cli import files, output
from rmqkit.cli.options import option
from rmqkit.cli.output import Style
from rmqkit.errors import InputError
from rmqkit.topology.diagram.graph import Diagram, build_diagram, collapse, join
from rmqkit.topology.diagram.mermaid_dot import dot, mermaid
from rmqkit.topology.diagram.text_tree import Line, tree
from rmqkit.topology.file.loader import load_by_vhost
from rmqkit.topology.policies import unread


class DiagramFormat(StrEnum):
    """How the diagram is written."""

    tree = "tree"
    mermaid = "mermaid"
    dot = "dot"
    svg = "svg"


_FORMATS = {
    ".mmd": DiagramFormat.mermaid,
    ".mermaid": DiagramFormat.mermaid,
    ".dot": DiagramFormat.dot,
    ".gv": DiagramFormat.dot,
    ".svg": DiagramFormat.svg,
}
_STYLES: dict[str, Style] = {
    "frame": "dim",
    "exchange": "bold",
    "key": "yellow",
    "note": "dim",
    "dead-letter": "red",
    "publish": "green",
}
_TIMEOUT_S = 120.0  # Graphviz may need a minute for a thousand queues


def graph(
    sources: Annotated[list[str], typer.Argument(metavar="FILE", help="Topology files, drawn as one; - for stdin.")],
    *,
    format: Annotated[  # noqa: A002 - the flag's word
        DiagramFormat | None, option("--format", "Output format. [default: by the suffix of OUT, or tree]")
    ] = None,
    target: Annotated[str, option("-o --output OUT", "The file to write; - for stdout.")] = files.STANDARD,
    everything: Annotated[
        bool, option("--all", "Draw every entity instead of abbreviating groups of similar ones.")
    ] = False,
    force: Annotated[bool, option("--force", "Replace OUT if it exists.")] = False,
) -> None:
    """Draw a topology: exchanges, queues, bindings and the routes of dead letters.

    GitHub and GitLab render Mermaid in Markdown; SVG needs Graphviz. Of a group of more than ten similar exchanges or
    queues, three are drawn, and the others counted. Each of several virtual hosts has its own tree, or frame.
    """
    diagrams: dict[str, Diagram] = {}
    for topology in load_by_vhost(*map(files.readable, sources)):
        for policy in unread(topology):
            output.warn(f"policy {policy.name!r} is not drawn: Python cannot read its pattern")
        name = f"virtual host {topology.vhost!r}" if topology.vhost is not None else "files without a virtual host"
        diagrams[name] = build_diagram(topology) if everything else collapse(build_diagram(topology))
    diagram = join(diagrams) if len(diagrams) > 1 else next(iter(diagrams.values()))
    match format or _FORMATS.get(PurePath(target).suffix.lower(), DiagramFormat.tree):
        case DiagramFormat.mermaid:
            text = mermaid(diagram)
        case DiagramFormat.dot:
            text = dot(diagram)
        case DiagramFormat.svg:
            text = _svg(dot(diagram))
        case DiagramFormat.tree:
            colored = target == files.STANDARD
            trees = [_tree(each, name if diagram.vhosts else "", colored=colored) for name, each in diagrams.items()]
            text = "\n".join(trees)
    files.write(target, text, force=force)
    if hidden := sum(node.more for node in diagram.nodes):
        output.note(f"{hidden:,} similar entities are not drawn. Draw them with --all.")


def _tree(diagram: Diagram, title: str, *, colored: bool) -> str:
    drawn: list[Line] = [[(title, "note")]] if title else []
    lines = [
        [(output.safe(text).replace("\n", "\\n"), _STYLES.get(role)) for text, role in line]
        for line in [*drawn, *tree(diagram)]
    ]
    return "".join(
        "".join(output.paint(text, style, sys.stdout) if style and colored else text for text, style in line) + "\n"
        for line in lines
    )


def _svg(source: str) -> str:
    """Draw with Graphviz; raise InputError if it is not installed, or fails."""
    program = shutil.which("dot")
    if program is None:
        advice = "Install graphviz (apt install graphviz, brew install graphviz), or use --format mermaid or dot."
        raise InputError("SVG needs Graphviz, and its program dot is not installed", advice=advice)
    try:
        done = subprocess.run(  # noqa: S603 - the user's own program, without a shell; the graph is its input
            [program, "-Tsvg"], input=source.encode(), capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"Graphviz did not draw this within {_TIMEOUT_S:.0f} s"
        raise InputError(message, advice="Omit --all, or draw fewer files.") from error
    except OSError as error:
        raise InputError(f"Graphviz cannot be run: {program}: {error.strerror}") from error
    if done.returncode:
        raise InputError(f"Graphviz failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()
