"""A Python function as handler: failed messages are retried and parked, and nothing is lost."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Contract, Delivery, HandlerError, Message, Queue, Retry, Stop, Topology, Verdict
from rmqkit.deploy.broker_snapshot import BrokerSnapshot
from rmqkit.deploy.planner import plan
from rmqkit.settings import load_settings
from tests.conftest import Broker
from tests.support.queues import drain, ready
from tests.support.wait import wait_until

DELAYS_MS = (100, 300)
SHOP = Topology(queues=(Queue("orders", retry=Retry(DELAYS_MS, "parked")), Queue("parked")))
PLAIN = Topology(queues=(Queue("orders"),))


@pytest.fixture
def connection(vhost_url: str) -> Iterator[rmqkit.Connection]:
    with rmqkit.connect(vhost_url) as opened:
        opened.apply(SHOP)
        yield opened


def quiet(_delivery: Delivery, _error: Exception) -> None:
    """Hear of a failure, and log nothing."""


def fail(delivery: Delivery) -> None:
    raise ValueError(f"no such customer: {delivery.body.decode()}")


def parked(vhost_channel: BlockingChannel) -> tuple[Any, bytes]:
    _, properties, body = vhost_channel.basic_get("parked", auto_ack=True)
    assert properties is not None, "nothing was parked"
    return properties, body or b""


def test_a_failed_message_is_retried_after_each_delay_and_parked_with_the_last_line_of_its_traceback(
    connection: rmqkit.Connection, vhost_channel: BlockingChannel, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[float] = []
    warnings: list[str] = []

    def handler(delivery: Delivery) -> None:
        called.append(time.monotonic())
        fail(delivery)

    connection.publish(Message(b"order 7", "orders"))
    report = rmqkit.handle(connection, "orders", handler, topology=SHOP, count=3, on_warning=warnings.append)
    assert (report.retried, report.parked, report.acknowledged, report.failed) == (2, 1, 3, 0)
    assert [later - sooner >= ms / 1000 for sooner, later, ms in zip(called, called[1:], DELAYS_MS, strict=False)] == [
        True,
        True,
    ]
    properties, body = parked(vhost_channel)
    headers = properties.headers
    assert (body, headers["x-rmqkit-attempts"], headers["x-rmqkit-queue"]) == (b"order 7", 3, "orders")
    assert headers["x-rmqkit-reason"].endswith("ValueError: no such customer: order 7")
    assert len(warnings) == 1
    assert warnings[0].startswith("the handler raised ValueError in ")
    assert "is retried after 100ms, 300ms, then moved to queue 'parked'" in warnings[0]
    assert [record.exc_info is not None for record in caplog.records] == [True] * 3  # logged, unless somebody wants it


def test_verdicts_acknowledge_park_and_requeue(
    connection: rmqkit.Connection, vhost_channel: BlockingChannel, vhost_url: str
) -> None:
    verdicts = {b"done": None, b"ack": Verdict.ACK, b"reject": Verdict.REJECT, b"requeue": Verdict.REQUEUE}
    connection.publish(Message(body, "orders") for body in verdicts)
    report = rmqkit.handle(connection, "orders", lambda each: verdicts[each.body], topology=SHOP, count=4)
    assert (report.parked, report.retried, report.requeued) == (1, 0, 1)
    properties, body = parked(vhost_channel)
    assert (body, properties.headers["x-rmqkit-reason"]) == (b"reject", "the handler rejected it")
    wait_until(lambda: ready(vhost_url, "orders") == 1)


def test_a_message_that_breaks_the_contract_is_parked_without_calling_the_function(
    connection: rmqkit.Connection, vhost_channel: BlockingChannel, tmp_path: Path
) -> None:
    (tmp_path / "order.json").write_text('{"required": ["total"]}')
    contract = Contract("json", str(tmp_path / "order.json"))
    topology = Topology(queues=(Queue("orders", retry=Retry(DELAYS_MS, "parked"), contract=contract), Queue("parked")))
    got: list[bytes] = []
    warnings: list[str] = []
    connection.publish(Message(body, "orders") for body in (b'{"total": 1}', b"{}", b"not JSON"))
    report = rmqkit.handle(
        connection, "orders", lambda each: got.append(each.body), topology=topology, count=3, on_warning=warnings.append
    )
    assert (got, report.invalid, report.acknowledged) == ([b'{"total": 1}'], 2, 3)
    assert warnings[0].startswith("message 2: the value breaks the rule required: \"total\"; it goes to queue 'parked'")
    assert parked(vhost_channel)[0].headers["x-rmqkit-reason"] == 'the value breaks the rule required: "total" (at 1:1)'
    assert parked(vhost_channel)[1] == b"not JSON"


@pytest.mark.parametrize("topology", [PLAIN, None])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_without_a_retry_and_dead_letters_a_failed_message_stays_and_the_run_ends(
    connection: rmqkit.Connection, vhost_url: str, topology: Topology | None, concurrency: int
) -> None:
    connection.publish([Message(b"x", "orders")] * 9)
    warnings: list[str] = []
    stop = Stop()
    with pytest.raises(HandlerError, match="still in queue 'orders'") as raised:
        rmqkit.handle(
            connection, "orders", fail, topology=topology, concurrency=concurrency, stop=stop, on_failure=quiet,
            on_warning=warnings.append,
        )  # fmt: skip
    report = raised.value.report
    assert (report.failed, report.rejected, report.acknowledged) == (report.stayed, 0, 0)
    assert 1 <= report.stayed <= concurrency
    assert warnings[0].startswith("consuming stops at the first message that fails: queue 'orders' has n")
    assert not stop.requested
    wait_until(lambda: ready(vhost_url, "orders") == 9)


def test_by_choice_failed_messages_are_rejected_in_place_of_a_retry(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    connection.publish(Message(b"x", "orders"))
    warnings: list[str] = []
    report = rmqkit.handle(
        connection, "orders", fail, topology=replace(SHOP, queues=(*PLAIN.queues,)), count=1,
        failed=rmqkit.FailurePolicy.REJECT, on_failure=quiet, on_warning=warnings.append,
    )  # fmt: skip
    assert (report.failed, report.rejected, report.dropped, ready(vhost_url, "orders")) == (1, 1, 1, 0)
    assert warnings[0].startswith("failed messages will be dropped: queue 'orders' has neither a retry nor")


def test_nothing_is_consumed_if_a_waiting_queue_is_missing(
    connection: rmqkit.Connection, vhost_channel: BlockingChannel
) -> None:
    vhost_channel.queue_delete("orders.retry.300ms")
    connection.publish(Message(b"x", "orders"))
    called: list[Delivery] = []
    with pytest.raises(rmqkit.NotFound, match=r"orders\.retry\.300ms"):
        rmqkit.handle(connection, "orders", called.append, topology=SHOP, count=1)
    assert called == []


def test_a_contract_whose_invalid_messages_would_return_forever_is_refused(
    connection: rmqkit.Connection, tmp_path: Path
) -> None:
    (tmp_path / "order.json").write_text("{}")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "orders"}
    queue = Queue("orders", contract=Contract("json", str(tmp_path / "order.json")), arguments=arguments)
    with pytest.raises(rmqkit.SettingsError, match="forever"):
        rmqkit.handle(connection, "orders", fail, topology=Topology(queues=(queue,)), count=1)


def test_concurrency_is_the_number_of_threads_and_a_stop_ends_them_all(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    together, stop = threading.Barrier(3), rmqkit.Stop()

    def handler(_: Delivery) -> None:
        together.wait(90)  # which breaks unless three are in here
        stop.request()

    connection.publish(Message(b"%d" % number, "orders") for number in range(9))
    report = rmqkit.handle(connection, "orders", handler, topology=SHOP, concurrency=3, prefetch=1, stop=stop)
    assert (report.acknowledged, report.retried) == (3, 0)
    wait_until(lambda: ready(vhost_url, "orders") == 6)


@pytest.mark.parametrize("work", ["handle", "handle_batches", "pipe"])
def test_wrong_options_are_refused_before_anything_is_consumed(connection: rmqkit.Connection, work: str) -> None:
    run = getattr(connection, work)
    with pytest.raises(TypeError, match="cuont"):
        run("orders", lambda _: None, cuont=1)
    with pytest.raises(rmqkit.SettingsError, match="`concurrency=` must be at least 1, not 0"):
        run("orders", lambda _: None, concurrency=0)
    with pytest.raises(rmqkit.SettingsError, match="`prefetch=` must be 1 to 65535, not 0"):
        run("orders", lambda _: None, prefetch=0)


def test_a_retry_that_never_ends_is_refused(connection: rmqkit.Connection) -> None:
    to_itself = Topology(queues=(Queue("orders", retry=Retry((50,), "orders")),))
    to_each_other = Topology(queues=(Queue("a", retry=Retry((50,), "b")), Queue("b", retry=Retry((50,), "a"))))
    for topology in (to_itself, to_each_other):
        for use in (connection.plan, connection.apply, lambda each: connection.handle("a", fail, topology=each)):
            with pytest.raises(rmqkit.TopologyError, match="failed messages are retried forever"):
                use(topology)


def test_every_thread_gets_a_share_of_a_short_queue(connection: rmqkit.Connection) -> None:
    threads: Counter[str] = Counter()

    def slow(_: Delivery) -> None:
        threads[threading.current_thread().name] += 1
        time.sleep(0.2)

    connection.publish(Message(b"%d" % number, "orders") for number in range(12))
    report = rmqkit.handle(connection, "orders", slow, topology=SHOP, concurrency=4, idle_timeout_s=3)
    assert (report.acknowledged, len(threads)) == (12, 4)
    assert max(threads.values()) <= 4


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_wrong_return_value_ends_the_run_with_a_report_and_keeps_the_message(
    connection: rmqkit.Connection, vhost_url: str, concurrency: int
) -> None:
    connection.publish(Message(body, "orders") for body in (b"good", b"odd"))

    def odd(delivery: Delivery) -> Verdict | None:
        return True if delivery.body == b"odd" else None  # type: ignore[return-value]

    expected = r"handler tests\.broker\.test_handle\.\S+odd returned a value of type bool instead of a Verdict or None"
    with pytest.raises(rmqkit.HandlerError, match=expected) as caught:
        rmqkit.handle(connection, "orders", odd, topology=SHOP, prefetch=1, concurrency=concurrency)
    assert caught.value.report.acknowledged <= 1
    wait_until(lambda: ready(vhost_url, "orders") == 2 - caught.value.report.acknowledged)


def test_a_coroutine_function_is_refused_before_anything_is_consumed(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    async def later(_: Delivery) -> None: ...

    connection.publish(Message(b"x", "orders"))
    with pytest.raises(rmqkit.SettingsError, match=r"later is a coroutine function"):
        rmqkit.handle(connection, "orders", later)  # type: ignore[arg-type]
    assert ready(vhost_url, "orders") == 1


def test_any_handler_can_replace_the_function(connection: rmqkit.Connection, vhost_channel: BlockingChannel) -> None:
    from rmqkit.handlers.command import CommandHandler, parse  # noqa: PLC0415

    connection.publish(Message(b"x", "orders"))
    report = rmqkit.handle(connection, "orders", CommandHandler(parse("false"), "orders"), topology=SHOP, count=3)
    assert (report.retried, report.parked) == (2, 1)
    assert parked(vhost_channel)[0].headers["x-rmqkit-reason"] == "the command ended with exit code 1"


PROGRAM = """
import sys, rmqkit
topology = rmqkit.load(sys.argv[2])
def fail(delivery):
    with open(sys.argv[3], "a") as calls:
        calls.write("x")
    raise ValueError
with rmqkit.connect(sys.argv[1]) as connection:
    rmqkit.handle(connection, "orders", fail, topology=topology, on_failure=lambda *_: None)
"""


def test_a_program_killed_while_messages_fail_loses_nothing(vhost_url: str, tmp_path: Path) -> None:
    file, calls = tmp_path / "shop.yaml", tmp_path / "calls"
    file.write_text("queues:\n  orders: {type: quorum, retry: {delays: [50ms, 200ms], then: parked}}\n  parked: {}\n")
    calls.touch()
    sent = [b"%d" % number for number in range(15)]
    with rmqkit.connect(vhost_url) as connection:
        connection.apply(rmqkit.load(file))
        connection.publish(Message(body, "orders") for body in sent)
    for least in (3, 20):
        command = [sys.executable, "-c", PROGRAM, vhost_url, str(file), str(calls)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda least=least: len(calls.read_text()) >= least)  # type: ignore[misc]
            finally:
                process.kill()
    topology = rmqkit.load(file)

    def all_are_parked() -> bool:
        with rmqkit.connect(vhost_url) as connection:
            rmqkit.handle(connection, "orders", fail, topology=topology, idle_timeout_s=2, on_failure=quiet)
        return sum(ready(vhost_url, each.name) for each in topology.queues[:3]) == 0

    wait_until(all_are_parked)
    assert set(drain(vhost_url, "parked")) == set(sent)


# Messages that cannot carry a reason.


def test_a_message_with_unreadable_properties_is_parked_with_all_of_them(
    connection: rmqkit.Connection, vhost_channel: BlockingChannel
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"a": deep}
    unreadable = pika.BasicProperties(headers={"deep": deep}, message_id="7", delivery_mode=2)
    late = pika.BasicProperties(headers={"kept": 1}, timestamp=10**15, type="t", delivery_mode=2)
    for properties in (unreadable, late):
        vhost_channel.basic_publish("", "orders", b"body", properties)
    rmqkit.handle(connection, "orders", lambda _: Verdict.REJECT, topology=SHOP, count=2)
    (first, body), (second, _) = parked(vhost_channel), parked(vhost_channel)
    assert (body, first.message_id, first.headers["x-rmqkit-queue"]) == (b"body", "7", "orders")
    assert first.headers["deep"] == deep
    assert (second.type, second.timestamp, second.headers["kept"]) == ("t", 10**15, 1)


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("frame_max", [8192, 131_072])
def test_a_message_without_room_for_more_headers_is_parked_unchanged_and_not_retried(
    vhost_url: str, vhost_channel: BlockingChannel, frame_max: int
) -> None:
    full = pika.BasicProperties(headers={"x": "y" * (frame_max - 60)}, delivery_mode=2)
    vhost_channel.basic_publish("", "orders", b"full", full)
    with rmqkit.connect(f"{vhost_url}?frame_max={frame_max}") as narrow:
        report = rmqkit.handle(narrow, "orders", fail, topology=SHOP, idle_timeout_s=3, on_failure=quiet)
    assert (report.consumed, report.parked, report.retried) == (1, 1, 0)
    properties, body = parked(vhost_channel)
    assert (body, properties.headers) == (b"full", full.headers)


@pytest.mark.usefixtures("connection")
def test_a_message_with_properties_larger_than_a_frame_is_parked_without_them(
    vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    large = pika.BasicProperties(headers={"x": "y" * 10_000}, delivery_mode=2)
    vhost_channel.basic_publish("", "orders", b"large", large)
    with rmqkit.connect(f"{vhost_url}?frame_max=8192") as narrow:
        report = rmqkit.handle(narrow, "orders", fail, topology=SHOP, idle_timeout_s=3, on_failure=quiet)
    assert (report.consumed, report.parked) == (1, 1)
    properties, body = parked(vhost_channel)
    assert (body, properties.headers["x-rmqkit-attempts"]) == (b"large", 1)
    assert properties.headers["x-rmqkit-reason"].endswith("ValueError: no such customer: large")


def test_a_reason_that_is_not_valid_utf_8_has_replacement_characters(
    connection: rmqkit.Connection, vhost_channel: BlockingChannel
) -> None:
    def handler(_: Delivery) -> None:
        raise ValueError("half a \ud800 pair")

    connection.publish(Message(b"x", "orders"))
    rmqkit.handle(connection, "orders", handler, topology=SHOP, count=3, on_failure=quiet)
    assert parked(vhost_channel)[0].headers["x-rmqkit-reason"].endswith("ValueError: half a ? pair")


def test_failures_are_logged_by_default(connection: rmqkit.Connection, caplog: pytest.LogCaptureFixture) -> None:
    def divide(_: Delivery) -> None:
        raise ZeroDivisionError

    connection.publish(Message(b"secret", "orders"))
    rmqkit.handle(connection, "orders", divide, topology=PLAIN, count=1, failed=rmqkit.FailurePolicy.REJECT)
    assert [(each.name, each.levelno) for each in caplog.records] == [
        ("rmqkit", logging.WARNING),  # that failures are dropped
        ("rmqkit", logging.ERROR),  # the traceback
        ("rmqkit", logging.WARNING),  # what became of the message
    ]
    assert "secret" not in caplog.text


def test_a_plan_warns_about_a_retry_where_quorum_is_the_default_queue_type(
    broker: Broker, vhost_url: str, connection: rmqkit.Connection
) -> None:
    with rmqkit.connect(settings=load_settings((vhost_url,), api_url=broker.api_url, environ={})) as other:
        live = replace(other.live(), default_queue_type="quorum")  # which RabbitMQ has from 3.11 on
    planned = plan(connection._consuming, SHOP, BrokerSnapshot(live=live), rmqkit.ApplyOptions())
    notes = {step.name: step.note for step in planned.steps}
    assert "write `type: quorum`" in notes.pop("orders")
    assert set(notes.values()) == {""}


INTERRUPTED = """
import sys, time, rmqkit
def slow(delivery):
    sys.stdout.write("begun\\n")  # in one call: two threads write
    sys.stdout.flush()
    time.sleep(float(sys.argv[3]) * (1 + (delivery.body == b"slower")))
with rmqkit.connect(sys.argv[1]) as connection:
    try:
        rmqkit.handle(connection, "orders", slow, concurrency=int(sys.argv[2]), prefetch=1)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(("concurrency", "seconds", "left"), [(1, 60, 2), (2, 1, 0)])
def test_ctrl_c_ends_a_program_and_unhandled_messages_stay(
    vhost_url: str, vhost_channel: BlockingChannel, concurrency: int, seconds: float, left: int
) -> None:
    for body in (b"slower", b"x"):
        vhost_channel.basic_publish("", "orders", body, pika.BasicProperties(delivery_mode=2))
    command = [sys.executable, "-c", INTERRUPTED, vhost_url, str(concurrency), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for _ in range(concurrency):
                assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=90)
        finally:
            process.kill()
    assert (stdout, process.returncode) == ("interrupted\n", 0), stderr
    wait_until(lambda: ready(vhost_url, "orders") == left)
