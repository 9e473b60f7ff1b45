"""Definitions as a real RabbitMQ exports and imports them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pika
import pytest

from rmqkit.topology.file.definitions import from_definitions, to_definitions
from rmqkit.topology.file.loader import loads
from rmqkit.topology.file.writer import to_yaml
from tests.conftest import Broker

NAMES = (
    "plain",
    "#",
    "*.x",
    "on",
    "017",
    "a: b",
    "🐇",
    'quo"te',
    "it's",
    "back\\slash",
    " ",
    "a\0b",
    "é" * 127,
    "a/b%c",
)
ARGUMENTS = {
    "x-boolean": True,
    "x-integer": -5,
    "x-long": 2**62,
    "x-text": "té\n\x07 # ",
    "x-empty": "",
    "x-list": [1, "a", [], {"deep": [{"er": False}]}],
    "x-table": {"on": "017", "#": {}},
}
POLICY = {"pattern": "^\\d+ #", "definition": {"max-length": 5, "dead-letter-exchange": ""}, "priority": 7}


@pytest.fixture
def vhosts(broker: Broker) -> Iterator[Callable[[], str]]:
    """Make virtual hosts, each with nothing in it."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test-{uuid.uuid4().hex[:12]}")
        broker.api("PUT", f"vhosts/{made[-1]}")
        return made[-1]

    yield make
    for name in made:
        broker.api("DELETE", f"vhosts/{name}")


@pytest.fixture
def filled(broker: Broker, vhosts: Callable[[], str]) -> str:
    """A virtual host with nasty names, arguments of every type, every kind of entity and policies."""
    name = vhosts()
    url = urlsplit(broker.url)._replace(path=f"/{name}").geturl()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for each in NAMES:
            channel.exchange_declare(each, "topic", durable=True)
            channel.queue_declare(each, durable=True)
            channel.queue_bind(each, each, routing_key=each)
            put(broker, f"policies/{name}/{quote(each, safe='')}", POLICY)
        channel.exchange_declare("inner", "headers", durable=True, arguments={"alternate-exchange": "nowhere"})
        channel.exchange_bind("inner", "amq.topic", "#")
        channel.queue_declare("arguments", auto_delete=True, arguments=ARGUMENTS | {"x-dead-letter-exchange": "gone"})
        channel.queue_bind(
            "arguments", "inner", arguments={"x-match": "any", "n": 1, "text": "1", "table": {"a": True}}
        )
        for kind in ("classic", "quorum", "stream"):
            channel.queue_declare(kind, durable=True, arguments={"x-queue-type": kind})
        put(
            broker,
            f"policies/{name}/other",
            {"pattern": "", "definition": {"expires": 3_600_000}, "apply-to": "queues"},
        )
    return name


def put(broker: Broker, path: str, body: object, method: str = "PUT") -> None:
    broker.api(method, path, json.dumps(body).encode())


def export(broker: Broker, vhost: str) -> dict[str, Any]:
    return dict(json.loads(broker.api("GET", f"definitions/{vhost}")))


def comparable(definitions: dict[str, Any]) -> dict[str, list[str]]:
    """Leave out which virtual host it is, and the order."""
    return {
        section: sorted(json.dumps({**each, "vhost": ""}, sort_keys=True) for each in definitions[section])
        for section in ("exchanges", "queues", "bindings", "policies")
    }


def test_export_and_import_reproduce_a_virtual_host(broker: Broker, filled: str, vhosts: Callable[[], str]) -> None:
    exported = export(broker, filled)
    topology, omitted, *_ = from_definitions(exported, file="export")
    assert set(omitted) <= {"the metadata of the virtual host"}  # RabbitMQ 4 exports it
    assert (len(topology.queues), len(topology.exchanges), len(topology.policies)) == (18, 15, 15)
    read = loads(to_yaml(topology))
    assert read == topology
    single, cluster = vhosts(), vhosts()
    put(broker, f"definitions/{single}", to_definitions(read), "POST")
    put(broker, "definitions", to_definitions(read, vhost=cluster), "POST")
    assert comparable(export(broker, single)) == comparable(export(broker, cluster)) == comparable(exported)


def test_definitions_of_a_cluster_name_the_virtual_host(broker: Broker, filled: str) -> None:
    cluster = broker.api("GET", "definitions").decode()
    topology, omitted, *_ = from_definitions(cluster, file="export", vhost=filled)
    assert topology == from_definitions(export(broker, filled), file="export")[0]
    assert "1 virtual host" in omitted
    assert any(each.endswith(("user", "users")) for each in omitted)


@pytest.mark.http_api
def test_rabbitmq_ignores_a_queue_type_outside_the_arguments_on_import(broker: Broker, vhost_url: str) -> None:
    vhost = vhost_url.rpartition("/")[2]
    queues = [{"name": "a", "durable": True, "auto_delete": False, "type": "quorum", "arguments": {}}]
    assert from_definitions({"queues": queues}, file="d.json").untyped == ("a",)
    broker.api("POST", f"definitions/{vhost}", json.dumps({"queues": queues}).encode())
    [found] = json.loads(broker.api("GET", f"queues/{vhost}?columns=name,type"))
    assert found == {"name": "a", "type": "classic"}
