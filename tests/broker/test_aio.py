"""What `rmqkit.aio` promises, against a real broker; what is in a queue is told by pika."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest

import rmqkit
import rmqkit.aio
from rmqkit import Delivery, Message, Properties, PublishOptions, Queue, Stop, Topology, Verdict
from tests.support.proxy import Proxy
from tests.support.queues import declare, drain, ready
from tests.support.wait import wait_until

IN_TIME_S = 30.0  # generous: a busy machine is no failure
Use = Callable[[rmqkit.aio.AsyncConnection], Coroutine[Any, Any, None]]


@pytest.fixture
def queue(queue_name: str, broker_url: str) -> str:
    declare(broker_url, queue_name)
    return queue_name


@pytest.fixture
def proxy(broker_url: str) -> Iterator[Proxy]:
    with Proxy(broker_url) as started:
        yield started


def use(url: str, test: Use, *, recover_s: float = 60.0) -> None:
    """Run a test with a connection; asyncio's debug mode reports what was never awaited, or never retrieved."""

    async def run() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
        async with asyncio.timeout(2 * IN_TIME_S), rmqkit.aio.connect(url, recover_s=recover_s) as connection:
            await test(connection)
        await asyncio.sleep(0)
        assert not reports

    asyncio.run(run(), debug=True)
    wait_until(lambda: not [each.name for each in threading.enumerate() if each.name.startswith("rmqkit-aio")])


# Publishing


def test_one_message_or_many_are_confirmed_and_in_order(broker_url: str, queue: str) -> None:
    async def later() -> AsyncIterator[Message]:
        for number in range(3):
            await asyncio.sleep(0)
            yield Message(b"later %d" % number, queue)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        assert (await connection.publish(Message(b"one", queue))).confirmed == 1
        report = await connection.publish(Message(b"%d" % number, queue) for number in range(500))
        assert (report.published, report.confirmed) == (500, 500)
        assert (await connection.publish(later())).confirmed == 3
        assert (await connection.publish([])).published == 0

    use(broker_url, test)
    later_bodies = [b"later %d" % number for number in range(3)]
    assert drain(broker_url, queue) == [b"one", *(b"%d" % number for number in range(500)), *later_bodies]


def test_a_thousand_tasks_publish_on_one_channel(broker_url: str, queue: str) -> None:
    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        reports = await asyncio.gather(*(connection.publish(Message(b"%d" % each, queue)) for each in range(1000)))
        assert all(report.confirmed == 1 for report in reports)
        assert len(connection.sync._publishing._connected()._channels) == 1

    use(broker_url, test)
    assert drain(broker_url, queue) == [b"%d" % each for each in range(1000)]


def test_failures_are_the_errors_of_the_synchronous_library(broker_url: str, queue: str) -> None:
    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        with pytest.raises(rmqkit.Unroutable, match="there is no queue 'nowhere'"):
            await connection.publish(Message(b"", "nowhere"))
        with pytest.raises(rmqkit.NotFound, match="nowhere"):
            await connection.publish(Message(b"", queue, exchange="nowhere"))
        with pytest.raises(rmqkit.PayloadError, match="priority"):
            await connection.publish(Message(b"", queue, properties=Properties(priority=300)))
        with pytest.raises(rmqkit.PayloadError, match="Message, not bytes"):
            await connection.publish([b"raw"])  # type: ignore[list-item]
        failures: list[rmqkit.Failure] = []
        mixed = [Message(b"1", queue), Message(b"2", "nowhere"), Message(b"3", queue, exchange="nowhere")]
        report = await connection.publish(mixed, check=False, on_failure=failures.append)
        assert (report.confirmed, report.returned, report.refused) == (1, 1, 1)
        assert sorted(each.index for each in failures) == [1, 2]
        with pytest.raises(rmqkit.NotConfirmed):
            await connection.publish(mixed)
        unroutable = PublishOptions(mandatory=False)
        assert (await connection.publish(Message(b"", "nowhere"), options=unroutable)).confirmed == 1

    use(broker_url, test)


def test_an_error_of_the_input_is_raised_after_the_messages_before_it_are_confirmed(
    broker_url: str, queue: str
) -> None:
    def breaking(error: Exception) -> Iterator[Message]:
        yield from (Message(b"%d" % number, queue) for number in range(10))
        raise error

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        for error in (ValueError("mine"), TimeoutError("mine")):
            with pytest.raises(type(error), match="mine"):
                await connection.publish(breaking(error), timeout_s=IN_TIME_S)
        with pytest.raises(rmqkit.PayloadError, match="not bytes"):
            await connection.publish(b"raw")  # type: ignore[arg-type]
        assert ready(broker_url, queue) == 20

    use(broker_url, test)


def test_a_timeout_bounds_publishing_and_the_loop_never_waits(proxy: Proxy, broker_url: str, queue: str) -> None:
    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        narrow = PublishOptions(window=2)
        await connection.publish(Message(b"first", queue), options=narrow)
        proxy.down.blackhole = True
        started_s = time.monotonic()
        publishes = [connection.publish(Message(b"", queue), options=narrow, timeout_s=0.3) for _ in range(5)]
        publishes.append(connection.publish([Message(b"", queue)] * 3, options=narrow, timeout_s=0.3))
        errors = await asyncio.gather(*publishes, return_exceptions=True)
        assert all(isinstance(error, rmqkit.NotConfirmed) for error in errors)
        assert time.monotonic() - started_s < 10
        proxy.heal()
        await connection.publish(Message(b"last", queue), options=narrow)

    use(proxy.url, test)
    assert {b"first", b"last"} <= set(drain(broker_url, queue))


def test_a_cancelled_publish_is_not_sent_if_it_was_not_sent_yet(proxy: Proxy, broker_url: str, queue: str) -> None:
    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        narrow = PublishOptions(window=1)
        await connection.publish(Message(b"first", queue), options=narrow)
        proxy.down.blackhole = True
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(connection.publish(Message(b"sent", queue), options=narrow))
                await asyncio.sleep(0.05)
                for _ in range(10):
                    tasks.create_task(connection.publish(Message(b"never", queue), options=narrow))
                tasks.create_task(_fail_soon())
        proxy.heal()
        await connection.publish(Message(b"last", queue), options=narrow)

    use(proxy.url, test)
    bodies = drain(broker_url, queue)
    assert b"never" not in bodies
    assert {b"first", b"last"} <= set(bodies)


async def _fail_soon() -> None:
    await asyncio.sleep(0.05)
    raise ValueError


def test_cuts_lose_no_confirmed_message(proxy: Proxy, broker_url: str, queue: str) -> None:
    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        for start in range(0, 2000, 500):
            proxy.up.cut_after = 3000
            numbers = range(start, start + 500)
            reports = await asyncio.gather(*(connection.publish(Message(b"%d" % each, queue)) for each in numbers))
            assert all(report.confirmed for report in reports)

    use(proxy.url, test)
    assert proxy.accepted > 3
    assert {int(body) for body in drain(broker_url, queue)} == set(range(2000))


def test_when_recovery_fails_every_publish_ends_those_too_that_were_called_during_it(
    proxy: Proxy, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        await connection.publish(Message(b"first", queue))
        proxy.down.blackhole = True
        publishes = [asyncio.create_task(connection.publish(Message(b"", queue))) for _ in range(3)]
        await asyncio.sleep(0.05)  # they are sent
        proxy.refuse()
        while "reconnecting" not in caplog.text:
            await asyncio.sleep(0.01)
        publishes += [asyncio.create_task(connection.publish(Message(b"", queue))) for _ in range(3)]
        publishes.append(asyncio.create_task(connection.publish([Message(b"", queue)] * 3)))
        errors = await asyncio.wait_for(asyncio.gather(*publishes, return_exceptions=True), IN_TIME_S)
        assert [type(error) for error in errors] == [rmqkit.ConnectionLost] * 7
        reports = [error.report for error in errors if isinstance(error, rmqkit.ConnectionLost)]
        assert [(report.published, report.unknown) for report in reports] == [(1, 1)] * 6 + [(3, 3)]

    use(proxy.url, test, recover_s=0.5)


# Consuming


def _fill(url: str, queue: str, amount: int) -> None:
    with rmqkit.connect(url) as connection:
        connection.publish(Message(b"%d" % number, queue) for number in range(amount))


def test_iterating_acknowledges_and_break_returns_the_rest(broker_url: str, queue: str) -> None:
    _fill(broker_url, queue, 100)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        seen = []
        async for delivery in connection.consume(queue, prefetch=10):
            seen.append(int(delivery.body))
            if len(seen) == 40:
                break
        consumer = connection.consume(queue, count=61)
        seen += [int(delivery.body) async for delivery in consumer]
        assert sorted(seen) == sorted([*range(40), *range(39, 100)])  # the first consumer is closed meanwhile
        assert consumer.report.acknowledged == 61

    use(broker_url, test)
    assert ready(broker_url, queue) == 0


def test_a_cancelled_consumer_loses_nothing(broker_url: str, queue: str) -> None:
    _fill(broker_url, queue, 50)
    handled: list[int] = []

    async def handle(connection: rmqkit.aio.AsyncConnection) -> None:
        async with connection.consume(queue, prefetch=20) as deliveries:
            async for delivery in deliveries:
                if len(handled) == 10:
                    await asyncio.Event().wait()  # cancelled here: this one was not handled
                handled.append(int(delivery.body))

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        task = asyncio.create_task(handle(connection))
        while len(handled) < 10:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    use(broker_url, test)
    assert handled == list(range(10))
    assert sorted(int(body) for body in drain(broker_url, queue)) == list(range(10, 50))


def test_deliveries_are_settled_by_hand_and_a_second_loop_continues(broker_url: str, queue: str) -> None:
    _fill(broker_url, queue, 6)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        async with connection.consume(queue, idle_timeout_s=5.0) as deliveries:
            async for delivery in deliveries:
                if delivery.body == b"1":
                    deliveries.reject(delivery)
                if delivery.body == b"2":
                    deliveries.acknowledge(delivery)
                    break
            async for delivery in deliveries:
                if delivery.body == b"5":
                    break  # returns to the queue
        assert (deliveries.report.acknowledged, deliveries.report.rejected) == (4, 1)

    use(broker_url, test)
    assert drain(broker_url, queue) == [b"5"]


def test_batches_are_settled_together_and_an_idle_consumer_ends(broker_url: str, queue: str) -> None:
    _fill(broker_url, queue, 3000)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        bodies: list[bytes] = []
        async with connection.consume(queue, idle_timeout_s=2) as deliveries:
            async for batch in deliveries.batches():
                bodies += [delivery.body for delivery in batch]
                deliveries.settle(batch, Verdict.ACK)
        assert [int(body) for body in bodies] == list(range(3000))

    use(broker_url, test)
    assert ready(broker_url, queue) == 0


def test_no_ack_hands_out_everything_once(broker_url: str, queue: str) -> None:
    _fill(broker_url, queue, 500)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        seen = [int(each.body) async for each in connection.consume(queue, no_ack=True, count=500)]
        assert seen == list(range(500))

    use(broker_url, test)
    assert ready(broker_url, queue) == 0


def test_a_consumer_survives_cuts(proxy: Proxy, broker_url: str, queue: str) -> None:
    _fill(broker_url, queue, 400)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        seen: set[int] = set()
        async with connection.consume(queue, prefetch=20) as deliveries:
            async for delivery in deliveries:
                seen.add(int(delivery.body))
                if len(seen) % 100 == 50:
                    proxy.reset()
                if len(seen) == 400:
                    deliveries.acknowledge(delivery)
                    break

    use(proxy.url, test)
    assert ready(broker_url, queue) == 0


@pytest.mark.parametrize("in_batches", [False, True])
def test_deliveries_that_were_not_begun_when_the_connection_broke_come_once_and_the_count_is_kept(
    proxy: Proxy, broker_url: str, queue: str, in_batches: bool
) -> None:
    _fill(broker_url, queue, 50)
    seen: Counter[bytes] = Counter()

    async def handle(connection: rmqkit.aio.AsyncConnection, delivery: Delivery) -> None:
        seen[delivery.body] += 1
        if seen.total() == 1:
            await asyncio.sleep(0.5)  # by now all have arrived
            transport = connection.sync._consuming._connected()
            proxy.reset()
            while transport.lost is None:
                await asyncio.sleep(0.01)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        consumer = connection.consume(queue, count=50)
        if in_batches:
            async for batch in consumer.batches():
                for delivery in batch[:1] if not seen else batch:
                    await handle(connection, delivery)
                consumer.settle(batch, Verdict.ACK)
        else:
            async for delivery in consumer:
                await handle(connection, delivery)

    use(proxy.url, test)
    assert (len(seen), ready(broker_url, queue)) == (50, 0)
    assert {body for body, times in seen.items() if times > 1} <= {b"0"}


def test_errors_of_a_consumer_are_raised_in_its_task(broker_url: str, queue: str) -> None:
    async def delete_queue_while_consuming(connection: rmqkit.aio.AsyncConnection) -> None:
        async for _ in connection.consume(queue):
            await connection.run(connection.sync.destroy, Topology(queues=(Queue(queue),)), force=True)

    async def test(connection: rmqkit.aio.AsyncConnection) -> None:
        with pytest.raises(rmqkit.NotFound, match="nowhere"):
            async for _ in connection.consume("nowhere"):
                pass
        await connection.publish(Message(b"", queue))
        with pytest.raises(rmqkit.ConsumerCancelled):
            await delete_queue_while_consuming(connection)

    use(broker_url, test)


# The rest


def test_callers_at_once_get_their_own_replies_and_the_topology_is_applied(broker_url: str, queue_name: str) -> None:
    stop = Stop()
    with rmqkit.connect(broker_url) as server:
        server.apply(Topology(queues=(Queue(queue_name),)))

        @server.serve(queue_name, prefetch=50)
        def shout(request: Delivery) -> bytes:
            return request.body.upper()

        thread = threading.Thread(target=server.run, kwargs={"stop": stop})
        thread.start()

        async def test(connection: rmqkit.aio.AsyncConnection) -> None:
            plan = await connection.apply(Topology(queues=(Queue(queue_name),)))
            assert not plan.changes
            requests = [Message(b"call %d" % number, queue_name) for number in range(50)]
            replies = await asyncio.gather(*(connection.call(each, timeout_s=IN_TIME_S) for each in requests))
            assert [reply.body for reply in replies] == [b"CALL %d" % number for number in range(50)]
            assert (await connection.queue_state(queue_name)).consumers == 1

        use(broker_url, test)
        stop.request()
        thread.join()


def test_connecting_can_be_cancelled_and_raises_the_errors_of_connect(broker_url: str) -> None:
    async def test() -> None:
        with pytest.raises(rmqkit.Unreachable):
            async with rmqkit.aio.connect("amqp://guest:guest@127.0.0.1:1/"):
                pass
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), rmqkit.aio.connect(broker_url):
                pass

    asyncio.run(test())
    wait_until(lambda: not [each.name for each in threading.enumerate() if each.name.startswith("rmqkit-aio")])
    wait_until(lambda: not [each.name for each in threading.enumerate() if each.name.startswith("rmqkit-io")])


def test_a_cancelled_wait_for_the_broker_leaves_no_thread_that_waits_on() -> None:
    async def test() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), rmqkit.aio.connect("amqp://127.0.0.1:1/", wait_s=3600):
                pass

    asyncio.run(test())
    wait_until(lambda: not [each.name for each in threading.enumerate() if each.name.startswith("rmqkit-aio")])


def test_a_connection_that_is_not_open_says_so_and_closing_twice_is_nothing(broker_url: str, queue: str) -> None:
    async def run() -> None:
        connection = rmqkit.aio.connect(broker_url)
        uses: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "one": lambda: connection.publish(Message(b"x", queue)),
            "many": lambda: connection.publish([Message(b"x", queue)]),
            "call": lambda: connection.call(Message(b"x", queue)),
            "state": lambda: connection.queue_state(queue),
            "consume": lambda: anext(aiter(connection.consume(queue))),
        }
        for use in uses.values():
            with pytest.raises(rmqkit.ConnectionLost, match="the connection is not open\nOpen it with"):
                await use()
        async with connection:
            await connection.publish(Message(b"x", queue))
            with pytest.raises(rmqkit.ConnectionLost, match="opened before"):
                await connection.__aenter__()
        await asyncio.gather(connection.close(), connection.close())
        for use in uses.values():
            with pytest.raises(rmqkit.ConnectionLost, match="was closed") as raised:
                await use()
            assert pickle.loads(pickle.dumps(raised.value)).message == raised.value.message
        with pytest.raises(rmqkit.ConnectionLost, match="opened before"):
            await connection.__aenter__()

    asyncio.run(run())
    assert drain(broker_url, queue) == [b"x"]
