"""What calling and serving promise, against a real broker; the other side is pika where it is about the wire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pika
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Delivery, Message, Properties, ServeReport, Stop
from rmqkit.messaging.rpc_server import Function
from tests.support.proxy import Proxy
from tests.support.queues import consumers, ready
from tests.support.wait import wait_until

PNG = b"\x89PNG\r\n\x1a\n\x00\xff"


@pytest.fixture
def queue(queue_name: str, channel: BlockingChannel) -> str:
    channel.queue_declare(queue_name, durable=True)
    return queue_name


class Serving:
    """A server on a thread: its report when it has ended, and what it said meanwhile."""

    report = ServeReport()

    def __init__(self) -> None:
        self.stop = Stop()
        self.warnings: list[str] = []
        self.failures: list[Exception] = []
        self.error: BaseException | None = None


@pytest.fixture
def serve(broker_url: str) -> Callable[..., Any]:
    """Serve a queue for as long as a block runs."""

    @contextmanager
    def served(queue: str, function: Function, **options: Any) -> Iterator[Serving]:
        serving = Serving()

        def work() -> None:
            try:
                serving.report = connection.run(
                    stop=serving.stop,
                    on_failure=lambda _, error: serving.failures.append(error),
                    on_warning=serving.warnings.append,
                )
            except BaseException as exc:  # noqa: BLE001 - looked at by the test
                serving.error = exc

        with rmqkit.connect(broker_url) as connection:
            connection.serve(queue, **options)(function)
            thread = threading.Thread(target=work)
            thread.start()
            try:
                yield serving
            finally:
                serving.stop.request()
                thread.join()

    return served


def _echo(request: Delivery) -> bytes:
    return request.body


# What comes back


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("näh", ("näh".encode(), "text/plain")),
        (b"yes", (b"yes", "text/plain")),
        (PNG, (PNG, "application/octet-stream")),
        (None, (b"", "text/plain")),
        (Message(PNG, properties=Properties(content_type="image/png")), (PNG, "image/png")),
    ],
)
def test_a_call_returns_the_value_of_the_function_with_its_content_type(
    connection: rmqkit.Connection, queue: str, serve: Any, result: Any, expected: tuple[bytes, str]
) -> None:
    with serve(queue, lambda _: result) as serving:
        reply = connection.call(Message(b"?", queue))
    assert (reply.body, reply.properties.content_type) == expected
    assert serving.report == ServeReport(requests=1, replied=1, seconds=serving.report.seconds)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(st.binary(max_size=20), max_size=60), window=st.integers(1, 30))
def test_each_of_many_calls_gets_its_own_reply_in_the_order_of_the_requests(
    served_echo: str, connection: rmqkit.Connection, bodies: list[bytes], window: int
) -> None:
    answers = connection.call_many((Message(body, served_echo) for body in bodies), window=window)
    assert [answer.reply.body for answer in answers] == [b"<" + body + b">" for body in bodies]


@pytest.fixture
def served_echo(queue: str, serve: Any) -> Iterator[str]:
    """A queue whose requests are answered by three threads at once, so that replies overtake each other."""
    with serve(queue, lambda request: b"<" + request.body + b">", concurrency=3, prefetch=5):
        yield queue


def test_threads_that_share_a_connection_call_at_the_same_time(connection: rmqkit.Connection, served_echo: str) -> None:
    wrong: list[bytes] = []

    def work(number: int) -> None:
        for turn in range(20):
            body = b"%d.%d" % (number, turn)
            if connection.call(Message(body, served_echo)).body != b"<" + body + b">":
                wrong.append(body)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_large_image_arrives_byte_for_byte(connection: rmqkit.Connection, queue: str, serve: Any) -> None:
    image = PNG + bytes(range(256)) * 4096  # several frames
    with serve(queue, _echo):
        assert connection.call(Message(image, queue)).body == image


def test_a_function_that_is_defined_before_the_connection_is_passed_to_serve(
    connection: rmqkit.Connection, broker_url: str, queue: str
) -> None:
    stop = Stop()
    with rmqkit.connect(broker_url) as server:
        server.serve(queue, _echo, prefetch=10)
        thread = threading.Thread(target=server.run, kwargs={"stop": stop})
        thread.start()
        assert connection.call(Message(b"?", queue)).body == b"?"
        stop.request()
        thread.join()


# One result or one error


def test_a_request_that_no_queue_takes_is_an_error_at_once(connection: rmqkit.Connection, queue_name: str) -> None:
    begun_s = time.monotonic()
    with pytest.raises(rmqkit.Unroutable, match=queue_name) as raised:
        connection.call(Message(b"?", queue_name), timeout_s=30)
    assert time.monotonic() - begun_s < 5
    assert "rmqkit serve" in raised.value.advice


def test_an_unanswered_request_is_an_error_after_its_timeout_and_expires(
    connection: rmqkit.Connection, queue: str, channel: BlockingChannel
) -> None:
    connection.publish(())  # connects, which the timeout would bound, too
    with pytest.raises(rmqkit.ReplyTimeout, match=r"no reply from queue .* within 0\.5 s"):
        connection.call(Message(b"?", queue), timeout_s=0.5)
    wait_until(lambda: ready(channel, queue) == 0, "the request did not expire")


def test_the_timeout_of_a_call_bounds_connecting(broker_url: str, queue: str) -> None:
    with Proxy(broker_url) as proxy, rmqkit.connect(proxy.url) as connection:
        proxy.down.blackhole = True  # it accepts, and says nothing: connecting takes 15 s
        begun_s = time.monotonic()
        with pytest.raises(rmqkit.BrokerError):
            connection.call(Message(b"?", queue), timeout_s=0.5)
        assert time.monotonic() - begun_s < 10


def test_a_request_keeps_its_expiration_and_does_not_survive_a_restart(
    connection: rmqkit.Connection, queue: str, channel: BlockingChannel
) -> None:
    connection.publish(())  # connects, which the timeout would bound, too
    with pytest.raises(rmqkit.ReplyTimeout):
        connection.call(Message(b"?", queue, properties=Properties(expiration="60000")), timeout_s=0.5)
    properties = channel.basic_get(queue, auto_ack=True)[1]
    assert (properties.expiration, properties.delivery_mode) == ("60000", 1)


def test_a_full_queue_is_an_error_at_once(
    connection: rmqkit.Connection, namespace: Any, channel: BlockingChannel
) -> None:
    full = namespace.queue("full")
    channel.queue_declare(full, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    with pytest.raises(rmqkit.NotConfirmed, match="rejected the request"):
        connection.call(Message(b"?", full), timeout_s=30)


def test_a_missing_exchange_is_an_error_and_the_next_call_works(
    connection: rmqkit.Connection, served_echo: str, namespace: Any
) -> None:
    with pytest.raises(rmqkit.NotFound):
        connection.call(Message(b"?", "key", namespace.exchange()))
    assert connection.call(Message(b"!", served_echo)).body == b"<!>"


def test_one_call_of_many_fails_alone(connection: rmqkit.Connection, served_echo: str, namespace: Any) -> None:
    nowhere = namespace.queue("nowhere")
    requests = [Message(b"1", served_echo), Message(b"2", nowhere), Message(b"3", served_echo)]
    good, bad, last = connection.call_many(requests)
    assert (good.reply.body, last.reply.body) == (b"<1>", b"<3>")
    assert isinstance(bad.error, rmqkit.Unroutable)
    assert bad.request is requests[1]


def test_an_error_of_the_iterable_is_raised_after_the_answers_to_its_requests(
    connection: rmqkit.Connection, served_echo: str
) -> None:
    def requests() -> Iterator[Message]:
        yield Message(b"1", served_echo)
        yield Message(b"2", served_echo)
        raise OSError("the disk is gone")

    bodies: list[bytes] = []
    with pytest.raises(OSError, match="the disk is gone"):
        bodies.extend(answer.reply.body for answer in connection.call_many(requests()))
    assert bodies == [b"<1>", b"<2>"]


@pytest.mark.parametrize("properties", [Properties(reply_to="mine"), Properties(correlation_id="mine")])
def test_properties_that_a_call_sets_cannot_be_given(
    connection: rmqkit.Connection, queue: str, properties: Properties, channel: BlockingChannel
) -> None:
    with pytest.raises(rmqkit.PayloadError, match="the call sets reply_to"):
        connection.call(Message(b"?", queue, properties=properties))
    assert ready(channel, queue) == 0


# Failures


def test_the_text_of_a_handler_error_is_reported(connection: rmqkit.Connection, queue: str, serve: Any) -> None:
    def refuse(_: Delivery) -> str:
        raise rmqkit.HandlerError("there is no account 7")

    with serve(queue, refuse) as serving, pytest.raises(rmqkit.RemoteError, match="there is no account 7"):
        connection.call(Message(b"?", queue))
    assert (serving.report.failed, serving.report.replied) == (1, 1)


@pytest.mark.parametrize(
    "result",
    [
        ValueError("the password is hunter2"),
        7,
        Message(b"", properties=Properties(priority=300)),
        Message(b"", properties=Properties(headers={"large": "x" * 200_000})),
    ],
)
def test_only_the_type_of_any_other_failure_is_reported(
    connection: rmqkit.Connection, queue: str, serve: Any, channel: BlockingChannel, result: Any
) -> None:
    def fail(_: Delivery) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    with serve(queue, fail) as serving, pytest.raises(rmqkit.RemoteError, match="the server failed") as raised:
        connection.call(Message(b"?", queue))
    assert "hunter2" not in str(raised.value)
    assert len(serving.failures) == 1
    assert ready(channel, queue) == 0


def test_a_failed_request_is_answered_and_can_be_dead_lettered(
    connection: rmqkit.Connection, namespace: Any, serve: Any, channel: BlockingChannel
) -> None:
    dead, queue = namespace.queue("dead"), namespace.queue("requests")
    channel.queue_declare(dead)
    channel.queue_declare(queue, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    with serve(queue, lambda request: str(1 // len(request.body)), reject_failed=True):
        with pytest.raises(rmqkit.RemoteError, match="ZeroDivisionError"):
            connection.call(Message(b"", queue))
        assert connection.call(Message(b"x", queue)).body == b"1"
        wait_until(lambda: ready(channel, dead) == 1, "there is no dead letter")


def test_a_request_without_reply_to_is_handled_warned_about_once_and_rejected_on_failure(
    connection: rmqkit.Connection, namespace: Any, serve: Any, channel: BlockingChannel
) -> None:
    dead, queue = namespace.queue("dead"), namespace.queue("requests")
    channel.queue_declare(dead)
    channel.queue_declare(queue, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    handled: list[int] = []
    with serve(queue, lambda request: handled.append(int(request.body))) as serving:
        connection.publish(Message(body, queue) for body in (b"1", b"no number", b"2"))
        wait_until(lambda: handled == [1, 2] and ready(channel, dead) == 1)
    assert [warning for warning in serving.warnings if "not answered" in warning] == serving.warnings[:1]
    assert (serving.report.unaddressed, serving.report.failed, serving.report.replied) == (3, 1, 0)


def test_a_reply_without_a_requester_is_counted_and_its_request_acknowledged(
    connection: rmqkit.Connection, queue: str, serve: Any, channel: BlockingChannel
) -> None:
    with serve(queue, _echo) as serving:
        connection.publish([Message(b"?", queue, properties=Properties(reply_to=f"{queue}.gone"))] * 2)
        wait_until(lambda: bool(serving.warnings), "there is no warning")
        connection.call(Message(b"?", queue))  # comes after the other two
    assert (serving.report.requests, serving.report.undelivered, serving.report.replied) == (3, 2, 1)
    assert len(serving.warnings) == 1
    assert ready(channel, queue) == 0


def test_a_server_survives_addresses_that_no_reply_can_go_to(
    connection: rmqkit.Connection, queue: str, serve: Any, channel: BlockingChannel
) -> None:
    addresses = ["\0", "x" * 255, "amq.rabbitmq.reply-to.", "amq.rabbitmq.reply-to.x.y", "amq.rabbitmq.reply-to.g1h2"]
    with serve(queue, _echo) as serving:
        for address in addresses:
            properties = pika.BasicProperties(reply_to=address, correlation_id="1" * 255)
            channel.basic_publish("", queue, b"?", properties)
        assert connection.call(Message(b"!", queue)).body == b"!"
    assert serving.error is None
    assert serving.report.requests == len(addresses) + 1


# Many replies


def test_a_request_to_an_exchange_collects_a_reply_from_every_server(
    connection: rmqkit.Connection, namespace: Any, serve: Any, channel: BlockingChannel
) -> None:
    exchange, queues = namespace.exchange(), [namespace.queue(name) for name in ("a", "b")]
    channel.exchange_declare(exchange, "fanout")
    for queue in queues:
        channel.queue_declare(queue)
        channel.queue_bind(queue, exchange)
    with serve(queues[0], lambda _: "a"), serve(queues[1], lambda _: "b"):
        request = Message(b"who is there?", "", exchange)
        (two,) = connection.call_many([request], replies=2)
        (all_that_came,) = connection.call_many([request], replies=None, timeout_s=3)
        (too_few,) = connection.call_many([request], replies=3, timeout_s=3)
    assert sorted(reply.body for reply in two.replies) == [b"a", b"b"]
    assert len(all_that_came.replies) == 2
    assert all_that_came.error is None
    assert isinstance(too_few.error, rmqkit.ReplyTimeout)
    assert len(too_few.replies) == 2


def test_a_direct_reply_without_a_responder_is_an_error(connection: rmqkit.Connection, queue: str) -> None:
    connection.publish(())  # connects, which the timeout would bound, too
    (answer,) = connection.call_many([Message(b"?", queue)], replies=None, timeout_s=0.5)
    assert isinstance(answer.error, rmqkit.ReplyTimeout)


# Servers


def test_a_stop_finishes_running_commands_and_leaves_other_messages_queued(
    connection: rmqkit.Connection, queue: str, serve: Any, channel: BlockingChannel
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: Delivery) -> str:
        begun.set()
        assert go_on.wait(90)
        return "done"

    connection.publish([Message(b"?", queue, properties=Properties(reply_to=f"{queue}.gone"))] * 3)
    with serve(queue, slow, prefetch=3) as serving:
        assert begun.wait(90)
        serving.stop.request()
        go_on.set()
    assert serving.error is None
    assert serving.report.undelivered == 1
    wait_until(lambda: ready(channel, queue) == 2, "the rest was not requeued")


def test_a_count_ends_the_server_and_is_dealt_out_among_threads(
    connection: rmqkit.Connection, queue: str, serve: Any, channel: BlockingChannel
) -> None:
    connection.publish([Message(b"?", queue)] * 7)
    with serve(queue, _echo, count=5, concurrency=2) as serving:
        wait_until(lambda: serving.report.requests > 0, "the server did not end")
    assert serving.report.requests == 5
    wait_until(lambda: ready(channel, queue) == 2)


def test_a_queue_that_is_deleted_ends_its_server_and_the_others_with_it(
    queue: str, serve: Any, channel: BlockingChannel
) -> None:
    with serve(queue, _echo, concurrency=2) as serving:
        wait_until(lambda: consumers(channel, queue) == 2)
        channel.queue_delete(queue)
        wait_until(lambda: serving.error is not None, "the server did not end")
    assert isinstance(serving.error, rmqkit.ConsumerCancelled)


def test_a_server_of_nothing_is_an_error(connection: rmqkit.Connection) -> None:
    with pytest.raises(rmqkit.InputError, match="nothing is served"):
        connection.run()


# Other people's clients and servers, as in RabbitMQ's tutorial 6


class TutorialClient:
    """The client of the tutorial: a callback queue, a correlation id, a loop until the reply is there."""

    def __init__(self, url: str, callback_queue: str = "") -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.callback_queue = callback_queue
        if not callback_queue:
            self.callback_queue = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.basic_consume(self.callback_queue, self.on_response, auto_ack=True)
        self.response: tuple[Any, bytes] | None = None

    def on_response(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        if properties.correlation_id == "7":
            self.response = properties, body

    def call(self, queue: str, body: bytes) -> tuple[Any, bytes]:
        properties = pika.BasicProperties(reply_to=self.callback_queue, correlation_id="7")
        self.channel.basic_publish("", queue, body, properties)
        self.connection.process_data_events(time_limit=10)
        assert self.response
        return self.response


@pytest.mark.parametrize("callback_queue", ["", "amq.rabbitmq.reply-to"], ids=["callback queue", "direct reply-to"])
def test_the_tutorials_client_is_answered(broker_url: str, queue: str, serve: Any, callback_queue: str) -> None:
    with serve(queue, lambda request: str(2 * int(request.body))) as serving:
        client = TutorialClient(broker_url, callback_queue)
        assert client.call(queue, b"21")[1] == b"42"
        properties, body = client.call(queue, b"no number")
        client.connection.close()
    assert (properties.type, properties.headers, body) == (
        "rmqkit.error",
        {"rmqkit-error": "ValueError"},
        b"ValueError",
    )
    assert serving.report.replied == 2
    assert serving.warnings == []


class TutorialServer(threading.Thread):
    """The server of the tutorial; `reply` may send more than one reply, or none of ours."""

    def __init__(self, url: str, queue: str, reply: Callable[[Any, Any], None]) -> None:
        super().__init__()
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.reply = reply
        self.channel.basic_qos(prefetch_count=1)
        self.channel.basic_consume(queue, self.on_request)

    def on_request(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        def send(answer: bytes, correlation_id: str | None = properties.correlation_id) -> None:
            reply = pika.BasicProperties(correlation_id=correlation_id)
            channel.basic_publish("", properties.reply_to, answer, reply)

        self.reply(send, body)
        channel.basic_ack(method.delivery_tag)

    def run(self) -> None:
        self.channel.start_consuming()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.add_callback_threadsafe(self.channel.stop_consuming)
        self.join()
        self.connection.close()


def test_the_tutorials_server_is_understood(connection: rmqkit.Connection, broker_url: str, queue: str) -> None:
    with TutorialServer(broker_url, queue, lambda send, body: send(b"%d" % (2 * int(body)))):
        answers = connection.call_many(Message(b"%d" % number, queue) for number in range(50))
        assert [int(answer.reply.body) for answer in answers] == list(range(0, 100, 2))


def test_foreign_and_late_replies_are_ignored_and_counted(
    connection: rmqkit.Connection, broker_url: str, queue: str
) -> None:
    def reply(send: Any, body: bytes) -> None:
        send(b"of nobody", None)
        send(b"of another", "7")
        send(body)
        send(b"too late")

    warnings: list[str] = []
    with TutorialServer(broker_url, queue, reply):
        answers = connection.call_many(
            [Message(b"1", queue), Message(b"2", queue)], window=1, on_warning=warnings.append
        )
        assert [answer.reply.body for answer in answers] == [b"1", b"2"]
    assert len(warnings) == 1
    assert warnings[0].startswith(("5 replies were ignored", "6 replies were ignored"))  # the last may not be there yet


def test_a_late_reply_is_not_mistaken_for_the_next_one(
    connection: rmqkit.Connection, broker_url: str, queue: str
) -> None:
    kept: list[Callable[[bytes], None]] = []

    def reply(send: Any, body: bytes) -> None:
        kept.append(send)
        if body == b"2":
            kept[0](b"of the first")
            send(b"of the second")

    with TutorialServer(broker_url, queue, reply):
        with pytest.raises(rmqkit.ReplyTimeout):
            connection.call(Message(b"1", queue), timeout_s=0.3)
        assert connection.call(Message(b"2", queue)).body == b"of the second"
