"""RabbitMQ's HTTP API, and what else may answer in its place."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote, urlsplit

import pika
import pytest

import rmqkit
from rmqkit.address import API_PORTS
from rmqkit.errors import AccessRefused, AuthenticationFailed, NotFound, RmqkitError, SettingsError, Unreachable
from rmqkit.http_api import client
from rmqkit.http_api.client import HttpApiClient
from rmqkit.http_api.mapping import LiveTopology, queue_of
from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.settings import load_settings
from tests.conftest import Broker
from tests.support.versions import untyped

CANARY = "c4n4ry"


def look(url: str, api_url: str) -> LiveTopology:
    with rmqkit.connect(settings=load_settings([url], api_url=api_url, environ={})) as connection:
        return connection.live()


def test_entities_declared_by_others_are_listed(broker: Broker, vhost_url: str) -> None:
    name = urlsplit(vhost_url).path[1:]
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        channel.exchange_declare("e", "topic", internal=True, auto_delete=True, arguments={"alternate-exchange": "é"})
        channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum", "x-list": [1, {"on": True}]})
        channel.queue_declare("mine", exclusive=True)
        channel.queue_bind("q", "amq.headers", "", {"x-match": "any", "n": 1})
        channel.exchange_bind("amq.fanout", "e", "#")
        body = {"pattern": "^q", "definition": {"max-length": 5}, "priority": 7, "apply-to": "queues"}
        broker.api("PUT", f"policies/{name}/{quote('a/b %', safe='')}", json.dumps(body).encode())
        live = look(vhost_url, broker.api_url)
    topology = live.topology
    own = [each for each in topology.exchanges if not each.name.startswith("amq.")]
    assert own == [Exchange("e", "topic", False, True, True, {"alternate-exchange": "é"})]
    assert {each.name for each in topology.exchanges} >= {"amq.topic", "amq.match"}
    assert "" not in {each.name for each in topology.exchanges}
    queues = [replace(each, arguments=untyped(each.arguments)) for each in topology.queues]
    assert sorted(queues, key=lambda each: each.name) == [
        Queue("mine", durable=False, exclusive=True),
        Queue("q", arguments={"x-queue-type": "quorum", "x-list": [1, {"on": True}]}),
    ]
    assert sorted(map(str, topology.bindings)) == ["amq.headers -> q", "e -> amq.fanout [#]"]
    assert Binding("amq.headers", "q", arguments={"x-match": "any", "n": 1}) in topology.bindings
    assert topology.policies == (Policy("a/b %", "^q", {"max-length": 5}, "queues", 7),)
    assert (live.default_queue_type, live.unseen) == ("classic", ())


def test_a_queue_of_another_type_than_the_virtual_hosts_default_declares_its_type() -> None:
    # As RabbitMQ 3.13 and later write it; 3.10 cannot have another default.
    old, new = (
        {"name": "q", "type": "classic"},
        {"name": "q", "type": "quorum", "arguments": {"x-queue-type": "quorum"}},
    )
    assert queue_of(old, "quorum").arguments == {"x-queue-type": "classic"}
    assert queue_of(old, "classic").arguments == {}
    assert queue_of(new, "classic").arguments == {"x-queue-type": "quorum"}
    assert queue_of({"name": "q", "type": "MQTT QoS 0"}, "quorum").arguments == {}


def test_parameters_are_listed_by_name_without_their_values(broker: Broker, vhost_url: str) -> None:
    name = urlsplit(vhost_url).path[1:]
    operator = {"pattern": CANARY, "definition": {"max-length": 5}, "apply-to": "queues"}
    broker.api("PUT", f"operator-policies/{name}/limit", json.dumps(operator).encode())
    live = look(vhost_url, broker.api_url)
    assert live.parameters == ({"component": "operator_policy", "name": "limit"},)
    assert CANARY not in repr(live)


@pytest.fixture
def user(broker: Broker, vhost_url: str) -> Iterator[Callable[[str], tuple[str, str]]]:
    """Make users with tags, who may do everything in the virtual host over AMQP; each is an AMQP and an API URL."""
    made: list[str] = []

    def make(tags: str) -> tuple[str, str]:
        made.append(f"test-{uuid.uuid4().hex[:12]}")
        broker.api("PUT", f"users/{made[-1]}", json.dumps({"password": "p/%", "tags": tags}).encode())
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        broker.api("PUT", f"permissions{urlsplit(vhost_url).path}/{made[-1]}", json.dumps(rights).encode())
        login = f"{made[-1]}:p%2F%25@"
        return (
            vhost_url.replace("guest:guest@", login),
            urlsplit(broker.api_url)._replace(netloc=broker.api_url.rpartition("@")[2]).geturl(),
        )

    yield make
    for name in made:
        broker.api("DELETE", f"users/{name}")


def test_the_login_is_that_of_amqp_unless_the_url_of_the_api_has_one(
    broker: Broker, user: Callable[[str], tuple[str, str]]
) -> None:
    url, api = user("management")
    assert look(url, api).topology.exchanges
    nobody, _ = user("")
    assert look(nobody, broker.api_url).topology.exchanges
    with pytest.raises(AuthenticationFailed, match="login refused for user 'guest'") as caught:
        look(url, api.replace("://", f"://guest:{CANARY}@"))
    assert CANARY not in str(caught.value)


def test_an_error_names_the_tag_that_a_user_lacks(
    user: Callable[[str], tuple[str, str]],
) -> None:
    with pytest.raises(AccessRefused) as caught:
        look(*user(""))
    assert "tag management" in caught.value.advice


def test_a_user_who_may_not_write_policies_changes_nothing_at_all(user: Callable[[str], tuple[str, str]]) -> None:
    url, api = user("management")
    topology = Topology(queues=(Queue("q"),), policies=(Policy("p", "^q", {"max-length": 5}),))
    with rmqkit.connect(settings=load_settings([url], api_url=api)) as connection:
        with pytest.raises(AccessRefused) as caught:
            connection.apply(topology)
        assert "policymaker" in caught.value.advice
        with pytest.raises(NotFound):
            connection.queue_state("q")
    with rmqkit.connect(settings=load_settings([user("policymaker")[0]], api_url=api)) as connection:
        assert connection.apply(topology).applied


@pytest.mark.parametrize("path", ["", "/", "/api", "/api/"])
def test_the_path_of_the_url_may_end_with_or_without_slash_and_api(broker: Broker, path: str) -> None:
    assert look(broker.url, broker.api_url.rstrip("/") + path).topology.exchanges


@pytest.mark.parametrize(
    "url", [
        "localhost:15672", "ftp://localhost", "http://", "http://h:99999", "amqp://h", "http://[", " ",
        "http://no such host", "http://a..b", "http://h\x7f:1", "http://h\u2028", f"http://{'h' * 64}/",
    ],
)  # fmt: skip
def test_an_invalid_http_url_is_a_settings_error(broker: Broker, url: str) -> None:
    with pytest.raises(SettingsError, match="`api_url=`"):
        look(broker.url, url)


def test_a_refused_connection_advises_enabling_the_plugin(broker: Broker) -> None:
    with pytest.raises(Unreachable, match="HTTP API does not answer") as caught:
        look(broker.url, "http://127.0.0.1:1")
    assert "rabbitmq_management" in caught.value.advice


Serve = Callable[[int, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start an HTTP server that answers all the same; returns its URL."""
    running: list[tuple[HTTPServer, threading.Thread]] = []

    def start(status: int, body: bytes, length: int | None = None) -> str:
        class ApiHandler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), ApiHandler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b"[]"),
        (200, b"null"),
        (200, b"\xff\xfe"),
        (200, b""),
        (204, b""),
        (301, b"moved"),
        (404, b"<html>not found</html>"),
        (404, b"[]"),
        (401, b"login"),
        (200, b"[" * 100_000),
    ],
)
def test_another_http_server_is_not_taken_for_rabbitmq(broker: Broker, serve: Serve, status: int, body: bytes) -> None:
    with pytest.raises(Unreachable, match="not RabbitMQ's HTTP API"):
        look(broker.url, serve(status, body))


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRIES_S", (0.0,))


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize(
    ("status", "body", "text"),
    [(500, b"", "failed: 500 Internal Server Error"), (502, b"<html>", "failed: 502 Bad Gateway"), (599, b"", "599")],
)
def test_a_failing_api_or_proxy_is_reported_with_its_status(
    broker: Broker, serve: Serve, status: int, body: bytes, text: str
) -> None:
    with pytest.raises(Unreachable, match=text):
        look(broker.url, serve(status, body))


def test_a_truncated_response_is_an_error(broker: Broker, serve: Callable[..., str]) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        look(broker.url, serve(200, b'{"cluster_name":', 100))


def test_a_silent_server_times_out(broker: Broker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = load_settings([broker.url], api_url=f"http://127.0.0.1:{silent.getsockname()[1]}", environ={})
        api = HttpApiClient(settings, settings.addresses[0], timeout_s=0.3)
        with pytest.raises(Unreachable, match="timed out"):
            api.verify("any")


def test_the_http_api_of_a_different_broker_is_refused(broker: Broker, serve: Serve) -> None:
    api = serve(200, json.dumps({"cluster_name": "rabbit@elsewhere"}).encode())
    with pytest.raises(Unreachable, match="belongs to a different broker than amqp://guest:"):
        look(broker.url, api)


def test_a_broker_that_does_not_listen_on_the_amqp_port_is_refused(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    overview = json.loads(broker.api("GET", "overview"))
    overview["listeners"] = [{"port": 1}]
    api = serve(200, json.dumps(overview).encode())
    monkeypatch.setitem(API_PORTS, "http", urlsplit(api).port)
    with pytest.raises(Unreachable, match="belongs to a different broker"):
        look(broker.url, "")
    with rmqkit.connect(settings=load_settings([broker.url], environ={})) as connection:
        plan = connection.plan(Topology())
    assert "belongs to a different broker" in plan.unseen[0]


def test_an_explicit_http_api_must_answer_and_a_default_one_need_not(broker: Broker) -> None:
    with rmqkit.connect(settings=load_settings([broker.url], api_url="http://127.0.0.1:1")) as connection:
        for call in (connection.plan, connection.apply, connection.destroy):
            with pytest.raises(RmqkitError, match="does not answer"):
                call(Topology())
