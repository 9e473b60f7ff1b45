"""A retry that a quorum queue does itself, and through waiting queues where the broker cannot: nothing is lost."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import rmqkit
from rmqkit import ApplyOptions, Delivery, Message, PropertyMismatch, Queue, Retry, Topology, Verdict
from rmqkit.cli.report_text import consume_summary
from rmqkit.plan import Outcome
from rmqkit.settings import Settings, load_settings
from tests.conftest import Broker
from tests.support.queues import drain_messages, ready
from tests.support.versions import version
from tests.support.wait import wait_until

DELAYS_MS = (300, 600, 600)
QUORUM = {"x-queue-type": "quorum"}
NATIVE = Topology(queues=(Queue("orders", arguments=QUORUM, retry=Retry(DELAYS_MS, "parked", True)), Queue("parked")))
LADDER = replace(NATIVE, queues=(replace(NATIVE.queues[0], retry=Retry(DELAYS_MS, "parked")), *NATIVE.queues[1:]))


@pytest.fixture
def settings(broker: Broker, vhost_url: str) -> Settings:
    """Our settings for a fresh virtual host."""
    return load_settings((vhost_url,), api_url=broker.api_url, environ={})


@pytest.fixture
def connection(settings: Settings) -> Iterator[rmqkit.Connection]:
    """Our connection to a fresh virtual host."""
    with rmqkit.connect(settings=settings) as opened:
        yield opened


@pytest.fixture
def delays(broker: Broker) -> bool:
    """Tell whether quorum queues of the broker delay failed messages."""
    return version(broker) >= (4, 3)


def quiet(_delivery: Delivery, _error: Exception) -> None:
    """Hear of a failure, and log nothing."""


def fail(_: Delivery) -> None:
    """Fail as a handler."""
    raise ValueError


def names(plan: rmqkit.Plan) -> list[str]:
    return [step.name for step in plan.steps]


def test_a_plan_says_which_way_a_native_retry_is_done(connection: rmqkit.Connection, delays: bool) -> None:
    """Waiting queues are declared only where the queue itself cannot delay messages."""
    planned = connection.plan(NATIVE)
    waiting = [] if delays else ["orders.retry.300ms", "orders.retry.600ms"]
    assert names(planned) == ["orders", *waiting, "parked"]
    assert planned.steps[0].note.startswith("the queue itself delays" if delays else "failed messages wait in other")
    connection.apply(NATIVE)
    assert {step.outcome for step in connection.plan(NATIVE).steps} == {Outcome.UNCHANGED}
    settings = connection.queue_settings("orders") or {}
    assert settings.get("x-delayed-retry-type") == ("failed" if delays else None)


def test_a_failed_message_is_retried_after_each_delay_with_its_own_key_and_parked_with_the_reason(
    connection: rmqkit.Connection, vhost_url: str, delays: bool
) -> None:
    """What a user sees is the same either way, except that a message does not leave its queue."""
    connection.apply(NATIVE)
    called: list[float] = []
    keys: list[str] = []

    def handler(delivery: Delivery) -> None:
        called.append(time.monotonic())
        keys.append(delivery.routing_key)
        raise ValueError(f"no such customer: {delivery.body.decode()}")

    connection.publish(Message(b"order 7", "orders"))
    report = rmqkit.handle(
        connection, "orders", handler, topology=NATIVE, count=4, on_failure=quiet, on_warning=lambda _: None
    )
    assert (report.retried, report.parked, report.failed) == (3, 1, 0)
    assert report.requeued == report.delayed == (3 if delays else 0)
    summary = consume_summary(report, Verdict.REQUEUE, Verdict.REJECT, None)
    assert re.fullmatch(r"Consumed 0 messages in [^;]*; 3 failed \(to be retried\); 1 parked .*", summary)
    pauses = [later - sooner for sooner, later in pairwise(called)]
    assert all(pause >= ms / 1000 for pause, ms in zip(pauses, DELAYS_MS, strict=True)), pauses
    assert keys == ["orders"] * 4
    (message,) = drain_messages(vhost_url, "parked")
    headers = message.properties.headers
    assert (message.body, headers["x-rmqkit-attempts"], headers["x-rmqkit-queue"]) == (b"order 7", 4, "orders")
    assert headers["x-rmqkit-reason"].endswith("ValueError: no such customer: order 7")
    assert "x-delivery-count" not in headers


def test_a_requeued_message_is_not_delayed_and_its_tries_do_not_count(connection: rmqkit.Connection) -> None:
    """Only a failure is delayed and counted: not Verdict.REQUEUE."""
    connection.apply(NATIVE)
    connection.publish(Message(b"x", "orders"))
    begun = time.monotonic()
    verdicts = iter((Verdict.REQUEUE, Verdict.ACK))
    report = rmqkit.handle(connection, "orders", lambda _: next(verdicts), topology=NATIVE, count=2)
    assert (report.requeued, report.retried, report.acknowledged) == (1, 0, 1)
    assert time.monotonic() - begun < DELAYS_MS[0] / 1000 + 5


def test_a_message_that_returns_from_the_parking_queue_has_all_its_tries_again(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    """The count of failed deliveries stays with the queue, and does not follow the message."""
    connection.apply(NATIVE)
    connection.publish(Message(b"x", "orders"))

    options: dict[str, Any] = {"topology": NATIVE, "on_failure": quiet, "on_warning": lambda _: None}
    for _ in range(2):
        report = rmqkit.handle(connection, "orders", fail, count=4, **options)
        assert (report.retried, report.parked) == (3, 1)
        connection.move("parked")
        wait_until(lambda: ready(vhost_url, "orders") == 1)


def test_a_queue_that_does_not_delay_messages_is_retried_through_waiting_queues(
    connection: rmqkit.Connection, delays: bool
) -> None:
    """The queue on the broker decides, not the file: else failed messages would be redelivered at once."""
    connection.apply(LADDER)
    connection.publish(Message(b"x", "orders"))
    report = rmqkit.handle(
        connection, "orders", fail, topology=NATIVE, count=1, on_failure=quiet, on_warning=lambda _: None
    )
    assert (report.retried, report.requeued) == (1, 0)
    wait_until(lambda: connection.queue_state("orders").ready == 1)
    if not delays:
        return
    with pytest.raises(PropertyMismatch, match="1 conflict"):
        connection.apply(NATIVE)


@pytest.mark.parametrize("to_native", [True, False])
def test_apply_moves_a_queue_between_the_two_ways_and_loses_nothing(
    connection: rmqkit.Connection, vhost_url: str, delays: bool, to_native: bool
) -> None:
    """Messages that are waiting for their retry at that moment are delivered afterwards."""
    before, after = (LADDER, NATIVE) if to_native else (NATIVE, LADDER)
    connection.apply(before)
    connection.publish(Message(str(number).encode(), "orders") for number in range(20))
    rmqkit.handle(connection, "orders", fail, topology=before, count=10, on_failure=quiet, on_warning=lambda _: None)
    options = ApplyOptions(replace=True, wait_s=30)
    applied = connection.apply(after, options=options)
    outcomes = {step.name: step.outcome for step in applied.steps}
    assert outcomes["orders"] is (Outcome.REPLACE if delays else Outcome.UNCHANGED)
    wait_until(lambda: ready(vhost_url, "orders") == 20)
    assert {each.body for each in drain_messages(vhost_url, "orders")} == {b"%d" % number for number in range(20)}


KILLED = """
import sys, time, rmqkit
from rmqkit.settings import load_settings
from tests.broker.test_native_retry import NATIVE
def handler(delivery):
    sys.stdout.write("called\\n")
    sys.stdout.flush()
    raise ValueError
with rmqkit.connect(settings=load_settings((sys.argv[1],), api_url=sys.argv[2], environ={})) as connection:
    rmqkit.handle(connection, "orders", handler, topology=NATIVE, prefetch=5)
"""


def test_consumers_that_are_killed_while_messages_fail_lose_nothing(
    broker: Broker, connection: rmqkit.Connection, vhost_url: str
) -> None:
    """Every message ends in the parking queue, with its reason, whenever its consumer was killed."""
    connection.apply(NATIVE)
    connection.publish(Message(str(number).encode(), "orders") for number in range(30))
    for calls in (7, 23, 40):
        command = [sys.executable, "-c", KILLED, vhost_url, broker.api_url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for _ in range(calls):
                assert process.stdout.readline() == "called\n"
            process.kill()
    rmqkit.handle(
        connection, "orders", fail, topology=NATIVE, idle_timeout_s=3, on_failure=quiet,
        on_warning=lambda _: None,
    )  # fmt: skip
    assert ready(vhost_url, "orders") == 0
    parked = drain_messages(vhost_url, "parked")
    bodies = Counter(each.body for each in parked)
    assert bodies.keys() == {b"%d" % number for number in range(30)}
    assert all(each.properties.headers["x-rmqkit-reason"] for each in parked)
