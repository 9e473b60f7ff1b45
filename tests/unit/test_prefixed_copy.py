"""A stand-in routes as its topology does, under names of its own alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmqkit.model import Binding, Exchange, Queue, Target, Topology
from rmqkit.topology.file.loader import load
from rmqkit.topology.file.scenarios import Scenario
from rmqkit.topology.file.scenarios import load as load_scenarios
from rmqkit.topology.prefixed_copy import prefixed_copy
from rmqkit.topology.routing import route

CASES = Path(__file__).parents[1] / "cases" / "scenarios"
EVERYTHING = load(CASES / "everything.yaml")
PREFIX = "other-"


def test_no_name_refers_to_an_entity_outside_the_copy() -> None:
    found = prefixed_copy(EVERYTHING, PREFIX).topology
    entities: tuple[Exchange | Queue, ...] = (*found.exchanges, *found.queues)
    names = [entity.name for entity in entities]
    names += [end for binding in found.bindings for end in (binding.source, binding.destination)]
    arguments = [entity.arguments for entity in entities]
    targets = ("x-dead-letter-exchange", "alternate-exchange")
    names += [given[name] for given in arguments for name in targets if given.get(name)]
    assert [name for name in names if not name.startswith(PREFIX)] == []
    assert "" not in [given.get("x-dead-letter-exchange") for given in arguments]


@pytest.mark.parametrize(
    "scenario", load_scenarios(CASES / "everything.test.yaml", CASES / "orders.test.yaml"), ids=lambda each: each.name
)
def test_a_copy_routes_messages_as_the_original(scenario: Scenario) -> None:
    actors = prefixed_copy(scenario.topology, PREFIX)
    target = Target(actors.named(scenario.target.exchange), scenario.target.routing_key)
    reached = [actors.queues[queue] for queue in route(actors.topology, target, scenario.headers).queues]
    assert sorted(reached) == sorted(scenario.cases[0].queues)


def test_the_broker_removes_an_abandoned_copy_except_streams() -> None:
    found = prefixed_copy(EVERYTHING, PREFIX).topology
    assert {exchange.auto_delete for exchange in found.exchanges} == {True}
    assert [queue.name for queue in found.queues if "x-expires" not in queue.arguments] == [f"{PREFIX}stream"]


def test_messages_leave_a_queue_on_their_own_only_for_given_reasons() -> None:
    leave = {"x-message-ttl", "x-max-length", "x-max-length-bytes", "x-delivery-limit"}
    quiet = prefixed_copy(EVERYTHING, PREFIX)
    assert [queue for queue in quiet.topology.queues if leave & queue.arguments.keys()] == []
    told = prefixed_copy(EVERYTHING, PREFIX, [("work", "expired"), ("quorum", "delivery_limit"), ("rest", "rejected")])
    found = {queue.name: leave & queue.arguments.keys() for queue in told.topology.queues}
    assert {name: arguments for name, arguments in found.items() if arguments} == {
        "other-work": {"x-message-ttl"},
        "other-quorum": {"x-delivery-limit"},
    }


def test_names_that_would_be_too_long_are_replaced_and_still_differ() -> None:
    first, second = "é" * 126 + "xx", "é" * 126 + "yy"
    topology = Topology(
        exchanges=(Exchange(first),),
        queues=(Queue(first), Queue(second, arguments={"x-dead-letter-exchange": first})),
        bindings=(Binding(first, second),),
    )
    actors = prefixed_copy(topology, PREFIX)
    assert actors.named(first) != actors.named(second)
    assert all(len(queue.name.encode()) <= 255 for queue in actors.topology.queues)
    assert sorted(actors.queues.values()) == [first, second]
    assert actors.topology.queues[1].arguments["x-dead-letter-exchange"] == actors.named(first)
