"""Policies count for what they match, as on the broker: alone, by priority, and below arguments."""

from __future__ import annotations

from typing import Any

import pytest

from rmqkit.model import Exchange, Policy, Queue, Topology
from rmqkit.topology.policies import doubt, effective, unread


def policies(*policies: Policy) -> Topology:
    return Topology(policies=policies)


def queue(name: str = "orders", **arguments: Any) -> Queue:
    return Queue(name, arguments={f"x-{key.replace('_', '-')}": value for key, value in arguments.items()})


def test_a_policy_adds_arguments_to_entities_that_its_pattern_matches() -> None:
    topology = policies(Policy("ttl", "der", {"message-ttl": 1000}))
    assert effective(topology, queue("orders")) == {"x-message-ttl": 1000}
    assert effective(topology, queue("bills")) == {}


def test_a_policy_sets_arguments_of_an_exchange_without_the_prefix() -> None:
    topology = policies(Policy("ae", "^orders$", {"alternate-exchange": "rest"}, "exchanges"))
    assert effective(topology, Exchange("orders")) == {"alternate-exchange": "rest"}
    assert effective(topology, queue("orders")) == {}


def test_only_the_policy_of_highest_priority_applies() -> None:
    topology = policies(
        Policy("low", ".*", {"message-ttl": 1, "max-length": 9}, priority=1),
        Policy("high", ".*", {"message-ttl": 2}, priority=2),
    )
    assert effective(topology, queue()) == {"x-message-ttl": 2}


def test_an_argument_overrides_the_policy() -> None:
    topology = policies(Policy("dlx", ".*", {"dead-letter-exchange": "policy", "dead-letter-routing-key": "key"}))
    found = effective(topology, queue(dead_letter_exchange="argument"))
    assert found == {"x-dead-letter-exchange": "argument", "x-dead-letter-routing-key": "key"}


def test_a_policy_overrides_the_overflow_of_a_quorum_queue() -> None:
    topology = policies(Policy("overflow", ".*", {"overflow": "reject-publish"}))
    assert effective(topology, queue(queue_type="quorum", overflow="drop-head"))["x-overflow"] == "reject-publish"
    assert effective(topology, queue(overflow="drop-head")) == {"x-overflow": "drop-head"}


@pytest.mark.parametrize("key", ["message-ttl", "expires", "max-length", "max-length-bytes"])
def test_the_lower_of_two_limits_applies(key: str) -> None:
    topology = policies(Policy("limit", ".*", {key: 10}))
    assert effective(topology, Queue("q", arguments={f"x-{key}": 20})) == {f"x-{key}": 10}
    assert effective(topology, Queue("q", arguments={f"x-{key}": 5})) == {f"x-{key}": 5}


@pytest.mark.parametrize(("argument", "policy"), [(-1, 2), (2, -1)])
def test_no_delivery_limit_is_not_lower_than_one(argument: int, policy: int) -> None:
    queue = Queue("orders", arguments={"x-queue-type": "quorum", "x-delivery-limit": argument})
    assert effective(policies(Policy("p", ".*", {"delivery-limit": policy})), queue)["x-delivery-limit"] == 2


@pytest.mark.parametrize(("kind", "applies"), [("classic", False), ("quorum", True), ("stream", False)])
def test_a_policy_with_a_target_group_size_applies_to_quorum_queues_alone(kind: str, applies: bool) -> None:
    topology = policies(Policy("p", ".*", {"target-group-size": 3, "max-length-bytes": 5}))
    queue = Queue("orders", arguments={"x-queue-type": kind})
    assert ("x-max-length-bytes" in effective(topology, queue)) is applies


def test_a_policy_with_a_key_of_another_queue_type_does_not_apply_at_all() -> None:
    topology = policies(Policy("quorum", ".*", {"delivery-limit": 3, "message-ttl": 5}))
    assert effective(topology, queue(queue_type="classic")) == {"x-queue-type": "classic"}
    assert effective(topology, queue(queue_type="quorum"))["x-message-ttl"] == 5


def test_a_policy_may_apply_to_one_queue_type() -> None:
    topology = policies(Policy("quorum", ".*", {"message-ttl": 5}, "quorum_queues"))
    assert effective(topology, queue()) == {}
    assert effective(topology, queue(queue_type="quorum"))["x-message-ttl"] == 5


@pytest.mark.parametrize("pattern", ["(", "[[:alpha:]]", "q{,3}", "q{1, 3}", r"\v", "(?a)q"])
def test_a_policy_with_an_unreadable_pattern_is_left_out_and_named_where_it_may_apply(pattern: str) -> None:
    topology = policies(Policy("plain", ".", {"message-ttl": 5}, "queues"), Policy("odd", pattern, {}, "queues", 1))
    assert effective(topology, queue()) == {"x-message-ttl": 5}
    assert [policy.name for policy in unread(topology)] == ["odd"]
    assert "policy 'odd' applies to 'orders' is unknown" in doubt(topology, queue())
    assert doubt(topology, Exchange("orders")) == ""


@pytest.mark.parametrize("pattern", [r"^\w+$", r"^\W", r"\bé", "(?i)É"])
def test_whether_a_pattern_of_letters_matches_a_name_beyond_ascii_is_unknown(pattern: str) -> None:
    topology = policies(Policy("letters", pattern, {"message-ttl": 5}))
    assert effective(topology, queue("é")) == {}
    assert doubt(topology, queue("é")) == "whether policy 'letters' applies to 'é' depends on RabbitMQ's version"
    assert doubt(topology, queue("e")) == ""
    assert unread(topology) == ()


@pytest.mark.parametrize("key", ["max-in-memory-length", "queue-leader-locator"])
def test_whether_a_policy_that_releases_skip_for_classic_queues_applies_is_unknown(key: str) -> None:
    topology = policies(Policy("p", ".*", {key: 1, "message-ttl": 5}))
    assert "depends on RabbitMQ's version" in doubt(topology, queue(queue_type="classic"))
    assert effective(topology, queue(queue_type="quorum"))["x-message-ttl"] == 5
    assert doubt(topology, queue(queue_type="stream")) == ""


def test_a_doubtful_policy_is_ignored_below_one_that_certainly_applies() -> None:
    topology = policies(Policy("odd", "q{,3}", {}, "queues"), Policy("plain", "^orders$", {}, "queues", 1))
    assert doubt(topology, queue()) == ""
    assert doubt(topology, queue("other")) != ""
