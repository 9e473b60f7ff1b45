"""What hooks are told, and that they break nothing: against a real broker."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import pytest

import rmqkit
import rmqkit.aio
from rmqkit import ConnectionEvent, Delivery, EventKind, Fate, Message, Queue, Retry, Stop, Topology, Verdict
from rmqkit.handlers.forwarder import Forwarder
from tests.support.proxy import Proxy
from tests.support.queues import declare, drain_messages
from tests.support.wait import wait_until

user: ContextVar[str] = ContextVar("user", default="")


class Recorder(rmqkit.Hooks):
    """Notes every call; marks each message with the user of the thread or task that publishes it."""

    def __init__(self) -> None:
        self.fates: list[tuple[bytes, Fate]] = []
        self.seconds: list[float] = []
        self.users: list[str] = []
        self.arrived: list[bytes] = []
        self.handled: list[tuple[bytes, str]] = []
        self.verdicts: list[tuple[bytes, Verdict]] = []
        self.events: list[ConnectionEvent] = []

    def publishing(self, message: Message) -> Message:
        self.users.append(user.get())
        properties = replace(message.properties, headers={"user": user.get()})
        return replace(message, properties=properties)

    def settled(self, message: Message, fate: Fate, seconds: float) -> None:
        self.fates.append((message.body, fate))
        self.seconds.append(seconds)

    def received(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        assert queue
        self.arrived += [each.body for each in deliveries]

    @contextmanager
    def handling(self, queue: str, deliveries: Sequence[Delivery]) -> Iterator[None]:
        assert queue
        ended = "returned"
        try:
            yield
        except BaseException as error:
            ended = type(error).__name__
            raise
        finally:
            self.handled += [(each.body, ended) for each in deliveries]

    def consumed(self, queue: str, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        assert queue
        self.verdicts += [(each.body, verdict) for each in deliveries]

    def event(self, event: ConnectionEvent) -> None:
        self.events.append(event)


@pytest.fixture
def queue(queue_name: str, broker_url: str) -> str:
    declare(broker_url, queue_name)
    return queue_name


def _publish_one(connection: rmqkit.Connection, message: Message) -> None:
    connection.publish(message)


def _publish_many(connection: rmqkit.Connection, message: Message) -> None:
    connection.publish([message])


def _publish_in_background(connection: rmqkit.Connection, message: Message) -> None:
    with connection.publisher() as publisher:
        publisher.publish(message).result()


PUBLISH = [_publish_one, _publish_many, _publish_in_background]


@pytest.mark.parametrize("publish", PUBLISH)
def test_a_hook_changes_each_message_in_the_context_of_its_publisher_and_learns_its_fate(
    publish: Callable[[rmqkit.Connection, Message], None], broker_url: str, queue: str
) -> None:
    hooks = Recorder()
    user.set("ann")
    with rmqkit.connect(broker_url, hooks=hooks) as connection:
        publish(connection, Message(b"kept", queue))
        with pytest.raises(rmqkit.Unroutable):
            publish(connection, Message(b"lost", f"no {queue}"))
    assert hooks.fates == [(b"kept", Fate.CONFIRMED), (b"lost", Fate.RETURNED)]
    assert all(0 < seconds < 60 for seconds in hooks.seconds)
    (found,) = drain_messages(broker_url, queue)
    assert found.properties.headers == {"user": "ann"}


@pytest.mark.parametrize("publish", PUBLISH)
def test_a_hook_learns_that_amqp_cannot_carry_a_message(
    publish: Callable[[rmqkit.Connection, Message], None], broker_url: str
) -> None:
    hooks = Recorder()
    with rmqkit.connect(broker_url, hooks=hooks) as connection, pytest.raises(rmqkit.PayloadError):
        publish(connection, Message(b"x", "a" * 300))
    assert hooks.fates == [(b"x", Fate.REFUSED)]


def test_threads_that_publish_together_keep_their_contexts(broker_url: str, queue: str) -> None:
    hooks, threads = Recorder(), 8
    started = threading.Barrier(threads)
    with rmqkit.connect(broker_url, hooks=hooks) as connection:

        def publish(name: str) -> None:
            user.set(name)
            started.wait()
            for _ in range(20):
                connection.publish(Message(name.encode(), queue))

        running = [threading.Thread(target=publish, args=(f"user {number}",)) for number in range(threads)]
        for each in running:
            each.start()
        for each in running:
            each.join()
    found = drain_messages(broker_url, queue)
    assert len(found) == len(hooks.fates) == 20 * threads
    assert all(each.properties.headers == {"user": each.body.decode()} for each in found)


def test_a_loop_a_function_and_a_verdict_are_observed(broker_url: str, queue: str) -> None:
    hooks = Recorder()

    def handle(delivery: Delivery) -> Verdict | None:
        if delivery.body == b"3":
            raise ValueError("secret")
        return Verdict.REJECT if delivery.body == b"2" else None

    with rmqkit.connect(broker_url, hooks=hooks) as connection:
        connection.publish(Message(b"%d" % number, queue) for number in range(6))
        for delivery in connection.consume(queue, count=1):
            assert delivery.body == b"0"
        rmqkit.handle(
            connection, queue, handle, count=3, failed=rmqkit.FailurePolicy.REJECT, on_failure=lambda _, __: None
        )
        for _delivery in connection.consume(queue, count=2):
            break
    assert hooks.handled == [
        (b"0", "returned"), (b"1", "returned"), (b"2", "returned"), (b"3", "ValueError"), (b"4", "GeneratorExit"),
    ]  # fmt: skip
    assert hooks.verdicts == [
        (b"0", Verdict.ACK), (b"1", Verdict.ACK), (b"2", Verdict.REJECT), (b"3", Verdict.REJECT),
    ]  # fmt: skip
    assert hooks.arrived[:5] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_call_is_observed_on_both_sides(broker_url: str, queue: str) -> None:
    client_hooks, server_hooks, stop = Recorder(), Recorder(), Stop()
    user.set("ann")
    seen: list[str] = []
    with (
        rmqkit.connect(broker_url, hooks=client_hooks) as client,
        rmqkit.connect(broker_url, hooks=server_hooks) as server,
    ):

        @server.serve(queue)
        def answer(request: Delivery) -> bytes:
            seen.append((request.properties.headers or {})["user"])
            if request.body == b"bad":
                raise rmqkit.HandlerError("no")
            return b"reply"

        thread = threading.Thread(target=server.run, kwargs={"stop": stop, "on_failure": lambda _, __: None})
        thread.start()
        try:
            assert client.call(Message(b"good", queue)).body == b"reply"
            with pytest.raises(rmqkit.RemoteError):
                client.call(Message(b"bad", queue))
            with pytest.raises(rmqkit.Unroutable):
                client.call(Message(b"lost", f"no {queue}"))
        finally:
            stop.request()
            thread.join()
    assert client_hooks.fates == [(b"good", Fate.CONFIRMED), (b"bad", Fate.CONFIRMED), (b"lost", Fate.RETURNED)]
    assert seen == ["ann", "ann"]
    assert server_hooks.handled == [(b"good", "returned"), (b"bad", "HandlerError")]
    assert [fate for _, fate in server_hooks.fates] == [Fate.CONFIRMED] * 2  # of the replies


def test_tasks_are_observed_in_their_own_context(broker_url: str, queue: str) -> None:
    hooks = Recorder()

    async def publish(connection: rmqkit.aio.AsyncConnection, name: str) -> None:
        user.set(name)
        await connection.publish(Message(name.encode(), queue))

    async def run() -> None:
        async with rmqkit.aio.connect(broker_url, hooks=hooks) as connection:
            await asyncio.gather(*(publish(connection, f"user {number}") for number in range(50)))
            async for delivery in connection.consume(queue, count=50):
                assert delivery.properties.headers == {"user": delivery.body.decode()}
            user.set("caller")
            with pytest.raises(rmqkit.Unroutable):
                await connection.call(Message(b"request", f"no {queue}"))

    asyncio.run(run())
    assert hooks.users[-1] == "caller"
    assert hooks.fates.pop() == (b"request", Fate.RETURNED)
    assert len(hooks.fates) == len(hooks.arrived) == len(hooks.handled) == len(hooks.verdicts) == 50


def test_copies_of_failed_and_of_forwarded_messages_are_passed_to_no_hook(vhost_url: str) -> None:
    topology = Topology(queues=(Queue("orders", retry=Retry((1,), "parked")), Queue("parked"), Queue("other")))
    recorder = Recorder()

    def fail(_: Delivery) -> None:
        raise ValueError

    with rmqkit.connect(vhost_url, hooks=recorder) as connection:
        connection.apply(topology)
        connection.publish(Message(b"1", "orders"))
        report = rmqkit.handle(connection, "orders", fail, topology=topology, count=2)
        assert (report.retried, report.parked) == (1, 1)
        forwarder = Forwarder(rmqkit.connect(vhost_url, hooks=recorder), "", "other")
        assert rmqkit.handle(connection, "parked", forwarder, count=1).acknowledged == 1
        forwarder.close()
    (forwarded,) = drain_messages(vhost_url, "other")
    assert forwarded.properties.headers["x-rmqkit-attempts"] == 2
    assert (len(recorder.users), recorder.fates) == (1, [(b"1", Fate.CONFIRMED)])


def test_hooks_that_raise_change_nothing_and_are_logged_once(
    broker_url: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(rmqkit.Hooks):
        def _fail(self, *_: object) -> None:
            raise RuntimeError("broken")

        publishing = settled = received = handling = consumed = event = _fail  # type: ignore[assignment]

    with rmqkit.connect(broker_url, hooks=Broken()) as connection:
        for number in range(3):
            connection.publish(Message(b"%d" % number, queue))
        assert [each.body for each in connection.consume(queue, count=3)] == [b"0", b"1", b"2"]
        wait_until(lambda: "the hook event failed" in caplog.text)
    failed = [each.getMessage().split()[2] for each in caplog.records if each.name == "rmqkit.hooks"]
    assert sorted(failed) == ["consumed", "event", "handling", "publishing", "received", "settled"]
    assert not drain_messages(broker_url, queue)


def test_a_block_of_a_hook_that_suppresses_or_raises_does_not_hide_the_error_of_the_handler(
    broker_url: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Suppressing(rmqkit.Hooks):
        @contextmanager
        def handling(self, _queue: str, deliveries: Sequence[Delivery]) -> Iterator[None]:
            try:
                yield
            except ValueError:
                if deliveries[0].body == b"raise":
                    raise RuntimeError("of the hook") from None

    def fail(_: Delivery) -> None:
        raise ValueError("of the handler")

    errors: list[str] = []
    with rmqkit.connect(broker_url, hooks=Suppressing()) as connection:
        connection.publish([Message(b"suppress", queue), Message(b"raise", queue)])
        report = rmqkit.handle(
            connection, queue, fail, count=2, failed=rmqkit.FailurePolicy.REJECT,
            on_failure=lambda _, error: errors.append(str(error)),
        )  # fmt: skip
    assert (report.failed, errors) == (2, ["of the handler"] * 2)
    assert [each.levelno for each in caplog.records if each.name == "rmqkit.hooks"] == [logging.ERROR]


def test_a_message_that_was_never_taken_is_of_unknown_fate(broker_url: str, queue: str) -> None:
    hooks = Recorder()
    with Proxy(broker_url) as proxy, rmqkit.connect(proxy.url, hooks=hooks, recover_s=0) as connection:
        proxy.refuse()
        wait_until(lambda: not connection.is_connected)
        with connection.publisher() as publisher:
            failed = publisher.publish(Message(b"x", queue))
            assert isinstance(failed.exception(timeout=60), rmqkit.ConnectionLost)
    assert hooks.fates == [(b"x", Fate.UNKNOWN)]


def test_events_tell_of_a_loss_but_not_of_a_close(broker_url: str, queue: str) -> None:
    hooks = Recorder()
    with Proxy(broker_url) as proxy, rmqkit.connect(proxy.url, name="shop", hooks=hooks) as connection:
        consumer = connection.consume(queue, count=1)
        consumer.subscribe()
        proxy.reset()
        wait_until(lambda: [each.kind for each in hooks.events] == [EventKind.CONNECTED, EventKind.LOST])
        connection.publish(Message(b"x", queue))
        assert [each.body for each in consumer] == [b"x"]
    consuming = [each for each in hooks.events if each.connection == "shop consumer"]
    assert [each.kind for each in consuming] == [EventKind.CONNECTED, EventKind.LOST, EventKind.RECOVERED]
    assert consuming[1].reason
    assert {each.address for each in consuming} == {proxy.url.replace(":guest@", ":***@")}
    assert [each.kind for each in hooks.events if each.connection == "shop publisher"] == [EventKind.CONNECTED]


def test_an_event_tells_of_a_cancelled_consumer(broker_url: str, queue: str) -> None:
    hooks = Recorder()
    with rmqkit.connect(broker_url, hooks=hooks) as connection:
        consumer = connection.consume(queue)
        consumer.subscribe()
        connection.delete(rmqkit.Queue(queue))
        with pytest.raises(rmqkit.ConsumerCancelled):
            next(iter(consumer))
        wait_until(lambda: hooks.events[-1].kind is EventKind.CANCELLED)
    assert queue in hooks.events[-1].reason
