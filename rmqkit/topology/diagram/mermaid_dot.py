"""Write a graph as Mermaid, or as Graphviz' DOT."""

from __future__ import annotations

import re
from collections.abc import Callable

from rmqkit.topology.diagram.graph import Diagram, DiagramEdge, DiagramNode

# Fill and border of a node; the text is dark, for light and dark pages.
_COLORS = {
    "direct": ("#dbeafe", "#2563eb"),
    "fanout": ("#dcfce7", "#16a34a"),
    "topic": ("#fef3c7", "#d97706"),
    "headers": ("#f3e8ff", "#9333ea"),
    "exchange": ("#e5e7eb", "#6b7280"),
    "queue": ("#ffffff", "#374151"),
    "publisher": ("#ffffff", "#9ca3af"),
}
_TEXT, _DEAD = "#111827", "#dc2626"
_RELATIONS = {"alternate": "otherwise", "dead-letter": "dead letters", "failure": "failed"}
# Characters that Mermaid gets as a code: those that could begin a Markdown list (`1. x`), all that are not known to be
# harmless in quotes, and an underscore that is not inside a word.
_CODED = re.compile(r"^[0-9]*\W|[^\w .,/()=+-]|(?<![^\W_])_|_(?![^\W_])")


def mermaid(graph: Diagram) -> str:
    """Return a flowchart in Mermaid, as GitHub and GitLab draw it in Markdown."""
    shapes = {"exchange": '{{{{"{}"}}}}', "queue": '[("{}")]', "publisher": '(["{}"])'}
    arrows = {"publish": "==>", "binding": "-->", "alternate": "-.->", "dead-letter": "-.->", "failure": "-.->"}
    nodes = []
    for place, node in enumerate(graph.nodes):
        text = "<br/>".join(_texts(node, _mermaid_text))
        nodes.append(f"  n{place}{shapes[node.kind].format(text)}:::{_style(node)}")
    lines = ["flowchart LR"]
    lines += graph.framed(nodes, lambda place, name: f'  subgraph v{place}["{_mermaid_text(name)}"]', "  end")
    for edge in graph.edges:
        text = "<br/>".join(_labels(edge, _mermaid_text))
        label = f'|"{text}"|' if text else ""
        lines.append(f"  n{edge.source} {arrows[edge.relation]}{label} n{edge.target}")
    for style in sorted({_style(node) for node in graph.nodes}):
        fill, border = _COLORS[style]
        lines.append(f"  classDef {style} fill:{fill},stroke:{border},color:{_TEXT}")
    if dead := [str(index) for index, edge in enumerate(graph.edges) if edge.relation == "dead-letter"]:
        lines.append(f"  linkStyle {','.join(dead)} stroke:{_DEAD}")
    return "\n".join(lines) + "\n"


def dot(graph: Diagram) -> str:
    """Return a graph in DOT, for Graphviz."""
    shapes = {"exchange": "hexagon", "queue": "cylinder", "publisher": "plaintext"}
    styles = {"publish": "style=bold", "binding": "style=solid", "dead-letter": f'style=dashed, color="{_DEAD}"'}
    lines = [
        "digraph topology {",
        '  graph [rankdir=LR, bgcolor="transparent"]',
        f'  node [style=filled, fontname="Helvetica", fontsize=11, fontcolor="{_TEXT}"]',
        '  edge [fontname="Helvetica", fontsize=10]',
    ]
    nodes = []
    for place, node in enumerate(graph.nodes):
        text = "\\n".join(_texts(node, _dot_text))
        fill, border = _COLORS[_style(node)]
        nodes.append(f'  n{place} [label="{text}", shape={shapes[node.kind]}, fillcolor="{fill}", color="{border}"]')
    lines += graph.framed(nodes, lambda place, name: f'  subgraph cluster{place} {{ label="{_dot_text(name)}"', "  }")
    for edge in graph.edges:
        text = "\\n".join(_labels(edge, _dot_text))
        style = styles.get(edge.relation, "style=dashed")
        lines.append(f'  n{edge.source} -> n{edge.target} [label="{text}", {style}]')
    return "\n".join([*lines, "}"]) + "\n"


def _style(node: DiagramNode) -> str:
    return node.type if node.kind == "exchange" and node.type in _COLORS else node.kind


def _texts(node: DiagramNode, write: Callable[[str], str]) -> list[str]:
    """Return the lines of a node: its name, its type, its settings."""
    return [write(text) for text in (node.title, node.type, *node.notes) if text]


def _labels(edge: DiagramEdge, write: Callable[[str], str]) -> list[str]:
    return [write(text) for text in (_RELATIONS.get(edge.relation), *edge.labels) if text]


def _printable(text: str) -> str:
    """Write invisible characters as Python's escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _mermaid_text(text: str) -> str:
    return _CODED.sub(lambda found: f"{found[0][:-1]}#{ord(found[0][-1])};", _printable(text))


def _dot_text(text: str) -> str:
    return _printable(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
