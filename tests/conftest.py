"""The broker the tests run against, and what they need of it.

`RMQKIT_TEST_URL` if set (with `RMQKIT_TEST_API_URL` for its HTTP API), else a container if a Docker engine answers,
else a private node, one for all workers. No broker is a failure that says what to do, never a skip.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import HTTPBasicAuthHandler, HTTPPasswordMgrWithDefaultRealm, Request, build_opener

import hypothesis
import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit.node import Node
from rmqkit.node.leash import leash

# A machine that is busy with other tests is no finding: neither the time an example takes, nor that of making one.
hypothesis.settings.register_profile("rmqkit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("rmqkit")
FOLDER = "RMQKIT_TEST_FOLDER"  # where this session's nodes live; xdist's workers inherit it
_session = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Hold the leash in the process that started the session, not in xdist's workers."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background; our children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="rmqkit-test-")
        _session.enter_context(leash(Path(os.environ[FOLDER])))


def pytest_unconfigure() -> None:
    """Let the session's nodes end, and wait until they did."""
    _session.close()


@dataclass(frozen=True)
class Broker:
    """Where the tests' broker answers: AMQP, and RabbitMQ's HTTP API with its user and password."""

    url: str
    api_url: str

    def api(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Call RabbitMQ's HTTP API; `path` comes after `/api/`, `body` is JSON."""
        where = urlsplit(self.api_url)
        passwords = HTTPPasswordMgrWithDefaultRealm()
        root = f"{where.scheme}://{where.hostname}:{where.port}/api/"
        passwords.add_password(None, root, where.username or "guest", where.password or "guest")
        request = Request(root + path, body, method=method, headers={"content-type": "application/json"})
        with build_opener(HTTPBasicAuthHandler(passwords)).open(request, timeout=10) as response:
            return bytes(response.read())


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A RabbitMQ that the tests share: they keep to names of their own, or to a virtual host of their own."""
    if url := os.environ.get("RMQKIT_TEST_URL"):
        host = urlsplit(url).hostname
        yield Broker(url, os.environ.get("RMQKIT_TEST_API_URL", f"http://guest:guest@{host}:15672"))
    elif _docker_answers():
        yield from _container()
    else:
        status = Node(Path(os.environ[FOLDER]) / "shared").start(port=0)  # the first worker starts it, the others wait
        yield Broker(status.url, status.management_url.replace("://", "://guest:guest@"))


@pytest.fixture(scope="session")
def broker_url(broker: Broker) -> str:
    """The URL of the tests' broker, on its default virtual host."""
    return broker.url


@pytest.fixture
def vhost_url(broker: Broker) -> Iterator[str]:
    """The URL of a fresh virtual host, for tests whose names are fixed, as those of the shipped topologies are."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    broker.api("PUT", f"vhosts/{name}")
    yield urlsplit(broker.url)._replace(path=f"/{name}").geturl()
    broker.api("DELETE", f"vhosts/{name}")


@pytest.fixture
def connection(broker_url: str) -> Iterator[rmqkit.Connection]:
    """Our connection to the tests' broker."""
    with rmqkit.connect(broker_url) as opened:
        yield opened


@pytest.fixture
def channel(broker_url: str) -> Iterator[BlockingChannel]:
    """A channel of pika's own: an independent client, which sees what is really there."""
    opened = pika.BlockingConnection(pika.URLParameters(broker_url))
    yield opened.channel()
    opened.close()


@dataclass
class Namespace:
    """Names that no other test uses; what is declared under them is removed after the test."""

    prefix: str
    queues: list[str] = field(default_factory=list)
    exchanges: list[str] = field(default_factory=list)

    def queue(self, name: str = "queue") -> str:
        """Return a queue's name."""
        self.queues.append(f"{self.prefix}.{name}")
        return self.queues[-1]

    def exchange(self, name: str = "exchange") -> str:
        """Return an exchange's name."""
        self.exchanges.append(f"{self.prefix}.{name}")
        return self.exchanges[-1]


@pytest.fixture
def namespace(broker_url: str) -> Iterator[Namespace]:
    """Unique names for queues and exchanges."""
    names = Namespace(f"test-{uuid.uuid4().hex[:12]}")
    yield names
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    channel = connection.channel()
    for queue in names.queues:
        channel.queue_delete(queue)
    for exchange in names.exchanges:
        channel.exchange_delete(exchange)
    connection.close()


@pytest.fixture
def queue_name(namespace: Namespace) -> str:
    """A queue's name that no other test uses."""
    return namespace.queue()


@pytest.fixture
def own_node() -> Iterator[Callable[[], Node]]:
    """Start a private node that the test may kill, freeze and restart: call it once for each node."""
    started: list[Node] = []

    def start() -> Node:
        node = Node(Path(os.environ[FOLDER]) / f"own-{uuid.uuid4().hex[:12]}")
        started.append(node)
        node.start(port=0)
        return node

    yield start
    for node in started:
        node.discard()


def _docker_answers() -> bool:
    if not shutil.which("docker"):
        return False
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(["docker", "version"], capture_output=True, timeout=10, check=False).returncode == 0
    return False


def _container() -> Iterator[Broker]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's deprecations
        from testcontainers.rabbitmq import RabbitMqContainer  # noqa: PLC0415 - only where there is a Docker engine

        container = RabbitMqContainer("rabbitmq:4-management").with_exposed_ports(15672)
    with container:
        host, port, api = (
            container.get_container_host_ip(),
            container.get_exposed_port(5672),
            container.get_exposed_port(15672),
        )
        yield Broker(f"amqp://guest:guest@{host}:{port}/", f"http://guest:guest@{host}:{api}")
