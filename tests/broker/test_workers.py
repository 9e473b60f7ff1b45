"""Work through a queue in batches, and from a queue to an exchange: no message is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import rmqkit
from rmqkit import (
    Binding,
    Delivery,
    Exchange,
    Fate,
    HandlerError,
    Message,
    PublishOptions,
    Queue,
    Retry,
    Stop,
    Target,
    Topology,
    Verdict,
)
from rmqkit.handlers.published_results import Pending, PublishedDeliveries
from rmqkit.messaging import background_publisher
from rmqkit.thread_queue import ThreadQueue
from tests.support.proxy import Proxy
from tests.support.queues import drain, ready
from tests.support.wait import wait_until

IN_TIME_S = 60.0
SHOP = Topology(
    exchanges=(Exchange("billing"),),
    queues=(Queue("orders", retry=Retry((50,), "parked")), Queue("parked"), Queue("priced"), Queue("plain")),
    bindings=(Binding("billing", "priced", routing_key="priced"),),
)


@pytest.fixture
def connection(vhost_url: str) -> Iterator[rmqkit.Connection]:
    with rmqkit.connect(vhost_url) as opened:
        opened.apply(SHOP)
        yield opened


def fill(connection: rmqkit.Connection, queue: str, amount: int) -> None:
    connection.publish(Message(b"%d" % number, queue) for number in range(amount))


def quiet(_delivery: Delivery, _error: Exception) -> None:
    """Hear of a failure, and log nothing."""


def numbers(url: str, queue: str) -> list[int]:
    return sorted(int(body) for body in drain(url, queue))


# Batches


def test_batches_are_full_in_order_and_acknowledged_and_the_last_one_waits_its_time(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    fill(connection, "orders", 25)
    batches: list[list[bytes]] = []
    begun_s: list[float] = []

    def take(batch: Sequence[Delivery]) -> None:
        batches.append([each.body for each in batch])
        begun_s.append(time.monotonic())

    report = connection.handle_batches("orders", take, size=10, within_s=0.3, idle_timeout_s=3)
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert [body for batch in batches for body in batch] == [b"%d" % number for number in range(25)]
    assert 0.25 <= begun_s[2] - begun_s[1] < 1.4
    assert (report.consumed, report.acknowledged, ready(vhost_url, "orders")) == (25, 25, 0)


def test_a_function_gives_a_verdict_for_the_batch_or_for_each_delivery(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    fill(connection, "orders", 6)

    def judge(batch: Sequence[Delivery]) -> Verdict | list[Verdict | None] | None:
        if len(batch) == 3 and batch[0].body == b"0":
            return [None, Verdict.REJECT, Verdict.ACK]
        return Verdict.REJECT

    report = connection.handle_batches("orders", judge, size=3, count=6, topology=SHOP)
    assert (report.acknowledged, report.parked) == (6, 4)
    assert numbers(vhost_url, "parked") == [1, 3, 4, 5]


def test_a_failed_batch_is_retried_and_parked_as_a_whole(connection: rmqkit.Connection, vhost_url: str) -> None:
    fill(connection, "orders", 4)
    failed: list[bytes] = []

    def fail(_: Sequence[Delivery]) -> None:
        raise ValueError("no such customer")

    report = connection.handle_batches(
        "orders", fail, size=4, count=8, topology=SHOP, on_failure=lambda each, _: failed.append(each.body)
    )
    assert (report.retried, report.parked) == (4, 4)
    assert len(failed) == 8
    assert numbers(vhost_url, "parked") == [0, 1, 2, 3]


@pytest.mark.parametrize("result", [True, [None], "ack"])
def test_a_wrong_result_of_a_batch_ends_the_run_and_keeps_its_messages(
    connection: rmqkit.Connection, vhost_url: str, result: object
) -> None:
    fill(connection, "plain", 3)
    with pytest.raises(HandlerError, match=r"handler tests\.broker\.test_workers\.\S+ returned"):
        connection.handle_batches("plain", lambda _: result, size=3)  # type: ignore[arg-type, return-value]
    wait_until(lambda: ready(vhost_url, "plain") == 3)


def test_a_stop_finishes_the_running_batch_and_returns_the_others(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    fill(connection, "orders", 9)
    stop = Stop()

    def take(_: Sequence[Delivery]) -> None:
        stop.request()

    report = connection.handle_batches("orders", take, size=3, stop=stop)
    assert report.acknowledged == 3
    wait_until(lambda: ready(vhost_url, "orders") == 6)


# Pipe


def price(order: Delivery) -> Message:
    return Message(order.body, "priced", exchange="billing")


def test_messages_are_published_in_order_and_the_originals_acknowledged(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    fill(connection, "orders", 2000)
    report = connection.pipe("orders", price, count=2000)
    assert (report.acknowledged, ready(vhost_url, "orders")) == (2000, 0)
    assert drain(vhost_url, "priced") == [b"%d" % number for number in range(2000)]


def test_a_transform_returns_no_message_or_many_or_a_verdict(connection: rmqkit.Connection, vhost_url: str) -> None:
    fill(connection, "orders", 5)

    def split(order: Delivery) -> Message | Iterator[Message] | list[Message] | Verdict | None:
        match int(order.body):
            case 0:
                return None
            case 1:
                return []
            case 2:
                return Verdict.REJECT
            case 3:
                return (Message(order.body) for _ in range(3))
            case _:
                return Message(order.body, "plain")

    report = connection.pipe("orders", split, to=Target("billing", "priced"), count=5, topology=SHOP)
    assert (report.acknowledged, report.parked) == (5, 1)
    assert numbers(vhost_url, "priced") == [3, 3, 3]
    assert (drain(vhost_url, "plain"), drain(vhost_url, "parked")) == ([b"4"], [b"2"])


def test_a_delivery_fails_if_the_transform_raises_or_one_of_its_messages_is_not_taken(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    fill(connection, "orders", 4)
    warnings: list[str] = []

    def transform(order: Delivery) -> list[Message]:
        match int(order.body):
            case 0:
                raise ValueError
            case 1:
                return [Message(b"1", "priced"), Message(b"1", "nowhere")]
            case 2:
                return [Message(b"2", "x", exchange="no such exchange")]
            case _:
                return [Message(b"3", "priced")]

    report = connection.pipe("orders", transform, topology=SHOP, count=7, on_failure=quiet, on_warning=warnings.append)
    assert (report.retried, report.parked, report.acknowledged) == (3, 3, 7)
    assert numbers(vhost_url, "parked") == [0, 1, 2]
    assert set(drain(vhost_url, "priced")) == {b"1", b"3"}
    assert any("there is no queue 'nowhere'" in each for each in warnings)


def test_without_a_retry_a_message_that_is_not_taken_ends_the_run_and_its_original_stays(
    connection: rmqkit.Connection, vhost_url: str
) -> None:
    fill(connection, "plain", 3)
    with pytest.raises(HandlerError, match="still in queue 'plain'"):
        connection.pipe("plain", lambda each: Message(each.body, "nowhere"))
    wait_until(lambda: ready(vhost_url, "plain") == 3)


@pytest.mark.parametrize("result", [True, b"raw", [b"raw"], [Verdict.ACK]])
def test_a_wrong_result_of_a_transform_ends_the_run_and_keeps_the_message(
    connection: rmqkit.Connection, vhost_url: str, result: object
) -> None:
    fill(connection, "plain", 1)
    with pytest.raises(HandlerError, match=r"handler tests\.broker\.test_workers\.\S+ returned a value of type"):
        connection.pipe("plain", lambda _: result)  # type: ignore[arg-type, return-value]
    wait_until(lambda: ready(vhost_url, "plain") == 1)


def test_a_stop_waits_for_the_confirms_of_what_was_sent(connection: rmqkit.Connection, vhost_url: str) -> None:
    fill(connection, "orders", 500)
    stop = Stop()

    def transform(order: Delivery) -> Message:
        if order.body == b"300":
            stop.request()
        return price(order)

    report = connection.pipe("orders", transform, stop=stop)
    wait_until(lambda: ready(vhost_url, "orders") == 500 - report.acknowledged)
    piped = numbers(vhost_url, "priced")
    assert len(piped) <= 301
    assert set(piped) >= set(range(500)) - set(numbers(vhost_url, "orders"))


def test_several_threads_share_the_work(connection: rmqkit.Connection, vhost_url: str) -> None:
    fill(connection, "orders", 300)
    together = threading.Barrier(2)

    def transform(order: Delivery) -> Message:
        if int(order.body) in (0, 150):
            together.wait(IN_TIME_S)
        return price(order)

    report = connection.pipe("orders", transform, concurrency=2, prefetch=50, idle_timeout_s=3)
    assert report.acknowledged == 300
    assert numbers(vhost_url, "priced") == list(range(300))


def test_cuts_lose_nothing(vhost_url: str, connection: rmqkit.Connection) -> None:
    fill(connection, "orders", 3000)
    with Proxy(vhost_url) as proxy, rmqkit.connect(proxy.url) as cut:
        seen = 0

        def transform(order: Delivery) -> Message:
            nonlocal seen
            seen += 1
            if seen % 700 == 0:
                proxy.reset()
            return price(order)

        cut.pipe("orders", transform, idle_timeout_s=3, prefetch=200)
    assert set(numbers(vhost_url, "priced")) == set(range(3000))
    assert ready(vhost_url, "orders") == 0


Run = Callable[[rmqkit.Connection, Callable[[Delivery], None]], object]


def iterate(connection: rmqkit.Connection, handle: Callable[[Delivery], None]) -> None:
    for delivery in connection.consume("plain", count=50):
        handle(delivery)


def handle_pairs(connection: rmqkit.Connection, handle: Callable[[Delivery], None]) -> None:
    def handle_each(pair: Sequence[Delivery]) -> None:
        for delivery in pair:
            handle(delivery)

    connection.handle_batches("plain", handle_each, size=2, count=50)


def pipe_each(connection: rmqkit.Connection, handle: Callable[[Delivery], None]) -> None:
    def handle_and_copy(delivery: Delivery) -> Message:
        handle(delivery)
        return Message(delivery.body, "priced")

    connection.pipe("plain", handle_and_copy, count=50)


WAYS: dict[str, Run] = {
    "iterate": iterate,
    "handle": lambda connection, handle: connection.handle("plain", handle, count=50),
    "handle_batches": handle_pairs,
    "pipe": pipe_each,
}
EACH_WAY = pytest.mark.parametrize("run", WAYS.values(), ids=list(WAYS))


@EACH_WAY
def test_deliveries_that_were_not_begun_when_the_connection_broke_are_handled_once(
    vhost_url: str, connection: rmqkit.Connection, run: Run
) -> None:
    fill(connection, "plain", 50)
    seen: Counter[bytes] = Counter()
    with Proxy(vhost_url) as proxy, rmqkit.connect(proxy.url) as cut:

        def handle(delivery: Delivery) -> None:
            seen[delivery.body] += 1
            if seen.total() == 1:
                proxy.reset()
                wait_until(lambda: not cut.is_connected)

        run(cut, handle)
    twice = {body for body, times in seen.items() if times > 1}
    assert (len(seen), ready(vhost_url, "plain")) == (50, 0)
    assert twice <= {b"0", b"1"}  # at most the two of a batch, whose acknowledgement was lost


@EACH_WAY
def test_closing_the_connection_ends_the_work_after_the_running_call(
    vhost_url: str, connection: rmqkit.Connection, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    fill(connection, "plain", 50)
    seen: list[bytes] = []
    with rmqkit.connect(vhost_url) as closed:

        def handle(delivery: Delivery) -> None:
            if not seen:
                closed.close()
            seen.append(delivery.body)

        with pytest.raises(rmqkit.ConnectionLost, match="closed"):
            run(closed, handle)
    assert len(seen) <= 2
    assert "subscribing again" not in caplog.text
    wait_until(lambda: ready(vhost_url, "plain") == 50)


def test_a_full_window_is_written_while_its_thread_waits_for_room(
    connection: rmqkit.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_publisher, "WAIT_S", 2 * IN_TIME_S)  # nothing else ends the wait
    publisher = connection.publisher(options=PublishOptions(window=10))
    published, taken = PublishedDeliveries(publisher, lambda: None), 0
    fill(connection, "plain", 1)
    with connection.consume("plain", count=1) as consumer:
        for delivery in consumer:
            for amount in (1, 25):
                started_s = time.monotonic()
                published.add(delivery, [Message(b"1", "priced")] * amount)
                while taken < 1:
                    taken += len(published.take())
                taken = 0
                assert time.monotonic() - started_s < IN_TIME_S
                wait_until(lambda: publisher._direct is not None, "messages bypass the background thread")
    published.close()


def test_a_source_is_woken_when_two_threads_end_its_deliveries_at_the_same_time(connection: rmqkit.Connection) -> None:
    both, woken = threading.Barrier(2), threading.Event()

    class Together(ThreadQueue[Any]):
        def put(self, item: Any) -> None:
            super().put(item)
            both.wait(IN_TIME_S)

    published = PublishedDeliveries(connection.publisher(), woken.set)
    published._ended = Together()
    fill(connection, "plain", 2)
    with connection.consume("plain", count=2) as consumer, ThreadPoolExecutor(2) as threads:
        pending = [Pending(delivery, 1, published._end) for delivery in consumer]
        list(threads.map(lambda each: each.set_result(Fate.CONFIRMED), pending))
    assert woken.is_set()


PROGRAM = """
import sys, rmqkit
with rmqkit.connect(sys.argv[1]) as connection:
    connection.pipe("orders", lambda order: [rmqkit.Message(order.body, "priced"), rmqkit.Message(order.body, "plain")])
"""


def test_a_program_killed_in_the_middle_loses_nothing(connection: rmqkit.Connection, vhost_url: str) -> None:
    fill(connection, "orders", 20_000)
    for least in (2000, 8000, 20_000):
        with subprocess.Popen([sys.executable, "-c", PROGRAM, vhost_url]) as process:
            try:
                wait_until(lambda least=least: ready(vhost_url, "priced") >= least)  # type: ignore[misc]
            finally:
                process.kill()
    connection.pipe(
        "orders", lambda each: [Message(each.body, "priced"), Message(each.body, "plain")], idle_timeout_s=3
    )
    for queue in ("priced", "plain"):
        assert set(numbers(vhost_url, queue)) == set(range(20_000))
    assert ready(vhost_url, "orders") == 0
