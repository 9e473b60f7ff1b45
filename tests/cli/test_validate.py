"""`rmqkit validate`: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import rmqkit

RMQKIT = [sys.executable, "-c", "from rmqkit.cli import main; main()"]
CLEAN = "queues: {a: {}}\n"
WARNED = "exchanges: {a: {}, b: {}}\n"
REFUSED = "queues: {log: {type: stream, arguments: {x-max-length: 5}}}\n"
HINTED = "queues: {a: {type: quorum}}\n"
SILENCED = WARNED + "lint: [{ignore: nothing-bound, reason: readers come later}]\n"
DEFINITIONS = """{"rabbit_version": "4.0.0", "users": [], "vhosts": [{"name": "/"}], "permissions": [],
 "queues": [{"name": "q", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}], "exchanges": []}"""
BROKEN = "queues: {a: {durable: 1}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in globals().items():
        if name.isupper() and isinstance(text, str):
            (tmp_path / f"{name.lower()}.yaml").write_text(text)
    return tmp_path


def validate(folder: Path, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return rmqkit("validate", *arguments, folder=folder, stdin=stdin, env=env)


@pytest.mark.parametrize(
    ("name", "code", "strict_code", "summary"),
    [
        ("clean", 0, 0, "No findings in 1 file."),
        ("hinted", 0, 0, "1 hint in 1 file."),
        ("silenced", 0, 0, "No findings in 1 file; 2 suppressed."),
        ("warned", 0, 2, "2 warnings in 1 file."),
        ("refused", 2, 2, "1 error in 1 file."),
    ],
)
def test_the_exit_code_reports_errors_and_with_strict_warnings_too(
    folder: Path, name: str, code: int, strict_code: int, summary: str
) -> None:
    plain, strict = validate(folder, f"{name}.yaml"), validate(folder, "--strict", f"{name}.yaml")
    assert (plain.returncode, strict.returncode) == (code, strict_code)
    assert plain.stderr == strict.stderr == summary + "\n"


def test_equal_findings_are_printed_with_their_reason_once(folder: Path) -> None:
    done = validate(folder, "warned.yaml", "hinted.yaml")
    assert (
        done.stdout
        == """\
warned.yaml:1:13: warning: nothing is bound to exchange 'a', and it has no alternate exchange [nothing-bound]
warned.yaml:1:20: warning: nothing is bound to exchange 'b', and it has no alternate exchange [nothing-bound]
  Bind a queue to it, or set its alternate-exchange.
  A message that matches no binding is dropped, and its publisher learns of it only if it set the mandatory flag.
  https://www.rabbitmq.com/docs/publishers#unroutable

hinted.yaml:1:10: hint: queue 'a' drops poison messages, and has no dead-letter exchange [delivery-limit-drops]
  Set x-dead-letter-exchange or, for RabbitMQ 4 alone, x-delivery-limit: -1 for no limit.
  Since RabbitMQ 4.0, a quorum queue drops a message at the end of the 21st delivery that counts as failed.
  https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
"""
    )
    assert done.stderr == "2 warnings, 1 hint in 2 files.\n"


def test_the_most_severe_findings_are_first(folder: Path) -> None:
    lines = validate(folder, "hinted.yaml", "warned.yaml", "refused.yaml").stdout.splitlines()
    severities = [line.split(": ")[1] for line in lines if "yaml:" in line]
    assert severities == ["error", "warning", "warning", "hint"]


def test_json_holds_every_finding_with_its_place_and_reason(folder: Path) -> None:
    done = validate(folder, "--json", "refused.yaml", "silenced.yaml")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["silenced"] == 2
    (finding,) = report["findings"]
    assert finding.pop("why").endswith("(406).")
    assert finding == {
        "code": "argument-refused",
        "severity": "error",
        "name": "log",
        "file": "refused.yaml",
        "line": 1,
        "column": 10,
        "message": "queue 'log' is of type stream, which does not support x-max-length",
        "advice": "Remove x-max-length, or choose type: classic or quorum.",
        "url": "https://www.rabbitmq.com/docs/queues#optional-arguments",
    }
    assert done.stderr == ""


def test_a_file_that_cannot_be_a_topology_is_refused_before_lint(folder: Path) -> None:
    done = validate(folder, "broken.yaml", "warned.yaml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "broken.yaml:1:23: durable of queue 'a' is the number 1" in done.stderr
    report = json.loads(validate(folder, "--json", "broken.yaml").stdout)
    assert report["error"] == "TopologyError"


def test_standard_input_is_a_file_named_with_a_dash(folder: Path) -> None:
    done = validate(folder, "-", stdin=WARNED)
    assert done.stdout.startswith("/dev/stdin:1:13: warning: ")


def test_nothing_to_read_is_bad_usage(folder: Path) -> None:
    done = validate(folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Name a topology file" in done.stderr


def test_explain_shows_a_rule_with_both_examples(folder: Path) -> None:
    done = validate(folder, "--explain", "nothing-bound")
    assert done.returncode == 0
    assert done.stdout.startswith("nothing-bound: warning\nA message that matches no binding is dropped")
    assert "\nBad:\n  exchanges: {orders: {type: topic}}\n\nGood:\n  exchanges:" in done.stdout
    report = json.loads(validate(folder, "--json", "--explain", "nothing-bound").stdout)
    assert [*report] == ["code", "severity", "why", "url", "bad", "good"]


def test_explain_suggests_a_code_for_a_misspelled_one(folder: Path) -> None:
    done = validate(folder, "--explain", "nothing-bond")
    assert done.returncode == 2
    assert done.stderr == "error: unknown finding code 'nothing-bond'\n  Did you mean nothing-bound?\n"
    assert "`rmqkit validate FILE` prints the code" in validate(folder, "--explain", "x").stderr


def test_a_finding_is_one_line_with_any_routing_key(folder: Path) -> None:
    text = "exchanges: {f: {type: fanout}}\nqueues: {q: {}}\nbindings: [{source: f, destination: q}, "
    text += r'{source: f, destination: q, routing_key: "a\nb\e[31m"}]'
    first, *_ = validate(folder, "-", stdin=text).stdout.splitlines()
    assert first.endswith("[same-routing-twice]")
    assert r"f -> q [a\nb\x1b[31m]" in first


def test_the_report_does_not_depend_on_the_hash_seed(folder: Path) -> None:
    case = str(Path(__file__).parents[1] / "cases" / "lint" / "circles_of_dead_letters.yaml")
    reports = {validate(folder, case, PYTHONHASHSEED=seed).stdout for seed in ("1", "2", "3")}
    assert len(reports) == 1
    assert "one -> two -> one" in reports.pop()


def test_scenario_files_given_with_topologies_are_checked_as_such() -> None:
    root = Path(__file__).parents[2]
    done = validate(root, *map(str, sorted(root.glob("topologies/*.yaml"))))
    assert done.returncode == 0, done.stderr
    done = validate(root, "topologies/work.yaml", "tests/cases/scenarios/invalid/names.test.yaml")
    assert done.returncode == 2
    assert "the exchange 'ordrs' is not declared" in done.stderr


def test_many_findings_of_a_rule_are_folded_and_all_in_the_json(folder: Path) -> None:
    text = f"exchanges: {{{', '.join(f'e{number}: {{}}' for number in range(200))}}}"
    done = validate(folder, "-", stdin=text)
    assert done.stdout.count("nothing is bound to") == 10
    assert "190 more findings of [nothing-bound]; --json shows all.\n" in done.stdout
    assert "200 warnings in 1 file" in done.stderr
    assert len(json.loads(validate(folder, "-", "--json", stdin=text).stdout)["findings"]) == 200


@pytest.mark.parametrize("definitions", [DEFINITIONS, '{"vhosts": [], "users": []}', '{"queues": []}'])
@pytest.mark.parametrize("words", ["validate", "graph", "plan", "apply", "destroy", "status", "route -q q", "test"])
def test_definitions_are_named_as_such_in_one_sentence(words: str, definitions: str, tmp_path: Path) -> None:
    (tmp_path / "of rabbit.json").write_text(definitions)
    command, *more = words.split()
    done = rmqkit(command, "of rabbit.json", *more, folder=tmp_path)
    assert done.returncode == 2
    wanted = "scenarios" if command == "test" else "a topology file"
    _, problem, advice = done.stderr.splitlines()
    assert problem == f"of rabbit.json: this is a RabbitMQ definitions file, not {wanted}"
    assert "`rmqkit convert 'of rabbit.json' topology.yaml`" in advice


def test_a_topology_file_is_refused_as_a_scenario_file(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text("queues: {orders: {}}")
    done = rmqkit("test", "orders.yaml", folder=tmp_path)
    assert (done.returncode, "orders.yaml: this is a topology file, not a scenario file" in done.stderr) == (2, True), (
        done.stderr
    )
