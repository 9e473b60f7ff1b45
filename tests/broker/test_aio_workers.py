"""Workers on an event loop: handle, handle_batches, pipe and serve; cancelled anywhere, they lose and leak nothing."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import pytest

import rmqkit
import rmqkit.aio
from rmqkit import Delivery, HandlerError, Message, Queue, Retry, Stop, Target, Topology, Verdict
from tests.broker.test_aio import IN_TIME_S, use
from tests.support.proxy import Proxy
from tests.support.queues import drain, ready
from tests.support.wait import wait_until

SHOP = Topology(queues=(Queue("orders", retry=Retry((50,), "parked")), Queue("parked"), Queue("plain")))


@pytest.fixture
def url(vhost_url: str) -> str:
    with rmqkit.connect(vhost_url) as connection:
        connection.apply(SHOP)
    return vhost_url


def fill(url: str, queue: str, amount: int) -> None:
    with rmqkit.connect(url) as connection:
        connection.publish(Message(b"%d" % number, queue) for number in range(amount))


def numbers(url: str, queue: str) -> list[int]:
    return sorted(int(body) for body in drain(url, queue))


def tasks_of_workers() -> list[str]:
    return [each.get_name() for each in asyncio.all_tasks() if "LoopCalls" in repr(each.get_coro())]


# Handle


def test_calls_run_together_and_each_delivery_is_acknowledged(url: str) -> None:
    fill(url, "orders", 200)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        together = asyncio.Barrier(50)
        running = most = 0

        async def handle(_: Delivery) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await together.wait()
            running -= 1

        report = await connection.handle("orders", handle, concurrency=50, count=200)
        assert (report.acknowledged, most) == (200, 50)

    use(url, test)
    assert ready(url, "orders") == 0


def test_failures_are_retried_parked_and_reported_as_those_of_a_function(url: str) -> None:
    fill(url, "orders", 3)
    failed: list[bytes] = []

    async def judge(order: Delivery) -> Verdict | None:
        await asyncio.sleep(0)
        if order.body == b"1":
            raise ValueError
        return Verdict.REJECT if order.body == b"2" else None

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        report = await connection.handle(
            "orders", judge, topology=SHOP, count=4, on_failure=lambda each, _: failed.append(each.body)
        )
        assert (report.acknowledged, report.retried, report.parked) == (4, 1, 2)

    use(url, test)
    assert failed == [b"1", b"1"]
    assert numbers(url, "parked") == [1, 2]


def test_a_wrong_result_ends_the_run_and_cancels_the_other_calls(url: str) -> None:
    fill(url, "plain", 5)

    async def wrong(order: Delivery) -> Verdict | None:
        if order.body != b"4":
            await asyncio.Event().wait()
        return True  # type: ignore[return-value]

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        with pytest.raises(HandlerError, match=r"wrong returned a value of type bool"):
            await connection.handle("plain", wrong)
        assert not tasks_of_workers()

    use(url, test)
    wait_until(lambda: ready(url, "plain") == 5)


@pytest.mark.parametrize("how", ["cancel", "task group"])
def test_cancelling_cancels_the_calls_and_requeues_their_messages(url: str, how: str) -> None:
    fill(url, "orders", 30)
    handled: list[int] = []

    async def handle(order: Delivery) -> None:
        if int(order.body) >= 10:
            await asyncio.Event().wait()
        handled.append(int(order.body))

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        async def fail() -> None:
            while len(handled) < 10:
                await asyncio.sleep(0.01)
            raise LookupError

        if how == "cancel":
            task = asyncio.create_task(connection.handle("orders", handle, concurrency=15))
            with suppress(LookupError):
                await fail()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(connection.handle("orders", handle, concurrency=15))
                    tasks.create_task(fail())
            assert len(handled) >= 10
        assert not tasks_of_workers()

    use(url, test)
    assert sorted(handled) == list(range(10))
    left = numbers(url, "orders")
    assert set(left) >= set(range(10, 30))


def test_a_stop_finishes_the_running_calls_and_begins_no_more(url: str) -> None:
    fill(url, "orders", 20)
    stop = Stop()

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        release = asyncio.Event()
        begun = 0

        async def handle(_: Delivery) -> None:
            nonlocal begun
            begun += 1
            await release.wait()

        task = asyncio.create_task(connection.handle("orders", handle, concurrency=5, stop=stop))
        while begun < 5:
            await asyncio.sleep(0.01)
        stop.request()
        asyncio.get_running_loop().call_later(0.2, release.set)
        report = await task
        assert (report.acknowledged, begun) == (5, 5)

    use(url, test)
    wait_until(lambda: ready(url, "orders") == 15)


def test_a_call_that_cancels_itself_requeues_its_message(url: str) -> None:
    fill(url, "orders", 1)

    async def handle(order: Delivery) -> None:
        if not order.redelivered:
            raise asyncio.CancelledError

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        report = await connection.handle("orders", handle, count=2)
        assert (report.requeued, report.acknowledged) == (1, 1)

    use(url, test)


def test_cuts_lose_nothing(url: str) -> None:
    fill(url, "orders", 1000)
    handled: set[int] = set()
    with Proxy(url) as proxy:

        async def handle(order: Delivery) -> None:
            await asyncio.sleep(0.001)
            handled.add(int(order.body))
            if len(handled) % 300 == 0:
                proxy.reset()

        async def test(connection: rmqkit.aio.AsyncConnection) -> None:
            await connection.handle("orders", handle, concurrency=20, idle_timeout_s=3)

        use(proxy.url, test)
    assert handled == set(range(1000))
    assert ready(url, "orders") == 0


# Batches, and from queue to exchange


def test_batches_are_passed_to_a_coroutine_function(url: str) -> None:
    fill(url, "orders", 25)
    batches: list[list[int]] = []

    async def take(batch: Sequence[Delivery]) -> list[Verdict | None]:
        await asyncio.sleep(0)
        batches.append([int(each.body) for each in batch])
        return [None] * len(batch)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        report = await connection.handle_batches("orders", take, size=10, within_s=0.2, count=25)
        assert report.acknowledged == 25

    use(url, test)
    assert batches == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


def test_a_pipe_publishes_and_acknowledges_and_loses_nothing_when_it_is_cancelled(url: str) -> None:
    fill(url, "orders", 3000)

    async def price(order: Delivery) -> list[Message]:
        await asyncio.sleep(random.uniform(0, 0.002))
        return [Message(order.body), Message(order.body)]

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        to = Target("", "plain")
        for least in (200, 1000):
            task = asyncio.create_task(connection.pipe("orders", price, to=to))
            while (await connection.queue_state("plain")).ready < least:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not tasks_of_workers()
        await connection.pipe("orders", price, to=to, idle_timeout_s=3)

    use(url, test)
    piped = numbers(url, "plain")
    assert set(piped) == set(range(3000))
    assert len(piped) >= 6000
    assert ready(url, "orders") == 0


# Serve


async def shout(request: Delivery) -> bytes:
    await asyncio.sleep(0.01)
    return request.body.upper()


def test_a_coroutine_function_serves_many_callers_until_a_stop(url: str) -> None:
    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        stop = Stop()
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(connection.serve("plain", shout, stop=stop))
            requests = [Message(b"call %d" % number, "plain") for number in range(40)]
            replies = await asyncio.gather(*(connection.call(each, timeout_s=IN_TIME_S) for each in requests))
            assert [reply.body for reply in replies] == [b"CALL %d" % number for number in range(40)]
            stop.request()
        assert (serving.result().requests, serving.result().replied) == (40, 40)

    use(url, test)


def test_a_request_whose_server_is_cancelled_is_answered_by_the_next(url: str) -> None:
    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        begun = asyncio.Event()

        async def hang(_: Delivery) -> bytes:
            begun.set()
            await asyncio.Event().wait()
            return b""

        calling = asyncio.create_task(connection.call(Message(b"hello", "plain"), timeout_s=IN_TIME_S))
        serving = asyncio.create_task(connection.serve("plain", hang, concurrency=2))
        await begun.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        stop = Stop()
        serving = asyncio.create_task(connection.serve("plain", shout, concurrency=1, stop=stop))
        assert (await calling).body == b"HELLO"
        stop.request()
        await serving

    use(url, test)


# A program

PROGRAM = """
import asyncio, signal, sys
import rmqkit.aio
from rmqkit import Stop

async def slow(delivery):
    print("begun", flush=True)
    await asyncio.sleep(0.5)
    print("ended", flush=True)

async def main():
    stop = Stop()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.request)
    async with rmqkit.aio.connect(sys.argv[1]) as connection:
        await connection.publish(rmqkit.Message(b"x", "plain") for _ in range(500))
        assert len([each async for each in connection.consume("plain", count=500)]) == 500
        report = await connection.handle("orders", slow, concurrency=3, stop=stop)
    print(report.acknowledged)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_stops_a_program_after_its_running_calls(url: str, loop: str) -> None:
    fill(url, "orders", 10)
    command = [sys.executable, "-c", PROGRAM, url, loop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for _ in range(3):
                assert process.stdout.readline() == "begun\n"
            process.terminate()
            stdout, _ = process.communicate(timeout=90)
        finally:
            process.kill()
    assert (stdout.split(), process.returncode) == (["ended"] * 3 + ["3"], 0)
    wait_until(lambda: ready(url, "orders") == 7)


def test_nothing_is_kept_of_the_messages_that_were_handled(url: str) -> None:
    fill(url, "orders", 5000)
    objects: dict[int, int] = {}

    async def work() -> None:
        async def handle(order: Delivery) -> Message:
            if int(order.body) in (1000, 4500):
                gc.collect()
                objects[int(order.body)] = len(gc.get_objects())
            return Message(order.body, "plain")

        async with rmqkit.aio.connect(url) as connection:
            await connection.pipe("orders", handle, count=5000, prefetch=200)

    asyncio.run(work())
    assert objects[4500] - objects[1000] < 2000
