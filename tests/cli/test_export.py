"""`rmqkit export` against a real RabbitMQ."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit.cli import topology_source
from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.plan import Outcome
from rmqkit.settings import Settings, load_settings
from rmqkit.topology.comparison import compare
from rmqkit.topology.file.definitions import to_definitions
from rmqkit.topology.file.loader import load, loads
from rmqkit.topology.file.writer import to_yaml
from tests.conftest import Broker
from tests.support.cli import Run

NASTY = ["#", "*.x", "on", "017", "a: b", "🐇", 'quo"te', "it's", "back\\slash", " ", "a/b%c", "?x=1", "é" * 127]
names = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=8
).filter(lambda name: not name.startswith("amq."))
# Not null: RabbitMQ's HTTP API and its definitions write it as the text "undefined".
scalars = st.sampled_from([True, False, 0, -5, 2**62, "", "1", "true", "# x\n"])
tables = st.dictionaries(
    st.sampled_from(["x-one", "x-two"]),
    scalars | st.lists(scalars, max_size=2) | st.fixed_dictionaries({"on": scalars}),
)
matches = st.dictionaries(st.sampled_from(["a", "b"]), scalars) | st.just({"x-match": "any", "a": 1})
definitions = st.sampled_from([{"max-length": 5}, {"message-ttl": 60000, "max-length-bytes": 10**9}])


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """What a real broker takes, and a file can hold."""

    def unique(strategy: st.SearchStrategy[Any], key: Any = lambda each: each.name) -> tuple[Any, ...]:
        return tuple(draw(st.lists(strategy, max_size=4, unique_by=key)))

    kinds = st.sampled_from(["direct", "fanout", "topic", "headers"])
    exchanges = unique(st.builds(Exchange, names, kinds, st.booleans(), internal=st.booleans(), arguments=tables))
    typed = st.sampled_from([{}, *({"x-queue-type": kind} for kind in ("classic", "quorum", "stream"))])
    arguments = st.builds(lambda kind, table: kind | (table if kind == {} else {}), typed, tables)
    queues = unique(st.builds(Queue, names, arguments=arguments))
    sources = st.sampled_from([*(each.name for each in exchanges), "amq.topic", "amq.headers"])
    into = [("exchange", each.name) for each in exchanges] + [("queue", each.name) for each in queues]
    ends = st.sampled_from([*into, ("exchange", "amq.fanout")])
    bindings = st.builds(
        lambda source, end, key, table: Binding(source, end[1], end[0], key, table),
        sources, ends, st.sampled_from(["", "#", "a.*", "é"]), matches,
    )  # fmt: skip
    policies = st.builds(Policy, names, st.just("^none"), definitions, st.just("queues"), st.integers(0, 3))
    return Topology(exchanges=exchanges, queues=queues, bindings=unique(bindings, repr), policies=unique(policies))


@pytest.fixture(scope="module")
def brokers(broker: Broker) -> Iterator[tuple[Settings, Settings]]:
    """Two virtual hosts, with the names that are the worst for a URL."""
    made = [f"test/{uuid.uuid4().hex[:12]} %?#{number}" for number in range(2)]
    for name in made:
        broker.api("PUT", f"vhosts/{quote(name, safe='')}")
    one, other = (
        load_settings([urlsplit(broker.url)._replace(path=f"/{quote(name, safe='')}").geturl()], api_url=broker.api_url)
        for name in made
    )
    yield one, other
    for name in made:
        broker.api("DELETE", f"vhosts/{quote(name, safe='')}")


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take longer than a test may
    suppress_health_check=list(HealthCheck),
)
@given(topology=topologies())
def test_an_export_can_be_applied_elsewhere(topology: Topology, brokers: tuple[Settings, Settings]) -> None:
    one, other = brokers
    with rmqkit.connect(settings=one) as here, rmqkit.connect(settings=other) as there:
        here.apply(topology)
        file = loads(to_yaml(topology_source.read_broker(one).topology))
        assert {step.outcome for step in (*compare(file, topology), *compare(topology, file))} <= {Outcome.UNCHANGED}
        unscoped, all_of_it = here.plan(file), here.plan(replace(file, scope=("*",)))
        assert {step.outcome for step in (*unscoped.steps, *all_of_it.steps)} <= {Outcome.UNCHANGED}
        over_amqp = load_settings([_url(one)], environ={})
        with rmqkit.connect(settings=over_amqp) as blind:
            assert {step.outcome for step in blind.plan(file).steps} <= {Outcome.UNCHANGED, Outcome.DECLARE}
        there.apply(file)
        again = topology_source.read_broker(other).topology
        assert again == file
        assert to_definitions(again) == to_definitions(file)  # which tells true from 1
        for connection in (here, there):
            connection.destroy(topology, force=True)
        assert topology_source.read_broker(one).topology == Topology()


def _url(settings: Settings) -> str:
    (address,) = settings.addresses
    login = f"{address.username}:{settings.password(address)}"
    return f"amqp://{login}@{address.host}:{address.port}/{quote(address.vhost, safe='')}"


@pytest.fixture
def filled(vhost_channel: BlockingChannel, broker: Broker, vhost_url: str) -> None:
    """Put into the virtual host what a file takes, and what it does not."""
    name = urlsplit(vhost_url).path[1:]
    vhost_channel.exchange_declare("orders", "topic", durable=True, arguments={"alternate-exchange": "gone"})
    vhost_channel.queue_declare("billing", durable=True)
    vhost_channel.queue_bind("billing", "orders", "order.#")
    vhost_channel.queue_bind("billing", "amq.topic", "#")
    vhost_channel.queue_declare("reply", exclusive=True)
    vhost_channel.queue_bind("reply", "orders", "reply")
    for _ in range(2):
        vhost_channel.queue_declare("")
    limits = {"value": 50}
    broker.api("PUT", f"vhost-limits/{name}/max-queues", json.dumps(limits).encode())


@pytest.mark.usefixtures("filled")
def test_entities_of_the_broker_are_left_out_and_listed(live: Run) -> None:
    done = live("export")
    assert done.returncode == 0
    assert done.stdout.replace("{type: classic}", "{}") == (  # RabbitMQ 4 writes the type out
        "exchanges:\n"
        "  orders: {type: topic, arguments: {alternate-exchange: gone}}\n\n"
        "queues:\n"
        "  billing: {}\n\n"
        "bindings:\n"
        '  - {source: amq.topic, destination: billing, routing_key: "#"}\n'
        '  - {source: orders, destination: billing, routing_key: "order.#"}\n\n'
        "external: {exchanges: [gone]}\n"
    )
    assert (
        "Left out: 1 exclusive queue, with bindings, 1 parameter (vhost-limits), 2 broker-owned queues." in done.stderr
    )
    assert "listed under external: gone" in done.stderr


@pytest.mark.usefixtures("filled")
def test_hidden_parameters_are_listed_as_left_out(live: Run, broker: Broker, vhost_url: str) -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    broker.api("PUT", f"users/{name}", json.dumps({"password": "p", "tags": "management"}).encode())
    try:
        rights = json.dumps({"configure": ".*", "write": ".*", "read": ".*"}).encode()
        broker.api("PUT", f"permissions{urlsplit(vhost_url).path}/{name}", rights)
        api = urlsplit(broker.api_url)._replace(netloc=broker.api_url.rpartition("@")[2]).geturl()
        done = live("export", "--url", vhost_url.replace("guest:guest@", f"{name}:p@"), "--api-url", api)
    finally:
        broker.api("DELETE", f"users/{name}")
    assert done.returncode == 0
    assert "parameters this user may not see" in done.stderr


@pytest.mark.usefixtures("filled")
def test_definitions_can_be_imported_by_rabbitmq_itself(live: Run, broker: Broker) -> None:
    done = live("export", "--format", "definitions")
    assert done.returncode == 0
    other = f"test-{uuid.uuid4().hex[:12]}"
    broker.api("PUT", f"vhosts/{other}")
    try:
        broker.api("POST", f"definitions/{other}", done.stdout.encode())
        imported = live("export", "--vhost", other)
        assert imported.stdout == live("export").stdout
    finally:
        broker.api("DELETE", f"vhosts/{other}")


@pytest.mark.usefixtures("filled")
def test_an_existing_file_is_replaced_only_by_force(live: Run, tmp_path: Path) -> None:
    file = tmp_path / "live.yaml"
    assert live("export", "-o", file).returncode == 0
    assert [queue.name for queue in load(file).queues] == ["billing"]
    file.write_text("mine")
    refused = live("export", "-o", file)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert file.read_text() == "mine"
    assert live("export", "-o", file, "--force").returncode == 0
    assert load(file).queues


def test_export_without_the_http_api_names_the_plugin_to_enable(live: Run) -> None:
    done = live("export", RMQKIT_API_URL="http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (4, "")
    assert "rabbitmq-plugins enable rabbitmq_management" in done.stderr
    assert "--api-url" in done.stderr
