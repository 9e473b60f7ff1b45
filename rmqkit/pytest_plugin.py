"""Fixtures for pytest: a real RabbitMQ for the tests of your own services, and a virtual host for each test.

pytest imports this module in every project where rmqkit is installed, so slow imports are left to the fixtures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from rmqkit.aio import AsyncConnection
    from rmqkit.connection import Connection
    from rmqkit.http_api.client import HttpApiClient
    from rmqkit.ledger import Ledger
    from rmqkit.model import Topology
    from rmqkit.node.faults import Faults
    from rmqkit.node.node import Node
    from rmqkit.settings import Settings

URL_VARIABLE, API_URL_VARIABLE = "RMQKIT_TEST_URL", "RMQKIT_TEST_API_URL"
_MARKER = "rmqkit_topology"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name a broker."""
    group = parser.getgroup("rmqkit", "a RabbitMQ for tests")
    started = "otherwise a private node is started"
    group.addoption("--rmqkit-url", metavar="URL", help=f"test on this broker (default: {URL_VARIABLE}; {started})")
    port = "port 15672 of its host"
    group.addoption("--rmqkit-api-url", metavar="URL", help=f"its HTTP API (default: {API_URL_VARIABLE}, or {port})")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(file, ...): apply topology files, relative to the test's file, to its virtual host",
    )


class _TestBroker(NamedTuple):
    """The URLs of AMQP and the HTTP API; `api_url` may be empty."""

    url: str
    api_url: str

    def settings(self) -> Settings:
        from rmqkit.settings import load_settings  # noqa: PLC0415

        # No environment: its RMQKIT_API_URL may belong to a different broker.
        return load_settings((self.url,), api_url=self.api_url, environ={}, source="the URL of the broker for tests")


@contextmanager
def _failing_without_traceback(advice: str = "") -> Iterator[None]:
    """Turn an error of rmqkit, which needs no traceback, into a failure with its text and more advice."""
    from rmqkit.errors import RmqkitError  # noqa: PLC0415

    try:
        yield
    except RmqkitError as error:
        text = str(error).replace("`api_url=`", "--rmqkit-api-url").replace("RMQKIT_API_URL", API_URL_VARIABLE)
        raise pytest.fail.Exception("\n".join(filter(None, (text, advice))), pytrace=False) from None


@pytest.fixture(scope="session")
def rmqkit_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Start a private RabbitMQ node, one for all workers of pytest-xdist; it ends with the session, killed or not."""
    from rmqkit.node.node import Node  # noqa: PLC0415
    from rmqkit.node.reaper import reap_when_done  # noqa: PLC0415

    folder, wait_s = tmp_path_factory.getbasetemp(), 60.0
    if hasattr(request.config, "workerinput"):  # in the folder that all workers share; the last worker ends the node
        folder, wait_s = folder.parent, 0.0
    with reap_when_done(folder / "rmqkit", wait_s) as shared:
        node = Node(shared / "node")
        with _failing_without_traceback(f"To test on an existing broker, name it with --rmqkit-url or {URL_VARIABLE}."):
            node.start(port=0)  # the first worker starts it, the others wait
        yield node


@pytest.fixture(scope="session")
def _rmqkit_broker(request: pytest.FixtureRequest) -> _TestBroker:
    """Return the named broker, else the private node."""
    if url := request.config.getoption("rmqkit_url") or os.environ.get(URL_VARIABLE):
        api_url = request.config.getoption("rmqkit_api_url") or os.environ.get(API_URL_VARIABLE, "")
        return _TestBroker(url, api_url)
    status = request.getfixturevalue("rmqkit_node").status()
    return _TestBroker(status.url, status.management_url)


@pytest.fixture(scope="session")
def _rmqkit_http_api(_rmqkit_broker: _TestBroker) -> HttpApiClient:
    """Return the HTTP API of that broker, verified to belong to it."""
    return _http_api(_rmqkit_broker)


def _http_api(broker: _TestBroker) -> HttpApiClient:
    from rmqkit.amqp.reconnecting_connection import ReconnectingConnection  # noqa: PLC0415
    from rmqkit.http_api import client as http_api  # noqa: PLC0415

    with (
        _failing_without_traceback(
            "Each test needs its own virtual host, which AMQP cannot create. On a broker without the HTTP API use"
            " `rmqkit.connect` with unique names; without a URL, a private node with the HTTP API is started."
        ),
        closing(ReconnectingConnection(broker.settings(), "rmqkit pytest")) as connection,
    ):
        return http_api.connect(connection)


@pytest.fixture
def _rmqkit_virtual_host(_rmqkit_broker: _TestBroker, _rmqkit_http_api: HttpApiClient) -> Iterator[_TestBroker]:
    with _virtual_host(_rmqkit_broker, _rmqkit_http_api) as broker:
        yield broker


@contextmanager
def _virtual_host(broker: _TestBroker, api: HttpApiClient) -> Iterator[_TestBroker]:
    """Create a virtual host, where a service can use its fixed names without meeting another test."""
    name = f"rmqkit-test-{uuid4().hex[:12]}"
    with _failing_without_traceback():
        api.put_virtual_host(name)
    yield broker._replace(url=urlsplit(broker.url)._replace(path=f"/{name}").geturl())
    with _failing_without_traceback():
        api.delete_virtual_host(name)


@pytest.fixture
def rmqkit_topology(request: pytest.FixtureRequest, _rmqkit_virtual_host: _TestBroker) -> Topology:
    """Apply the topology of the marker `rmqkit_topology`, and return it; without a marker it is empty."""
    return _apply(request, _rmqkit_virtual_host)


def _apply(request: pytest.FixtureRequest, broker: _TestBroker) -> Topology:
    import rmqkit  # noqa: PLC0415

    marker = request.node.get_closest_marker(_MARKER)
    if not marker:
        return rmqkit.Topology()
    if not marker.args or marker.kwargs:
        pytest.fail(f'write @pytest.mark.{_MARKER}("orders.yaml"), with one or more files', pytrace=False)
    with _failing_without_traceback():
        topology = rmqkit.load(*(request.path.parent / file for file in marker.args))
        with rmqkit.connect(settings=broker.settings()) as connection:
            connection.apply(topology)
    return topology


@pytest.fixture
def rmqkit_url(_rmqkit_virtual_host: _TestBroker, rmqkit_topology: Topology) -> str:  # noqa: ARG001
    """Return the URL of the test's virtual host, for the service under test; the topology is already applied."""
    return _rmqkit_virtual_host.url


@pytest.fixture
def rmqkit_connection(_rmqkit_virtual_host: _TestBroker, rmqkit_topology: Topology) -> Iterator[Connection]:  # noqa: ARG001
    """Connect to the test's virtual host; the topology is already applied."""
    import rmqkit  # noqa: PLC0415

    with rmqkit.connect(settings=_rmqkit_virtual_host.settings()) as connection:
        yield connection


@pytest.fixture
def rmqkit_aio_connection(_rmqkit_virtual_host: _TestBroker, rmqkit_topology: Topology) -> AsyncConnection:  # noqa: ARG001
    """Return a connection to the test's virtual host for asyncio, to be opened by `async with`."""
    import rmqkit.aio  # noqa: PLC0415

    return rmqkit.aio.connect(settings=_rmqkit_virtual_host.settings())


@pytest.fixture(scope="session")
def _rmqkit_faulty_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Start a node for faults: each worker of pytest-xdist has its own."""
    from rmqkit.node.node import Node  # noqa: PLC0415
    from rmqkit.node.reaper import reap_when_done  # noqa: PLC0415

    with reap_when_done(tmp_path_factory.getbasetemp() / "rmqkit-faults") as folder:
        node = Node(folder / "node")
        with _failing_without_traceback("Faults need a RabbitMQ that is installed on this machine."):
            node.start(port=0)
        yield node


@pytest.fixture
def rmqkit_faults(request: pytest.FixtureRequest, _rmqkit_faulty_node: Node) -> Iterator[Faults]:
    """Return the faults of a private node, whose URL leads to a virtual host of this test; the topology is applied."""
    from rmqkit.node.faults import Faults  # noqa: PLC0415

    status = _rmqkit_faulty_node.status()
    broker = _TestBroker(status.url, status.management_url)
    with _virtual_host(broker, _http_api(broker)) as own:
        _apply(request, own)
        yield Faults(_rmqkit_faulty_node, own.url)


@pytest.fixture
def rmqkit_ledger() -> Ledger:
    """Return an empty ledger: it counts which messages a service lost or doubled."""
    from rmqkit.ledger import Ledger  # noqa: PLC0415

    return Ledger()
