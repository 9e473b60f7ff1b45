"""What lint says of the broker, asked of the broker."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

import rmqkit
from rmqkit.topology.file.loader import loads
from rmqkit.topology.lint.linter import lint
from rmqkit.topology.lint.rule import rules
from rmqkit.topology.policies import SUPPORTED_BY
from tests.conftest import Broker
from tests.support.versions import version
from tests.support.wait import wait_for_queue

_VALUES: dict[str, Any] = {
    "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "a", "x-dead-letter-strategy": "at-most-once",
    "x-max-age": "7D", "x-overflow": "drop-head", "x-queue-master-locator": "min-masters", "x-queue-mode": "lazy",
    "x-single-active-consumer": True,
}  # fmt: skip


@pytest.fixture
def connection(vhost_url: str) -> Iterator[pika.BlockingConnection]:
    """An independent client, in a virtual host of its own."""
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        yield connection


@pytest.fixture
def channel(connection: pika.BlockingConnection) -> BlockingChannel:
    return connection.channel()


def apply(url: str, text: str) -> None:
    with rmqkit.connect(url) as ours:
        assert ours.apply(loads(text)).applied


@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
def test_the_broker_refuses_every_argument_that_lint_says_it_refuses(
    connection: pika.BlockingConnection, kind: str
) -> None:
    refused = [f"x-{name}" for name, types in SUPPORTED_BY.items() if kind not in types]
    for name in refused:
        arguments = {"x-queue-type": kind, name: _VALUES.get(name, 1)}
        with pytest.raises(ChannelClosedByBroker, match=f"PRECONDITION_FAILED - invalid arg '{name}'"):
            connection.channel().queue_declare("q", durable=True, arguments=arguments)
    assert len(refused) > 5


def test_headers_that_lint_calls_ignored_are_ignored(channel: BlockingChannel, vhost_url: str) -> None:
    apply(vhost_url, rules()["headers-never-match"].bad)
    apply(vhost_url, rules()["header-ignored"].bad.replace("printer", "ignoring"))
    channel.confirm_delivery()
    for headers in ({}, {"x-match": "any"}, {"format": "pdf"}, {"x-urgent": True}):
        channel.basic_publish("documents", "", b"", pika.BasicProperties(headers=headers))
    assert channel.queue_declare("printer", passive=True).method.message_count == 0
    assert channel.queue_declare("ignoring", passive=True).method.message_count == 1  # without x-urgent


def test_messages_that_expire_in_a_cycle_are_dropped_as_lint_says(channel: BlockingChannel, vhost_url: str) -> None:
    circle = rules()["dead-letter-expiry-cycle"].bad.replace("1000", "100")
    assert [finding.code for finding in lint(loads(circle))] == ["dead-letter-expiry-cycle"]
    apply(vhost_url, circle)
    channel.confirm_delivery()
    channel.basic_publish("", "first", b"gone", mandatory=True)
    until = time.monotonic() + 20
    while sum(channel.queue_declare(name, passive=True).method.message_count for name in ("first", "second")):
        assert time.monotonic() < until
        channel.connection.sleep(0.05)


def test_a_retry_without_findings_returns_messages(channel: BlockingChannel, vhost_url: str) -> None:
    retry = rules()["dead-letter-expiry-cycle"].good.replace("1000", "100")
    assert lint(loads(retry)) == ()
    apply(vhost_url, retry)
    channel.basic_publish("", "jobs", b"kept")
    deliveries = channel.consume("jobs", inactivity_timeout=20)
    for _ in range(3):
        method, _, body = next(deliveries)
        assert body == b"kept"
        channel.basic_reject(method.delivery_tag, requeue=False)


@pytest.mark.parametrize(
    "definition", [{"max-lenght": 5}, {"message-ttl": "5"}, {"max-priority": 5}, {"max-length": -1}]
)
def test_the_broker_refuses_a_policy_that_lint_says_it_refuses(
    broker: Broker, vhost_url: str, definition: dict[str, Any]
) -> None:
    text = {"queues": {"q": {}}, "policies": {"p": {"pattern": "q", "definition": definition}}}
    assert [finding.code for finding in lint(loads(json.dumps(text))) if finding.severity == "error"] == [
        "policy-refused"
    ]
    path = f"policies/{urlsplit(vhost_url).path[1:]}/p"
    body = {"pattern": "q", "definition": definition, "priority": 0, "apply-to": "all"}
    assert put(broker, path, body) == 400
    assert put(broker, path, body | {"definition": {"max-length": 5}}) == 201


def put(broker: Broker, path: str, body: dict[str, Any]) -> int:
    """Return the status of RabbitMQ's HTTP API."""
    where = urlsplit(broker.api_url)
    user = b64encode(f"{where.username or 'guest'}:{where.password or 'guest'}".encode()).decode()
    with closing(HTTPConnection(where.hostname or "", where.port, timeout=10)) as http:
        http.request("PUT", f"/api/{path}", json.dumps(body), {"authorization": f"Basic {user}"})
        return http.getresponse().status


def test_a_delivery_limit_of_minus_one_is_no_limit_since_rabbitmq_4(channel: BlockingChannel, broker: Broker) -> None:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": -1, "x-dead-letter-exchange": "amq.fanout"}
    channel.queue_declare("q", durable=True, arguments=arguments)
    channel.queue_declare("dead")
    channel.queue_bind("dead", "amq.fanout")
    channel.confirm_delivery()
    channel.basic_publish("", "q", b"x")
    wait_for_queue(channel, "q", ready=1)
    method, _, _ = channel.basic_get("q")
    channel.basic_reject(method.delivery_tag, requeue=True)
    wait_for_queue(channel, "q" if version(broker) >= (4,) else "dead", ready=1)
