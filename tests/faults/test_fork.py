"""A connection used in a forked process raises at once, and the parent keeps working."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable

import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Delivery, Message
from tests.support.queues import declare


def in_child(use: Callable[[], object]) -> tuple[int, float]:
    """Return 0 if a forked process gets the error that says so, else 1, and the seconds it took."""
    started_s = time.monotonic()
    child = os.fork()
    if not child:
        code = 1
        try:
            use()
        except rmqkit.ConnectionLost as error:
            code = int("was opened before os.fork" not in error.message or "after the fork" not in error.advice)
        except BaseException:  # noqa: BLE001 - a child must not continue as a second test run
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.monotonic() - started_s


USES: dict[str, Callable[[rmqkit.Connection, str], object]] = {
    "publish": lambda connection, queue: connection.publish(Message(b"x", queue)),
    "consume": lambda connection, queue: next(iter(connection.consume(queue))),
    "handle": lambda connection, queue: rmqkit.handle(connection, queue, lambda _: None, count=1),
    "move": lambda connection, _: connection.move("nowhere"),
    "call": lambda connection, queue: connection.call(Message(b"x", queue)),
    "queue_state": lambda connection, queue: connection.queue_state(queue),
    "publisher": lambda connection, queue: connection.publisher().publish(Message(b"x", queue)),
    "flush": lambda connection, _: connection.publisher().flush(),
    "subscribe": lambda connection, _: connection.subscribe("amq.topic"),
}


@pytest.fixture
def queue(broker_url: str, queue_name: str) -> str:
    """Return a queue with two messages."""
    declare(broker_url, queue_name)
    with rmqkit.connect(broker_url) as connection:
        connection.publish([Message(b"1", queue_name), Message(b"2", queue_name)])
    return queue_name


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("name", USES)
def test_a_connection_of_the_parent_raises_at_once(
    connection: rmqkit.Connection, queue: str, name: str, in_use: bool
) -> None:
    if in_use:
        assert connection.publish(Message(b"3", queue)).confirmed == 1
    code, seconds = in_child(lambda: USES[name](connection, queue))
    assert code == 0
    assert seconds < 5
    assert connection.publish(Message(b"4", queue)).confirmed == 1
    with connection.consume(queue, count=3) as consumer:
        assert len(list(consumer)) == 3


def test_work_that_has_begun_raises_at_once(connection: rmqkit.Connection, queue: str) -> None:
    with connection.consume(queue, prefetch=1) as consumer:
        deliveries = iter(consumer)
        assert next(deliveries).body == b"1"
        code, seconds = in_child(lambda: next(deliveries))
        assert (code, seconds < 5) == (0, True)
        assert next(deliveries).body == b"2"


def test_a_lock_that_another_thread_held_does_not_block_the_child(connection: rmqkit.Connection, queue: str) -> None:
    stop = rmqkit.Stop()

    def handle() -> None:
        rmqkit.handle(connection, queue, lambda _: None, stop=stop)

    consuming = threading.Thread(target=handle)
    consuming.start()
    with connection._publishing._lock:
        code, seconds = in_child(lambda: connection.publish(Message(b"x", queue)))
    stop.request()
    consuming.join(60)
    assert (code, seconds < 5) == (0, True)
    assert not consuming.is_alive()


def test_closing_in_the_child_leaves_the_connection_to_the_parent(
    connection: rmqkit.Connection, queue: str, channel: BlockingChannel
) -> None:
    def close() -> None:
        connection.close()
        connection.publish(Message(b"x", queue))

    assert in_child(close)[0] == 0
    assert connection.publish(Message(b"3", queue)).confirmed == 1
    assert channel.queue_declare(queue, passive=True).method.message_count == 3


def test_a_child_opens_its_own_connection(broker_url: str, connection: rmqkit.Connection, queue: str) -> None:
    bodies: list[Delivery] = []

    def use() -> None:
        with rmqkit.connect(broker_url) as own:
            assert own.publish(Message(b"3", queue)).confirmed == 1
        connection.publish(Message(b"x", queue))

    assert in_child(use)[0] == 0
    with connection.consume(queue, count=3) as consumer:
        bodies += consumer
    assert [each.body for each in bodies] == [b"1", b"2", b"3"]
