"""Every pattern at work, in small: the shipped topologies, real processes, and a count of what was lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import typer

import rmqkit
from rmqkit import Binding, Topology
from rmqkit.cli.commands.demo import demo
from rmqkit.cli.demos import PATTERNS, runner
from rmqkit.cli.demos.runner import DeliveryCount, DemoBroker, DemoResult, DemoRunner, count_deliveries
from tests.conftest import Broker
from tests.support.wait import wait_until

COUNT = 30
pytestmark = pytest.mark.timeout(200)  # a demo starts up to ten processes, beside those of other tests


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rmqkit", "demo", *arguments]


def _demo(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command, and look whether it left anything."""
    environment = {**os.environ, "TMPDIR": str(place)}
    done = subprocess.run(
        _command(*arguments), env=environment, capture_output=True, text=True, timeout=190, check=False
    )
    assert _left(place) == []
    return done


def _left(place: Path) -> list[str]:
    """Return the files in a folder, and the command lines of processes that work there."""
    left = [str(file) for file in place.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if str(place) in command or str(place) in str((process / "cwd").readlink()):
                left.append(command)
        except OSError:  # it has ended, or is somebody else's
            continue
    return left


# Through the command, on a node of its own


@pytest.mark.own_node
def test_the_main_job_loses_nothing_and_deals_messages_out_to_all_workers(tmp_path: Path) -> None:
    done = _demo(tmp_path, "--count", "6000", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    counts = ("published", "confirmed", "consumed", "lost", "duplicated", "unexpected")
    assert [report[name] for name in counts] == [6000, 6000, 6000, 0, 0, 0]
    assert sum(report["shares"].values()) == 6000
    assert min(report["shares"].values()) > 6000 / 3 / 2


@pytest.mark.own_node
def test_a_demo_shows_commands_on_standard_error_and_its_table_on_standard_output(tmp_path: Path) -> None:
    done = _demo(tmp_path, "routing", "--count", "20")
    assert done.returncode == 0, done.stderr
    assert "$ rmqkit publish -e log -r debug --allow-unroutable -n 20" in done.stderr
    assert [line.split() for line in done.stdout.splitlines()[1:5]] == [
        ["published", "log_errors", "log_all", "returned"],
        ["error", "20", "20", "20", "0"],
        ["info", "20", "·", "20", "0"],
        ["debug", "20", "·", "·", "20"],
    ]


@pytest.mark.own_node
@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill), (signal.SIGHUP, os.killpg)]
)
def test_a_demo_that_is_stopped_leaves_no_process_and_no_file(
    tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    command = _command("single-active", "--count", "100000")
    process = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr
    with process, process.stderr as said:
        assert any("# in the background" in line for line in said), "it ended before anything ran"
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            send(process.pid, number)  # as a terminal does with Ctrl-C: to all of them; and impatiently
            time.sleep(0.2)
        assert process.wait() == 128 + number
    assert _left(tmp_path) == []


@pytest.mark.own_node
def test_a_cluster_loses_nothing_when_the_leader_of_its_queue_is_killed(tmp_path: Path) -> None:
    done = _demo(tmp_path, "cluster", "--count", "4000", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [report[name] for name in ("published", "confirmed", "lost", "unexpected")] == [4000, 4000, 0, 0]
    assert report["consumed"] == 4000 + report["duplicated"]
    before, after = report["leaders"]
    assert after not in ("", before)
    assert f"{after} is the leader of orders.billing now." in done.stderr


@pytest.mark.own_node
def test_a_cluster_that_is_stopped_while_it_starts_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(_command("cluster"), env=environment, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: any(tmp_path.glob("*/cluster/rmqkit-1/log/broker.log")))
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 128 + signal.SIGINT
    assert _left(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "advice"), [("pubsup", "Did you mean pubsub?"), ("x", "The patterns are work, pubsub, ")]
)
def test_an_unknown_pattern_is_bad_usage(tmp_path: Path, name: str, advice: str) -> None:
    done = _demo(tmp_path, name)
    assert (done.returncode, done.stdout) == (2, "")
    assert advice in " ".join(done.stderr.split())


def test_workers_are_refused_where_no_work_is_shared(tmp_path: Path) -> None:
    done = _demo(tmp_path, "topics", "--workers", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the pattern topics has no workers" in done.stderr


def test_completion_knows_the_patterns() -> None:
    words = {"_RMQKIT_COMPLETE": "complete_bash", "COMP_WORDS": "rmqkit demo s", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "rmqkit"], env={**os.environ, **words}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["streams", "single-active"]


def test_the_page_of_patterns_names_every_demo() -> None:
    page = Path("docs/patterns/README.md").read_text("utf-8")
    assert [name for name in PATTERNS if f"`rmqkit demo {name}`" not in page] == []


# The same demos on the tests' broker, each on a virtual host of its own


@pytest.fixture
def demo_broker(broker: Broker, vhost_url: str, tmp_path: Path) -> DemoBroker:
    return DemoBroker(vhost_url, broker.api_url, tmp_path)


def _run(demo_broker: DemoBroker, name: str, count: int = COUNT, workers: int | None = None) -> DemoResult:
    with DemoRunner(PATTERNS[name], demo_broker, count, workers) as demo_runner:
        return demo_runner.run_demo()


@pytest.mark.parametrize("name", ["pubsub", "routing", "topics", "headers", "offline"])
def test_every_reader_gets_exactly_its_messages(demo_broker: DemoBroker, name: str) -> None:
    result = _run(demo_broker, name)
    assert result.complete, result.text
    ledgers = result.numbers["readers"]
    expected = {
        "pubsub": [1, 1, 1],
        "routing": [1, 2],
        "topics": [2, 2, 4],
        "headers": [1, 3],
        "offline": [2, 2, 2, 2],
    }
    assert sorted(ledger["received"] // COUNT for ledger in ledgers.values()) == expected[name]
    assert sum(result.numbers["returned"].values()) == COUNT * (name in ("routing", "headers"))


def test_every_call_is_answered_when_a_server_is_killed(demo_broker: DemoBroker) -> None:
    result = _run(demo_broker, "rpc", 600, 2)
    assert result.complete, result.text
    report = result.numbers
    assert [report[name] for name in ("calls", "answered", "wrong", "unanswered")] == [600, 600, 0, 0]
    assert sum(report["shares"].values()) == 600
    assert min(report["shares"].values()) > 0


def test_each_reader_of_a_stream_gets_everything_from_its_offset_in_order(demo_broker: DemoBroker) -> None:
    result = _run(demo_broker, "streams")
    assert result.complete, result.text
    first, half, late, again = (reader["received"] for reader in result.numbers["readers"].values())
    assert (first, half, again) == (2 * COUNT, 2 * COUNT - COUNT // 2, 2 * COUNT)
    assert 0 < late <= COUNT


def test_a_failed_message_returns_after_its_delays_and_is_parked_with_the_reason(demo_broker: DemoBroker) -> None:
    result = _run(demo_broker, "retry", 3)
    assert result.complete, result.text
    assert [result.numbers[kind]["tries"] for kind in ("easy", "flaky", "hopeless")] == [1, 3, 4]
    assert "no luck at try 4" in result.numbers["hopeless"]["ended"]


def test_urgent_messages_overtake_waiting_ones(demo_broker: DemoBroker) -> None:
    result = _run(demo_broker, "priority", 2)
    assert result.complete, result.text
    assert [line.split() for line in result.text.splitlines()] == [
        ["published", "00", "99", "55"],
        ["received", "99", "55", "00"],
        ["lost", "0"],
    ]


def test_the_next_consumer_takes_over_from_the_active_one_that_is_killed(demo_broker: DemoBroker) -> None:
    result = _run(demo_broker, "single-active", 600)
    assert result.complete, result.text
    first, second, third = result.numbers["received"].values()
    assert first >= 200
    assert second > 0
    assert third == 0


# A demo that could not fail would show nothing


@pytest.mark.usefixtures("handlers")
def test_a_message_where_it_should_not_be_fails_the_demo(
    demo_broker: DemoBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepared(*, clustered: bool) -> AbstractContextManager[DemoBroker]:
        assert not clustered
        return nullcontext(demo_broker)

    wrong = (Binding("log", "log_errors", routing_key="info"),)
    topology = rmqkit.load("topologies/routing.yaml")
    with rmqkit.connect(demo_broker.url) as connection:
        connection.apply(Topology(exchanges=topology.exchanges, queues=topology.queues, bindings=wrong))
    monkeypatch.setattr(runner, "private_broker", prepared)
    with pytest.raises(typer.Exit) as ending:
        demo("routing", 10, json=True)
    assert ending.value.exit_code == 6
    readers = json.loads(capsys.readouterr().out)["readers"]
    assert {name: reader["unexpected"] for name, reader in readers.items()} == {"log_errors": 10, "log_all": 0}


def test_the_ledger_distinguishes_lost_duplicated_and_unexpected() -> None:
    ledger = count_deliveries([b"0", b"1", b"1", b"7"], [b"0", b"1", b"2", b"3"])
    assert ledger == DeliveryCount(received=4, lost=2, duplicated=1, unexpected=1)
    assert not ledger.complete
    assert count_deliveries([b"1", b"0", b"1"], [b"0", b"1"]).complete  # a duplicate is no loss
