"""The broker the tests run against, and what they need of it.

`RMQKIT_TEST_URL` if set (with `RMQKIT_TEST_API_URL` for its HTTP API), else a private node of
`RMQKIT_RABBITMQ` if that names a folder, else a container if a Docker engine answers, else a private node, one for all
workers. No broker is a failure that says what to do, never a skip.

Tests that kill, freeze or configure a broker start a node of their own, and are marked `own_node`. Where the tests run
on a broker that `RMQKIT_TEST_URL` names, what cannot be had is left out, and named at the end: those, if no RabbitMQ is
installed here, those marked `http_api`, if its HTTP API does not answer, and those marked `unguessed_api`, if it does
so at the port where rmqkit looks for it.
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
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPBasicAuthHandler, HTTPPasswordMgrWithDefaultRealm, Request, build_opener

import hypothesis
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit.address import API_PORTS
from rmqkit.errors import NodeError
from rmqkit.node import installation
from rmqkit.node.node import Node
from rmqkit.node.reaper import reap_when_done
from rmqkit.settings import CONTEXT_VARIABLE
from tests.support.queues import open_channel

# On a busy machine, neither running nor generating an example may be judged by its time.
hypothesis.settings.register_profile("rmqkit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("rmqkit")
FOLDER = "RMQKIT_TEST_FOLDER"  # where this session's nodes live; xdist's workers inherit it
MEMORY_FOLDER, MEMORY_BYTES = "/dev/shm", 8 << 30
MISSING_MARKS = "RMQKIT_TEST_MISSING"  # the marks of tests that are left out, likewise
NEWEST = str(Path(__file__).parents[1] / ".rabbitmq/newest")  # made by `.ci/setup newest`
OWN_NODE = {"own_node", "node", "tls", "cluster"}  # fixtures that start one
_session = ExitStack()
_left_out: set[tuple[str, str]] = set()  # tests, each with the mark that is missing


def pytest_configure(config: pytest.Config) -> None:
    """Start the reaper of nodes in the process that started the session, not in xdist's workers."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background; our children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "fault(number, ...): tests these faults of docs/reliability.md")
    config.addinivalue_line("markers", "own_node: starts nodes of its own, and needs an installed RabbitMQ")
    config.addinivalue_line("markers", "http_api: needs the HTTP API of the tests' broker")
    config.addinivalue_line("markers", "unguessed_api: needs a broker whose HTTP API rmqkit does not find by itself")
    if not hasattr(config, "workerinput"):
        os.environ[MISSING_MARKS] = " ".join(_missing_marks())
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="rmqkit-test-", dir=_fast_folder())
        os.environ["XDG_CONFIG_HOME"] = f"{os.environ[FOLDER]}/config"  # not the developer's own contexts
        os.environ.pop(CONTEXT_VARIABLE, None)
        _session.enter_context(reap_when_done(Path(os.environ[FOLDER])))


def _fast_folder() -> str | None:
    """Return a folder in memory if it has room, so that no test waits for a slow disk; None for the default one.

    `kill -9` leaves the page cache, so also on a disk nothing would be lost that is not lost in memory.
    """
    try:
        return MEMORY_FOLDER if shutil.disk_usage(MEMORY_FOLDER).free >= MEMORY_BYTES else None
    except OSError:
        return None


def _missing_marks() -> Iterator[str]:
    """Yield the marks of tests that cannot run here."""
    if url := os.environ.get("RMQKIT_TEST_URL"):
        try:
            installation.find()
        except NodeError:
            yield "own_node"
        broker = _named(url)
        try:
            broker.api("GET", "overview")
        except OSError:
            yield "http_api"
        else:
            if urlsplit(broker.api_url).port == API_PORTS["http"]:
                yield "unguessed_api"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, and leave out those that cannot run here."""
    missing = os.environ[MISSING_MARKS].split()
    kept: list[pytest.Item] = []
    for item in items:
        fixtures = getattr(item, "_fixtureinfo", None)
        names = set(fixtures.names_closure) if fixtures else set()
        if names & OWN_NODE:
            item.add_marker("own_node")
        if fixtures and ("vhost_url" in names or _asks_broker(fixtures)):
            item.add_marker("http_api")
        missed = next((mark for mark in missing if item.get_closest_marker(mark)), "")
        if missed:
            _left_out.add((item.nodeid, missed))
        else:
            kept.append(item)
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[each for each in items if each not in kept])
        items[:] = kept
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = sorted(_left_out)
        items[:] = _dealt_out(items, int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


def _dealt_out(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Give each worker, which xdist starts on an equal share of the list, files with clusters and nodes first.

    Unit tests come last, so no worker is left with a long test when the others are done.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def rank(path: Path) -> int:
        if any({"cluster", "clustered"} & set(getattr(item, "fixturenames", ())) for item in files[path]):
            return 0
        has_nodes = any(item.get_closest_marker("own_node") for item in files[path])
        return 1 if has_nodes else 3 if path.parent.name == "unit" else 2

    ranked = sorted(files, key=rank)
    return [item for worker in range(workers) for path in ranked[worker::workers] for item in files[path]]


def _asks_broker(fixtures: Any) -> bool:
    """Tell whether a test, or a fixture of its own, uses the broker itself, and not only the URL."""
    own = (each[-1] for each in fixtures.name2fixturedefs.values() if each[-1].baseid not in ("", "tests"))
    return "broker" in fixtures.argnames or any("broker" in each.argnames for each in own)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from one of xdist's workers what it left out."""
    _left_out.update(map(tuple, getattr(node, "workeroutput", {}).get("left_out", ())))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out."""
    reasons = {
        "own_node": "need a node of their own, and RabbitMQ is not installed here",
        "unguessed_api": "need a broker whose HTTP API is not found at its usual port",
        "http_api": "need the HTTP API of RMQKIT_TEST_URL, which does not answer (see RMQKIT_TEST_API_URL)",
    }
    for mark, reason in reasons.items():
        names = sorted(name for name, missed in _left_out if missed == mark)
        if names:
            terminalreporter.section(f"{len(names)} tests were left out: they {reason}")
            for name in names:
                terminalreporter.write_line(name)


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
        with build_opener(HTTPBasicAuthHandler(passwords)).open(request, timeout=90) as response:
            return bytes(response.read())


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A RabbitMQ that the tests share: they keep to names of their own, or to a virtual host of their own."""
    if url := os.environ.get("RMQKIT_TEST_URL"):
        yield _named(url)
    elif os.environ.get(installation.VARIABLE, NEWEST) == NEWEST and _docker_answers():
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
    with open_channel(broker_url) as opened:
        yield opened


@pytest.fixture
def vhost_channel(vhost_url: str) -> Iterator[BlockingChannel]:
    """Such a channel on the fresh virtual host."""
    with open_channel(vhost_url) as opened:
        yield opened


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
    with open_channel(broker_url) as channel:
        for queue in names.queues:
            channel.queue_delete(queue)
        for exchange in names.exchanges:
            channel.exchange_delete(exchange)


@pytest.fixture
def queue_name(namespace: Namespace) -> str:
    """A queue's name that no other test uses."""
    return namespace.queue()


@pytest.fixture(scope="session")
def session_node() -> Iterator[Node]:
    """Start a private node of this worker."""
    private = Node(Path(os.environ[FOLDER]) / f"node-{uuid.uuid4().hex[:12]}")
    private.start(port=0)
    yield private
    private.discard()


@pytest.fixture
def node(session_node: Node) -> Node:
    """Start the session's node, which tests may kill, freeze and restart one after the other, unless it is running."""
    try:
        session_node.start()
    except NodeError:  # a failing test left it so
        session_node.discard()
        session_node.start(port=0)
    return session_node


@pytest.fixture
def own_node() -> Iterator[Callable[[], Node]]:
    """Start a further private node, which the test may discard: call it once for each node."""
    started: list[Node] = []

    def start() -> Node:
        node = Node(Path(os.environ[FOLDER]) / f"own-{uuid.uuid4().hex[:12]}")
        started.append(node)
        node.start(port=0)
        return node

    yield start
    for node in started:
        node.discard()


def _named(url: str) -> Broker:
    """Return the broker that RMQKIT_TEST_URL names; its HTTP API takes the same login, unless its URL has another."""
    parts = urlsplit(url)
    api = urlsplit(os.environ.get("RMQKIT_TEST_API_URL", f"http://{parts.hostname}:15672"))
    login = api.netloc.rpartition("@")[0] or f"{parts.username or 'guest'}:{parts.password or 'guest'}"
    return Broker(url, api._replace(netloc=f"{login}@{api.netloc.rpartition('@')[2]}").geturl())


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
        container.exec(["rabbitmq-plugins", "enable", "rabbitmq_consistent_hash_exchange"])
        host, port, api = (
            container.get_container_host_ip(),
            container.get_exposed_port(5672),
            container.get_exposed_port(15672),
        )
        yield Broker(f"amqp://guest:guest@{host}:{port}/", f"http://guest:guest@{host}:{api}")
