"""What a connection promises, against a real broker; what is in a queue is told by pika, not by rmqkit."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Binding, Exchange, Fate, Message, Outcome, Properties, PublishOptions, Queue, Topology
from rmqkit.amqp.transport import PURE_PIKA
from tests.conftest import Broker
from tests.support.queues import drain
from tests.support.versions import version
from tests.support.wait import wait_for_queue, wait_until

DURABLE = Properties()


@pytest.fixture
def queue(queue_name: str, connection: rmqkit.Connection) -> str:
    connection.apply(Topology(queues=(Queue(queue_name),)))
    return queue_name


def _depth(channel: BlockingChannel, queue: str) -> int:
    """Return how many messages are ready, once nothing is on its way back into the queue."""
    deadline, depth = time.monotonic() + 5, -1
    while time.monotonic() < deadline:
        last, depth = depth, channel.queue_declare(queue, passive=True).method.message_count
        if last == depth:
            break
        channel.connection.sleep(0.05)
    return int(depth)


def _numbers(queue: str, amount: int) -> Iterator[Message]:
    return (Message(b"%d" % number, queue) for number in range(amount))


# Declaring


@pytest.mark.unguessed_api
def test_applying_creates_every_kind_of_entity_and_a_second_time_changes_nothing(
    connection: rmqkit.Connection, channel: BlockingChannel, namespace: Any
) -> None:
    exchanges = tuple(
        Exchange(namespace.exchange(kind), type=kind) for kind in ("direct", "fanout", "topic", "headers")
    )
    queue = namespace.queue("sink 🐇 / % ? # @ : عربى")
    last = namespace.exchange("last")
    topology = Topology(
        exchanges=(*exchanges, Exchange(last, durable=False, internal=True, type="fanout")),
        queues=(Queue(queue, arguments={"x-max-length": 10, "x-overflow": "reject-publish"}),),
        bindings=(
            Binding(exchanges[0].name, queue, routing_key="k"),
            Binding(exchanges[1].name, last, "exchange"),
            Binding(exchanges[2].name, queue, routing_key="a.*.#"),
            Binding(exchanges[3].name, queue, arguments={"x-match": "all", "n": 1, "s": "x", "b": True}),
            Binding(last, queue),
        ),
    )
    first, second = connection.apply(topology), connection.apply(topology)
    assert [step.outcome for step in first.steps] == [Outcome.CREATE] * 6 + [Outcome.DECLARE] * 5
    assert [step.outcome for step in second.steps] == [Outcome.UNCHANGED] * 6 + [Outcome.DECLARE] * 5
    for exchange, key in ((0, "k"), (1, ""), (2, "a.b.c.d")):
        channel.basic_publish(exchanges[exchange].name, key, b"x")
    channel.basic_publish(exchanges[3].name, "", b"x", pika.BasicProperties(headers={"n": 1, "s": "x", "b": True}))
    wait_for_queue(channel, queue, ready=4)


def test_a_plan_changes_nothing(connection: rmqkit.Connection, channel: BlockingChannel, namespace: Any) -> None:
    name = namespace.queue()
    assert connection.plan(Topology(queues=(Queue(name),))).steps[0].outcome is Outcome.CREATE
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        channel.queue_declare(name, passive=True)


def test_conflicts_are_reported_all_at_once_with_every_difference_and_nothing_is_changed(
    connection: rmqkit.Connection, channel: BlockingChannel, namespace: Any
) -> None:
    queue, exchange, fresh = namespace.queue(), namespace.exchange(), namespace.queue("fresh")
    connection.apply(
        Topology(
            exchanges=(Exchange(exchange, type="topic"),),
            queues=(Queue(queue, arguments={"x-max-length": 10, "x-message-ttl": 5000}),),
        )
    )
    wanted = Topology(
        exchanges=(Exchange(exchange, type="fanout", durable=False),),
        queues=(
            Queue(fresh),
            Queue(queue, durable=False, arguments={"x-max-length": 20, "x-expires": 9}),
        ),
    )
    with pytest.raises(rmqkit.PropertyMismatch) as caught:
        connection.apply(wanted)
    by_name = {step.name: step for step in caught.value.report.conflicts}
    assert {(each.property, each.actual, each.expected) for each in by_name[exchange].differences} == {
        ("type", "topic", "fanout"),
        ("durable", "true", "false"),
    }
    assert {(each.property, each.actual, each.expected) for each in by_name[queue].differences} == {
        ("durable", "true", "false"),
        ("x-max-length", "10", "20"),
        ("x-expires", "none", "9"),
        ("x-message-ttl", "5000", "none"),
    }
    assert len(caught.value.problems) == 2
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        channel.queue_declare(fresh, passive=True)


@pytest.mark.unguessed_api
def test_a_queue_that_another_connection_holds_is_a_conflict(
    connection: rmqkit.Connection, channel: BlockingChannel, namespace: Any
) -> None:
    name = namespace.queue()
    channel.queue_declare(name, exclusive=True)
    step = connection.plan(Topology(queues=(Queue(name),))).steps[0]
    assert step.outcome is Outcome.CONFLICT
    assert "RESOURCE_LOCKED" in step.note
    channel.queue_delete(name)


def test_a_binding_to_something_missing_is_refused_by_name(connection: rmqkit.Connection) -> None:
    with pytest.raises(rmqkit.NotFound, match=r"binding nowhere -> neither"):
        connection.apply(Topology(bindings=(Binding("nowhere", "neither"),)))


# Publishing


def test_everything_published_is_confirmed_and_in_the_queue_in_order(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    report = connection.publish(_numbers(queue, 25_000))
    assert (report.published, report.confirmed, report.republished) == (25_000, 25_000, 0)
    assert report.complete
    assert drain(channel, queue) == [b"%d" % number for number in range(25_000)]


@pytest.mark.parametrize("size", [0, 1, 131_063, 131_064, 131_065, 2 * 131_064, 2 * 131_064 + 1, 5_000_000])
def test_bodies_of_any_size_arrive_byte_for_byte(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str, size: int
) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert connection.publish(Message(body, queue)).confirmed == 1
    with connection.consume(queue, count=1) as deliveries:
        assert [delivery.body for delivery in deliveries] == [body]
    connection.publish(Message(body, queue))
    assert drain(channel, queue) == [body]


def test_properties_arrive_as_they_were_given(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    headers = {
        "n": -5,
        "big": 2**62,
        "t": True,
        "none": None,
        "l": [1, "x", {"k": b"\xff"}],
        "d": Decimal("1.5"),
        "m": moment,
    }
    sent = Properties(
        content_type="text/plain", content_encoding="utf-8", headers=headers, delivery_mode=1, priority=255,
        correlation_id="c", reply_to="r", expiration="60000", message_id="m", timestamp=moment, type="t",
        user_id="guest", app_id="a", cluster_id="k",
    )  # fmt: skip
    connection.publish([Message(b"x", queue, properties=sent), Message(b"y", queue, properties=sent)])
    with connection.consume(queue, count=1) as deliveries:
        assert [delivery.properties for delivery in deliveries] == [sent]
    _, seen, _ = channel.basic_get(queue)
    assert (seen.headers, seen.priority, seen.user_id) == (headers, 255, "guest")


def test_a_message_to_a_missing_queue_through_the_default_exchange_raises(
    connection: rmqkit.Connection, queue: str, namespace: Any
) -> None:
    messages = [Message(b"1", queue), Message(b"2", namespace.queue("missing")), Message(b"3", queue)]
    with pytest.raises(rmqkit.Unroutable, match="1 of 3") as caught:
        connection.publish(messages)
    report = caught.value.report
    assert (report.confirmed, report.returned) == (2, 1)
    assert [(failure.index, failure.fate) for failure in report.failures] == [(1, Fate.RETURNED)]


def test_an_unroutable_message_is_an_error_unless_it_is_not_mandatory(
    connection: rmqkit.Connection, namespace: Any
) -> None:
    exchange = namespace.exchange()
    connection.apply(Topology(exchanges=(Exchange(exchange, type="fanout"),)))
    with pytest.raises(rmqkit.Unroutable, match=rf"1 of 1 messages reached no queue: exchange '{exchange}'"):
        connection.publish(Message(b"x", exchange=exchange))
    report = connection.publish(Message(b"x", exchange=exchange), options=PublishOptions(mandatory=False))
    assert (report.published, report.confirmed, report.returned) == (1, 1, 0)


def test_every_failure_reaches_the_caller_even_among_many_returns(
    connection: rmqkit.Connection, queue: str, namespace: Any
) -> None:
    missing, nowhere = namespace.exchange(), namespace.queue("missing")
    messages = [Message(b"%d" % n, nowhere) for n in range(250)] + [Message(b"x", queue, exchange=missing)]
    with pytest.raises(rmqkit.NotConfirmed, match=f"1 of 251.*{missing}") as caught:
        connection.publish(messages)
    failures = caught.value.report.failures
    assert [failure.index for failure in failures] == list(range(251))
    passed_on: list[rmqkit.Failure] = []
    report = connection.publish(messages, check=False, on_failure=passed_on.append)
    assert [failure.index for failure in passed_on] == list(range(251))
    assert Counter(failure.fate for failure in report.failures) == {Fate.RETURNED: 100, Fate.REFUSED: 1}


def test_without_confirms_everything_arrives_and_nothing_is_called_confirmed(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    options = PublishOptions(confirms=False, window=1000)
    report = connection.publish(_numbers(queue, 5000), options=options)
    assert (report.published, report.confirmed, report.unknown) == (5000, 0, 5000)
    wait_for_queue(channel, queue, ready=5000)  # RabbitMQ counts them ahead of those on their way
    assert drain(channel, queue) == [b"%d" % number for number in range(5000)]


def test_an_exchange_that_is_missing_fails_its_own_messages_only(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    messages = [Message(b"%d" % n, queue, exchange="missing-exchange" if n % 10 == 3 else "") for n in range(200)]
    fates: dict[int, Fate] = {}
    report = connection.publish(messages, check=False, on_settled=lambda place, _, fate: fates.update({place: fate}))
    assert {place for place, fate in fates.items() if fate is Fate.REFUSED} == set(range(3, 200, 10))
    assert (report.published, report.confirmed, report.refused) == (200, 180, 20)
    assert set(drain(channel, queue)) == {b"%d" % n for n in range(200) if n % 10 != 3}


def test_a_failing_source_raises_once_its_earlier_messages_are_confirmed(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    def source() -> Iterator[Message]:
        yield from _numbers(queue, 300)
        raise OSError("the file ended")

    reports: list[rmqkit.PublishReport] = []
    with pytest.raises(OSError, match="the file ended"):
        connection.publish(source(), on_progress=reports.append)
    assert (reports[-1].published, reports[-1].confirmed) == (300, 300)
    assert len(drain(channel, queue)) == 300


def test_a_message_that_amqp_cannot_carry_raises_once_earlier_ones_are_confirmed(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    messages = [Message(b"good", queue), Message(b"bad", queue, properties=Properties(priority=300))]
    with pytest.raises(rmqkit.PayloadError, match="priority"):
        connection.publish(messages)
    assert drain(channel, queue) == [b"good"]


def test_none_in_the_stream_waits_until_the_messages_before_it_are_confirmed(
    connection: rmqkit.Connection, queue: str
) -> None:
    settled: list[int] = []

    def source() -> Iterator[Message | None]:
        yield from _numbers(queue, 10)
        yield None
        assert settled == list(range(10))

    connection.publish(source(), on_settled=lambda place, _message, _fate: settled.append(place))


def test_a_message_is_sent_while_the_source_waits_for_the_next(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    def source() -> Iterator[Message]:
        yield Message(b"now", queue)
        wait_for_queue(channel, queue, ready=1)

    assert connection.publish(source()).confirmed == 1


def test_publishing_is_limited_to_the_rate(connection: rmqkit.Connection, queue: str) -> None:
    report = connection.publish(_numbers(queue, 50), options=PublishOptions(rate=100))
    assert report.confirmed == 50
    assert report.seconds >= 0.49


def test_a_stop_ends_the_input_and_everything_taken_is_confirmed(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    stop = rmqkit.Stop()

    def source() -> Iterator[Message]:
        for number, message in enumerate(_numbers(queue, 10**9)):
            yield message
            if number == 5000:
                stop.request()

    report = connection.publish(source(), stop=stop)
    assert report.interrupted
    assert report.published == report.confirmed == _depth(channel, queue)


# Consuming


def test_iterating_acknowledges_handled_messages_and_break_leaves_the_last_one(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    connection.publish(_numbers(queue, 10))
    with connection.consume(queue) as deliveries:
        for delivery in deliveries:
            if delivery.body == b"6":
                break
    wait_for_queue(channel, queue, ready=4)
    assert drain(channel, queue) == [b"6", b"7", b"8", b"9"]


@pytest.mark.parametrize("raised", [False, True])
@pytest.mark.parametrize("batches", [False, True])
def test_leaving_a_loop_requeues_everything_while_the_connection_stays_open(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str, batches: bool, raised: bool
) -> None:
    connection.publish(_numbers(queue, 10))
    consumer = connection.consume(queue)
    with suppress(ZeroDivisionError):
        for _ in consumer.batches() if batches else consumer:
            if raised:
                raise ZeroDivisionError
            break
    wait_for_queue(channel, queue, ready=10, consumers=0)
    assert [each.body for each in connection.consume(queue, count=10)] == [b"%d" % number for number in range(10)]


def test_a_second_loop_in_a_with_block_continues_the_first(connection: rmqkit.Connection, queue: str) -> None:
    connection.publish(_numbers(queue, 3))
    with connection.consume(queue) as deliveries:
        for delivery in deliveries:
            deliveries.acknowledge(delivery)
            break
        assert [next(iter(deliveries)).body] == [b"1"]


def test_without_acknowledgements_the_prefetch_bounds_deliveries_and_a_loop_loses_none(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    connection.publish(_numbers(queue, 5000))
    with connection.consume(queue, no_ack=True, prefetch=10) as deliveries:
        for number, delivery in enumerate(deliveries):
            assert delivery.body == b"%d" % number
            assert connection.queue_state(queue).ready >= 5000 - number - 11
            if number == 20:
                break
        assert (deliveries.report.acknowledged, deliveries.report.lost) == (21, 0)
    wait_for_queue(channel, queue, ready=5000 - 21)


def test_count_is_exact_and_the_rest_stays_in_order(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    connection.publish(_numbers(queue, 3000))
    with connection.consume(queue, count=1234, prefetch=100) as deliveries:
        assert [delivery.body for delivery in deliveries] == [b"%d" % number for number in range(1234)]
        assert deliveries.report.acknowledged == 1234
    wait_for_queue(channel, queue, ready=3000 - 1234)
    assert drain(channel, queue) == [b"%d" % number for number in range(1234, 3000)]


@pytest.mark.parametrize("no_ack", [False, True])
def test_an_idle_consumer_ends_after_its_time(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str, no_ack: bool
) -> None:
    connection.publish(_numbers(queue, 5))
    with connection.consume(queue, idle_timeout_s=2, no_ack=no_ack) as deliveries:
        assert [delivery.body for delivery in deliveries] == [b"0", b"1", b"2", b"3", b"4"]
    assert _depth(channel, queue) == 0


@pytest.mark.parametrize("handled", [2, 3])
def test_a_slow_handler_has_each_message_acknowledged_before_the_next(
    connection: rmqkit.Connection, broker_url: str, queue: str, handled: int
) -> None:
    """A crash in the middle of a batch gives back what was not handled, and not what was."""
    connection.publish(_numbers(queue, 6))
    crashed = rmqkit.connect(broker_url)
    for delivery in crashed.consume(queue):
        if delivery.body == b"%d" % handled:
            time.sleep(0.2)  # the acknowledgements are on their way
            crashed._consuming.reset()  # as in a crash, nothing more is sent
            break
        time.sleep(0.03)  # the handler's work
    crashed.close()
    with connection.consume(queue, idle_timeout_s=2) as rest:
        assert [delivery.body for delivery in rest] == [b"%d" % number for number in range(handled, 6)]


def test_rejected_messages_are_dead_lettered_and_requeued_ones_redelivered(
    connection: rmqkit.Connection, channel: BlockingChannel, namespace: Any
) -> None:
    queue, parked = namespace.queue(), namespace.queue("parked")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": parked}
    connection.apply(Topology(queues=(Queue(queue, arguments=arguments), Queue(parked))))
    connection.publish(_numbers(queue, 4))
    seen: list[tuple[bytes, bool]] = []
    with connection.consume(queue, idle_timeout_s=2) as deliveries:
        for delivery in deliveries:
            seen.append((delivery.body, delivery.redelivered))
            if delivery.body == b"1":
                deliveries.reject(delivery)
            elif delivery.body == b"2" and not delivery.redelivered:
                deliveries.requeue(delivery)
        report = deliveries.report
    assert sorted(seen) == [(b"0", False), (b"1", False), (b"2", False), (b"2", True), (b"3", False)]
    assert (report.acknowledged, report.rejected, report.requeued, report.redelivered) == (3, 1, 1, 1)
    assert drain(channel, parked) == [b"1"]
    assert _depth(channel, queue) == 0


def test_three_idle_consumers_receive_messages_in_turn(connection: rmqkit.Connection, queue: str) -> None:
    consumers = [connection.consume(queue, idle_timeout_s=2) for _ in range(3)]
    for consumer in consumers:
        consumer.subscribe()
    for message in _numbers(queue, 12):
        connection.publish(message)
    shares = [[int(delivery.body) for delivery in consumer] for consumer in consumers]
    assert shares == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_a_deleted_queue_ends_its_consumer_with_an_error(
    connection: rmqkit.Connection, channel: BlockingChannel, queue: str
) -> None:
    consumer = connection.consume(queue)
    consumer.subscribe()
    channel.queue_delete(queue)
    with pytest.raises(rmqkit.ConsumerCancelled, match="deleted"):
        next(iter(consumer))


def test_a_missing_queue_is_not_found_by_name(connection: rmqkit.Connection) -> None:
    with pytest.raises(rmqkit.NotFound, match="queue 'no-such-queue'"):
        next(iter(connection.consume("no-such-queue")))


def test_a_stop_from_another_thread_ends_a_waiting_consumer(connection: rmqkit.Connection, queue: str) -> None:
    stop = rmqkit.Stop()
    timer = threading.Timer(0.2, stop.request)
    timer.start()
    assert list(connection.consume(queue, stop=stop)) == []
    timer.join()


def test_pika_alone_decodes_the_same(broker_url: str, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PURE_PIKA, "1")
    with rmqkit.connect(broker_url) as pure:
        pure.publish(_numbers(queue, 500))
        with pure.consume(queue, count=500) as deliveries:
            assert [delivery.body for delivery in deliveries] == [b"%d" % number for number in range(500)]


# Connecting


def test_a_wrong_password_and_a_wrong_virtual_host_have_different_errors(broker_url: str) -> None:
    with pytest.raises(rmqkit.AuthenticationFailed, match="login refused for user 'guest'") as caught:
        rmqkit.connect(broker_url.replace("guest:guest", "guest:canary-password"))
    assert "canary" not in str(caught.value)
    with pytest.raises(rmqkit.NotFound, match="virtual host 'missing' does not exist"):
        rmqkit.connect(broker_url.rstrip("/") + "/missing")


def test_the_second_address_is_used_when_the_first_does_not_answer(broker_url: str, queue: str) -> None:
    with rmqkit.connect(f"amqp://guest:guest@127.0.0.1:1/,{broker_url}") as connection:
        assert connection.publish(Message(b"x", queue)).confirmed == 1


def test_closing_leaves_no_thread_behind(broker_url: str, queue: str) -> None:
    before = set(threading.enumerate())
    with rmqkit.connect(broker_url) as connection:
        connection.publish(Message(b"x", queue))
        next(iter(connection.consume(queue)))
    assert not set(threading.enumerate()) - before


def test_closing_a_connection_ends_the_wait_of_another_thread(broker_url: str, queue: str) -> None:
    connection = rmqkit.connect(broker_url)
    ended: list[BaseException | None] = []

    def wait() -> None:
        try:
            next(iter(connection.consume(queue)))
        except rmqkit.ConnectionLost as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    deadline = time.monotonic() + 10
    while not connection.queue_state(queue).consumers:
        assert time.monotonic() < deadline
    connection.close()
    waiting.join(90)
    assert len(ended) == 1


def test_a_loop_that_ends_leaves_the_next_message_to_other_consumers(
    connection: rmqkit.Connection, queue_name: str
) -> None:
    connection.apply(Topology(queues=(Queue(queue_name),)))
    ends: tuple[dict[str, Any], ...] = ({"count": 1}, {"idle_timeout_s": 0.2})
    for end in ends:
        connection.publish(Message(b"first", routing_key=queue_name))
        assert [delivery.body for delivery in connection.consume(queue_name, **end)] == [b"first"]
        connection.publish(Message(b"next", routing_key=queue_name))
        state = connection.queue_state(queue_name)
        assert (state.ready, state.consumers) == (1, 0)
        assert [delivery.body for delivery in connection.consume(queue_name, count=1)] == [b"next"]


def test_a_consumer_that_stops_costs_a_quorum_queue_no_delivery_from_4_3_on(
    broker: Broker, connection: rmqkit.Connection, queue_name: str
) -> None:
    limit, dead = {"x-queue-type": "quorum", "x-delivery-limit": 1}, f"{queue_name}-dead"
    dead_letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    connection.apply(Topology(queues=(Queue(dead), Queue(queue_name, arguments=limit | dead_letters))))
    bodies = [b"%d" % number for number in range(5)]
    connection.publish(Message(body, routing_key=queue_name) for body in bodies)
    kept = version(broker) >= (4, 3)
    for _ in range(4 if kept else 2):
        with connection.consume(queue_name) as consumer:
            next(consumer.batches())
    wait_until(lambda: connection.queue_state(queue_name if kept else dead).ready == len(bodies))
    left = [each.body for each in connection.consume(queue_name, idle_timeout_s=3)] if kept else []
    assert left == bodies * kept


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("end", ["break", "narrow count", "count", "stop"])
def test_a_consumer_that_ends_leaves_a_quorum_queue_in_its_order(
    connection: rmqkit.Connection, channel: BlockingChannel, queue_name: str, end: str, *, single: bool
) -> None:
    """From RabbitMQ 4.3 on, what was in flight to a cancelled consumer returned ahead of what it held."""
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": single}
    connection.apply(Topology(queues=(Queue(queue_name, arguments=arguments),)))
    sent = [b"%d" % number for number in range(40)]
    connection.publish(Message(body, queue_name) for body in sent)
    for turn in range(4):
        done: list[bytes] = []
        stop = rmqkit.Stop()
        prefetch = 2 if end == "narrow count" else 7
        options: dict[str, Any] = {"count": 3} if "count" in end else {"stop": stop}
        with connection.consume(queue_name, prefetch=prefetch, **options) as consumer:
            for batch in consumer.batches():
                for delivery in batch[: 3 - len(done)]:
                    consumer.acknowledge(delivery)
                    done.append(delivery.body)
                if len(done) == 3 and end == "stop":
                    stop.request()
                elif len(done) == 3 and end == "break":
                    break
        assert done == sent[3 * turn :][:3]
        wait_for_queue(channel, queue_name, ready=37 - 3 * turn)
    assert [delivery.body for delivery in connection.consume(queue_name, count=28)] == sent[12:]


def test_a_lost_connection_and_its_recovery_are_in_the_log(
    broker_url: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    with rmqkit.connect(broker_url) as connection:
        connection.publish(Message(b"x", queue))
        for delivery in connection.consume(queue, idle_timeout_s=2):
            if not delivery.redelivered:
                connection._consuming.reset()
    assert {(record.name, record.levelname) for record in caplog.records} == {("rmqkit", "WARNING")}
    assert [record.message.startswith("reconnected") for record in caplog.records] == [False, True]


def test_the_progress_of_apply_counts_each_change(connection: rmqkit.Connection, namespace: Any) -> None:
    exchange, queue = namespace.exchange(), namespace.queue()
    topology = Topology(
        exchanges=(Exchange(exchange),), queues=(Queue(queue),), bindings=(Binding(exchange, queue, routing_key="k"),)
    )
    progress: list[tuple[int, int]] = []
    connection.apply(topology, on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_closing_twice_is_nothing_and_every_use_of_a_closed_connection_says_so(broker_url: str, queue: str) -> None:
    closed = rmqkit.connect(broker_url)
    publisher, consumer = closed.publisher(), closed.consume(queue)
    consumer.subscribe()
    closed.close()
    for close in (closed.close, publisher.close, consumer.close):
        close()
    uses: dict[str, Callable[[], object]] = {
        "one": lambda: closed.publish(Message(b"x", queue)),
        "many": lambda: closed.publish([Message(b"x", queue)]),
        "in the background": lambda: publisher.publish(Message(b"x", queue)),
        "by a new publisher": lambda: closed.publisher().publish(Message(b"x", queue)).result(60),
        "consume": lambda: next(iter(closed.consume(queue))),
        "call": lambda: closed.call(Message(b"x", queue)),
        "apply": lambda: closed.apply(Topology(queues=(Queue(queue),))),
        "state": lambda: closed.queue_state(queue),
        "serve": lambda: rmqkit.handle(closed, queue, print),
    }
    for use in uses.values():
        with pytest.raises(rmqkit.ConnectionLost, match="was closed") as raised:
            use()
        assert pickle.loads(pickle.dumps(raised.value)).message == raised.value.message
    assert not closed.is_connected
