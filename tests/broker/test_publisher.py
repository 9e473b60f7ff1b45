"""The publisher in the background, kept channels, and time limits of publishing, against a real broker."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Fate, Message, Properties, PublishOptions, Queue, Topology
from rmqkit.messaging.background_publisher import BackgroundPublisher
from tests.faults.test_fork import in_child
from tests.support.interrupt import interrupt
from tests.support.proxy import Proxy
from tests.support.queues import drain, ready
from tests.support.wait import wait_until

FULL = {"x-max-length": 0, "x-overflow": "reject-publish"}
IN_TIME_S = 30.0  # generous: a busy machine is no failure


@pytest.fixture
def queue(queue_name: str, connection: rmqkit.Connection) -> str:
    connection.apply(Topology(queues=(Queue(queue_name),)))
    return queue_name


@pytest.fixture
def proxy(broker_url: str) -> Iterator[Proxy]:
    with Proxy(broker_url) as started:
        yield started


def _channels(connection: rmqkit.Connection) -> int:
    return len(connection._publishing._connected()._channels)


# Futures


def test_each_future_has_the_outcome_of_its_message(connection: rmqkit.Connection, queue: str, broker_url: str) -> None:
    with connection.publisher() as publisher:
        good = publisher.publish(Message(b"1", queue))
        unroutable = publisher.publish(Message(b"2", "nowhere"))
        missing = publisher.publish(Message(b"3", queue, exchange="nowhere"))
        invalid = publisher.publish(Message(b"4", queue, properties=Properties(priority=300)))
        last = publisher.publish(Message(b"5", queue))
        assert good.result(IN_TIME_S) is last.result(IN_TIME_S) is Fate.CONFIRMED
        with pytest.raises(rmqkit.Unroutable, match="there is no queue 'nowhere'"):
            unroutable.result(IN_TIME_S)
        with pytest.raises(rmqkit.NotFound, match="no exchange 'nowhere'"):
            missing.result(IN_TIME_S)
        with pytest.raises(rmqkit.PayloadError, match="priority"):
            invalid.result(IN_TIME_S)
    assert set(drain(broker_url, queue)) == {
        b"1",
        b"5",
    }  # a refusal closes the channel: what is unconfirmed is sent again


def test_200_threads_share_one_channel_and_lose_nothing(
    connection: rmqkit.Connection, queue: str, broker_url: str
) -> None:
    with connection.publisher() as publisher, ThreadPoolExecutor(200) as threads:

        def publish(thread: int) -> list[Future[Fate]]:
            return [publisher.publish(Message(b"%d %d" % (thread, number), queue)) for number in range(20)]

        for futures in threads.map(publish, range(200)):
            assert {future.result(IN_TIME_S) for future in futures} == {Fate.CONFIRMED}
        assert _channels(connection) == 1
    found = [tuple(map(int, body.split())) for body in drain(broker_url, queue)]
    assert sorted(found) == [(thread, number) for thread in range(200) for number in range(20)]
    for thread in (0, 99, 199):  # in the order of its calls
        assert [number for who, number in found if who == thread] == list(range(20))


def test_200_threads_that_publish_one_message_each_time_share_a_connection(
    connection: rmqkit.Connection, queue: str, broker_url: str
) -> None:
    def publish(thread: int) -> int:
        return sum(connection.publish(Message(b"%d %d" % (thread, each), queue)).confirmed for each in range(5))

    with ThreadPoolExecutor(200) as threads:
        assert list(threads.map(publish, range(200))) == [5] * 200
    assert _channels(connection) <= 2
    assert len(set(drain(broker_url, queue))) == 1000


def test_threads_that_publish_together_survive_cuts_and_every_message_arrives(
    queue: str, proxy: Proxy, broker_url: str
) -> None:
    with rmqkit.connect(proxy.url) as connection, ThreadPoolExecutor(8) as threads:

        def publish(number: int) -> int:
            if number % 200 == 100:
                _bypass(connection)
                proxy.up.cut_after = 700
            return connection.publish(Message(b"%d" % number, queue), timeout_s=IN_TIME_S).confirmed

        connection._shared_publisher._alone.acquire()
        threads.submit(publish, 0).result()
        assert list(threads.map(publish, range(1, 800))) == [1] * 799
    assert proxy.accepted > 4
    assert {int(body) for body in drain(broker_url, queue)} == set(range(800))


def test_a_direct_publisher_is_given_up_when_an_alarm_may_have_changed_or_nothing_is_confirmed(
    queue: str, proxy: Proxy
) -> None:
    with rmqkit.connect(proxy.url) as connection:
        publisher = connection.publisher(options=PublishOptions(confirm_timeout_s=0.5), on_warning=lambda _: None)
        publisher.direct = True
        for _ in range(2):
            assert publisher.publish(Message(b"", queue)).result(IN_TIME_S) is Fate.CONFIRMED
            wait_until(lambda: publisher._direct is not None, "there is a direct channel")
            connection._publishing._connected()._wake_all()  # as when an alarm begins or ends
            assert publisher._direct is None
        assert publisher.publish(Message(b"", queue)).result(IN_TIME_S) is Fate.CONFIRMED
        wait_until(lambda: publisher._direct is not None, "there is a direct channel")
        proxy.down.blackhole = True
        with pytest.raises(rmqkit.NotConfirmed, match="no confirm"):
            publisher.publish(Message(b"", queue)).result(IN_TIME_S)
        proxy.heal()


def test_a_confirm_belongs_to_its_message_when_the_socket_is_full(
    connection: rmqkit.Connection, queue: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = f"{queue}.full"  # it rejects everything
    connection.apply(Topology(queues=(Queue(full, arguments=FULL),)))
    large = 300_000  # bytes: more than are written at a time

    def publish(number: int) -> bool:
        message = Message(b"%d %*d" % (number, large, 0), full if number % 2 else queue)
        return connection.publish(message, check=False).confirmed == 1

    try:
        with ThreadPoolExecutor(20) as threads:
            connection._shared_publisher._alone.acquire()
            threads.submit(publish, 0).result()
            _bypass(connection)
            writer = connection._publishing._connected().writer
            monkeypatch.setattr(writer, "write", lambda _data: False)  # as if it were full
            assert list(threads.map(publish, range(1, 20))) == [number % 2 == 0 for number in range(1, 20)]
        numbers = [int(body.split()[0]) for body in drain(broker_url, queue)]
        assert sorted(numbers) == list(range(0, 20, 2))
    finally:
        connection.unsubscribe(full, force=True)


def _bypass(connection: rmqkit.Connection) -> None:
    """Wait until messages of several threads bypass the background thread."""
    wait_until(lambda: connection._shared_publisher._background._direct is not None, "there is a direct channel")


def test_errors_are_the_same_whether_a_thread_is_alone_or_not(connection: rmqkit.Connection, queue: str) -> None:
    connection.apply(Topology(queues=(Queue(f"{queue}.full", arguments=FULL),)))
    for alone in (True, False):

        def bypass(alone: bool = alone) -> None:
            if not alone:
                connection.publish(Message(b"", queue))
                _bypass(connection)

        if not alone:
            holder = threading.Thread(target=connection._shared_publisher._alone.acquire)
            holder.start()
            holder.join()
        bypass()
        with pytest.raises(rmqkit.NotFound, match=r"exchange 'no\.such'"):
            connection.publish(Message(b"", queue, exchange="no.such"))
        bypass()
        with pytest.raises(rmqkit.Unroutable) as unroutable:
            connection.publish(Message(b"", "no.such"))
        assert unroutable.value.report.returned == 1
        bypass()
        with pytest.raises(rmqkit.NotConfirmed) as nacked:
            connection.publish(Message(b"", f"{queue}.full"))
        assert nacked.value.report.nacked == 1
        bypass()
        with pytest.raises(rmqkit.PayloadError, match="priority"):
            connection.publish(Message(b"", queue, properties=Properties(priority=300)))
        bypass()
        assert connection.publish(Message(b"", "no.such"), check=False).failures[0].reason == "312 NO_ROUTE"
        assert connection.publish(Message(b"", queue)).confirmed == 1


def test_flush_waits_for_all_earlier_messages(connection: rmqkit.Connection, queue: str) -> None:
    with connection.publisher() as publisher:
        futures = [publisher.publish(Message(b"", queue)) for _ in range(500)]
        publisher.flush(IN_TIME_S)
        assert all(future.done() for future in futures)
        publisher.flush()  # nothing is pending


def test_a_full_window_holds_the_caller_and_then_raises(queue: str, proxy: Proxy, broker_url: str) -> None:
    with rmqkit.connect(proxy.url) as connection:
        publisher = connection.publisher(options=PublishOptions(window=3))
        publisher.publish(Message(b"first", queue)).result(IN_TIME_S)
        proxy.down.blackhole = True
        futures = [publisher.publish(Message(b"%d" % number, queue)) for number in range(3)]
        with pytest.raises(rmqkit.NotConfirmed, match="the window is full: 3 messages are unconfirmed"):
            publisher.publish(Message(b"too many", queue), timeout_s=0.05)
        with pytest.raises(rmqkit.NotConfirmed, match=r"unconfirmed after 0\.05 s"):
            publisher.flush(0.05)
        assert not any(future.done() for future in futures)
        proxy.heal()  # the unconfirmed ones are sent again
        publisher.publish(Message(b"last", queue)).result(IN_TIME_S)
        assert [future.result(IN_TIME_S) for future in futures] == [Fate.CONFIRMED] * 3
    bodies = drain(broker_url, queue)
    assert set(bodies) == {b"first", b"0", b"1", b"2", b"last"}


def test_the_state_of_a_queue_is_waited_for_no_longer_than_the_timeout(queue: str, proxy: Proxy) -> None:
    with rmqkit.connect(proxy.url) as connection:
        assert connection.queue_state(queue, timeout_s=IN_TIME_S).ready == 0
        proxy.down.blackhole = True
        started_s = time.monotonic()
        with pytest.raises(rmqkit.ConnectionLost, match="no answer about"):
            connection.queue_state(queue, timeout_s=0.1)
        assert time.monotonic() - started_s < IN_TIME_S
        proxy.heal()


def test_a_future_that_is_cancelled_before_its_message_was_sent_keeps_it_from_being_sent(
    queue: str, proxy: Proxy, broker_url: str
) -> None:
    with rmqkit.connect(proxy.url) as connection, connection.publisher() as publisher:
        publisher.publish(Message(b"first", queue)).result(IN_TIME_S)
        proxy.down.blackhole = True
        sent = publisher.publish(Message(b"sent", queue))
        wait_until(sent.running)
        publisher.barrier()  # what comes later waits for what was sent
        waiting = publisher.publish(Message(b"cancelled", queue))
        assert waiting.cancel()
        assert not sent.cancel()
        proxy.heal()
        assert sent.result(IN_TIME_S) is Fate.CONFIRMED
        with pytest.raises(CancelledError):
            waiting.result(IN_TIME_S)
    assert set(drain(broker_url, queue)) == {b"first", b"sent"}


def test_a_callback_may_publish_and_what_it_raises_harms_nobody(connection: rmqkit.Connection, queue: str) -> None:
    ended = threading.Event()
    with connection.publisher() as publisher:

        def again(_: Future[Fate]) -> None:
            publisher.publish(Message(b"2", queue)).add_done_callback(lambda _: ended.set())

        publisher.publish(Message(b"1", queue)).add_done_callback(again)
        assert ended.wait(IN_TIME_S)


def test_a_callback_that_exits_harms_neither_the_publisher_nor_the_other_messages(
    connection: rmqkit.Connection, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connection.publisher() as publisher:
        futures = []
        for exchange in ("", "missing", "") * 3:
            futures.append(publisher.publish(Message(b"", queue, exchange)))
            futures[-1].add_done_callback(lambda _: sys.exit(1))
        publisher.flush(IN_TIME_S)
        assert publisher.publish(Message(b"", queue)).result(IN_TIME_S) is Fate.CONFIRMED
    errors = [future.exception(0) for future in futures]
    assert [error is None or type(error) for error in errors] == [True, rmqkit.NotFound, True] * 3
    assert "a callback of a published message raised" in caplog.text


def test_closing_waits_and_a_closed_publisher_says_so(connection: rmqkit.Connection, queue: str) -> None:
    publisher = connection.publisher()
    futures = [publisher.publish(Message(b"", queue)) for _ in range(300)]
    publisher.close()
    assert all(future.result(0) is Fate.CONFIRMED for future in futures)
    publisher.close()
    with pytest.raises(rmqkit.ConnectionLost, match="the publisher was closed"):
        publisher.publish(Message(b"", queue))


def test_closing_the_connection_waits_for_its_publishers(queue: str, broker_url: str) -> None:
    with rmqkit.connect(broker_url) as connection:
        futures = [connection.publisher().publish(Message(b"", queue)) for _ in range(3)]
    assert all(future.result(0) is Fate.CONFIRMED for future in futures)


def test_closing_the_connection_while_messages_are_unconfirmed_announces_no_reconnect(
    queue: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    with rmqkit.connect(proxy.url) as connection:

        def messages() -> Iterator[Message]:
            yield Message(b"1", queue)
            connection.close()
            yield Message(b"2", queue)

        connection.publish([Message(b"0", queue)])
        proxy.down.blackhole = True  # no confirm arrives
        with pytest.raises(rmqkit.ConnectionLost, match="closed"):
            connection.publish(messages())
    assert "reconnect" not in caplog.text


def test_a_publisher_that_is_closed_in_an_outage_ends_every_future(queue: str, proxy: Proxy) -> None:
    with rmqkit.connect(proxy.url) as connection:
        publisher = connection.publisher(on_warning=lambda _: None)
        publisher.publish(Message(b"first", queue)).result(IN_TIME_S)
        proxy.up.blackhole = proxy.down.blackhole = True
        proxy.reset()
        futures = [publisher.publish(Message(b"", queue)) for _ in range(10)]
        connection._publishing.close()
        publisher.close(0)
        assert all(isinstance(future.exception(0), rmqkit.BrokerError) for future in futures)


def test_a_publisher_survives_cuts_and_every_confirmed_message_is_there(
    queue: str, proxy: Proxy, broker_url: str
) -> None:
    with rmqkit.connect(proxy.url) as connection, connection.publisher(on_warning=lambda _: None) as publisher:
        futures = []
        for number in range(3000):
            futures.append(publisher.publish(Message(b"%d" % number, queue)))
            if number % 500 == 250:
                proxy.up.cut_after = 700
        outcomes = [future.result(IN_TIME_S) for future in futures]
    assert outcomes == [Fate.CONFIRMED] * 3000
    assert proxy.accepted > 2
    bodies = [int(body) for body in drain(broker_url, queue)]
    assert set(bodies) == set(range(3000))
    assert list(dict.fromkeys(bodies)) == list(range(3000))  # first occurrences are in order


def test_a_forked_process_must_not_use_the_publisher(connection: rmqkit.Connection, queue: str) -> None:
    with connection.publisher() as publisher:
        publisher.publish(Message(b"", queue)).result(IN_TIME_S)
        code, _ = in_child(lambda: publisher.publish(Message(b"", queue)))
        assert code == 0
        child = os.fork()
        if not child:
            publisher.close()  # does nothing
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert publisher.publish(Message(b"", queue)).result(IN_TIME_S) is Fate.CONFIRMED


# Kept channels


def test_one_message_after_the_other_uses_one_channel(connection: rmqkit.Connection, queue: str) -> None:
    for _ in range(5):
        connection.publish(Message(b"", queue))
        with pytest.raises(rmqkit.Unroutable):
            connection.publish([Message(b"", "no.such")])
    assert _channels(connection) == 1


def test_a_kept_channel_that_was_lost_is_replaced(queue: str, proxy: Proxy, broker_url: str) -> None:
    warnings: list[str] = []
    with rmqkit.connect(proxy.url) as connection:
        for number in range(3):
            connection.publish([Message(b"%d" % number, queue)], on_warning=warnings.append)
            proxy.reset()
            wait_until(lambda: not connection._publishing.is_connected)
    assert warnings == []
    assert drain(broker_url, queue) == [b"0", b"1", b"2"]


def test_an_interrupted_publish_leaves_the_connection_to_the_others(
    connection: rmqkit.Connection, queue: str, channel: BlockingChannel
) -> None:
    transport = connection._publishing._connected()

    def interrupted() -> Iterator[Message]:
        yield Message(b"1", queue)
        raise KeyboardInterrupt

    with connection.publisher() as publisher:
        for _ in range(20):
            other = publisher.publish(Message(b"2", queue))
            with pytest.raises(KeyboardInterrupt):
                connection.publish(interrupted())
            assert other.result(IN_TIME_S) is Fate.CONFIRMED
    assert connection._publishing._connected() is transport
    wait_until(lambda: len(transport._channels) <= 1, "the numbers of abandoned channels are used again")
    assert ready(channel, queue) >= 20


@pytest.mark.parametrize("way", ["alone", "together", "futures", "first"])
def test_an_interrupt_at_any_step_of_a_publish_leaves_the_connection_to_the_others(
    connection: rmqkit.Connection, queue: str, way: str
) -> None:
    kept = connection.publisher()

    def publish() -> None:
        if way in ("alone", "together"):
            connection.publish(Message(b"1", queue), timeout_s=IN_TIME_S)
        else:
            publisher = connection.publisher() if way == "first" else kept
            publishers.append(publisher)
            publisher.publish(Message(b"1", queue))

    def publish_after() -> Fate:
        if way in ("alone", "together"):
            connection.publish(Message(b"2", queue), timeout_s=IN_TIME_S)
            return Fate.CONFIRMED
        return publishers[-1].publish(Message(b"2", queue)).result(IN_TIME_S) if publishers else Fate.CONFIRMED

    held = connection._shared_publisher._alone
    with ThreadPoolExecutor(1) as other, ThreadPoolExecutor(1) as holder:
        if way == "together":
            holder.submit(held.acquire).result()
        for step in range(1, 1000):
            publishers: list[BackgroundPublisher] = []
            interrupted = interrupt(publish, step)
            assert other.submit(publish_after).result() is Fate.CONFIRMED
            if way == "first" and publishers:
                other.submit(publishers[0].close).result(IN_TIME_S)
            if not interrupted:
                break
        if way == "together":
            holder.submit(held.release).result()
    assert step > 10


def test_a_channel_that_both_sides_close_at_once_frees_its_number(connection: rmqkit.Connection, queue: str) -> None:
    transport = connection._publishing._connected()
    for _ in range(50):
        channel = transport.open_channel()
        channel.send(_publish_to_nowhere(channel.number))
        channel.abandon()
    wait_until(lambda: not transport._channels)
    assert connection.publish(Message(b"", queue)).confirmed == 1
    assert connection._publishing._connected() is transport


def _publish_to_nowhere(number: int) -> bytes:
    from rmqkit.amqp.frames import Encoder  # noqa: PLC0415

    return Encoder(number, 131_072).encode(Message(b"", "k", exchange="nowhere"))


# Time


@pytest.mark.parametrize("together", [1, 10])
def test_a_timeout_bounds_a_publish_that_is_not_confirmed(queue: str, proxy: Proxy, together: int) -> None:
    with rmqkit.connect(proxy.url) as connection:
        connection.publish(Message(b"", queue))
        proxy.down.blackhole = True
        started_s = time.monotonic()

        def publish(_: int) -> float:
            with pytest.raises(rmqkit.NotConfirmed, match=r"unconfirmed after 0\.3 s|not sent within 0\.3 s"):
                connection.publish(Message(b"", queue), timeout_s=0.3)
            return time.monotonic() - started_s

        with ThreadPoolExecutor(together) as threads:
            seconds = list(threads.map(publish, range(together)))
        assert max(seconds) < 10  # not one after the other, nor after the 60 s of a confirm
        proxy.heal()


def test_a_timeout_bounds_connecting_and_threads_do_not_wait_for_each_other(queue: str, proxy: Proxy) -> None:
    with rmqkit.connect(proxy.url, recover_s=None) as connection:
        proxy.down.blackhole = True  # it accepts, and says nothing: connecting takes 15 s
        started_s = time.monotonic()

        def publish(_: int) -> None:
            with pytest.raises(rmqkit.BrokerError):
                connection.publish([Message(b"", queue)], timeout_s=0.5)

        with ThreadPoolExecutor(10) as threads:
            list(threads.map(publish, range(10)))
        assert time.monotonic() - started_s < 10
        proxy.heal()
        assert connection.publish(Message(b"", queue), timeout_s=IN_TIME_S).confirmed == 1


def test_connecting_waits_for_a_broker_that_starts(proxy: Proxy) -> None:
    proxy.down.cut_after = 1  # the first try fails
    with rmqkit.connect(proxy.url, wait_s=IN_TIME_S) as connection:
        assert connection.is_connected
        assert proxy.accepted >= 2
        proxy.reset()
        wait_until(lambda: not connection.is_connected)
    with pytest.raises(rmqkit.Unreachable):
        rmqkit.connect("amqp://guest:guest@127.0.0.1:1/", wait_s=0.2)


def test_only_messages_are_published(connection: rmqkit.Connection) -> None:
    with pytest.raises(rmqkit.PayloadError, match="Message, not bytes"):
        connection.publish([b"raw"])  # type: ignore[list-item]
    with pytest.raises(rmqkit.PayloadError, match="Message, not bytes"):
        connection.publish(b"raw")  # type: ignore[arg-type]
    with connection.publisher() as publisher, pytest.raises(rmqkit.PayloadError, match="Message, not bytes"):
        publisher.publish(b"raw")  # type: ignore[arg-type]


def test_json_is_published_and_read(connection: rmqkit.Connection, queue: str) -> None:
    connection.publish(Message.json({"total": 7, "city": "Łódź"}, queue, message_id="7"))
    (delivery,) = connection.consume(queue, count=1)
    assert delivery.json() == {"total": 7, "city": "Łódź"}
    assert delivery.body == '{"total":7,"city":"Łódź"}'.encode()
    assert (delivery.properties.content_type, delivery.properties.message_id) == ("application/json", "7")
    connection.publish(Message(b"{", queue))
    (delivery,) = connection.consume(queue, count=1)
    with pytest.raises(rmqkit.PayloadError, match=r"not JSON: .*line 1 column 2"):
        delivery.json()
    with pytest.raises(rmqkit.PayloadError, match="cannot be written as JSON"):
        Message.json({"total": object()})


# Outcomes


def test_outcomes_are_reported_while_the_iterable_waits(connection: rmqkit.Connection, queue: str) -> None:
    fates: dict[bytes, Fate] = {}

    def slow() -> Iterator[Message]:
        yield Message(b"1", queue)
        yield Message(b"2", "nowhere")
        wait_until(lambda: len(fates) == 2)
        yield Message(b"3", queue)

    connection.publish(slow(), check=False, on_settled=lambda _, message, fate: fates.update({message.body: fate}))
    assert fates == {b"1": Fate.CONFIRMED, b"2": Fate.RETURNED, b"3": Fate.CONFIRMED}


def test_a_slow_iterable_does_not_delay_what_is_sent_again(queue: str, proxy: Proxy, broker_url: str) -> None:
    def slow() -> Iterator[Message]:
        proxy.up.cut_after = 2500
        yield from (Message(bytes(1000), queue) for _ in range(3))
        wait_until(lambda: ready(broker_url, queue) >= 3, "all are sent again while the iterable waits")

    with rmqkit.connect(proxy.url) as connection:
        report = connection.publish(slow(), on_warning=lambda _: None)
    assert (report.confirmed, report.complete) == (3, True)
    assert report.republished > 0


def test_an_error_of_a_callback_ends_a_publish_whose_iterable_waits(connection: rmqkit.Connection, queue: str) -> None:
    called = threading.Event()

    def fail(*_: object) -> None:
        called.set()
        raise LookupError

    def slow() -> Iterator[Message]:
        yield Message(b"1", queue)
        assert called.wait(IN_TIME_S)
        yield Message(b"2", queue)

    with pytest.raises(LookupError):
        connection.publish(slow(), on_settled=fail)
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "rmqkit-watch"])


def test_an_open_connection_that_does_not_answer_is_not_said_to_be_lost(queue: str, proxy: Proxy) -> None:
    with rmqkit.connect(proxy.url) as connection:
        connection.publish([Message(b"1", queue)])
        proxy.down.blackhole = True
        other = PublishOptions(mandatory=False)  # they need another channel
        with pytest.raises(rmqkit.ConnectionLost, match="no answer about a new channel") as raised:
            connection.publish([Message(b"2", queue)], options=other, timeout_s=0.5)
        assert "lost the connection" not in raised.value.message
        proxy.heal()
