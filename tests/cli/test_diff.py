"""`rmqkit diff`: files, definitions, standard input and a real RabbitMQ, in any pair."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.cli import Run

ORDERS = """
exchanges:
  orders: {type: topic}
queues:
  billing: {}
  stock: {arguments: {x-max-length: 10}}
bindings:
  - {source: orders, destination: billing, routing_key: "order.#"}
policies:
  ttl: {pattern: ^tmp, definition: {message-ttl: 5}}
"""
OTHER = """
exchanges:
  orders: {type: fanout, durable: false}
queues:
  billing: {type: classic}
  stock: {arguments: {x-max-length: 20}}
  audit: {}
bindings:
  - {source: orders, destination: billing, routing_key: order.eu}
  - {source: orders, destination: amq.fanout, destination_type: exchange}
policies:
  ttl: {pattern: ^tmp, definition: {message-ttl: 6}}
"""
DIFFERENT = [
    ["exchange", "orders", "type", "topic", "fanout"],
    ["exchange", "orders", "durable", "true", "false"],
    ["queue", "stock", "x-max-length", "10", "20"],
    ["policy", "ttl", "message-ttl", "5", "6"],
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(ORDERS)
    other.write_text(OTHER)
    return one, other


def test_each_side_has_a_column_and_each_difference_a_row(live: Run, files: tuple[Path, Path]) -> None:
    one, other = files
    done = live("diff", one, other)
    assert done.returncode == 3
    header, *rows = [line.split() for line in done.stdout.splitlines()]
    assert header == ["kind", "name", "property", str(one), str(other)]
    assert rows == [
        ["binding", "orders", "->", "billing", "[order.#]", "only", "here"],
        ["queue", "audit", "only", "here"],
        ["binding", "orders", "->", "billing", "[order.eu]", "only", "here"],
        ["binding", "orders", "->", "amq.fanout", "only", "here"],
        *DIFFERENT,
    ]
    lines = done.stdout.splitlines()
    assert lines[1].index("only here") == lines[0].index(str(one))
    assert lines[2].index("only here") == lines[0].index(str(other))
    assert f"1 only in {one}, 3 only in {other}, 3 different." in done.stderr


def test_json_has_the_differences_of_each_entity(live: Run, files: tuple[Path, Path]) -> None:
    one, other = files
    done = live("diff", one, other, "--json")
    assert (done.returncode, done.stderr) == (3, "")
    report = json.loads(done.stdout)
    assert (report["a"], report["b"], report["equal"]) == (str(one), str(other), False)
    assert [(each["name"], each["only_in"]) for each in report["entities"] if "only_in" in each] == [
        ("orders -> billing [order.#]", "a"),
        ("audit", "b"),
        ("orders -> billing [order.eu]", "b"),
        ("orders -> amq.fanout", "b"),
    ]
    assert [
        [each["kind"], each["name"], *difference.values()]
        for each in report["entities"]
        for difference in each.get("differences", ())
    ] == DIFFERENT


def test_swapped_sides_give_the_mirrored_result(live: Run, files: tuple[Path, Path]) -> None:
    one, other = files
    there = json.loads(live("diff", one, other, "--json").stdout)["entities"]
    back = json.loads(live("diff", other, one, "--json").stdout)["entities"]
    swap = {"a": "b", "b": "a"}
    for each in back:
        if "only_in" in each:
            each["only_in"] = swap[each["only_in"]]
        for difference in each.get("differences", ()):
            difference["a"], difference["b"] = difference["b"], difference["a"]
    assert sorted(map(str, back)) == sorted(map(str, there))


def test_a_file_its_live_topology_and_its_definitions_are_equal(
    live: Run, files: tuple[Path, Path], vhost_url: str, tmp_path: Path
) -> None:
    one, other = files
    definitions = tmp_path / "shop.json"
    assert live("apply", one).returncode == 0
    assert live("export", "--format", "definitions", "-o", definitions).returncode == 0
    for a, b in ((one, vhost_url), (vhost_url, definitions), (definitions, "-")):
        done = live("diff", a, b, stdin=ORDERS)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert "are equal" in done.stderr
    assert "guest:guest" not in live("diff", vhost_url, definitions).stderr
    changed = live("diff", vhost_url, other, "--json")
    assert changed.returncode == 3
    assert json.loads(changed.stdout)["a"] == f"amqp://guest:***@{urlsplit(vhost_url).netloc.rpartition('@')[2]}" + (
        urlsplit(vhost_url).path
    )


def test_vhost_chooses_from_definitions(live: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.json"
    queues = [{"name": "q", "vhost": vhost, "durable": vhost == "a", "arguments": {}} for vhost in ("a", "b")]
    cluster.write_text(json.dumps({"queues": queues}))
    done = live("diff", cluster, "-", "--vhost", "a", stdin="queues: {q: }")
    assert done.returncode == 0
    assert live("diff", cluster, "-", "--vhost", "b", stdin="queues: {q: }").returncode == 3
    done = live("diff", cluster, cluster, "--vhost-a", "a", "--vhost", "b")
    assert (done.returncode, f"{cluster} (virtual host a)  {cluster} (virtual host b)" in done.stdout) == (3, True)
    assert live("diff", cluster, cluster, "--vhost-a", "a", "--vhost-b", "a").returncode == 0
    several = live("diff", cluster, files[0])
    assert several.returncode == 2
    assert "--vhost" in several.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-", "-"), 2, "only one of the two can be standard input"),
        (("one.yaml", "no.yaml"), 2, "no.yaml: the file cannot be read"),
        (("one.yaml", "amqp://guest:c4n4ry@127.0.0.1:1/"), 4, "127.0.0.1:1"),
        (
            ("one.yaml", "amqp://guest:c4n4ry@127.0.0.1:x/"),
            2,
            "error: the URL: the address is not of the form host:port",
        ),
    ],
)
def test_an_unreadable_source_is_an_error_and_no_difference(
    live: Run, files: tuple[Path, Path], arguments: tuple[str, str], code: int, said: str
) -> None:
    folder = files[0].parent
    done = live("diff", *(folder / each if each.endswith(".yaml") else each for each in arguments), stdin=ORDERS)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "c4n4ry" not in done.stderr
