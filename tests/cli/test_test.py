"""`rmqkit test`, offline and against a real RabbitMQ."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from tests.conftest import Broker
from tests.support.cli import rmqkit

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from rmqkit.cli import main; main()", "test"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run() -> Run:
    """Run `rmqkit test`; unless told otherwise, with no broker to talk to."""

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return rmqkit("test", *arguments, folder=ROOT, env={"RMQKIT_URL": "amqp://localhost:1"} | more)

    return run


def test_passed_scenarios_are_listed_by_file(run: Run) -> None:
    done = run("topologies/routing.test.yaml", "topologies/rpc.test.yaml")
    assert (done.returncode, done.stderr) == (0, "4 passed, offline.\n")
    assert done.stdout.splitlines() == [
        "topologies/routing.test.yaml",
        "  ok      an error is in both",
        "  ok      all is well",
        "  ok      nobody wants to debug",
        "topologies/rpc.test.yaml",
        "  ok      a request nobody answers is dropped",
    ]


def test_a_failed_scenario_says_why_and_exits_with_9(run: Run) -> None:
    done = run("tests/cases/scenarios/failing/elsewhere.test.yaml", "topologies/rpc.test.yaml")
    assert (done.returncode, done.stderr) == (9, "1 passed, 3 failed, offline.\n")
    lines = done.stdout.splitlines()
    assert lines[1:4] == [
        "  FAILED  another queue",
        (
            "    tests/cases/scenarios/failing/elsewhere.test.yaml:5:13:"
            " expected 'billing', 'parked', but it reached 'audit'"
        ),
        "      Published to exchange 'orders', routing key 'order.eu', headers number, text.",
    ]
    assert lines[-1] == "  ok      a request nobody answers is dropped"


def test_an_invalid_file_is_an_error_with_every_problem(run: Run) -> None:
    done = run("tests/cases/scenarios/invalid/names.test.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "names.test.yaml:3:27: the exchange 'ordrs' is not declared\n  Did you mean 'orders'?" in done.stderr


def test_json_and_junit_have_the_same_results(run: Run, tmp_path: Path) -> None:
    junit = tmp_path / "results.xml"
    junit.write_text("of the last run")
    done = run(
        "topologies/rpc.test.yaml", "tests/cases/scenarios/failing/unknown.test.yaml", "--json", "--junit", junit
    )
    told, root = json.loads(done.stdout), ET.parse(junit).getroot()
    assert (done.returncode, told["passed"], told["failed"]) == (9, 1, 3)
    assert (root.get("tests"), root.get("failures")) == ("4", "3")
    assert [case.get("name") for case in root.iter("testcase")] == [each["name"] for each in told["scenarios"]]


def test_a_live_run_without_a_broker_is_an_error(run: Run) -> None:
    done = run("--live", "topologies/rpc.test.yaml", "--url", "amqp://localhost:1")
    assert (done.returncode, done.stdout) == (4, "")
    assert "localhost:1" in done.stderr


def test_a_live_run_has_the_results_of_an_offline_run(run: Run, vhost_url: str) -> None:
    files = ["topologies/topics.test.yaml", "topologies/headers.test.yaml"]
    offline, live = run(*files), run(*files, "--live", "--url", vhost_url)
    assert (live.returncode, live.stdout) == (0, offline.stdout)
    assert live.stderr == "7 passed, live.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_live_run_and_cleans_up(
    broker: Broker, vhost_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    names = "".join(f"  s{index}: {{expect: [rpc_requests]}}\n" for index in range(1500))
    file = tmp_path / "many.test.yaml"
    file.write_text(f"topology: {ROOT}/topologies/rpc.yaml\nscenarios:\n{names}")
    queues = f"queues/{urlsplit(vhost_url).path[1:]}"
    command = [*COMMAND, "--live", "--url", vhost_url, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().endswith("many.test.yaml\n")  # with the first result, so it has begun
        assert json.loads(broker.api("GET", queues))
        process.send_signal(number)
        _, told = process.communicate(timeout=90)
    assert process.returncode == 128 + number
    assert "not run" in told
    assert json.loads(broker.api("GET", queues)) == []
    exchanges = json.loads(broker.api("GET", queues.replace("queues", "exchanges")))
    assert [each["name"] for each in exchanges if each["name"].startswith("rmqkit")] == []


def test_the_schema_of_scenario_files_is_printed_for_editors() -> None:
    command = [*COMMAND[:-1], "schema", "scenarios"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads((ROOT / "rmqkit/topology/scenarios.schema.json").read_text())


def test_the_suggested_route_command_works(run: Run) -> None:
    done = run("tests/cases/scenarios/failing/elsewhere.test.yaml")
    hint = next(line for line in done.stdout.splitlines() if "Full route: rmqkit" in line)
    words = shlex.split(hint.partition("Full route: rmqkit ")[2])
    shown = subprocess.run([*COMMAND[:-1], *words], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "audit" in shown.stdout
