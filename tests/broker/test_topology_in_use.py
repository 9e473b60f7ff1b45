"""What a topology says of messages, kept by a program: contracts of what it publishes and serves; and templates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Delivery, Message
from tests.support.queues import drain, ready

FILE = """
exchanges:
  shop: {type: topic, contract: {format: json, schema: order.json}}
queues:
  orders: {contract: {format: json, schema: order.json}}
  anything: {}
bindings: [{source: shop, destination: anything, routing_key: "#"}]
"""
GOOD, BAD = b'{"total": 7}', b'{"total": -1}'


@pytest.fixture
def shop(tmp_path: Path, vhost_url: str) -> rmqkit.Topology:
    (tmp_path / "order.json").write_text('{"properties": {"total": {"minimum": 0}}}')
    (tmp_path / "shop.yaml").write_text(FILE)
    topology = rmqkit.load(tmp_path / "shop.yaml")
    with rmqkit.connect(vhost_url) as connection:
        connection.apply(topology)
    return topology


@pytest.fixture
def connection(vhost_url: str, shop: rmqkit.Topology) -> Iterator[rmqkit.Connection]:  # noqa: ARG001
    with rmqkit.connect(vhost_url) as opened:
        yield opened


@pytest.mark.parametrize("target", [("orders", ""), ("order.eu", "shop")])
def test_publishing_stops_at_the_first_invalid_message(
    connection: rmqkit.Connection, shop: rmqkit.Topology, vhost_url: str, target: tuple[str, str]
) -> None:
    messages = [Message(body, *target) for body in (GOOD, GOOD, BAD, GOOD)]
    with pytest.raises(rmqkit.PayloadError) as caught:
        connection.publish(messages, topology=shop)
    (problem,) = caught.value.problems
    assert str(problem) == "message 3:1:11: /total breaks the rule minimum: 0"
    assert ready(vhost_url, "anything") + ready(vhost_url, "orders") == 2


def test_messages_without_a_contract_are_not_checked(
    connection: rmqkit.Connection, shop: rmqkit.Topology, vhost_url: str
) -> None:
    report = connection.publish([Message(b"x", "anything"), None, Message(b"y", "anything")], topology=shop)
    assert (report.confirmed, drain(vhost_url, "anything")) == (2, [b"x", b"y"])


def test_a_schema_is_read_once(connection: rmqkit.Connection, shop: rmqkit.Topology, tmp_path: Path) -> None:
    connection.publish(Message(GOOD, "orders"), topology=shop)
    (tmp_path / "order.json").unlink()
    connection.publish(Message(GOOD, "orders"), topology=shop)
    with pytest.raises(rmqkit.PayloadError):
        connection.publish(Message(BAD, "orders"), topology=shop)


def test_an_invalid_request_is_answered_with_the_reason(
    connection: rmqkit.Connection, shop: rmqkit.Topology, vhost_url: str
) -> None:
    stop, got = rmqkit.Stop(), list[bytes]()

    @connection.serve("orders", topology=shop)
    def answer(request: Delivery) -> bytes:
        got.append(request.body)
        return request.body

    server = threading.Thread(
        target=connection.run, kwargs={"stop": stop, "on_failure": lambda *_: None}, name="server"
    )
    server.start()
    try:
        with rmqkit.connect(vhost_url) as client:
            with pytest.raises(rmqkit.RemoteError, match="breaks its contract: /total breaks the rule minimum: 0"):
                client.call(Message(BAD, "orders"), timeout_s=20)
            assert client.call(Message(GOOD, "orders"), timeout_s=20).body == GOOD
    finally:
        stop.request()
        server.join()
    assert got == [GOOD]


def test_a_seed_makes_templated_messages_reproducible(
    connection: rmqkit.Connection, vhost_url: str, tmp_path: Path
) -> None:
    (tmp_path / "orders.csv").write_text("region,total\neu,7\nus,120\n")
    given = rmqkit.Properties(content_type="application/json", headers={"shop": 1})

    def made() -> Iterator[Message]:
        return rmqkit.fill(
            '{"n": {{ n }}, "total": {{ total }}, "lot": {{ random_int(1, 1000) }}}',
            rows=tmp_path / "orders.csv",
            exchange="shop",
            routing_key="order.{{ region }}",
            headers={"to=": "{{ region | upper }}"},
            properties=given,
            seed=7,
        )

    connection.publish(made())
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as opened:
        pika_channel: BlockingChannel = opened.channel()
        method, properties, body = pika_channel.basic_get("anything")
        assert method is not None
        assert body is not None
        assert (method.routing_key, properties.content_type) == ("order.eu", "application/json")
        assert properties.headers == {"shop": 1, "to=": "EU"}
        assert body.startswith(b'{"n": 0, "total": 7, "lot": ')
    assert [each.body for each in made()] == [body, list(made())[1].body]


def test_rows_are_mappings_and_the_default_body() -> None:
    rows = ({"id": number, "name": "é"} for number in range(2))
    first, second = rmqkit.fill(rows=rows, routing_key="q{{ id }}")
    assert (first.body.decode(), second.routing_key) == ('{"id": 0, "name": "é"}', "q1")
    assert first.properties.content_type == "application/json"
    assert [each.body for each in rmqkit.fill("{{ n }}", count=3)] == [b"0", b"1", b"2"]


def test_an_invalid_template_fails_at_once_and_an_invalid_row_when_reached() -> None:
    with pytest.raises(rmqkit.PayloadError, match="1:4: 'm' is not known"):
        rmqkit.fill("{{ m }}", count=3)
    with pytest.raises(rmqkit.PayloadError, match="nothing to render"):
        rmqkit.fill(count=3)
    messages = rmqkit.fill("{{ id }}", rows=[{"id": 1}, {}])
    assert next(messages).body == b"1"
    with pytest.raises(rmqkit.PayloadError, match="row 2: the body: 'id' is undefined"):
        next(messages)
