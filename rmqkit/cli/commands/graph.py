"""`rmqkit graph`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit.cli import files, output
from rmqkit.errors import InputError

if TYPE_CHECKING:
    from rmqkit.cli.output import Style
    from rmqkit.topology.diagram.graph import Diagram


class DiagramFormat(StrEnum):
    """How the picture is written."""

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
_PATIENCE_S = 120.0  # Graphviz may need a minute for a thousand queues


def graph(
    sources: Annotated[list[str], typer.Argument(metavar="FILE", help="Topology files, drawn as one; - for stdin.")],
    *,
    format: Annotated[  # noqa: A002 - the flag's word
        DiagramFormat | None, typer.Option("--format", help="How to draw; else what the name of OUT says, or a tree.")
    ] = None,
    target: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="The file to write; - for stdout.")
    ] = files.STANDARD,
    everything: Annotated[
        bool, typer.Option("--all", help="Draw all, where else three stand for many that look alike.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
) -> None:
    """Draw a topology: what goes where, and what becomes of dead letters.

    Mermaid is drawn by GitHub and GitLab in Markdown; SVG needs Graphviz. Of more than ten exchanges or queues that
    look alike three are drawn, and the number of the others.
    """
    from rmqkit.topology.diagram import collapse, graph, mermaid_dot  # noqa: PLC0415 - start-up time
    from rmqkit.topology.file.loader import load  # noqa: PLC0415
    from rmqkit.topology.policies import unread  # noqa: PLC0415

    topology = load(*map(files.readable, sources))
    for policy in unread(topology):
        output.warn(f"policy {policy.name!r} is not drawn: its pattern cannot be read here")
    picture = graph.draw(topology)
    picture = picture if everything else collapse.collapse(picture)
    match format or _FORMATS.get(PurePath(target).suffix.lower(), DiagramFormat.tree):
        case DiagramFormat.mermaid:
            text = mermaid_dot.mermaid(picture)
        case DiagramFormat.dot:
            text = mermaid_dot.dot(picture)
        case DiagramFormat.svg:
            text = _svg(mermaid_dot.dot(picture))
        case DiagramFormat.tree:
            text = _tree(picture, coloured=target == files.STANDARD)
    files.write(target, text, force=force)
    if hidden := sum(node.more for node in picture.nodes):
        output.note(f"{hidden:,} that look like others are not drawn; --all draws them.")


def _tree(picture: Diagram, *, coloured: bool) -> str:
    from rmqkit.topology.diagram.text_tree import tree  # noqa: PLC0415 - start-up time

    lines = [
        [(output.safe(text).replace("\n", "\\n"), _STYLES.get(role)) for text, role in line] for line in tree(picture)
    ]
    return "".join(
        "".join(output.paint(text, style, sys.stdout) if style and coloured else text for text, style in line) + "\n"
        for line in lines
    )


def _svg(dot: str) -> str:
    """Let Graphviz draw; raise InputError if it is not there, or cannot."""
    program = shutil.which("dot")
    if program is None:
        advice = "Install graphviz (apt install graphviz, brew install graphviz), or use --format mermaid or dot."
        raise InputError("an SVG is drawn by Graphviz, and its program dot is not installed", advice=advice)
    try:
        done = subprocess.run(  # noqa: S603 - a program of the user's, no shell; the graph comes by its input
            [program, "-Tsvg"], input=dot.encode(), capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"Graphviz did not draw this within {_PATIENCE_S:.0f} s"
        raise InputError(message, advice="Leave --all out, or draw fewer files.") from error
    except OSError as error:
        raise InputError(f"Graphviz cannot be run: {program}: {error.strerror}") from error
    if done.returncode:
        raise InputError(f"Graphviz failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()
