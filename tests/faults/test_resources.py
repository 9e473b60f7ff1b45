"""An hour of flapping, in fast motion, leaves nothing behind: no thread, file, channel, connection or megabyte (36)."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import rmqkit
from rmqkit import Exchange, Message, Queue, Stop, Topology
from rmqkit.amqp.transport import Transport
from rmqkit.deploy import subscription  # noqa: F401 - pytest rewrites what is imported, and not in several threads at once
from rmqkit.errors import BrokerError
from rmqkit.model import Binding
from tests.conftest import Broker
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

SECONDS = float(os.environ.get("RMQKIT_TEST_SECONDS", "6"))  # of flapping, after a third of it to warm up
TOPOLOGY = Topology(
    exchanges=(Exchange("events", "topic"),),
    queues=(Queue("work"), Queue("requests"), Queue("log")),
    bindings=(Binding("events", "log", routing_key="#"),),
)


@dataclass(frozen=True)
class Held:
    """What a process and its broker hold at a moment."""

    threads: int
    files: int
    connections: int
    channels: int


@dataclass
class Life:
    """What a service does all day with one connection, each a turn of its own thread; errors of the broker are life."""

    connection: rmqkit.Connection
    turns: int = 0
    errors: int = 0

    def publish(self, _stop: Stop) -> None:
        self.connection.publish((Message(b"x" * 500, "work") for _ in range(100)), check=False)

    def consume(self, _stop: Stop) -> None:
        with self.connection.consume("work", count=100, idle_timeout_s=0.05) as consumer:
            for _ in consumer:
                pass

    def subscribe(self, _stop: Stop) -> None:
        queue = self.connection.subscribe("events", ("a.#",))
        self.connection.publish(Message(b"x", "a.b", "events"))
        with self.connection.consume(queue, count=1, idle_timeout_s=0.05) as consumer:
            for _ in consumer:
                break  # in the middle
        with suppress(rmqkit.NotFound):  # the queue went with its consumer
            self.connection.unsubscribe(queue)

    def apply(self, _stop: Stop) -> None:
        self.connection.apply(TOPOLOGY)

    def call(self, _stop: Stop) -> None:
        self.connection.call(Message(b"x", "requests"), timeout_s=0.5)

    def serve(self, stop: Stop) -> None:
        self.connection.run(stop=stop)

    def live(self, seconds: float, break_something: Callable[[], None]) -> None:
        """Do all of it at once for so long while something breaks, and then until each went well once more."""
        stop, broken = Stop(), threading.Event()
        acts = (self.publish, self.consume, self.subscribe, self.apply, self.call, self.serve)
        threads = [threading.Thread(target=self._repeat, args=(act, stop, broken), name=act.__name__) for act in acts]
        for thread in threads:
            thread.start()
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            break_something()
        broken.set()
        for thread in threads[:-1]:
            thread.join(90)
        stop.request()
        threads[-1].join(90)
        assert [thread.name for thread in threads if thread.is_alive()] == []

    def _repeat(self, act: Callable[[Stop], None], stop: Stop, broken: threading.Event) -> None:
        well = False
        while not (well and broken.is_set()) and not stop.requested:
            try:
                act(stop)
            except BrokerError:
                self.errors += 1
            else:
                well = True
            self.turns += 1


def held(broker: Broker, url: str) -> Held:
    gc.collect()
    place = f"vhosts{urlsplit(url).path}"
    connections, channels = (json.loads(broker.api("GET", f"{place}/{what}")) for what in ("connections", "channels"))
    files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    return Held(threading.active_count(), files, len(connections), len(channels))


def fits(now: Held, before: Held) -> bool:
    """Tell whether no more is held than before; the broker takes a moment to see that something was closed."""
    return all(getattr(now, each.name) <= getattr(before, each.name) for each in fields(Held))


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Let nothing be logged: pytest keeps each record, with its exception and all that this saw."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def transports() -> int:
    """Count the connections that are still in memory, open or not."""
    gc.collect()
    return sum(isinstance(each, Transport) for each in gc.get_objects())


def megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.fault(36)
@pytest.mark.usefixtures("unlogged")
@pytest.mark.timeout(60 + 5 * SECONDS)
def test_flapping_leaks_no_thread_file_channel_connection_or_memory(broker: Broker, vhost_url: str) -> None:
    rng = random.Random(36)
    with Proxy(vhost_url) as proxy, rmqkit.connect(proxy.url) as connection:
        connection.apply(TOPOLOGY)
        connection.serve("requests")(lambda request: request.body)
        life = Life(connection)

        def break_something() -> None:
            time.sleep(rng.uniform(0.05, 0.2))
            proxy.reset()

        life.live(SECONDS / 3, break_something)
        tracemalloc.start()
        try:
            wait_until(lambda: held(broker, vhost_url).connections == 2, lambda: f"{held(broker, vhost_url)}")
            before, memory = held(broker, vhost_url), tracemalloc.get_traced_memory()[0]
            resident, accepted = megabytes(), proxy.accepted
            life.live(SECONDS, break_something)
            assert proxy.accepted > accepted + SECONDS * 2  # it did flap
            wait_until(
                lambda: fits(held(broker, vhost_url), before), lambda: f"{before}, and {held(broker, vhost_url)}"
            )
            assert transports() <= 12 < proxy.accepted
            assert tracemalloc.get_traced_memory()[0] - memory < 2_000_000
            assert megabytes() - resident < 30
        finally:
            tracemalloc.stop()
    assert life.turns > life.errors


def use(connection: rmqkit.Connection, queue: str, way: int) -> None:
    """Use a connection in one of the ways that people leave one."""
    match way:
        case 0:
            pass
        case 1:
            connection.publish(Message(b"x", queue))
        case 2:
            for _ in connection.consume(queue, idle_timeout_s=0.01):
                break
        case 3:
            with connection.consume(queue) as consumer:
                next(iter(consumer))
                raise ZeroDivisionError
        case 4:
            connection.queue_state("no such queue")


@pytest.mark.usefixtures("leak_free", "unlogged")
def test_connections_opened_used_and_closed_200_times_leave_nothing(broker_url: str, queue_name: str) -> None:
    with rmqkit.connect(broker_url) as connection:
        connection.apply(Topology(queues=(Queue(queue_name),)))
        connection.publish(Message(b"x", queue_name) for _ in range(10))
    before = transports()
    for turn in range(200):
        with suppress(ZeroDivisionError, rmqkit.NotFound), rmqkit.connect(broker_url) as connection:
            use(connection, queue_name, turn % 5)
        if turn == 49:
            resident = megabytes()
    del connection
    assert transports() - before <= 1
    assert megabytes() - resident < 10


def test_a_consumer_opened_and_closed_a_hundred_times_leaves_no_channel(broker_url: str, queue_name: str) -> None:
    with rmqkit.connect(broker_url) as connection:
        connection.apply(Topology(queues=(Queue(queue_name),)))
        for _ in range(100):
            connection.consume(queue_name).subscribe()  # and is forgotten
            with connection.consume(queue_name) as consumer:
                consumer.subscribe()
        gc.collect()
        channels = connection._consuming._connected()._channels
        assert len(channels) <= 101


@pytest.mark.usefixtures("leak_free")
def test_a_connection_that_nobody_closed_closes_itself(broker_url: str, queue_name: str) -> None:
    connection = rmqkit.connect(broker_url)
    connection.apply(Topology(queues=(Queue(queue_name),)))
    connection.publish(Message(b"kept", queue_name))
    deliveries = iter(connection.consume(queue_name))
    del connection
    assert next(deliveries).body == b"kept"  # a consumer holds what it needs
    del deliveries
