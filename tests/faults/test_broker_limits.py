"""A broker that is alive and takes no more: alarms, slow handlers, large messages (9, 10, 19, 21, 22)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import rmqkit
from rmqkit import Fate, Message
from rmqkit.node.node import Node
from tests.faults.fault_run import DeclareLedger
from tests.support.cli import rmqkit as run
from tests.support.nodes import evaluate
from tests.support.queues import ready
from tests.support.wait import wait_until

pytestmark = pytest.mark.usefixtures("leak_free")


ALARMS = {  # a setting of the broker, and its value: for an alarm, and without
    "memory": ("vm_memory_monitor:set_vm_memory_high_watermark", "0.000001", "0.4"),
    "disk": ("rabbit_disk_monitor:set_disk_free_limit", '"100000GB"', '"50MB"'),
}


@contextmanager
def alarm(node: Node, kind: str = "memory") -> Iterator[None]:
    """Have the broker believe that it is out of memory, or of disk space."""
    command, raised, lifted = ALARMS[kind]
    assert evaluate(node, f"{command}({raised})") == "ok"
    try:
        yield
    finally:
        assert evaluate(node, f"{command}({lifted})") == "ok"


@contextmanager
def setting(node: Node, **values: int) -> Iterator[None]:
    """Change settings of the running broker, for connections to come."""
    before = {name: evaluate(node, f"element(2, application:get_env(rabbit, {name}))") for name in values}
    try:
        for name, value in values.items():
            _set(node, name, value)
        yield
    finally:
        for name, old in before.items():
            _set(node, name, old)


def _set(node: Node, name: str, value: object) -> None:
    evaluate(node, f"application:set_env(rabbit, {name}, {value}), persistent_term:put({name}, {value})")  # 3, and 4


@pytest.mark.fault(9)
@pytest.mark.parametrize("kind", ALARMS)
def test_an_alarm_is_reported_stops_reading_and_everything_resumes_once_it_clears(
    node: Node, node_ledger: DeclareLedger, kind: str
) -> None:
    ledger, amount = node_ledger(), 30_000
    reports: list[rmqkit.PublishReport] = []

    def publish(connection: rmqkit.Connection) -> None:
        reports.append(connection.publish(ledger.messages(range(amount)), on_settled=ledger.settled))

    with rmqkit.connect(node.url) as connection, rmqkit.connect(node.url) as other:
        other.publish(ledger.messages(range(amount, amount + 500)), on_settled=ledger.settled)
        with alarm(node, kind):
            publishing = threading.Thread(target=publish, args=(connection,))
            publishing.start()
            wait_until(lambda: connection.blocked != "", "nobody said that the broker is blocked")
            assert kind in connection.blocked
            with other.consume(ledger.queue, count=500) as consumer:  # consumers go on
                for delivery in consumer:
                    ledger.handle(delivery)
            taken = 500 + rmqkit.PublishOptions().window + 1  # one is at hand, and finds no room
            wait_until(lambda: len(ledger.sent) == taken, lambda: f"{len(ledger.sent)} were taken, not {taken}")
            used_s = time.process_time()
            time.sleep(1)  # nothing is to happen
            assert len(ledger.sent) == taken
            assert time.process_time() - used_s < 0.5  # no spinning
        publishing.join(90)
        assert not publishing.is_alive()
        assert connection.blocked == ""
        with other.consume(ledger.queue, count=amount) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
    assert (reports[0].confirmed, reports[0].republished) == (amount, 0)
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []


@pytest.mark.fault(10)
@pytest.mark.parametrize("confirms", [True, False], ids=["confirms", "no confirms"])
def test_a_stop_while_blocked_is_quick_and_reports_unknown_messages(
    node: Node, node_ledger: DeclareLedger, confirms: bool
) -> None:
    ledger, stop = node_ledger(), rmqkit.Stop()
    with alarm(node), rmqkit.connect(node.url) as connection:

        def stop_when_blocked() -> None:
            wait_until(lambda: connection.blocked != "", "not blocked")
            stopped_s.append(time.monotonic())
            stop.request()

        stopped_s: list[float] = []
        stopper = threading.Thread(target=stop_when_blocked)
        stopper.start()
        report = connection.publish(
            ledger.messages(range(60_000)),
            options=rmqkit.PublishOptions(confirms=confirms),
            stop=stop,
            check=False,
            on_settled=ledger.settled,
        )
        connection.close()
        stopper.join()
        assert time.monotonic() - stopped_s[0] < 8
    assert report.interrupted
    assert report.unknown == report.published == len(ledger.sent) > 0
    ledger.drain(node.url)
    assert ledger.violations(report) == []


def test_publishing_again_on_a_connection_that_was_stopped_while_blocked(
    node: Node, node_ledger: DeclareLedger
) -> None:
    ledger, stop = node_ledger(), rmqkit.Stop()
    with rmqkit.connect(node.url) as connection:
        with alarm(node):
            stopper = threading.Thread(target=lambda: (wait_until(lambda: connection.blocked != ""), stop.request()))
            stopper.start()
            connection.publish(ledger.messages(range(100)), stop=stop, check=False)
            stopper.join()
        assert connection.publish(ledger.messages(range(100, 200))).complete


BLOCKED = {
    "publish": ("publish", "-q", "{queue}", "--count", "50"),
    "move": ("move", "{queue}", "--to-queue", "{other}"),
    "forward": ("consume", "{queue}", "--to-queue", "{other}"),
    "forward with workers": ("consume", "{queue}", "--to-queue", "{other}", "--workers", "2"),
    "forward what fails": ("consume", "{queue}", "--exec", "false", "--topology", "{topology}"),
    "call": ("call", "{queue}", "x", "--timeout", "60"),
}


@pytest.mark.fault(10)
@pytest.mark.parametrize("name", BLOCKED)
def test_a_command_under_an_alarm_says_so_and_ends_with_the_first_signal(
    node: Node, node_ledger: DeclareLedger, tmp_path: Path, name: str
) -> None:
    queue, other = node_ledger().queue, node_ledger().queue
    topology = tmp_path / "retry.yaml"
    topology.write_text(f"queues: {{{queue}: {{retry: {{delays: [1h], then: {other}}}}}, {other}: {{}}}}")
    with rmqkit.connect(node.url) as connection:
        connection.apply(rmqkit.load(topology))
        connection.publish(Message(b"%d" % number, queue) for number in range(20))
    words = [each.format(queue=queue, other=other, topology=topology) for each in BLOCKED[name]]
    environment = os.environ | {"RMQKIT_URL": node.url, "XDG_STATE_HOME": str(tmp_path)}
    with alarm(node):
        process = subprocess.Popen(
            [sys.executable, "-m", "rmqkit", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr
            line = next(each for each in process.stderr if "blocking" in each)
            assert line.startswith("warning: the broker is blocking publishers: low on memory")
            signalled_s = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
            seconds = time.monotonic() - signalled_s
        finally:
            process.kill()
    assert process.returncode in {4, 6, 130}, stderr
    assert seconds < 8, stderr  # a second on an idle machine; without the alarm, it would wait for ten


@pytest.mark.parametrize("name", ["publish", "move", "forward"])
def test_the_time_that_an_alarm_is_waited_for_is_an_option(
    node: Node, node_ledger: DeclareLedger, tmp_path: Path, name: str
) -> None:
    queue, other = node_ledger().queue, node_ledger().queue
    with rmqkit.connect(node.url) as connection:
        connection.publish(Message(b"%d" % number, queue) for number in range(20))
    words = [each.format(queue=queue, other=other) for each in BLOCKED[name]]
    with alarm(node):
        started_s = time.monotonic()
        environment = {"RMQKIT_URL": node.url, "XDG_STATE_HOME": str(tmp_path)}
        done = run(*words, "--blocked-timeout", 1, env=environment)
        assert time.monotonic() - started_s < 20
    assert done.returncode == 6, done.stderr
    assert "the broker has been blocking publishers for" in done.stderr


def test_status_names_the_alarms(node: Node, tmp_path: Path) -> None:
    environment = {
        "RMQKIT_URL": node.url,
        "RMQKIT_API_URL": node.status().management_url.replace("://", "://guest:guest@"),
        "XDG_STATE_HOME": str(tmp_path),
    }
    wait_until(lambda: "ALARM" not in run("status", env=environment).stderr, "an alarm is shown")
    with alarm(node):
        wait_until(lambda: "ALARM" in run("status", env=environment).stderr, "the alarm is not shown")
        assert "ALARM: publishers are blocked: memory on rmqkit" in run("status", env=environment).stderr
        assert json.loads(run("status", "--json", env=environment).stdout)["alarms"][0].startswith("memory on")


@pytest.mark.fault(19)
def test_a_message_larger_than_the_broker_takes_is_the_only_one_that_fails(
    node: Node, node_ledger: DeclareLedger
) -> None:
    ledger = node_ledger()

    def stream() -> Iterator[Message]:
        for number, message in enumerate(ledger.messages(range(5000))):
            yield Message(message.body + b"." * 200_000, message.routing_key) if number == 2500 else message

    fates: dict[int, Fate] = {}
    with setting(node, max_message_size=100_000), rmqkit.connect(node.url) as connection:
        report = connection.publish(
            stream(), check=False, on_settled=lambda index, _, fate: fates.__setitem__(index, fate)
        )
    assert [index for index, fate in fates.items() if fate is not Fate.CONFIRMED] == [2500]
    assert report.refused == 1
    assert "size" in report.failures[0].reason
    ledger.drain(node.url)
    assert not [
        each for each in ledger.violations(report) if each.startswith(("unexpected", "duplicates", "order", "damage"))
    ]


@pytest.mark.fault(21)
def test_a_handler_slower_than_the_consumer_timeout_is_a_warning_and_consuming_resumes(
    node: Node, node_ledger: DeclareLedger
) -> None:
    kind = "quorum" if node.status().version >= "4.3" else "classic"  # the others have no timeout there
    ledger, warnings = node_ledger(x_queue_type=kind), list[str]()
    with setting(node, consumer_timeout=1000, channel_tick_interval=500), rmqkit.connect(node.url) as connection:
        connection.publish(ledger.messages(range(10)), on_settled=ledger.settled)
        with connection.consume(ledger.queue, idle_timeout_s=10, on_warning=warnings.append) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                if len(ledger.handled) == 5:
                    wait_until(lambda: ready(node.url, ledger.queue) > 0, "the broker waited")  # a slow handler
    assert len(warnings) == 1
    assert "consumer timeout" in warnings[0]
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []


@pytest.mark.fault(21)
def test_messages_behind_a_slow_one_are_neither_handled_nor_counted_until_redelivered(
    node: Node, node_ledger: DeclareLedger
) -> None:
    queue, warnings, handled = node_ledger(x_queue_type="quorum").queue, list[str](), list[bytes]()

    with setting(node, consumer_timeout=1000, channel_tick_interval=500), rmqkit.connect(node.url) as connection:

        def handle(delivery: rmqkit.Delivery) -> None:
            handled.append(delivery.body)
            if len(handled) == 1:  # until the broker has ended the consumer; 3.10 requeues only when that is answered
                transport = connection._consuming._transport
                assert transport
                wait_until(lambda: any(each.ended for each in transport._channels.values()), "the broker waited")

        connection.publish(rmqkit.Message(b"%d" % number, queue) for number in range(4))
        report = rmqkit.handle(
            connection, queue, handle, count=4, failed=rmqkit.FailurePolicy.REJECT, on_warning=warnings.append
        )
    assert sorted(handled) == [b"0", b"0", b"1", b"2", b"3"]
    assert (report.consumed, report.acknowledged, ready(node.url, queue)) == (4, 4, 0)
    assert ["`prefetch=1`" in each for each in warnings].count(True) == 1


@pytest.mark.fault(21)
def test_the_message_of_a_command_that_is_slower_than_the_consumer_timeout_is_consumed_again(
    node: Node, node_ledger: DeclareLedger, tmp_path: Path
) -> None:
    """Also if it is the last of the count: all were delivered, and the consumer only waits for the commands."""
    queue, command = node_ledger(x_queue_type="quorum").queue, f"sh -c 'mkdir {tmp_path}/slow && sleep 3; exit 0'"
    with setting(node, consumer_timeout=1000, channel_tick_interval=500), rmqkit.connect(node.url) as connection:
        connection.publish(rmqkit.Message(b"%d" % number, queue) for number in range(2))
        words = ("consume", queue, "-n", 2, "--concurrency", 2, "--exec", command)
        done = run(*words, env={"RMQKIT_URL": node.url})
    assert (done.returncode, ready(node.url, queue)) == (0, 0), done.stderr
    assert "Consumed 2 messages" in done.stderr
    assert done.stderr.count("held for longer than the consumer timeout") == 1


@pytest.mark.fault(22)
def test_heartbeats_continue_while_a_handler_works(node: Node, node_ledger: DeclareLedger) -> None:
    ledger, warnings = node_ledger(), list[str]()
    with rmqkit.connect(f"{node.url}?heartbeat=1") as connection:
        connection.publish(ledger.messages(range(3)), on_settled=ledger.settled)
        with connection.consume(ledger.queue, count=3, on_warning=warnings.append) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                if len(ledger.handled) == 1:
                    until_s = time.monotonic() + 5
                    while time.monotonic() < until_s:  # busy, and holding Python's lock as much as a handler can
                        sum(range(10_000))
    assert warnings == []
    assert [each.redelivered for each in ledger.handled] == [False] * 3


@pytest.mark.fault(19)
def test_a_reply_the_broker_refuses_reaches_the_requester_as_a_failure(node: Node, node_ledger: DeclareLedger) -> None:
    queue, stop, failures = node_ledger().queue, rmqkit.Stop(), list[str]()
    with (
        setting(node, max_message_size=10_000),
        rmqkit.connect(node.url) as connection,
        rmqkit.connect(node.url) as client,
    ):
        connection.serve(queue)(lambda request: request.body * 20_000)
        options = {"stop": stop, "on_failure": lambda _, error: failures.append(str(error))}
        server = threading.Thread(target=connection.run, kwargs=options)
        server.start()
        try:
            with pytest.raises(rmqkit.RemoteError, match="refused the reply"):
                client.call(Message(b"large", queue), timeout_s=20)
            assert client.call(Message(b"", queue), timeout_s=20).body == b""
        finally:
            stop.request()
            server.join()
    assert (len(failures), ready(node.url, queue)) == (1, 0)
