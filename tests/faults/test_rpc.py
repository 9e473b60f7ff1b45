"""Request and reply when a side dies (33): every call ends with one result or one error, and nothing leaks."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

import rmqkit
from rmqkit import Delivery, Message, ServeReport, Stop
from rmqkit.node.node import Node
from tests.faults.fault_run import DeclareLedger, in_background
from tests.faults.ledger import FaultLedger
from tests.support.nodes import wait_until_on_disk
from tests.support.proxy import Proxy
from tests.support.queues import consumers, ready
from tests.support.wait import wait_until

pytestmark = pytest.mark.usefixtures("leak_free")

DYING_SERVER = """
import os, signal, sys
from rmqkit import connect
from rmqkit.messaging.consumer import Consumer

url, queue, moment = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "after the reply":
    Consumer.settle = die
with connect(url) as connection:
    @connection.serve(queue)
    def answer(request):
        if moment == "before the reply":
            die()
        return "of the dying"
    connection.run()
"""


class ServerProcess:
    """A server on a thread, and what it did."""

    def __init__(self) -> None:
        self.stop = Stop()
        self.report = ServeReport()
        self.warnings: list[str] = []


@contextmanager
def served(url: str, queue: str, prefix: bytes = b"") -> Iterator[ServerProcess]:
    """Answer each request with its own body while the block runs."""
    server = ServerProcess()

    def answer(request: Delivery) -> bytes:
        return prefix + request.body

    with rmqkit.connect(url) as connection:
        connection.serve(queue, prefetch=10)(answer)

        def work() -> None:
            server.report = connection.run(stop=server.stop, on_warning=server.warnings.append)

        with in_background(work):
            try:
                yield server
            finally:
                server.stop.request()


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("moment", "expected"), [("before the reply", b"second: 1"), ("after the reply", b"of the dying")]
)
def test_a_server_killed_around_its_reply_costs_no_call_and_no_request(
    broker_url: str, ledger: FaultLedger, moment: str, expected: bytes
) -> None:
    queue, answered, warnings = ledger.queue, threading.Event(), list[str]()
    replies: list[bytes] = []
    with rmqkit.connect(broker_url) as connection, ExitStack() as running:

        def call() -> None:
            replies.append(connection.call(Message(b"1", queue), timeout_s=30).body)
            answered.set()

        command = [sys.executable, "-c", DYING_SERVER, broker_url, queue, moment]
        with subprocess.Popen(command) as process:
            wait_until(lambda: consumers(broker_url, queue) == 1)
            running.enter_context(in_background(call))
            assert process.wait(90) == -signal.SIGKILL
        with served(broker_url, queue, b"second: ") as second:
            assert answered.wait(90)
            answers = connection.call_many([Message(b"2", queue)], on_warning=warnings.append)
            assert [answer.reply.body for answer in answers] == [b"second: 2"]
    assert replies == [expected]
    assert (second.report.requests, second.report.redelivered) == (2, 1)
    late = moment == "after the reply"  # then the second reply to the first request comes too
    assert len(warnings) == late
    assert ready(broker_url, queue) == 0


@pytest.mark.fault(33)
def test_a_client_killed_during_a_call_does_not_affect_other_clients(broker_url: str, ledger: FaultLedger) -> None:
    queue, begun, go_on = ledger.queue, threading.Event(), threading.Event()

    def slow(request: Delivery) -> bytes:
        begun.set()
        assert go_on.wait(90)
        return request.body

    stop = Stop()
    with rmqkit.connect(broker_url) as server, rmqkit.connect(broker_url) as other:
        server.serve(queue)(slow)
        with in_background(lambda: server.run(stop=stop)):
            try:
                with subprocess.Popen([sys.executable, "-m", "rmqkit", "call", "-u", broker_url, queue, "1"]) as client:
                    assert begun.wait(90)
                    client.kill()
                go_on.set()
                assert other.call(Message(b"2", queue)).body == b"2"
            finally:
                stop.request()
    assert ready(broker_url, queue) == 0


@pytest.mark.fault(33)
def test_a_broker_killed_under_a_hundred_calls_ends_each_once_and_the_next_ones_work(
    node: Node, node_ledger: DeclareLedger
) -> None:
    queue = node_ledger().queue
    wait_until_on_disk(node)
    with rmqkit.connect(node.url) as connection, served(node.url, queue) as server:
        killed = threading.Event()

        def requests() -> Iterator[Message]:
            for number in range(3000):
                if number == 1000:
                    node.kill()
                    killed.set()
                yield Message(b"%d" % number, queue)

        def restart() -> None:
            assert killed.wait(90)
            node.start()

        with in_background(restart):
            answers = list(connection.call_many(requests(), timeout_s=90, window=100))
        good = [answer for answer in answers if answer.error is None]
        bad = [answer for answer in answers if answer.error is not None]
        assert [answer.request.body for answer in answers] == [b"%d" % number for number in range(3000)]
        assert all([reply.body for reply in answer.replies] == [answer.request.body] for answer in good)
        assert all(isinstance(answer.error, rmqkit.ConnectionLost) and not answer.replies for answer in bad)
        assert 0 < len(bad) <= 100
        assert connection.call(Message(b"again", queue)).body == b"again"
    assert any("subscribing again" in warning for warning in server.warnings)


@pytest.mark.fault(33)
def test_calls_that_may_be_handled_twice_survive_connections_that_are_closed(
    node: Node, node_ledger: DeclareLedger
) -> None:
    queue = node_ledger().queue
    with rmqkit.connect(node.url) as connection, served(node.url, queue):

        def requests() -> Iterator[Message]:
            for number in range(2000):
                if number == 1000:
                    assert node.ctl("close_all_connections", "a test").returncode == 0
                yield Message(b"%d" % number, queue)

        answers = connection.call_many(requests(), timeout_s=90, window=100, idempotent=True)
        assert [answer.reply.body for answer in answers] == [b"%d" % number for number in range(2000)]


@pytest.mark.fault(33)
def test_a_frozen_broker_is_a_timeout_and_a_late_reply_is_ignored(node: Node, node_ledger: DeclareLedger) -> None:
    queue, warnings = node_ledger().queue, list[str]()
    with rmqkit.connect(node.url) as connection, served(node.url, queue):
        assert connection.call(Message(b"0", queue)).body == b"0"
        with node.frozen():
            timed_out = list(connection.call_many([Message(b"1", queue)] * 3, timeout_s=0.5, window=3))
        assert [type(answer.error) for answer in timed_out] == [rmqkit.ReplyTimeout] * 3
        answers = connection.call_many([Message(b"2", queue)], timeout_s=20, on_warning=warnings.append)
        assert [answer.reply.body for answer in answers] == [b"2"]
    assert len(warnings) <= 1  # the three may have expired, or been answered late


@pytest.mark.fault(33)
def test_when_the_broker_cannot_be_reached_the_calls_end_with_one_error(broker_url: str, ledger: FaultLedger) -> None:
    requests = (Message(b"%d" % number, ledger.queue) for number in range(10))
    answers: list[rmqkit.Answer] = []
    proxy = Proxy(broker_url)
    with served(broker_url, ledger.queue):
        with proxy:
            connection = rmqkit.connect(proxy.url)
            coming = connection.call_many(requests, timeout_s=1, window=1)
            assert next(coming).reply.body == b"0"
        with connection, pytest.raises(rmqkit.ConnectionLost):
            answers.extend(coming)
    assert [type(answer.error) for answer in answers] == [rmqkit.ConnectionLost] * len(answers)
    assert len(answers) in (1, 2)  # the one on its way, if it was lost, and the one that could not be sent
