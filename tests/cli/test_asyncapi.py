"""`rmqkit convert` and `rmqkit export`: AsyncAPI 3 documents, topology files and live brokers."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.topology.examples import example_names
from rmqkit.topology.file.asyncapi import from_asyncapi, to_asyncapi
from rmqkit.topology.file.loader import load
from tests.support.cli import Run, rmqkit

SCHEMA = json.loads((Path(__file__).parents[1] / "schemas" / "asyncapi.json").read_text())
FOREIGN = """\
asyncapi: 3.0.0
info: {title: Lights, version: 2.1.0}
servers:
  production: {host: "rabbit.example:5672", protocol: amqp}
channels:
  lights:
    address: light.measured
    bindings: {amqp: {is: routingKey, exchange: {name: lights, type: topic, durable: true}}}
    messages:
      measured: {payload: {type: object}}
  alarms:
    address: alarms
    bindings: {amqp: {is: queue, queue: {durable: true, autoDelete: false}}}
  mqtt: {address: light/measured}
operations:
  measure: {action: send, channel: {$ref: "#/channels/lights"}}
"""


@pytest.mark.parametrize("path", example_names().values(), ids=example_names())
def test_a_document_is_valid_and_is_read_back_completely(path: Path) -> None:
    topology = load(path)
    document = to_asyncapi(topology)
    errors = jsonschema.Draft7Validator(SCHEMA).iter_errors(document)
    assert [f"{error.json_path}: {error.message[:200]}" for error in errors] == []
    read = from_asyncapi(json.dumps(document), file="document.json").topology
    assert (read.exchanges, read.publish, read.description) == (
        topology.exchanges,
        topology.publish,
        topology.description,
    )
    assert [(q.name, q.arguments, q.durable, q.contract) for q in read.queues] == [
        (q.name, q.arguments, q.durable, q.contract) for q in topology.queues
    ]
    assert sorted(map(repr, read.bindings)) == sorted(map(repr, topology.bindings))


def test_contracts_are_messages_with_their_schema() -> None:
    document = to_asyncapi(load(example_names()["orders"]))
    schema = json.loads((example_names()["orders"].parent / "orders.schema.json").read_text())
    message = document["components"]["messages"]["exchange_orders_events"]
    assert (message["contentType"], message["payload"]["schema"]) == ("application/json", schema)
    reference = {"$ref": "#/components/messages/exchange_orders_events"}
    assert document["channels"]["exchange_orders_events"]["messages"] == {"exchange_orders_events": reference}
    assert document["channels"]["queue_orders_audit"]["messages"] == {"exchange_orders_events": reference}


def test_a_foreign_document_becomes_a_topology_and_the_rest_is_listed(tmp_path: Path) -> None:
    (tmp_path / "lights.yaml").write_text(FOREIGN)
    done = rmqkit("convert", "lights.yaml", "new.yaml", folder=tmp_path)
    rest = "channels without the name of an AMQP exchange or queue: mqtt, 1 server, 1 operation, 1 payload schema"
    assert (done.returncode, done.stderr) == (0, f"Not converted: {rest}.\n")
    text = (tmp_path / "new.yaml").read_text()
    assert text == "description: Lights\n\nexchanges:\n  lights: {type: topic}\n\nqueues:\n  alarms: {}\n"


def test_a_live_broker_and_the_contracts_of_a_file_become_a_document(
    live: Run, vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    orders = example_names()["orders"]
    assert live("apply", orders).returncode == 0
    done = live("export", "--asyncapi", "--contracts", orders)
    assert (done.returncode, done.stderr) == (0, "Left out: 1 policy.\n")
    document = json.loads(done.stdout)
    assert jsonschema.Draft7Validator(SCHEMA).is_valid(document)
    server = document["servers"]["broker"]
    assert f"{server['protocol']}://guest:guest@{server['host']}{server['pathname']}" == vhost_url
    expected = to_asyncapi(load(orders))
    assert document["components"] == expected["components"]
    assert document["info"] == expected["info"]
    assert expected["channels"].keys() <= document["channels"].keys()  # and those of the queues where retries wait

    vhost_channel.exchange_delete("orders.events")
    missing = live("export", "--asyncapi", "--contracts", orders)
    assert (missing.returncode, "components" in json.loads(missing.stdout)) == (0, False)
    warning = "warning: --contracts names exchanges or queues that the broker does not have: orders.events\n"
    assert missing.stderr == f"{warning}Left out: 1 policy.\n"
    assert "x-rabbitmq-publish" not in json.loads(missing.stdout)["info"]
    refused = live("export", "--contracts", orders)
    assert (refused.returncode, "--contracts needs --asyncapi" in refused.stderr) == (2, True)


def test_names_that_differ_only_in_special_characters_have_different_keys(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text('queues: {"a.b": {}, a_b: {}, "a b": {}}')
    done = rmqkit("convert", "t.yaml", "t.asyncapi.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "t.asyncapi.json").read_text())
    assert [each["address"] for each in document["channels"].values()] == ["a.b", "a_b", "a b"]
    assert jsonschema.Draft7Validator(SCHEMA).is_valid(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("asyncapi: 2.6.0", "d.yaml: asyncapi is 2.6.0, but only version 3 is supported"),
        ('{"asyncapi": "3.0.0", "channels": []}', "d.yaml: channels is not an object"),
        ('{"asyncapi": "3.0.0", "channels": {"a": 1}}', "d.yaml: channels.a is not an object"),
        ('{"asyncapi": "3.0.0", "channels": {"a": {"$ref": "other.json"}}}', "does not lead to one in this document"),
        (
            '{"asyncapi": "3.0.0", "channels": {"a": {"bindings": {"amqp": {"is": "queue", "queue": {"name": 7}}}}}}',
            "channels.a.name is not text",
        ),
    ],
)
def test_a_bad_document_is_an_error_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "d.yaml").write_text(text)
    done = rmqkit("convert", "d.yaml", "new.json", folder=tmp_path)
    assert (done.returncode, (tmp_path / "new.json").exists()) == (2, False)
    assert message in done.stderr
