"""From a Topology to its picture."""

from __future__ import annotations

import itertools
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.model import Binding, Exchange, Policy, Queue, Target, Topology
from rmqkit.topology.diagram.graph import Diagram, build_diagram, collapse
from rmqkit.topology.diagram.mermaid_dot import dot, mermaid
from rmqkit.topology.diagram.text_tree import tree
from rmqkit.topology.file.loader import load, loads

VALID = sorted((Path(__file__).parents[1] / "cases" / "valid").glob("*.yaml"))
SHOP = loads("""
exchanges:
  orders: {type: topic, arguments: {alternate-exchange: unrouted}}
  docs: {type: headers, durable: false}
  unrouted: {type: fanout, internal: true}
queues:
  billing: {type: quorum, arguments: {x-dead-letter-exchange: failures, x-dead-letter-routing-key: late}}
  stock: {arguments: {x-max-length: 10000, x-message-ttl: 1500, x-overflow: reject-publish}}
  parked: {auto_delete: true}
  lost: {}
  both: {type: stream, arguments: {x-max-length-bytes: 0, x-single-active-consumer: true}}
bindings:
  - {source: orders, destination: billing, routing_key: order.*.paid}
  - {source: orders, destination: billing, routing_key: order.*.late}
  - {source: orders, destination: docs, destination_type: exchange, routing_key: "#"}
  - {source: orders, destination: theirs}
  - {source: docs, destination: both, arguments: {x-match: any-with-x, format: pdf, pages: 1}}
  - {source: docs, destination: stock, arguments: {format: pdf, urgent: true}}
  - {source: docs, destination: lost}
  - {source: amq.fanout, destination: lost, routing_key: ignored}
external: {exchanges: [failures], queues: [theirs]}
policies:
  late: {pattern: ^stock, definition: {dead-letter-exchange: "", dead-letter-routing-key: parked}}
publish: {exchange: orders, routing_key: order.eu.paid}
""")


def text(topology: Topology) -> str:
    return "".join("".join(piece for piece, _ in line) + "\n" for line in tree(collapse(build_diagram(topology))))


def test_the_tree_shows_bindings_and_dead_letters() -> None:
    assert text(SHOP) == (
        "orders  topic  ← publish order.eu.paid\n"
        "├─ order.*.paid, order.*.late → billing  quorum\n"
        "│  └─ dead letters → failures as late\n"
        "├─ # → docs\n"
        '├─ "" → theirs  external\n'
        "└─ otherwise → unrouted\n"
        "docs  headers, transient\n"
        "├─ format=pdf or pages=1 (x- too) → both  stream, at most 0 bytes, single active consumer\n"
        "├─ format=pdf and urgent=true → stock  TTL 1.5 seconds, at most 10,000 messages, reject-publish\n"
        "│  └─ dead letters → parked  auto-delete\n"
        "└─ → lost\n"
        "unrouted  fanout, internal\n"
        "amq.fanout  fanout\n"
        "└─ → lost\n"
        "failures  external\n"
        "default exchange\n"
        "└─ parked  auto-delete\n"
    )


def test_the_parts_of_a_line_have_roles() -> None:
    roles = {piece: role for line in tree(build_diagram(SHOP)) for piece, role in line}
    assert roles["orders"] == roles["default exchange"] == "exchange"
    assert roles["billing"] == "queue"
    assert roles["order.*.paid, order.*.late"] == "key"
    assert roles["dead letters → "] == "dead-letter"
    assert roles["  ← publish order.eu.paid"] == "publish"
    assert roles["  quorum"] == "note"


def test_a_dead_letter_that_keeps_its_key_is_drawn_to_the_default_exchange() -> None:
    topology = Topology(queues=(Queue("q", arguments={"x-dead-letter-exchange": ""}),), publish=Target("", "q"))
    assert text(topology) == "default exchange\n└─ q  ← publish\n   └─ dead letters → default exchange\n"


def test_undeclared_names_are_marked_in_the_diagram() -> None:
    topology = Topology(queues=(Queue("q", arguments={"x-dead-letter-exchange": "gone"}),))
    assert "gone  not declared\n" in text(topology)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_every_valid_file_is_drawn_with_all_its_entities(path: Path) -> None:
    topology = load(path)
    titles = {node.title for node in build_diagram(topology).nodes}
    names = [*(each.name for each in topology.exchanges), *(each.name for each in topology.queues)]
    assert {name for name in names if name == name.strip()} <= titles
    assert list(tree(collapse(build_diagram(topology))))


def test_a_cyclic_topology_is_drawn_once() -> None:
    circle = Topology(
        exchanges=(Exchange("a", "fanout"), Exchange("b", "fanout")),
        bindings=(Binding("a", "b", "exchange"), Binding("b", "a", "exchange"), Binding("a", "a", "exchange")),
    )
    assert text(circle) == "a  fanout\n├─ → b\n└─ → a\nb  fanout\n└─ → a\n"


def many(count: int) -> Topology:
    """A topology of as many workers, each with a queue for what it gave up, and an odd one out."""
    numbers = range(count)
    return Topology(
        exchanges=(Exchange("jobs", "topic"), Exchange("dead")),
        queues=(
            *(Queue(f"worker_{each}", arguments={"x-dead-letter-exchange": "dead"}) for each in numbers),
            *(Queue(f"parked_{each}") for each in numbers),
            Queue("odd"),
        ),
        bindings=(
            *(Binding("jobs", f"worker_{each}", routing_key=f"job.{each}") for each in numbers),
            *(Binding("dead", f"parked_{each}", routing_key=f"job.{each}") for each in numbers),
            *(Binding("jobs", "odd", routing_key=f"odd.{each}") for each in "abcdefghijkl"),
        ),
    )


def test_three_hundred_queues_become_three_and_a_count() -> None:
    assert text(many(300)) == (
        "jobs  topic\n"
        "├─ job.0 → worker_0\n│  └─ dead letters → dead\n"
        "├─ job.1 → worker_1\n│  └─ dead letters → dead\n"
        "├─ job.2 → worker_2\n│  └─ dead letters → dead\n"
        "├─ job.3, job.4, job.5, and 294 more → and 297 more like worker_2\n│  └─ dead letters → dead\n"
        "└─ odd.a, odd.b, odd.c, and 9 more → odd\n"
        "dead  direct\n"
        "├─ job.0 → parked_0\n├─ job.1 → parked_1\n├─ job.2 → parked_2\n"
        "└─ job.3, job.4, job.5, and 294 more → and 297 more like parked_2\n"
    )


def test_ten_similar_queues_are_all_drawn() -> None:
    assert collapse(build_diagram(many(10))).nodes == build_diagram(many(10)).nodes


@pytest.mark.parametrize(
    "odd",
    [
        Queue("q_11", arguments={"x-max-length": 5}),
        Queue("q_11", arguments={"x-queue-type": "quorum"}),
        Queue("q_11", arguments={"x-dead-letter-exchange": "e"}),
        Queue("r_11"),
    ],
    ids=str,
)
def test_a_queue_that_differs_is_never_collapsed(odd: Queue) -> None:
    queues = (*(Queue(f"q_{each}") for each in range(11)), odd)
    topology = Topology(exchanges=(Exchange("e"),), queues=queues, bindings=(*(Binding("e", q.name) for q in queues),))
    titles = [node.title for node in collapse(build_diagram(topology)).nodes]
    assert titles == ["e", "q_0", "q_1", "q_2", "and 8 more like q_2", odd.name]


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30) | st.sampled_from(
    [
        '"',
        '"]; x',
        "\\",
        '\\"',
        "a\\",
        "<b>",
        "&lt;",
        "#quot;",
        "#35;",
        "1. x",
        "- x",
        "`x`",
        "%%",
        "}}",
        ")]",
        "|",
        "\n",
    ]
)


@st.composite
def drawings(draw: st.DrawFn) -> Diagram:
    exchanges = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    queues = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    ends = st.builds(Binding, st.sampled_from(exchanges), st.sampled_from(queues), routing_key=names)
    return build_diagram(
        Topology(
            exchanges=tuple(Exchange(name, draw(names)) for name in exchanges),
            queues=tuple(Queue(name) for name in queues),
            bindings=tuple(draw(st.lists(ends, max_size=3))),
            policies=(Policy("p", "", {"dead-letter-exchange": draw(names)}),),
        )
    )


def printable(parts: list[str]) -> list[str]:
    return ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in part) for part in parts]


def expected(graph: Diagram) -> list[list[str]]:
    """What is to be read in each node, line by line."""
    return [printable([text for text in (node.title, node.type, *node.notes) if text]) for node in graph.nodes]


@given(drawings())
def test_every_name_is_quoted_safely_in_mermaid(graph: Diagram) -> None:
    lines = mermaid(graph).splitlines()
    harmless = r"(?:[^\W_]|[_ .,/()=+-]|#[0-9]+;|<br/>)*"
    nodes = [
        match
        for line in lines
        if (match := re.fullmatch(rf'  n\d+(?:\{{\{{|\[\()"({harmless})"(?:\}}\}}|\)\]):::\w+', line))
    ]
    edges = [line for line in lines if re.fullmatch(rf'  n\d+ \S+(\|"{harmless}"\|)? n\d+', line)]
    others = [line for line in lines if re.fullmatch(r"flowchart LR|  classDef [\w #:,]+|  linkStyle [\w #:,]+", line)]
    assert len(nodes) + len(edges) + len(others) == len(lines)
    read = [
        [re.sub(r"#(\d+);", lambda code: chr(int(code[1])), part) for part in each[1].split("<br/>")] for each in nodes
    ]
    assert read == expected(graph)


@given(drawings())
def test_every_name_is_quoted_safely_in_dot(graph: Diagram) -> None:
    lines = dot(graph).splitlines()
    quoted = r'"((?:[^"\\]|\\.)*)"'
    nodes = [
        match
        for line in lines
        if (match := re.fullmatch(rf'  n\d+ \[label={quoted}, shape=[\w]+, [^"]+"[^"]+", color="[^"]+"\]', line))
    ]
    edges = [
        line for line in lines if re.fullmatch(rf'  n\d+ -> n\d+ \[label={quoted}, style=\w+(, color="#\w+")?\]', line)
    ]
    assert len(nodes) + len(edges) + 5 == len(lines)
    read = [re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), each[1]) for each in nodes]
    assert [each.replace("&amp;", "&").split("\n") for each in read] == expected(graph)


def test_graphviz_draws_every_name_unchanged() -> None:
    nasty = [
        '"',
        '"]; x',
        "\\",
        '\\"',
        "a\\",
        "\\N",
        "\\n",
        "\\G",
        "<b>x</b>",
        "&amp;",
        "&#35;",
        "🐇",
        "a\nb",
        "\0",
        "%",
        "it's",
    ]
    topology = Topology(queues=tuple(Queue(name) for name in nasty))
    done = subprocess.run(
        ["dot", "-Tsvg"], input=dot(build_diagram(topology)), capture_output=True, text=True, check=True
    )
    drawn = [element.text for element in ET.fromstring(done.stdout).iter("{http://www.w3.org/2000/svg}text")]
    assert drawn == printable(nasty)


def test_queues_with_different_names_are_all_drawn_however_alike_they_are() -> None:
    words = [*map("".join, itertools.permutations("abcd"))]
    topology = Topology(exchanges=(Exchange("e", "fanout"),), queues=tuple(map(Queue, words)))
    topology = replace(topology, bindings=tuple(Binding("e", word) for word in words))
    assert collapse(build_diagram(topology)) == build_diagram(topology)


@pytest.mark.parametrize(
    ("name", "value", "note"),
    [
        ("x-message-ttl", 86_400_000, "TTL 1 day"),
        ("x-message-ttl", 172_800_000, "TTL 2 days"),
        ("x-message-ttl", 5_400_000, "TTL 90 minutes"),
        ("x-message-ttl", 250, "TTL 0.25 seconds"),
        ("x-message-ttl", 0, "TTL 0 seconds"),
        ("x-expires", 1_800_000, "deleted after 30 minutes unused"),
        ("x-max-age", "7D", "for 7 days"),
        ("x-max-age", "1h", "for 1 hour"),
        ("x-max-length", 10_000, "at most 10,000 messages"),
    ],
)
def test_settings_are_written_in_readable_units(name: str, value: object, note: str) -> None:
    (node,) = build_diagram(Topology(queues=(Queue("q", arguments={name: value}),))).nodes
    assert node.notes == (note,)
