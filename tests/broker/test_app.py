"""An App runs functions of all kinds; however it ends, what it has done is settled, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import rmqkit
from rmqkit import (
    App,
    ConnectionLost,
    ConsumerCancelled,
    ConsumeReport,
    Delivery,
    HandlerError,
    InputError,
    Message,
    NotFound,
    Queue,
    Retry,
    SettingsError,
    Stop,
    Target,
    Topology,
)
from tests.broker.test_aio_workers import fill, numbers
from tests.support.proxy import Proxy
from tests.support.queues import consumers, open_channel, ready
from tests.support.wait import wait_for_queue, wait_until

IN_TIME_S = 60.0
SHOP = Topology(
    queues=(
        Queue("orders", retry=Retry((50,), "parked")),
        Queue("parked"),
        *map(Queue, ("plain", "other", "source", "target", "calls")),
    )
)


@pytest.fixture
def url(vhost_url: str) -> str:
    with rmqkit.connect(vhost_url) as connection:
        connection.apply(SHOP)
    return vhost_url


def quiet(_delivery: Delivery, _error: Exception) -> None:
    """Hear of a failure, and log nothing."""


@contextmanager
def running(app: App, url: str, **options: Any) -> Iterator[Future[dict[str, Any]]]:
    """Run an app on another thread during a block, and stop it; yield its outcome."""
    stop = Stop()
    with ThreadPoolExecutor(1) as thread:
        outcome: Future[dict[str, Any]] = thread.submit(app.run, url, topology=SHOP, stop=stop, **options)
        try:
            yield outcome
        finally:
            stop.request()
    wait_until(
        lambda: not [each for each in threading.enumerate() if each.name.startswith(("rmqkit-io", "rmqkit-aio"))]
    )


def test_functions_of_each_kind_run_together_until_a_stop_and_are_reported_by_queue(url: str) -> None:
    app, handled, awaited = App(), list[bytes](), list[bytes]()

    @app.handler("plain", concurrency=2)
    def handle(delivery: Delivery) -> None:
        handled.append(delivery.body)

    @app.handler("other")
    async def handle_on_loop(delivery: Delivery) -> None:
        await asyncio.sleep(0.001)
        awaited.append(delivery.body)

    @app.pipe("source", to=Target("", "middle"))
    def double(delivery: Delivery) -> list[Message]:
        return [Message(delivery.body)] * 2

    @app.pipe("middle", to=Target("", "target"))
    async def pass_on(delivery: Delivery) -> Message:
        return Message(delivery.body)

    @app.server("calls")
    def shout(request: Delivery) -> bytes:
        return request.body.upper()

    @app.server("whispers", concurrency=2)
    async def whisper(request: Delivery) -> bytes:
        return request.body.lower()

    for queue in ("plain", "other", "source"):
        fill(url, queue, 100)
    more = rmqkit.merge(SHOP, Topology(queues=(Queue("middle"), Queue("whispers"))))
    stop = Stop()
    with ThreadPoolExecutor(1) as thread, rmqkit.connect(url) as client:
        outcome = thread.submit(app.run, url, topology=more, apply=True, stop=stop)
        wait_until(lambda: len(handled) == len(awaited) == 100 and ready(url, "target") == 200)
        assert client.call(Message(b"Hello", "calls"), timeout_s=IN_TIME_S).body == b"HELLO"
        assert client.call(Message(b"Hello", "whispers"), timeout_s=IN_TIME_S).body == b"hello"
        stop.request()
    reports = outcome.result()
    done = {queue: each.acknowledged for queue, each in reports.items() if isinstance(each, ConsumeReport)}
    assert done == {"plain": 100, "other": 100, "source": 100, "middle": 200}
    assert {queue: each.replied for queue, each in reports.items() if queue not in done} == {"calls": 1, "whispers": 1}


def test_functions_get_batches_and_publish_on_the_connection_of_the_app(url: str) -> None:
    app, sizes = App(), list[int]()

    @app.batch_handler("source", size=50, within_s=60, count=100)
    def copy(batch: Sequence[Delivery]) -> None:
        sizes.append(len(batch))
        app.connection.publish(Message(each.body, "target") for each in batch)

    @app.batch_handler("other", size=10, within_s=0.01, concurrency=2, count=100)
    async def copy_on_loop(batch: Sequence[Delivery]) -> None:
        await app.aio_connection.publish(Message(each.body, "plain") for each in batch)

    for queue in ("source", "other"):
        fill(url, queue, 100)
    for connection in ("connection", "aio_connection"):
        with pytest.raises(ConnectionLost, match="the app is not running"):
            getattr(app, connection)
    app.run(url, topology=SHOP)
    assert sizes == [50, 50]
    assert numbers(url, "target") == numbers(url, "plain") == list(range(100))
    with pytest.raises(ConnectionLost, match="the app is not running"):
        app.connection.publish(Message(b"late", "plain"))


def test_an_option_that_does_not_exist_is_refused_by_the_decorator() -> None:
    app = App()
    for decorator in (app.handler, app.batch_handler, app.pipe):
        with pytest.raises(TypeError, match="cuont"):
            decorator("orders", cuont=1)  # type: ignore[call-arg]


def test_a_function_follows_the_retry_of_the_topology_and_ends_by_its_count(url: str) -> None:
    app = App()

    @app.handler("orders", count=2, on_failure=quiet)
    async def fail(_: Delivery) -> None:
        raise ValueError

    fill(url, "orders", 1)
    report = app.run(url, topology=SHOP)["orders"]
    assert isinstance(report, ConsumeReport)
    assert (report.retried, report.parked, numbers(url, "parked")) == (1, 1, [0])


def test_an_app_without_a_function_or_with_two_for_a_queue_is_refused() -> None:
    app = App()
    with pytest.raises(InputError, match="no functions"):
        app.run()
    app.handler("orders")(print)
    with pytest.raises(SettingsError, match="queue 'orders' has a function already"):
        app.server("orders")(str)
    with pytest.raises(SettingsError, match="needs a `topology=`"):
        app.run(apply=True)


# One function cannot go on


def app_that_is_busy(url: str, *, on_loop: bool) -> tuple[App, list[bytes], threading.Event]:
    """Return an app whose function is busy with a message of queue `plain` until the consumer of `calls` has ended.

    Return also what it has done, and whether it has begun.
    """
    app, done, begun = App(), list[bytes](), threading.Event()

    def work(delivery: Delivery) -> None:
        wait_until(lambda: begun.is_set() or consumers(url, "calls") == 1)
        begun.set()
        wait_until(lambda: consumers(url, "calls") == 0)
        done.append(delivery.body)

    async def work_on_loop(delivery: Delivery) -> None:
        await asyncio.to_thread(work, delivery)

    app.server("calls")(lambda _: None)
    if on_loop:
        app.handler("plain", concurrency=1)(work_on_loop)
    else:
        app.handler("plain")(work)
    fill(url, "plain", 10)
    return app, done, begun


@pytest.mark.parametrize("on_loop", [False, True])
def test_if_the_queue_of_one_is_deleted_the_others_finish_what_runs_and_the_error_is_raised(
    url: str, *, on_loop: bool
) -> None:
    app, done, begun = app_that_is_busy(url, on_loop=on_loop)
    app.pipe("source")(lambda _: None)
    with running(app, url) as outcome:
        assert begun.wait(IN_TIME_S)
        with open_channel(url) as channel:
            wait_for_queue(channel, "source", consumers=1)
            channel.queue_delete("source")
        with pytest.raises(ConsumerCancelled, match="source"):
            outcome.result(IN_TIME_S)
    assert done == [b"0"]
    assert numbers(url, "plain") == list(range(1, 10))


@pytest.mark.parametrize("on_loop", [False, True])
def test_if_a_function_fails_for_good_its_message_stays_and_the_others_finish_what_runs(
    url: str, *, on_loop: bool
) -> None:
    app, done, begun = app_that_is_busy(url, on_loop=on_loop)

    @app.handler("other", on_failure=quiet)
    def fail(delivery: Delivery) -> None:
        assert begun.wait(IN_TIME_S)
        if delivery.body == b"3":
            raise ValueError

    fill(url, "other", 10)
    with running(app, url) as outcome, pytest.raises(HandlerError, match="still in queue 'other'"):
        outcome.result(IN_TIME_S)
    assert numbers(url, "other") == list(range(3, 10))
    assert done == [b"0"]
    assert numbers(url, "plain") == list(range(1, 10))


def test_if_a_queue_is_missing_the_others_stop_and_the_error_is_raised(url: str) -> None:
    app, done = App(), list[int]()

    @app.server("nowhere")
    async def answer(_: Delivery) -> None: ...

    @app.handler("plain")
    def handle(delivery: Delivery) -> None:
        done.append(int(delivery.body))

    fill(url, "plain", 10)
    with running(app, url) as outcome, pytest.raises(NotFound, match="nowhere"):
        outcome.result(IN_TIME_S)
    assert numbers(url, "plain") == [number for number in range(10) if number not in done]


def test_a_wrong_result_is_an_error_that_stops_the_app(url: str) -> None:
    app = App()
    app.handler("plain")(lambda _: True)  # type: ignore[type-var]
    app.handler("other")(print)
    fill(url, "plain", 3)
    with pytest.raises(HandlerError, match="returned a value of type bool"):
        app.run(url, topology=SHOP)
    assert numbers(url, "plain") == [0, 1, 2]


# The broker goes away


def test_an_app_waits_for_its_broker_and_stops_at_once_while_it_waits() -> None:
    app = App()
    app.handler("plain")(print)
    with running(app, "amqp://127.0.0.1:1") as outcome:
        with suppress(TimeoutError):
            outcome.result(1)
        assert not outcome.done()
    assert outcome.result(IN_TIME_S) == {}
    with pytest.raises(rmqkit.Unreachable):
        app.run("amqp://127.0.0.1:1", wait_s=0)


def test_an_app_works_on_after_an_outage(url: str) -> None:
    app, handled = App(), set[bytes]()

    @app.handler("plain")
    def handle(delivery: Delivery) -> None:
        handled.add(delivery.body)

    @app.pipe("source", to=Target("", "target"))
    async def pass_on(delivery: Delivery) -> Message:
        return Message(delivery.body)

    with Proxy(url) as proxy, running(app, proxy.url) as outcome:
        for amount in (50, 100):
            wait_until(lambda: consumers(url, "plain") == consumers(url, "source") == 1)
            proxy.reset()
            fill(url, "plain", amount)
            fill(url, "source", amount)
            wait_until(lambda: len(handled) == amount and ready(url, "target") >= amount)  # noqa: B023 - in this round
    assert set(outcome.result()) == {"plain", "source"}
    assert set(numbers(url, "target")) == set(range(100))
    assert ready(url, "plain") == ready(url, "source") == 0


def test_an_app_stops_at_once_while_its_broker_is_away(url: str) -> None:
    app, lost = App(), threading.Event()
    app.handler("plain")(print)
    app.server("calls")(lambda _: None)

    class Watch(rmqkit.Hooks):
        def event(self, event: rmqkit.ConnectionEvent) -> None:
            if event.kind is rmqkit.EventKind.LOST:
                lost.set()

    with Proxy(url) as proxy, running(app, proxy.url, hooks=Watch()) as outcome:
        wait_until(lambda: consumers(url, "plain") == consumers(url, "calls") == 1)
        proxy.refuse()
        assert lost.wait(IN_TIME_S)
    assert set(outcome.result()) == {"plain", "calls"}


def test_an_app_ends_with_an_error_when_the_broker_stays_away_for_longer_than_recover_s(url: str) -> None:
    app = App()
    app.handler("plain")(print)
    app.server("calls")(lambda _: None)
    with Proxy(url) as proxy, running(app, proxy.url, recover_s=1) as outcome:
        wait_until(lambda: consumers(url, "plain") == consumers(url, "calls") == 1)
        proxy.refuse()
        with pytest.raises(rmqkit.ConnectionLost, match="could not reconnect"):
            outcome.result(IN_TIME_S)


# Signals

PROGRAM = """
import sys
import rmqkit

app = rmqkit.App()

@app.handler("plain", prefetch=5)
def slow(delivery):
    print("begun", flush=True)
    sys.stdin.readline()

@app.handler("other")
async def idle(_): ...

reports = app.run(sys.argv[1], wait_s=60)
print(reports["plain"].acknowledged if reports else "never connected")
"""


@contextmanager
def program(url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_functions_finish_and_requeues_the_rest(url: str, number: signal.Signals) -> None:
    fill(url, "plain", 10)
    with program(url) as process, open_channel(url) as channel:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        wait_for_queue(channel, "other", consumers=1)
        process.send_signal(number)
        wait_for_queue(channel, "other", consumers=0)
        assert process.poll() is None
        output, _ = process.communicate("\n", timeout=IN_TIME_S)
        assert (process.returncode, output) == (0, "1\n")
    assert numbers(url, "plain") == list(range(1, 10))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once_and_requeues_all_that_runs(url: str, number: signal.Signals) -> None:
    fill(url, "plain", 10)
    with program(url) as process, open_channel(url) as channel:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        wait_for_queue(channel, "other", consumers=1)
        process.send_signal(signal.SIGTERM)
        wait_for_queue(channel, "other", consumers=0)
        process.send_signal(number)
        assert process.wait(IN_TIME_S) == -number
        wait_for_queue(channel, "plain", ready=10)


def test_a_signal_ends_the_wait_for_the_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as broker:
        url = f"amqp://127.0.0.1:{broker.getsockname()[1]}"
        with program(url) as process:
            broker.accept()[0].close()
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=IN_TIME_S / 2)[0] == "never connected\n"  # of 60 s that it would wait
            assert process.returncode == 0
