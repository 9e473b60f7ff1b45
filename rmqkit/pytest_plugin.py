"""Fixtures for pytest: a real RabbitMQ for the tests of your own services, and a virtual host of its own for each test.

pytest imports this for every project where rmqkit is installed: what takes time to import is left to the fixtures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.http_api.client import HttpApiClient
    from rmqkit.model import Topology
    from rmqkit.node.node import Node
    from rmqkit.settings import Settings

URL_VARIABLE, API_URL_VARIABLE = "RMQKIT_TEST_URL", "RMQKIT_TEST_API_URL"
_MARKER = "rmqkit_topology"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name a broker."""
    group = parser.getgroup("rmqkit", "a RabbitMQ for tests")
    node = "without one a private node is started"
    group.addoption("--rmqkit-url", metavar="URL", help=f"test on this broker (default: {URL_VARIABLE}; {node})")
    usual = "its host's port 15672"
    group.addoption("--rmqkit-api-url", metavar="URL", help=f"its HTTP API (default: {API_URL_VARIABLE}, or {usual})")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(file, ...): apply these topology files to the test's virtual host; paths start at the test's file",
    )


class _Broker(NamedTuple):
    """Where AMQP and the HTTP API answer; `api_url` may be empty."""

    url: str
    api_url: str

    def settings(self) -> Settings:
        from rmqkit.settings import load_settings  # noqa: PLC0415

        # No environment: its RMQKIT_API_URL may belong to another broker than this one.
        return load_settings((self.url,), api_url=self.api_url, environ={}, source="the URL of the tests' broker")


@contextmanager
def _told(advice: str = "") -> Iterator[None]:
    """Fail with what an error of rmqkit says, which needs no traceback, and with what more there is to say."""
    from rmqkit.errors import RmqkitError  # noqa: PLC0415

    try:
        yield
    except RmqkitError as error:
        told = str(error).replace("--api-url", "--rmqkit-api-url")  # as the option is called here
        raise pytest.fail.Exception("\n".join(filter(None, (told, advice))), pytrace=False) from None


@pytest.fixture(scope="session")
def rmqkit_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Start a private RabbitMQ node, one for all workers of pytest-xdist; it ends with the session, killed or not."""
    from rmqkit.node.node import Node  # noqa: PLC0415
    from rmqkit.node.reaper import reap_when_done  # noqa: PLC0415

    folder, wait_s = tmp_path_factory.getbasetemp(), 60.0
    if hasattr(request.config, "workerinput"):  # in the folder that all workers share; the last one ends the node
        folder, wait_s = folder.parent, 0.0
    with reap_when_done(folder / "rmqkit", wait_s) as place:
        node = Node(place / "node")
        with _told(f"To test on a broker that is there, name it by --rmqkit-url or {URL_VARIABLE}."):
            node.start(port=0)  # the first worker starts it, the others wait
        yield node


@pytest.fixture(scope="session")
def _rmqkit_broker(request: pytest.FixtureRequest) -> _Broker:
    """Find the broker: the one that is named, else the private node."""
    if url := request.config.getoption("rmqkit_url") or os.environ.get(URL_VARIABLE):
        api_url = request.config.getoption("rmqkit_api_url") or os.environ.get(API_URL_VARIABLE, "")
        return _Broker(url, api_url)
    status = request.getfixturevalue("rmqkit_node").status()
    return _Broker(status.url, status.management_url)


@pytest.fixture(scope="session")
def _rmqkit_management(_rmqkit_broker: _Broker) -> HttpApiClient:
    """Return the HTTP API of that broker, and surely of no other."""
    from rmqkit.amqp.reconnect import ReconnectingConnection  # noqa: PLC0415
    from rmqkit.http_api import client as http_api  # noqa: PLC0415

    with _told(
        "Each test gets a virtual host of its own, which AMQP cannot make. On a broker without the HTTP API use"
        " `rmqkit.connect` with names of your own; with no URL named, a private node is started, which has it."
    ):
        link = ReconnectingConnection(_rmqkit_broker.settings(), "pytest")
        try:
            return http_api.connect(link)
        finally:
            link.close()


@pytest.fixture
def _rmqkit_virtual_host(_rmqkit_broker: _Broker, _rmqkit_management: HttpApiClient) -> Iterator[_Broker]:
    """Make a virtual host: a service has its fixed names in it all the same, and no other test sees them."""
    name = f"rmqkit-test-{uuid4().hex[:12]}"
    with _told():
        _rmqkit_management.create_virtual_host(name)
    yield _rmqkit_broker._replace(url=urlsplit(_rmqkit_broker.url)._replace(path=f"/{name}").geturl())
    with _told():
        _rmqkit_management.delete_virtual_host(name)


@pytest.fixture
def rmqkit_topology(request: pytest.FixtureRequest, _rmqkit_virtual_host: _Broker) -> Topology:
    """Apply the topology that the marker `rmqkit_topology` names, and return it; without a marker it is empty."""
    import rmqkit  # noqa: PLC0415

    marker = request.node.get_closest_marker(_MARKER)
    if not marker:
        return rmqkit.Topology()
    if not marker.args or marker.kwargs:
        pytest.fail(f'write @pytest.mark.{_MARKER}("orders.yaml"), with one file or several', pytrace=False)
    with _told():
        topology = rmqkit.load(*(request.path.parent / file for file in marker.args))
        with rmqkit.connect(settings=_rmqkit_virtual_host.settings()) as connection:
            connection.apply(topology)
    return topology


@pytest.fixture
def rmqkit_url(_rmqkit_virtual_host: _Broker, rmqkit_topology: Topology) -> str:  # noqa: ARG001
    """Return the URL of the test's own virtual host, for the service that is tested; the topology is applied before."""
    return _rmqkit_virtual_host.url


@pytest.fixture
def rmqkit_connection(_rmqkit_virtual_host: _Broker, rmqkit_topology: Topology) -> Iterator[Connection]:  # noqa: ARG001
    """Connect to the test's own virtual host; the topology is applied before."""
    import rmqkit  # noqa: PLC0415

    with rmqkit.connect(settings=_rmqkit_virtual_host.settings()) as connection:
        yield connection
