"""An hour of flapping, in fast motion, leaks no thread, file, channel, connection or memory."""

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
from dataclasses import dataclass, fields, replace
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
FLAPS_MIN = 12  # reconnects, however slow the machine is
TOPOLOGY = Topology(
    exchanges=(Exchange("events", "topic"),),
    queues=(Queue("work"), Queue("requests"), Queue("log")),
    bindings=(Binding("events", "log", routing_key="#"),),
)


@dataclass(frozen=True)
class Resources:
    """The resources that a process and its broker hold at a moment."""

    threads: int
    files: int
    connections: int
    channels: int


@dataclass
class ServiceProcess:
    """Everything that a service does with one connection, each action on its own thread; broker errors are expected."""

    connection: rmqkit.Connection
    attempts: int = 0
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

    def run(self, breaking: Iterator[None]) -> None:
        """Repeat all actions at once while something breaks, and then until each has succeeded once more."""
        stop, broken = Stop(), threading.Event()
        acts = (self.publish, self.consume, self.subscribe, self.apply, self.call, self.serve)
        threads = [threading.Thread(target=self._repeat, args=(act, stop, broken), name=act.__name__) for act in acts]
        for thread in threads:
            thread.start()
        for _ in breaking:
            pass
        broken.set()
        for thread in threads[:-1]:
            thread.join(90)
        stop.request()
        threads[-1].join(90)
        assert [thread.name for thread in threads if thread.is_alive()] == []

    def _repeat(self, act: Callable[[Stop], None], stop: Stop, broken: threading.Event) -> None:
        succeeded = False
        while not (succeeded and broken.is_set()) and not stop.requested:
            try:
                act(stop)
            except BrokerError:
                self.errors += 1
            else:
                succeeded = True
            self.attempts += 1


def held(broker: Broker, url: str) -> Resources:
    gc.collect()
    place = f"vhosts{urlsplit(url).path}"
    connections, channels = (json.loads(broker.api("GET", f"{place}/{what}")) for what in ("connections", "channels"))
    files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    return Resources(threading.active_count(), files, len(connections), len(channels))


def channels(connection: rmqkit.Connection) -> int:
    """Count the channels that a connection holds open."""
    transports = (each._connected() for each in (connection._consuming, connection._publishing))
    return sum(len(transport._channels) for transport in transports)


def fits(now: Resources, before: Resources) -> bool:
    """Report whether no more is held than before; the broker notices a closed connection a moment later."""
    return all(getattr(now, each.name) <= getattr(before, each.name) for each in fields(Resources))


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Disable logging: pytest keeps each record with its exception, and thereby the objects that leak."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def transports() -> int:
    """Count the connections in memory, open or closed."""
    gc.collect()
    return sum(isinstance(each, Transport) for each in gc.get_objects())


def megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.fault(36)
@pytest.mark.usefixtures("unlogged")
@pytest.mark.timeout(240 + 5 * SECONDS)
def test_flapping_leaks_no_thread_file_channel_connection_or_memory(broker: Broker, vhost_url: str) -> None:
    rng = random.Random(36)
    with Proxy(vhost_url) as proxy, rmqkit.connect(proxy.url) as connection:
        connection.apply(TOPOLOGY)
        connection.serve("requests")(lambda request: request.body)
        service = ServiceProcess(connection)

        def flap(seconds: float) -> Iterator[None]:
            until_s, enough = time.monotonic() + seconds, proxy.accepted + FLAPS_MIN
            while time.monotonic() < until_s or proxy.accepted < enough:
                time.sleep(rng.uniform(0.05, 0.2))
                proxy.reset()
                yield

        service.run(flap(SECONDS / 3))
        tracemalloc.start()
        try:
            wait_until(lambda: held(broker, vhost_url).channels == channels(connection), timeout_s=60)  # statistics lag
            before, memory = held(broker, vhost_url), tracemalloc.get_traced_memory()[0]
            # Just after a reset there may be none: a service has two connections, each with a channel.
            before = replace(before, connections=max(before.connections, 2), channels=max(before.channels, 2))
            resident = megabytes()
            service.run(flap(SECONDS))
            wait_until(
                lambda: fits(held(broker, vhost_url), before), lambda: f"{before}, and {held(broker, vhost_url)}"
            )
            assert transports() <= 12 < proxy.accepted
            assert tracemalloc.get_traced_memory()[0] - memory < 2_000_000
            assert megabytes() - resident < 30
        finally:
            tracemalloc.stop()
    assert service.attempts > service.errors


def use(connection: rmqkit.Connection, queue: str, case: int) -> None:
    """Use a connection in one of five ways that programs leave one."""
    match case:
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
    for number in range(200):
        with suppress(ZeroDivisionError, rmqkit.NotFound), rmqkit.connect(broker_url) as connection:
            use(connection, queue_name, number % 5)
        if number == 49:
            resident = megabytes()
    del connection
    assert transports() - before <= 1
    assert megabytes() - resident < 10


def test_a_consumer_opened_and_closed_a_hundred_times_leaves_no_channel(broker_url: str, queue_name: str) -> None:
    with rmqkit.connect(broker_url) as connection:
        connection.apply(Topology(queues=(Queue(queue_name),)))
        for _ in range(100):
            connection.consume(queue_name).subscribe()  # without a reference
            with connection.consume(queue_name) as consumer:
                consumer.subscribe()
        gc.collect()
        channels = connection._consuming._connected()._channels
        assert len(channels) <= 101


@pytest.mark.usefixtures("leak_free")
def test_a_connection_without_references_closes_itself(broker_url: str, queue_name: str) -> None:
    connection = rmqkit.connect(broker_url)
    connection.apply(Topology(queues=(Queue(queue_name),)))
    connection.publish(Message(b"kept", queue_name))
    deliveries = iter(connection.consume(queue_name))
    del connection
    assert next(deliveries).body == b"kept"  # a consumer holds what it needs
    del deliveries
