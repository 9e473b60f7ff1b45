"""Whatever answers in place of RabbitMQ's HTTP API, by design or by accident: it is told so, in bounded time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.errors import BrokerError, Unreachable
from rmqkit.http_api import client
from rmqkit.http_api.client import HttpApiClient
from rmqkit.http_api.mapping import LiveTopology
from rmqkit.model import Topology
from rmqkit.report import QueueStatus
from rmqkit.settings import load_settings
from rmqkit.topology.comparison import compare
from rmqkit.topology.lint.linter import examine
from tests.support.fuzzing import examples, outcome, tampered

ANSWERS: dict[str, Any] = {
    "overview": {"cluster_name": "c", "listeners": [{"port": 5672, "protocol": "amqp"}]},
    "exchanges": [
        {"name": "e", "type": "topic", "durable": True, "auto_delete": False, "internal": False, "arguments": {}}
    ],
    "queues": [
        {
            "name": "q", "type": "quorum", "durable": True, "auto_delete": False, "exclusive": False, "consumers": 1,
            "arguments": {"x-queue-type": "quorum"}, "messages_ready": 5, "messages_unacknowledged": 0,
            "state": "running", "message_stats": {"publish_details": {"rate": 1.5}},
        }
    ],
    "bindings": [{"source": "e", "destination": "q", "destination_type": "queue", "routing_key": "k", "arguments": {}}],
    "policies": [{"name": "p", "pattern": "^q", "apply-to": "queues", "definition": {"max-length": 5}, "priority": 0}],
    "vhosts": [{"name": "/", "default_queue_type": "classic"}],
    "parameters": [{"vhost": "/", "component": "operator_policy", "name": "limit", "value": {}}],
}  # fmt: skip


@dataclass
class Api:
    """An HTTP server; `answers` are by the first word of the path, bytes as they are and all else as JSON."""

    answers: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    failing: int = 0  # requests that are not answered, first
    url: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def management(self) -> HttpApiClient:
        settings = load_settings(["amqp://h"], api_url=self.url, environ={})
        return HttpApiClient(settings, settings.addresses[0])


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    made = Api()

    class ApiHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = made.answers[self.path.removeprefix("/api/").split("/")[0].split("?")[0]]
            pieces = (
                answer
                if isinstance(answer, Iterator)
                else iter([answer if isinstance(answer, bytes) else json.dumps(answer).encode()])
            )
            failing, made.failing = made.failing > 0, made.failing - 1
            self.send_response(500 if failing else made.status)
            self.end_headers()
            if failing:
                return
            try:
                for piece in pieces:
                    self.wfile.write(piece)
            except ConnectionError:
                made.ended.set()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), ApiHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_port}"
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _well(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answers, api.status = dict(ANSWERS), 200
    monkeypatch.setattr(client, "_RETRIES_S", (0.0, 0.0))


def look(api: Api) -> tuple[LiveTopology, tuple[QueueStatus, ...]]:
    there = api.management()
    there.verify("c")
    return there.live(), there.queues()


def test_the_answers_of_a_rabbitmq_are_decoded(api: Api) -> None:
    live, (status,) = look(api)
    assert (len(live.topology.bindings), live.parameters) == (1, ({"component": "operator_policy", "name": "limit"},))
    assert (status.ready, status.published_per_s) == (5, 1.5)


def test_a_request_that_rabbitmq_fails_to_answer_is_repeated_twice(api: Api) -> None:
    before = look(api)
    api.failing = 2
    assert look(api) == before
    api.failing = 3
    with pytest.raises(Unreachable, match="failed: 500 Internal Server Error for /api/overview"):
        look(api)


@pytest.mark.parametrize("name", ["exchanges", "queues", "vhosts"])
@pytest.mark.parametrize("deleted", [[], {}, {"default_queue_type": "classic", "type": "classic"}])
def test_what_is_being_deleted_while_it_is_listed_is_left_out(api: Api, name: str, deleted: Any) -> None:
    before = look(api)
    api.answers[name] = [deleted, *ANSWERS[name]]
    assert look(api) == before


@examples(100)
@given(st.sampled_from(sorted(ANSWERS)).flatmap(lambda name: st.tuples(st.just(name), tampered(ANSWERS[name]))))
def test_answers_of_any_structure_are_decoded_or_reported_as_not_from_rabbitmq(
    api: Api, answer: tuple[str, Any]
) -> None:
    api.answers = ANSWERS | dict([answer])
    found = outcome(lambda: look(api), Unreachable)
    if isinstance(found, tuple):
        live, queues = found
        compare(live.topology, Topology())
        compare(Topology(), live.topology)
        examine(live.topology)
        assert all(f"{each.name:>9} {each.ready:,} {each.published_per_s:.1f}" for each in queues)
    else:
        assert "not RabbitMQ's HTTP API" in str(found) or "different broker" in str(found)


@examples(50)
@given(
    st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 405, 500, 503]),
    st.binary(max_size=40) | st.sampled_from([b'{"reason": 5}', b"<html>", b'"x"', b"{}"]),
)
def test_any_status_and_any_bytes_end_in_a_rmqkit_error(api: Api, status: int, body: bytes) -> None:
    api.answers, api.status = dict.fromkeys(ANSWERS, body), status
    assert isinstance(outcome(lambda: look(api), BrokerError), BrokerError)


def endless(piece: bytes, pause_s: float, ended: threading.Event) -> Iterator[bytes]:
    yield b"["
    while not ended.wait(pause_s):
        yield piece


def test_an_endless_answer_is_abandoned_before_it_fills_the_memory(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BYTES", 3_000_000)
    api.ended.clear()
    api.answers["overview"] = endless(b" " * 100_000, 0, api.ended)
    found = outcome(lambda: look(api), Unreachable)
    assert "not RabbitMQ's HTTP API" in str(found)
    assert api.ended.wait(90)


def test_an_answer_that_trickles_times_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RESPONSE_S", 0.5)
    api.ended.clear()
    api.answers["overview"] = endless(b" ", 0.01, api.ended)
    found = outcome(lambda: look(api), Unreachable)
    assert "the response was incomplete after 0.5 s" in str(found)
    assert api.ended.wait(90)
