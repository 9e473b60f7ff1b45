"""The ladder of queues delays each message by exactly its time, and leads to its target."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.errors import InputError, PayloadError
from rmqkit.message import Properties
from rmqkit.messaging.delayed_publishing import check
from rmqkit.model import Binding, Exchange, Queue, Target, Topology
from rmqkit.topology.comparison import extras
from rmqkit.topology.dead_letters import dead_letter
from rmqkit.topology.delays import (
    LEVELS,
    MAX_DELAY_S,
    delayed_properties,
    entrance,
    expand,
    ladder,
    last_binding,
    last_queue,
)
from rmqkit.topology.diagram.graph import build_diagram
from rmqkit.topology.diagram.text_tree import tree
from rmqkit.topology.file.definitions import from_definitions, to_definitions
from rmqkit.topology.file.loader import loads
from rmqkit.topology.file.writer import to_yaml
from rmqkit.topology.routing import route

ORDERS = Target("orders")


def complete(target: Target) -> Topology:
    """Return the ladder, with the last queue of a target, and an exchange with a queue."""
    levels = ladder()
    return Topology(
        exchanges=(*levels.exchanges, Exchange("orders", "topic")),
        queues=(*levels.queues, last_queue(target), Queue("billing")),
        bindings=(*levels.bindings, last_binding(target), Binding("orders", "billing", routing_key="#")),
    )


@given(st.integers(1, MAX_DELAY_S), st.sampled_from(["order.paid", "", "a" * 255]))
def test_the_queues_on_the_way_hold_a_message_for_exactly_its_delay(seconds: int, key: str) -> None:
    """As the router of rmqkit, which agrees with the broker, follows it; each queue is entered once."""
    topology = complete(ORDERS)
    headers = delayed_properties(Properties(headers={"mine": 7}), ORDERS, seconds).headers
    following = route(topology, Target(entrance(seconds), key), headers)
    passed: list[str] = []
    while following.queues != ("billing",):
        (name,) = following.queues
        passed.append(name)
        following = dead_letter(topology, following, name, "expired")
    by_name = {each.name: each for each in topology.queues}
    assert sum(by_name[name].arguments["x-message-ttl"] for name in passed) == seconds * 1000
    assert len(set(passed)) == len(passed)
    assert passed[-1] == "rmqkit.delay.exchange.orders"
    assert following.keys == (key,)


def test_the_headers_of_an_earlier_delay_are_replaced_and_others_kept() -> None:
    first = delayed_properties(Properties(headers={"mine": 7}, priority=3), Target("", "jobs"), 5)
    assert first.headers == {
        "mine": 7,
        "x-rmqkit-delay-0": True,
        "x-rmqkit-delay-2": True,
        "x-rmqkit-delay-queue": "jobs",
    }
    second = delayed_properties(first, ORDERS, 2)
    assert second.headers == {"mine": 7, "x-rmqkit-delay-1": True, "x-rmqkit-delay-exchange": "orders"}
    assert second.priority == 3


def test_an_expiration_and_a_name_without_room_are_refused() -> None:
    with pytest.raises(PayloadError, match="cannot be delayed: it would expire early"):
        delayed_properties(Properties(expiration="5000"), ORDERS, 5)
    with pytest.raises(PayloadError, match="cannot delay messages: the queue from which"):
        last_queue(Target("e" * 250))


def test_pruning_never_deletes_the_queues_of_delayed_messages() -> None:
    assert extras(Topology(scope=("*",)), ladder()) == Topology()


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("delay", "message"),
    [
        (timedelta(0), "the delay is not positive"),
        (timedelta(days=180, seconds=1), "by at most 180 days"),
        (NOW - timedelta(seconds=1), "is in the past"),
        (NOW + timedelta(days=181), "by at most 180 days"),
        (datetime(2030, 1, 1), "has no time zone"),  # noqa: DTZ001 - that is the point
    ],
)
def test_a_delay_that_is_impossible_is_refused(delay: timedelta | datetime, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(delay)


def test_delays_up_to_180_days_and_times_in_any_zone_are_accepted() -> None:
    check(timedelta(seconds=1))
    check(timedelta(days=180))
    check((datetime.now(UTC) + timedelta(minutes=1)).astimezone(timezone(timedelta(hours=-11))))


FILE = "queues:\n  reminders: {}\n\ndelay: true\n"


def test_a_file_with_delay_is_written_as_it_is_read_and_drawn_as_one_node() -> None:
    topology = loads(FILE)
    assert [each.name for each in topology.queues] == ["reminders"]
    assert to_yaml(topology) == FILE
    (line, *_) = ["".join(text for text, _ in line) for line in tree(build_diagram(topology))]
    assert line == "rmqkit.delay.*  delays messages up to 180 days"


def test_definitions_contain_the_levels_and_are_read_as_delay() -> None:
    definitions = to_definitions(loads(FILE))
    assert len(definitions["queues"]) == LEVELS + 1
    read = from_definitions(json.dumps(definitions), file="definitions.json")
    assert (read.topology.delay, read.omitted) == (True, ())
    assert [each.name for each in read.topology.queues] == ["reminders"]
    assert expand(read.topology).exchanges == ladder().exchanges


def test_expanding_twice_adds_nothing() -> None:
    once = expand(loads(FILE))
    assert expand(once) == once
