"""What differs between two topologies, and what is extra."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.deploy.replace.temporary_entities import LOCK, MARKER, TemporaryEntities, temporary_exchange, trial_of
from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.plan import Difference, Outcome
from rmqkit.topology.comparison import compare, diff, extras

# Few names and values, so that two topologies have much in common.
names = st.sampled_from(["a", "b", "a.x", "b.x", "[", "*"])
tables = st.dictionaries(st.sampled_from(["x-a", "x-queue-type"]), st.sampled_from([1, True, "1", "classic", None, []]))
exchanges = st.builds(Exchange, names | st.just("amq.topic"), st.sampled_from(["topic", "fanout"]), arguments=tables)
queues = st.builds(Queue, names | st.just("amq.gen-1"), exclusive=st.booleans(), arguments=tables)
bindings = st.builds(
    Binding, names, names | st.just("amq.topic"), st.sampled_from(["queue", "exchange"]), names, arguments=tables
)
policies = st.builds(Policy, names, names, tables, st.just("queues"), st.integers(0, 1))


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    def unique(strategy: st.SearchStrategy[Any], key: Any = lambda each: each.name) -> tuple[Any, ...]:
        return tuple(draw(st.lists(strategy, max_size=4, unique_by=key)))

    return Topology(
        exchanges=unique(exchanges),
        queues=unique(queues),
        bindings=unique(bindings, repr),
        policies=unique(policies),
        scope=tuple(draw(st.lists(st.sampled_from(["a", "a*", "*.x", "*", "[[]"]), max_size=2))),
        external_exchanges=unique(names, str),
        external_queues=unique(names, str),
    )


def shuffled(topology: Topology, seed: int) -> Topology:
    order = random.Random(seed)
    kinds = ("exchanges", "queues", "bindings", "policies")
    tables: dict[str, Any] = {
        kind: tuple(order.sample(getattr(topology, kind), len(getattr(topology, kind)))) for kind in kinds
    }
    return replace(topology, **tables)


def entities(topology: Topology) -> list[Any]:
    return [*topology.exchanges, *topology.queues, *topology.bindings, *topology.policies]


@given(topologies())
def test_a_topology_does_not_differ_from_itself(topology: Topology) -> None:
    steps = compare(topology, topology)
    assert len(steps) == len(entities(topology))
    assert {step.outcome for step in steps} <= {Outcome.UNCHANGED}


@given(topologies(), topologies(), st.integers())
def test_the_order_of_entities_does_not_matter(expected: Topology, actual: Topology, seed: int) -> None:
    steps = compare(expected, actual)
    assert compare(expected, shuffled(actual, seed)) == steps
    assert Counter(compare(shuffled(expected, seed), actual)) == Counter(steps)


@given(topologies(), topologies())
def test_extra_entities_exist_in_scope_and_are_not_external(expected: Topology, actual: Topology) -> None:
    beyond = extras(expected, actual)
    for each in entities(beyond):
        assert each in entities(actual)
    for named, known, external in (
        (beyond.exchanges, expected.exchanges, expected.external_exchanges),
        (beyond.queues, expected.queues, expected.external_queues),
        (beyond.policies, expected.policies, ()),
    ):
        for each in named:
            assert any(fnmatchcase(each.name, pattern) for pattern in expected.scope)
            assert not each.name.startswith("amq.")
            assert each.name not in {other.name for other in known}
            assert each.name not in external
    assert not any(queue.exclusive for queue in beyond.queues)


@given(topologies(), topologies())
def test_applying_all_steps_of_a_comparison_leaves_no_step(expected: Topology, actual: Topology) -> None:
    beyond, declared = extras(expected, actual), {type(each): set() for each in entities(expected)}
    for each in entities(expected):
        declared[type(each)].add(getattr(each, "name", repr(each)))
    kept = [
        each
        for each in entities(actual)
        if each not in entities(beyond) and getattr(each, "name", repr(each)) not in declared.get(type(each), ())
    ]
    after = [*entities(expected), *kept]
    live = Topology(
        exchanges=tuple(each for each in after if isinstance(each, Exchange)),
        queues=tuple(each for each in after if isinstance(each, Queue)),
        bindings=tuple(each for each in after if isinstance(each, Binding)),
        policies=tuple(each for each in after if isinstance(each, Policy)),
    )
    assert {step.outcome for step in compare(expected, live)} <= {Outcome.UNCHANGED}


@given(topologies(), topologies())
def test_differences_are_symmetric(first: Topology, second: Topology) -> None:
    there, back = diff(first, second), diff(second, first)
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first)
    turned = {
        (step.kind, step.name, each.property, each.expected, each.actual)
        for step in back.different
        for each in step.differences
    }
    assert turned == {
        (step.kind, step.name, each.property, each.actual, each.expected)
        for step in there.different
        for each in step.differences
    }
    assert diff(first, first).equal


def differences(expected: Any, actual: Any, **options: Any) -> list[str]:
    kind = {Exchange: "exchanges", Queue: "queues", Policy: "policies"}[type(expected)]
    (step,) = compare(Topology(**{kind: (expected,)}), Topology(**{kind: (actual,)}), **options)  # type: ignore[arg-type]
    return [str(each) for each in step.differences]


@pytest.mark.parametrize(
    ("expected", "actual", "said"),
    [
        (Queue("q"), Queue("q", durable=False), ["durable: false on the broker, true in the topology"]),
        (
            Queue("q", arguments={"x": 1}),
            Queue("q", arguments={"x": True}),
            ["x: true on the broker, 1 in the topology"],
        ),
        (Queue("q", arguments={"x": "1"}), Queue("q", arguments={"x": 1}), ['x: 1 on the broker, "1" in the topology']),
        (Queue("q", arguments={"x": None}), Queue("q"), ["x: unset on the broker, null in the topology"]),
        (Queue("q", arguments={"x": "none"}), Queue("q"), ['x: unset on the broker, "none" in the topology']),
        (
            Queue("q"),
            Queue("q", arguments={"b": [1], "a": "é x"}),
            ['a: "é x" on the broker, unset in the topology', "b: [1] on the broker, unset in the topology"],
        ),
        (
            Exchange("e"),
            Exchange("e", "topic", internal=True),
            [
                "type: topic on the broker, direct in the topology",
                "internal: true on the broker, false in the topology",
            ],
        ),
        (
            Policy("p", "^a", {"max-length": 1}),
            Policy("p", "^b", {"max-length": 1}, "queues"),
            [
                'pattern: "^b" on the broker, "^a" in the topology',
                "apply-to: queues on the broker, all in the topology",
            ],
        ),
    ],
)
def test_every_differing_property_is_named_and_a_missing_one_differs_from_any_value(
    expected: Any, actual: Any, said: list[str]
) -> None:
    assert differences(expected, actual) == said


def test_a_queue_without_a_type_has_the_default_of_the_virtual_host() -> None:
    quorum = Queue("q", arguments={"x-queue-type": "quorum"})
    assert differences(Queue("q"), quorum) == ["x-queue-type: quorum on the broker, classic in the topology"]
    assert differences(Queue("q"), quorum, default_queue_type="quorum") == []
    assert differences(quorum, Queue("q"), default_queue_type="quorum") == []


def test_a_policy_can_be_changed_and_a_queue_cannot() -> None:
    steps = compare(
        Topology(queues=(Queue("q"),), policies=(Policy("p", "a", {}),)),
        Topology(queues=(Queue("q", durable=False),), policies=(Policy("p", "b", {}),)),
    )
    assert [(step.outcome, step.differences) for step in steps] == [
        (Outcome.CONFLICT, (Difference("durable", "false", "true"),)),
        (Outcome.CHANGE, (Difference("pattern", "b", "a"),)),
    ]


def test_a_binding_belongs_to_its_destination() -> None:
    mine = Topology(
        exchanges=(Exchange("ours"),),
        queues=(Queue("mine"),),
        scope=("team.*",),
        external_queues=("team.theirs",),
    )
    into_mine = Binding("theirs", "mine")
    into_scope = Binding("theirs", "team.old")
    into_exchange = Binding("theirs", "ours", "exchange")
    live = Topology(
        bindings=(
            into_scope,
            into_mine,
            into_exchange,
            Binding("ours", "theirs"),  # what others take from us is theirs
            Binding("ours", "team.theirs"),
            Binding("theirs", "ours"),  # a queue that is called as our exchange
            Binding("theirs", "mine", "exchange"),
            Binding("", "mine", routing_key="mine"),
        )
    )
    assert set(map(str, extras(mine, live).bindings)) == {str(into_scope), str(into_mine), str(into_exchange)}
    assert extras(Topology(scope=("*",)), live).bindings == tuple(
        sorted(live.bindings[:-1], key=lambda each: (each.source, each.destination, each.destination_type))
    )


def test_entities_of_federation_and_exclusive_queues_are_never_extra() -> None:
    purpose = {"x-internal-purpose": "federation"}
    live = Topology(
        exchanges=(Exchange("federation: a", "x-federation-upstream"), Exchange("b", arguments=purpose)),
        queues=(Queue("federation: a", arguments=purpose), Queue("reply", exclusive=True)),
        bindings=(Binding("a", "federation: a", "exchange"), Binding("a", "reply")),
    )
    assert entities(extras(Topology(scope=("*",)), live)) == []


def test_entities_of_an_unfinished_replacement_are_never_extra() -> None:
    """They hold the messages of the queue that is replaced: pruning would delete them."""
    own = TemporaryEntities.of(Queue("orders"))
    exchanges = (own.ingress, own.overflow, own.drain, own.refill, temporary_exchange(Exchange("orders")), MARKER)
    queues = (own.old_messages, own.new_messages, LOCK, trial_of(Queue("orders")))
    actual = Topology(exchanges=exchanges, queues=queues)
    assert extras(Topology(scope=("*",)), actual) == Topology()
