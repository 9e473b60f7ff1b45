"""rmqkit on one side, and on the other programs in the manner of RabbitMQ's tutorials, in three languages.

https://www.rabbitmq.com/tutorials: hello world, work queues, publish/subscribe, routing, topics, request and reply. The
programs are in tests/broker/tutorials, and take a verb, named like the tutorial's program, and its arguments:

    send | new_task QUEUE BODY...     receive | worker QUEUE COUNT
    emit_log EXCHANGE TYPE KEY BODY   receive_logs EXCHANGE TYPE COUNT KEY...
    rpc_client QUEUE NUMBER           rpc_server QUEUE COUNT: replies with the double

`.ci/setup clients` installs what they need.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import rmqkit
from rmqkit import Exchange, Message, Queue, Topology
from tests.conftest import Broker, Namespace

HERE = Path(__file__).parent / "tutorials"
CLIENTS = {
    "pika": (sys.executable, HERE / "pika_client.py"),
    "bunny": ("ruby", HERE / "bunny_client.rb"),  # Ruby
    "amqp-tools": ("sh", HERE / "amqp_tools_client.sh"),  # C
}
INSTALL = "install it: `.ci/setup clients`"
WAIT_S = 30  # for a message that was confirmed or published before
pytestmark = pytest.mark.timeout(150)  # a test starts up to eight processes
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def connection(broker_url: str) -> Iterator[rmqkit.Connection]:
    with rmqkit.connect(broker_url) as connection:
        yield connection


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    assert shutil.which(CLIENTS[request.param][0]), f"the client is missing; {INSTALL}"
    return str(request.param)


@pytest.fixture
def start(client: str, broker_url: str) -> Iterator[Start]:
    """Start the client, or with `rmqkit` our command; what still runs after the test is ended."""
    theirs = f"{broker_url}%2F" if broker_url.endswith("/") else broker_url  # "" is a name to Bunny and to the C client
    variables = {**os.environ, "RABBITMQ_URL": theirs, "RMQKIT_URL": broker_url}

    def started(verb: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rmqkit"] if verb in ("call", "serve") else CLIENTS[client]
        process = subprocess.Popen(
            [*command, verb, *arguments],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.push(process)
        running.callback(process.kill)
        return process

    with ExitStack() as running:
        yield started


def lines(process: subprocess.Popen[str]) -> list[str]:
    """Return what a process printed, once it has ended as it should."""
    printed, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, f"{said}\nIf its client is missing, {INSTALL}"
    return printed.splitlines()


def consume(connection: rmqkit.Connection, queue: str, count: int) -> list[str]:
    """Consume with rmqkit, and leave."""
    with connection.consume(queue, count=count, idle_timeout_s=WAIT_S) as consumer:
        return [each.body.decode() for each in consumer]


@pytest.mark.parametrize(
    ("durable", "sender", "receiver"),
    [
        pytest.param(False, "send", "receive", id="1: hello world"),
        pytest.param(True, "new_task", "worker", id="2: work queues"),
    ],
)
def test_a_queue_is_shared_with_a_tutorial_in_both_directions(
    connection: rmqkit.Connection, start: Start, queue_name: str, *, durable: bool, sender: str, receiver: str
) -> None:
    bodies = ["Hello World!", "A very hard task..."]
    lines(start(sender, queue_name, *bodies))
    connection.apply(Topology(queues=(Queue(queue_name, durable=durable),)))  # the same, by both
    assert consume(connection, queue_name, 2) == bodies
    connection.publish(Message(body.encode(), queue_name) for body in bodies)
    assert lines(start(receiver, queue_name, "2")) == bodies
    assert connection.queue_state(queue_name).ready == 0


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        pytest.param("fanout", {"": ["info", "error"]}, id="3: publish/subscribe"),
        pytest.param("direct", {"error": ["error"], "warning": ["warning"]}, id="4: routing"),
        pytest.param("topic", {"kern.*": ["kern.info"], "*.critical": ["a.critical"]}, id="5: topics"),
    ],
)
def test_an_exchange_is_shared_with_a_tutorial_in_both_directions(
    connection: rmqkit.Connection,
    broker: Broker,
    client: str,
    start: Start,
    namespace: Namespace,
    *,
    kind: str,
    wanted: dict[str, list[str]],
) -> None:
    name = namespace.exchange()
    connection.apply(Topology(exchanges=(Exchange(name, kind),)))
    keys = list(wanted)[:1] if client == "amqp-tools" else list(wanted)  # they bind one key
    sent = ["unwanted"] * (kind != "fanout") + [key for some in wanted.values() for key in some]
    expected = [key for each in keys for key in wanted[each]]

    theirs = start("receive_logs", name, kind, str(len(expected)), *keys)
    _await_bindings(broker, name, len(keys), theirs)
    ours = connection.subscribe(name, [key for key in keys if key])
    connection.publish((Message(key.encode(), key, exchange=name) for key in sent), check=False)
    assert lines(theirs) == expected
    assert consume(connection, ours, len(expected)) == expected

    ours = connection.subscribe(name, [key for key in keys if key])  # the one before went with its consumer
    for key in sent:
        lines(start("emit_log", name, kind, key, key))
    assert consume(connection, ours, len(expected)) == expected


def _await_bindings(broker: Broker, exchange: str, count: int, client: subprocess.Popen[str]) -> None:
    vhost = urlsplit(broker.url).path[1:] or "%2F"
    deadline = time.monotonic() + WAIT_S
    while len(json.loads(broker.api("GET", f"exchanges/{vhost}/{exchange}/bindings/source"))) < count:
        assert client.poll() is None, lines(client)
        assert time.monotonic() < deadline, "the client bound nothing"
        time.sleep(0.05)


def test_the_tutorials_client_is_answered_by_rmqkit_serve(
    connection: rmqkit.Connection, start: Start, queue_name: str
) -> None:
    connection.apply(Topology(queues=(Queue(queue_name),)))
    server = start("serve", queue_name, "--exec", "sed s/^/2*/", "--count", "2")
    assert lines(start("rpc_client", queue_name, "21")) == ["2*21"]
    assert lines(start("rpc_client", queue_name, "4")) == ["2*4"]
    assert lines(server) == []


@pytest.mark.parametrize("client", ["pika", "bunny"], indirect=True)
def test_the_tutorials_server_answers_rmqkit_call(connection: rmqkit.Connection, start: Start, queue_name: str) -> None:
    connection.apply(Topology(queues=(Queue(queue_name),)))
    server = start("rpc_server", queue_name, "3")
    assert lines(start("call", queue_name, "1", "2", "21", "--timeout", str(WAIT_S))) == ["2", "4", "42"]
    assert lines(server) == []
