"""`rmqkit route`: where a message goes, with no broker."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import rmqkit

YAML = """
exchanges:
  orders: {type: topic, arguments: {alternate-exchange: rest}}
  audit: {type: fanout}
  rest: {type: fanout}
  retry: {}
  hash: {type: x-consistent-hash}
queues:
  billing: {arguments: {x-dead-letter-exchange: retry, x-dead-letter-routing-key: wait}}
  wait: {arguments: {x-message-ttl: 1000, x-dead-letter-exchange: "", x-dead-letter-routing-key: billing}}
  all: {arguments: {x-max-length: 5}}
  pdf: {}
bindings:
  - {source: orders, destination: billing, routing_key: order.*.paid}
  - {source: orders, destination: audit, destination_type: exchange, routing_key: "#.paid"}
  - {source: audit, destination: all}
  - {source: audit, destination: orders, destination_type: exchange}
  - {source: rest, destination: all}
  - {source: retry, destination: wait, routing_key: wait}
  - {source: amq.headers, destination: pdf, arguments: {format: pdf, pages: 1}}
  - {source: hash, destination: pdf, routing_key: "1"}
"""

TREE = """\
orders  ← order.eu.paid
├─ order.*.paid → billing
│  └─ if rejected → retry  ← wait
│     └─ wait → wait
│        └─ if rejected or expired → default exchange  ← billing
│           ├─ → billing
│           └─ a cycle, billing → wait → billing: dropped if it returns without a rejection
└─ #.paid → audit
   ├─ → all
   │  └─ if rejected or pushed out: dropped: queue 'all' has no dead-letter exchange
   └─ → orders  as above
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.yaml").write_text(YAML)
    return tmp_path


def run(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    nobody = {"RMQKIT_URL": "amqp://127.0.0.1:1/"}
    return rmqkit("route", *arguments, folder=folder, stdin=stdin, env=nobody)


def test_the_route_of_a_message_is_drawn_as_a_tree(folder: Path) -> None:
    found = run(folder, "t.yaml", "-e", "orders", "-r", "order.eu.paid")
    assert (found.returncode, found.stdout, found.stderr) == (0, TREE, "")


def test_the_default_target_is_the_publish_target_of_the_file(folder: Path) -> None:
    publish = "publish: {exchange: orders, routing_key: order.eu.paid}\n"
    assert run(folder, "-", stdin=YAML + publish).stdout == TREE
    missing = run(folder, "t.yaml")
    assert (missing.returncode, "no `publish:`" in missing.stderr) == (2, True)


def test_headers_are_typed_as_in_publish(folder: Path) -> None:
    target = ("t.yaml", "-e", "amq.headers", "-H", "format=pdf")
    assert '{"format": "pdf", "pages": 1} → pdf' in run(folder, *target, "-H", "pages:=1").stdout
    assert run(folder, *target, "-H", "pages=1").returncode == 6
    assert "→ pdf" in run(folder, "t.yaml", "-q", "all", "-H", 'CC:=["pdf"]').stdout
    refused = run(folder, "t.yaml", "-q", "all", "-H", "CC=pdf")
    assert (refused.returncode, "not a list of routing keys" in refused.stderr) == (2, True)


def test_json_holds_queues_paths_and_dead_letters(folder: Path) -> None:
    found = json.loads(run(folder, "t.yaml", "-e", "orders", "-r", "order.eu.paid", "--json").stdout)
    assert (found["queues"], found["unroutable"], found["unknown"]) == (["all", "billing"], False, [])
    assert [[leg["destination"] for leg in path] for path in found["paths"]] == [["billing"], ["audit", "all"]]
    assert found["paths"][0][0]["routing_key"] == "order.*.paid"
    letters = {letter["queue"]: letter for letter in found["dead_letters"]}
    assert letters["wait"]["cycles"] == [["billing", "wait", "billing"]]
    assert (letters["billing"]["reasons"], letters["billing"]["queues"]) == (["rejected"], ["wait"])
    assert letters["all"]["why"].startswith("dropped")


def test_a_retry_is_shown_next_to_dead_letters(folder: Path) -> None:
    (folder / "t.yaml").write_text("queues: {jobs: {retry: {delays: [5s, 1m], then: parked}}, parked: {}}")
    lines = run(folder, "t.yaml", "-q", "jobs").stdout.splitlines()
    assert lines[2] == "   ├─ if a handler of rmqkit fails: is retried after 5s, 1m, then moved to queue 'parked'"
    assert lines[3].startswith("   └─ if rejected: dropped")
    told = json.loads(run(folder, "t.yaml", "-q", "jobs", "--json").stdout)
    assert told["retries"] == [{"queue": "jobs", "delays_ms": [5000, 60_000], "then": "parked"}]


def test_an_alternate_exchange_is_shown_as_such(folder: Path) -> None:
    found = run(folder, "t.yaml", "-e", "orders", "-r", "x", "--json")
    assert [leg["by"] for leg in json.loads(found.stdout)["paths"][0]] == ["alternate", "binding"]
    assert "no match, so its alternate → rest" in run(folder, "t.yaml", "-e", "orders", "-r", "x").stdout


def test_an_unroutable_message_exits_with_6_and_names_the_nearest_key(folder: Path) -> None:
    found = run(folder, "t.yaml", "-e", "retry", "-r", "wiat")
    assert (found.returncode, found.stdout) == (6, "")
    assert "matches routing key 'wiat'; the nearest is 'wait'" in found.stderr
    as_json = run(folder, "t.yaml", "-q", "biling", "--json")
    assert as_json.returncode == 6
    told = json.loads(as_json.stdout)
    assert (told["unroutable"], told["why"]) == (True, "there is no queue 'biling'; the nearest is 'billing'")


def test_an_exchange_that_does_not_exist_is_bad_input(folder: Path) -> None:
    found = run(folder, "t.yaml", "-e", "ordes")
    assert (found.returncode, "exchange 'ordes' is not declared; the nearest is 'orders'" in found.stderr) == (2, True)


def test_a_route_that_a_plugin_decides_is_a_warning_and_not_a_failure(folder: Path) -> None:
    found = run(folder, "t.yaml", "-e", "hash", "-r", "x")
    assert (found.returncode, "of type x-consistent-hash" in found.stderr) == (0, True)


def test_file_names_cannot_move_the_cursor(folder: Path) -> None:
    (folder / "odd.yaml").write_text('queues: {"a\\e[2J": {}}\n')
    found = run(folder, "odd.yaml", "-q", "a\x1b[2J")
    assert "\x1b" not in found.stdout
    assert "a\\x1b[2J" in found.stdout


def test_equal_branches_of_many_queues_are_drawn_once(folder: Path) -> None:
    names = [f"q{each}" for each in range(50)]
    own = "{arguments: {x-dead-letter-exchange: all}}"
    (folder / "many.yaml").write_text(
        "exchanges: {all: {type: fanout}}\nqueues:\n"
        + "".join(f"  {name}: {own}\n" for name in names)
        + "bindings:\n"
        + "".join(f"  - {{source: all, destination: {name}}}\n" for name in names)
    )
    lines = run(folder, "many.yaml", "-e", "all").stdout.splitlines()
    assert sum(", as above" in line for line in lines) == 49
    assert len(lines) < 1000
