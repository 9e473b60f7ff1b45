"""Whatever a virtual host holds, applying with --prune makes it what the file says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import rmqkit
from rmqkit.connection import Connection
from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Outcome
from rmqkit.settings import load_settings
from rmqkit.topology.file.definitions import from_definitions, to_definitions
from tests.conftest import Broker
from tests.support.versions import untyped

# A name has the same properties in every topology, so that none conflicts with another.
EXCHANGES = [Exchange(f"e{kind}", kind) for kind in ("direct", "fanout", "topic", "headers")]
QUEUES = [Queue("classic"), Queue("quorum", arguments={"x-queue-type": "quorum"}), Queue("short", arguments={"x-n": 1})]
SOURCES = [each.name for each in EXCHANGES] + ["amq.topic", "amq.direct"]
ENDS = [("queue", each.name) for each in QUEUES] + [("exchange", each.name) for each in EXCHANGES]
bindings = st.builds(
    lambda source, end, key, table: Binding(source, end[1], end[0], key, table),
    st.sampled_from(SOURCES), st.sampled_from(ENDS), st.sampled_from(["", "k"]), st.sampled_from([{}, {"a": 1}]),
)  # fmt: skip
policies = st.builds(Policy, st.sampled_from("pq"), st.just("^x"), st.sampled_from([{"max-length": n} for n in (1, 2)]))


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    def some(strategy: st.SearchStrategy[Any], key: Any) -> tuple[Any, ...]:
        return tuple(draw(st.lists(strategy, unique_by=key, max_size=6)))

    exchanges = some(st.sampled_from(EXCHANGES), lambda each: each.name)
    queues = some(st.sampled_from(QUEUES), lambda each: each.name)
    known = {("exchange", each.name) for each in exchanges} | {("queue", each.name) for each in queues}
    sources = {each.name for each in exchanges} | {"amq.topic", "amq.direct"}
    bound = [
        each
        for each in some(bindings, repr)
        if each.source in sources and (each.destination_type, each.destination) in known
    ]
    return Topology(
        exchanges=exchanges,
        queues=queues,
        bindings=tuple(bound),
        policies=some(policies, lambda each: each.name),
        scope=("*",),
    )


@pytest.fixture
def connection(broker: Broker, vhost_url: str) -> Iterator[Connection]:
    with rmqkit.connect(settings=load_settings([vhost_url], api_url=broker.api_url)) as connection:
        yield connection


def exported(topology: Topology) -> Topology:
    """Return a topology in the order and the form of RabbitMQ's definitions."""
    found = from_definitions(to_definitions(topology), file="definitions")[0]
    return replace(found, queues=tuple(replace(each, arguments=untyped(each.arguments)) for each in found.queues))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(topology=topologies())
def test_applying_with_prune_matches_the_file_and_is_idempotent(topology: Topology, connection: Connection) -> None:
    prune = ApplyOptions(prune=True)
    planned = connection.plan(topology, options=prune)
    done = connection.apply(topology, options=prune)
    assert done == replace(planned, applied=True)
    again = connection.apply(topology, options=prune)
    assert {step.outcome for step in again.steps} <= {Outcome.UNCHANGED}
    assert exported(connection.live().topology) == exported(topology)
