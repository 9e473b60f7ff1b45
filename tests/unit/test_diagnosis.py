"""What facts about a queue lead to: those that take a cluster, a long time, or luck to bring about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from rmqkit.http_api.connections import ClientConnection, QueueConsumer
from rmqkit.http_api.diagnosis import diagnose
from rmqkit.http_api.queue_facts import QueueFacts
from rmqkit.report import QueueStatus

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOST = ClientConnection("c", "billing", host="10.0.0.7", port=4242)
CONSUMER = QueueConsumer("t", "q", HOST, prefetch=10, unacknowledged=3)


def facts(*, status: Mapping[str, Any] = MappingProxyType({}), **fields: Any) -> QueueFacts:
    known: dict[str, Any] = {
        "unacknowledged": 0,
        "published_per_s": 0.0,
        "acknowledged_per_s": 0.0,
        "type": "quorum",
    } | dict(status)
    return QueueFacts(QueueStatus("q", known.pop("ready", 5), known.pop("consumers", 1), **known), **fields)


def codes(found: QueueFacts) -> list[str]:
    return [each.code for each in diagnose(found, NOW)]


@pytest.mark.parametrize(
    ("leader", "online", "code"),
    [
        ("a", ("a",), "no_majority"),
        ("a", (), "no_majority"),
        ("a", ("b", "c"), "leader_offline"),
        ("a", ("a", "b"), "member_offline"),
    ],
)
def test_members_that_are_away(leader: str, online: tuple[str, ...], code: str) -> None:
    found = facts(members=("a", "b", "c"), online=online, leader=leader, consumers=(CONSUMER,))
    assert codes(found)[0] == code


def test_a_queue_that_is_down_names_its_node() -> None:
    (cause, *_) = diagnose(facts(status={"state": "down"}, leader="rabbit@b"), NOW)
    assert cause.message == "It is down on its node rabbit@b."


@pytest.mark.parametrize(
    ("idle_min", "timeout_ms", "near"),
    [(14, None, False), (16, None, True), (16, 3_600_000, False), (40, 3_600_000, True)],
)
def test_a_consumer_timeout_is_near_after_half_of_it(idle_min: int, timeout_ms: int | None, near: bool) -> None:
    consumer = replace(CONSUMER, idle_since=NOW - timedelta(minutes=idle_min), timeout_ms=timeout_ms)
    found = facts(consumers=(consumer,))
    assert ("consumer_timeout" in codes(found)) == near
    assert "consumer_timeout" not in codes(facts(consumers=(replace(consumer, unacknowledged=0),)))
    if near and timeout_ms is None:
        cause = next(each for each in diagnose(found, NOW) if each.code == "consumer_timeout")
        assert "'billing' from 10.0.0.7:4242" in cause.message
        assert "the consumer timeout (30 min by default)" in cause.message
        assert cause.command == "rmqkit connections --close 10.0.0.7:4242"


def test_the_time_to_drain_and_growth() -> None:
    (drains,) = diagnose(facts(status={"ready": 600, "acknowledged_per_s": 5.0}, consumers=(CONSUMER,)), NOW)
    assert (drains.code, drains.command) == ("draining", "rmqkit wait q --empty")
    assert "it will be empty in about 2 min" in drains.message
    assert codes(facts(status={"published_per_s": 9.0, "acknowledged_per_s": 5.0}, consumers=(CONSUMER,))) == [
        "growing"
    ]
    assert codes(facts(status={"ready": 0, "published_per_s": 9.0}, consumers=(CONSUMER,))) == []


def test_flow_control_names_the_publishers() -> None:
    slowed = (replace(HOST, state="flow"), replace(HOST, client_name="", state="blocked"))
    (cause,) = diagnose(facts(status={"ready": 0}, slowed=slowed, consumers=(CONSUMER,)), NOW)
    assert cause.message == "RabbitMQ slows down or blocks publishers: billing (flow), 10.0.0.7:4242 (blocked)."
