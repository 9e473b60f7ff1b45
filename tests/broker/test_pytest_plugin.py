"""The fixtures for pytest, in test suites of their own: those of a project that uses rmqkit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from rmqkit.node.process import wait_until
from rmqkit.node.reaper import reap_when_done
from tests.conftest import Broker

PAGE = Path(__file__).parents[2] / "docs" / "testing-services.md"
Suite = Callable[..., subprocess.CompletedProcess[str]]
IMPORTS = "import os, signal, sys, pathlib, pika, pytest, rmqkit\n"


def command(folder: Path, code: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Write a test suite of one file; return how to run it, and the environment, which has nothing of this session."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    if code:
        (folder / "test_service.py").write_text(IMPORTS + dedent(code))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RMQKIT_"))}
    basetemp = f"--basetemp={folder / 'temp'}"
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", basetemp, *arguments], environment


def run(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv, environment = command(folder, code, *arguments)
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def suite(broker: Broker, tmp_path: Path) -> Suite:
    """Run a test suite on the broker of these tests."""

    def run_here(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        urls = (f"--rmqkit-url={broker.url}", f"--rmqkit-api-url={broker.api_url}")
        return run(tmp_path, code, *urls, *arguments)

    return run_here


def gone(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()  # a zombie's is empty
    except OSError:
        return True


def test_tests_that_use_the_same_queue_do_not_see_each_other_and_leave_nothing(
    suite: Suite, broker: Broker, tmp_path: Path
) -> None:
    done = suite(
        """
        @pytest.mark.parametrize("arguments", [{}, {"x-max-length": 7}])
        def test_the_queue_is_mine(rmqkit_connection, rmqkit_url, arguments):
            with open("urls", "a") as file:
                print(rmqkit_url, file=file)
            rmqkit_connection.apply(rmqkit.Topology(queues=(rmqkit.Queue("orders", arguments=arguments),)))
            rmqkit_connection.publish(rmqkit.Message(b"one", "orders"))
            assert rmqkit_connection.queue_state("orders").ready == 1
        """
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    names = {url.rpartition("/")[2] for url in (tmp_path / "urls").read_text().split()}
    assert len(names) == 2
    assert not names & {each["name"] for each in json.loads(broker.api("GET", "vhosts"))}


def test_a_service_that_is_given_the_url_finds_the_topology_of_the_marker(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text(
        "queues: {orders: {}}\npolicies: {short: {pattern: o, definition: {max-length: 7}}}"
    )
    (tmp_path / "more.yaml").write_text("queues: {more: {}}")
    done = suite(
        """
        pytestmark = pytest.mark.rmqkit_topology("orders.yaml", "more.yaml")

        def test_there(rmqkit_url):
            connection = pika.BlockingConnection(pika.URLParameters(rmqkit_url))
            for queue in ("orders", "more"):
                connection.channel().queue_declare(queue, passive=True)
            connection.close()

        def test_returned(rmqkit_topology, rmqkit_connection):
            assert [queue.name for queue in rmqkit_topology.queues] == ["orders", "more"]
            assert not rmqkit_connection.plan(rmqkit_topology).changes

        @pytest.mark.rmqkit_topology("more.yaml")
        def test_the_closest_marker_counts(rmqkit_connection):
            with pytest.raises(rmqkit.NotFound):
                rmqkit_connection.queue_state("orders")
        """
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_errors_in_a_topology_are_reported_without_traceback(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("queue: {}")
    done = suite(
        """
        @pytest.mark.rmqkit_topology("wrong.yaml")
        def test_wrong(rmqkit_url): ...

        @pytest.mark.rmqkit_topology(file="orders.yaml")
        def test_misspelt(rmqkit_url): ...
        """
    )
    assert "2 errors" in done.stdout
    assert "wrong.yaml:1:1: unknown key 'queue'" in done.stdout
    assert '@pytest.mark.rmqkit_topology("orders.yaml")' in done.stdout
    assert "Traceback" not in done.stdout
    assert "pytest_plugin.py" not in done.stdout


def test_an_unreachable_broker_is_an_error_and_not_a_skip(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_any(rmqkit_url): ...", "--rmqkit-url=amqp://guest:secret@127.0.0.1:1/")
    assert (done.returncode, "1 error" in done.stdout) == (1, True), done.stdout
    assert "connection refused" in done.stdout
    assert "secret" not in done.stdout


def test_a_missing_http_api_is_an_error_that_names_the_option(suite: Suite) -> None:
    done = suite("def test_any(rmqkit_url): ...", "--rmqkit-api-url=http://127.0.0.1:1")
    assert (done.returncode, "1 error" in done.stdout) == (1, True), done.stdout
    assert "does not answer at http://127.0.0.1:1: Connection refused" in done.stdout
    assert ", or set --rmqkit-api-url." in done.stdout
    assert "Each test needs its own virtual host, which AMQP cannot create." in done.stdout
    assert "another exception" not in done.stdout


def test_a_missing_rabbitmq_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pathlib\n"
        "from rmqkit.node import installation\n"
        "installation._search_path = lambda: '/nonexistent'\n"
        "installation._WRAPPED = pathlib.Path('/nonexistent')\n"
    )
    done = run(tmp_path, "def test_any(rmqkit_url): ...")
    assert (done.returncode, "1 error" in done.stdout) == (1, True), done.stdout
    assert "apt install rabbitmq-server" in done.stdout
    assert "RMQKIT_TEST_URL" in done.stdout
    assert not (tmp_path / "temp" / "rmqkit").exists()


def test_a_project_without_the_fixtures_does_not_import_their_modules(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\n"
        "def test_plain():\n"
        "    ours = {'rmqkit', 'rmqkit.pytest_plugin', 'rmqkit.version'}\n"
        "    assert {each for each in sys.modules if each.startswith('rmqkit')} == ours\n"
    )
    done = run(tmp_path, "")
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.own_node
@pytest.mark.timeout(150)  # a node takes its time to start
def test_workers_share_one_node_that_ends_with_them(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        def test_each(rmqkit_node, rmqkit_url):
            pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).write_text(str(rmqkit_node.pid))
        """,
        "-n2",
        "--dist=each",
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    pids = [int((tmp_path / worker).read_text()) for worker in ("gw0", "gw1")]
    assert pids[0] == pids[1]
    assert wait_until(lambda: gone(pids[0]) and not (tmp_path / "temp" / "rmqkit").exists(), 20.0)


@pytest.mark.own_node
@pytest.mark.timeout(150)  # a node takes its time to start
def test_the_example_of_the_page_passes_and_kill_9_leaves_no_node(tmp_path: Path) -> None:
    for name, content in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content)
    argv, environment = command(
        tmp_path,
        """
        def test_stays(rmqkit_node):
            pathlib.Path("new").write_text(str(rmqkit_node.pid))
            os.rename("new", "pid")
            signal.pause()
        """,
        "-v",
    )
    with (tmp_path / "output").open("w") as log:
        process = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        assert wait_until(lambda: (tmp_path / "pid").exists() or process.poll() is not None, 100.0)
        output = (tmp_path / "output").read_text()
        assert output.count(" PASSED") == 3, output
        node = int((tmp_path / "pid").read_text())
        assert not gone(node)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert wait_until(lambda: gone(node) and not (tmp_path / "temp" / "rmqkit").exists(), 20.0)


def test_a_node_held_twice_survives_the_first_holder(tmp_path: Path) -> None:
    with reap_when_done(tmp_path / "nodes"):
        with reap_when_done(tmp_path / "nodes", wait_s=1.0) as held:
            pass
        assert held.exists()
    assert not held.exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # there are threads, of xdist
def test_a_forked_child_does_not_keep_a_node_running(tmp_path: Path) -> None:
    read, write = os.pipe()
    with reap_when_done(tmp_path / "nodes", wait_s=20.0) as held:
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)  # until the test is over
            os._exit(0)
    assert not held.exists()
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)


def test_a_connection_for_asyncio_is_opened_by_the_test(suite: Suite) -> None:
    done = suite(
        """
        import asyncio

        def test_asyncio(rmqkit_aio_connection, rmqkit_connection):
            rmqkit_connection.apply(rmqkit.Topology(queues=(rmqkit.Queue("orders"),)))

            async def publish():
                async with rmqkit_aio_connection as connection:
                    await connection.publish(rmqkit.Message(b"one", "orders"))

            asyncio.run(publish())
            assert rmqkit_connection.queue_state("orders").ready == 1
        """
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.own_node
@pytest.mark.timeout(150)  # a node takes its time to start
def test_each_fault_happens_and_ends(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text("queues: {orders: {}}")
    done = run(
        tmp_path,
        """
        import threading, time

        pytestmark = pytest.mark.rmqkit_topology("orders.yaml")
        ONE = rmqkit.Message(b"one", "orders")

        def test_kill(rmqkit_faults):
            with rmqkit.connect(rmqkit_faults.url) as connection:
                connection.publish(ONE)
                rmqkit_faults.kill()
                assert not connection.is_connected
                assert connection.publish(ONE).confirmed == 1
                assert connection.queue_state("orders").ready == 2

        def test_cut(rmqkit_faults):
            events = []

            class Hooks(rmqkit.Hooks):
                def event(self, event):
                    events.append(event.kind.value)

            with rmqkit.connect(rmqkit_faults.url, hooks=Hooks()) as connection:
                client = pika.BlockingConnection(pika.URLParameters(rmqkit_faults.url))
                assert rmqkit_faults.cut() >= 2
                with pytest.raises(pika.exceptions.StreamLostError):
                    client.process_data_events(time_limit=30)
                assert connection.publish(ONE).confirmed == 1
                assert "lost" in events

        def test_freeze(rmqkit_faults):
            with rmqkit.connect(rmqkit_faults.url) as connection:
                connection.publish(ONE)
                with rmqkit_faults.freeze(), pytest.raises(rmqkit.RmqkitError):
                    connection.publish(ONE, timeout_s=0.3)
                assert connection.publish(ONE).confirmed == 1

        def test_alarm(rmqkit_faults):
            with rmqkit.connect(rmqkit_faults.url) as connection:
                with rmqkit_faults.alarm(), pytest.raises(rmqkit.NotConfirmed, match="memory"):
                    connection.publish(ONE, timeout_s=2)
                assert connection.publish(ONE).confirmed == 1
                assert not connection.blocked

        def test_ledger(rmqkit_faults, rmqkit_ledger):
            with rmqkit.connect(rmqkit_faults.url) as connection:
                rmqkit_ledger.publish(connection, [ONE, rmqkit.Message(b"gone", "nowhere")], key=lambda each: each.body)
            assert rmqkit_ledger.lost == [b"one"]
            with pytest.raises(AssertionError, match="of 2 messages, 1 lost: b'one'$"):
                rmqkit_ledger.check()
            for _ in range(2):
                rmqkit_ledger.arrived(b"one")
            rmqkit_ledger.check(may_double=True)
            rmqkit_ledger.arrived(b"what")
            assert (rmqkit_ledger.doubled, rmqkit_ledger.unexpected) == ({b"one": 2}, [b"what"])
            with pytest.raises(AssertionError, match="1 unexpected: b'what'; 1 doubled: b'one'"):
                rmqkit_ledger.check()
        """,
        "-n0",
    )
    assert "5 passed" in done.stdout, done.stdout + done.stderr
