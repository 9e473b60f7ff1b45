"""What releases refuse and change, as `releases.yaml` has it, asked of the broker: of 3.10 before, of 4.3 after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pika
import pytest
from pika.exceptions import AMQPChannelError, AMQPConnectionError

from rmqkit.model import Binding, Exchange, Policy, Queue
from rmqkit.topology.file.loader import load
from rmqkit.topology.lint.linter import upgrade_findings
from rmqkit.topology.lint.releases import parse_release
from tests.conftest import Broker
from tests.support.versions import version

CASE = load(Path(__file__).parents[1] / "cases" / "upgrade" / "to_4_3.yaml")
ENTITIES = [*CASE.exchanges, *CASE.queues, *CASE.bindings, *CASE.policies]
PLUGIN = "x-delayed-message"  # of a plugin that is not installed


@pytest.fixture
def connection(vhost_url: str) -> Iterator[pika.BlockingConnection]:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        yield connection


def accepts(broker: Broker, connection: pika.BlockingConnection, entity: object) -> bool:
    """Declare an entity with plain pika; a refusal may close the connection too."""
    try:
        channel = connection.channel()
        arguments = dict(getattr(entity, "arguments", {}))
        match entity:
            case Exchange():
                channel.exchange_declare(entity.name, entity.type, durable=entity.durable, arguments=arguments)
            case Queue():
                flags = {"durable": entity.durable, "exclusive": entity.exclusive}
                channel.queue_declare(entity.name, arguments=arguments, **flags)
            case Binding():
                kind = next(each.type for each in CASE.exchanges if each.name == entity.source)
                channel.exchange_declare(entity.source, "fanout" if kind == PLUGIN else kind)
                channel.queue_declare(entity.destination, durable=True)
                channel.queue_bind(entity.destination, entity.source, entity.routing_key, arguments)
            case Policy():
                body = {"pattern": entity.pattern, "definition": entity.definition, "apply-to": entity.apply_to}
                vhost = connection._impl.params.virtual_host
                broker.api("PUT", f"policies/{vhost}/{entity.name}", json.dumps(body).encode())
    except (AMQPChannelError, AMQPConnectionError):
        return False
    except HTTPError as error:
        error.close()
        if error.code != 400:
            raise
        return False
    return True


def severities(release: str) -> dict[str, set[str]]:
    """Return the severities of findings about a release, by the entity's name."""
    found: dict[str, set[str]] = {}
    for finding in upgrade_findings(CASE, parse_release(release)):
        found.setdefault(finding.name, set()).add(finding.severity)
    return found


@pytest.mark.parametrize("entity", ENTITIES, ids=lambda entity: str(getattr(entity, "name", entity)))
def test_a_broker_accepts_what_its_release_is_said_to_accept(
    broker: Broker, connection: pika.BlockingConnection, entity: Exchange | Queue | Binding | Policy
) -> None:
    release = ".".join(map(str, version(broker)))
    name = str(entity) if isinstance(entity, Binding) else entity.name
    expected = "error" not in severities(release).get(name, set())
    if isinstance(entity, Queue) and not entity.durable and not entity.exclusive and version(broker) >= (4, 3):
        expected = True  # Debian's package permits what RabbitMQ denies by default
    if isinstance(entity, Exchange) and entity.type == PLUGIN:
        expected = False  # without the plugin, on any release
    assert accepts(broker, connection, entity) is expected
