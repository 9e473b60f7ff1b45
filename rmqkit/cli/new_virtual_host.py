"""Virtual hosts that topology files name and the broker does not have: `plan` shows them, and `apply` creates them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rmqkit.cli import output
from rmqkit.cli.options import connect
from rmqkit.errors import BrokerError, NotFound
from rmqkit.model import Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Outcome, Plan, Step
from rmqkit.settings import Settings

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.http_api.client import HttpApiClient

_DEFAULT = "/"


@dataclass(frozen=True, slots=True)
class NewVirtualHost:
    """A virtual host to create, over a connection to the default one; `settings` are those for the new one."""

    connection: Connection
    settings: Settings
    name: str

    @property
    def step(self) -> Step:
        """Return the step of a plan that creates the virtual host."""
        return Step("vhost", self.name, Outcome.CREATE)

    def plan(self, topology: Topology, *, options: ApplyOptions) -> Plan:  # noqa: ARG002 - as `Connection.plan`
        """Return the plan of creating the virtual host and applying a topology there. Raises BrokerError."""
        planned = self.connection.plan_virtual_host(topology)
        return replace(planned, steps=(self.step, *planned.steps))

    def http_api(self) -> HttpApiClient:
        """Return a client of RabbitMQ's HTTP API, for the default virtual host. Raises BrokerError."""
        return self.connection.http_api()

    def create(self) -> Connection:
        """Create the virtual host, and connect to it. Raises BrokerError."""
        self.connection.create_virtual_host(self.name)
        output.note(output.safe(f"Created virtual host {self.name!r}, with all permissions for this user."))
        return connect(self.settings)


@contextmanager
def open_virtual_host(settings: Settings, topology: Topology) -> Iterator[Connection | NewVirtualHost]:
    """Connect to a virtual host; if the files name it and it does not exist, to the default one, to create it.

    Only an administrator may create one, with RabbitMQ's HTTP API; otherwise raises NotFound, whose advice says how.
    Raises the errors of `connect`.
    """
    try:
        connection = connect(settings)
    except NotFound as error:
        if topology.vhost is None:
            raise
        with _administer(settings, error) as connection:
            yield NewVirtualHost(connection, settings, topology.vhost)
    else:
        with connection:
            yield connection


@contextmanager
def _administer(settings: Settings, error: NotFound) -> Iterator[Connection]:
    """Connect to the default virtual host as an administrator; else raise the error."""
    try:
        connection = connect(settings.in_vhost(_DEFAULT))
    except BrokerError:
        raise error from None
    with connection:
        try:
            tags = connection.http_api().user_tags()
        except BrokerError:
            tags = frozenset()
        if "administrator" not in tags:
            raise error from None
        yield connection
