"""The broker is killed with -9 and restarted, frozen, stopped: nothing confirmed is lost, nothing hangs (1-4, 31)."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pika import URLParameters
from pika.adapters.blocking_connection import BlockingConnection

import rmqkit
from rmqkit import Fate, Verdict
from rmqkit.node import Node
from tests.faults.ledger import Ledger
from tests.faults.witness import ready

OpenBooks = Callable[[], Ledger]


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Run something on a thread while the block runs, and wait for its end; its failure is the test's."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failures.append(exc)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join(50)
        assert not thread.is_alive()
        if failures:
            raise failures[0]


class Progress:
    """Lets one thread wait until another has come so far."""

    def __init__(self) -> None:
        self.done = 0

    def reaches(self, amount: int) -> None:
        deadline = time.monotonic() + 20
        while self.done < amount:
            assert time.monotonic() < deadline, f"no progress beyond {self.done}"
            time.sleep(0.0005)


def publish(connection: rmqkit.Connection, ledger: Ledger, amount: int, progress: Progress) -> rmqkit.PublishReport:
    """Publish so many messages; the progress counts those that are confirmed."""

    def settled(index: int, message: rmqkit.Message, fate: Fate) -> None:
        ledger.settled(index, message, fate)
        progress.done += 1

    return connection.publish(ledger.messages(range(amount)), check=False, on_settled=settled)


def restart_after_kill(node: Node) -> None:
    node.kill()
    node.start()


@pytest.mark.usefixtures("leak_free")
@pytest.mark.parametrize("_round", range(2))
def test_1_killed_while_publishing_at_random_moments_the_unconfirmed_is_published_again_in_order(
    node: Node, on_node: OpenBooks, _round: int
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    amount, progress = 40_000, Progress()
    when = random.Random(seed).randrange(amount // 2)
    ledger = on_node()

    def strike() -> None:
        progress.reaches(when)
        restart_after_kill(node)

    with rmqkit.connect(node.url) as connection, meanwhile(strike):
        report = publish(connection, ledger, amount, progress)
    ledger.drain(node.url)
    assert ledger.violations(report) == []
    assert report.complete
    assert report.republished > 0


@pytest.mark.usefixtures("leak_free")
def test_2_killed_while_consuming_everything_is_handled_and_old_tags_are_never_acknowledged(
    node: Node, on_node: OpenBooks
) -> None:
    ledger, progress, amount = on_node(), Progress(), 20_000
    with rmqkit.connect(node.url) as connection:
        report = publish(connection, ledger, amount, Progress())
        assert report.complete

        def strike() -> None:
            progress.reaches(amount // 3)
            restart_after_kill(node)

        warnings: list[str] = []
        consumer = connection.consume(ledger.queue, idle_timeout_s=2, prefetch=300, on_warning=warnings.append)
        with meanwhile(strike), consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                progress.done += 1
            assert warnings
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []


@pytest.mark.usefixtures("leak_free")
def test_3_connections_closed_by_the_operator_while_publishing_and_consuming(node: Node, on_node: OpenBooks) -> None:
    ledger, amount, done = on_node(), 40_000, threading.Event()

    def close_all() -> None:
        while not done.is_set():
            node.ctl("close_all_connections", "a test")

    with rmqkit.connect(node.url) as connection, rmqkit.connect(node.url) as other, meanwhile(close_all):
        reports = []

        def consume() -> None:
            with other.consume(ledger.queue, prefetch=200) as consumer:
                for batch in consumer.batches():
                    for delivery in batch:
                        ledger.handle(delivery)
                    consumer.settle(batch, Verdict.ACK)
                    if len({each.body for each in ledger.handled}) == amount:
                        return

        try:
            with meanwhile(consume):
                reports.append(
                    connection.publish(
                        ledger.messages(range(amount)),
                        options=rmqkit.PublishOptions(rate=8000),
                        on_settled=ledger.settled,
                    )
                )
        finally:
            done.set()
        # The last acknowledgement may have been lost with its connection: then its messages come once more.
        with other.consume(ledger.queue, idle_timeout_s=1) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
    assert reports[0].complete
    assert reports[0].republished > 0
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0, reports[0].republished) == []


def test_3_the_application_stopped_and_started_while_publishing(node: Node, on_node: OpenBooks) -> None:
    ledger, progress = on_node(), Progress()

    def strike() -> None:
        progress.reaches(2000)
        assert node.ctl("stop_app").returncode == 0
        assert node.ctl("start_app").returncode == 0

    with rmqkit.connect(node.url) as connection, meanwhile(strike):
        report = publish(connection, ledger, 50_000, progress)
    ledger.drain(node.url)
    assert ledger.violations(report) == []
    assert report.complete


def test_3_an_outage_longer_than_the_idle_timeout_does_not_count_as_idle(node: Node, on_node: OpenBooks) -> None:
    ledger, progress = on_node(), Progress()

    def strike() -> None:
        progress.reaches(50)
        restart_after_kill(node)

    with rmqkit.connect(node.url) as connection:
        publish(connection, ledger, 1000, Progress())
        with meanwhile(strike), connection.consume(ledger.queue, prefetch=20, idle_timeout_s=1) as consumer:
            for delivery in consumer:
                ledger.handle(delivery)
                progress.done += 1
                if progress.done == 60:
                    time.sleep(0.5)  # the blow falls while this one is handled
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []


def test_31_what_was_confirmed_before_a_restart_is_there_for_a_consumer_that_comes_after_it(
    node: Node, on_node: OpenBooks
) -> None:
    ledger, amount = on_node(), 5000
    with rmqkit.connect(node.url) as connection:
        assert publish(connection, ledger, amount, Progress()).complete
    node.restart()
    with rmqkit.connect(node.url) as connection, connection.consume(ledger.queue, count=amount) as consumer:
        for delivery in consumer:
            ledger.handle(delivery)
    assert ledger.consumer_violations(ready(node.url, ledger.queue), 0) == []
    assert [each.body for each in ledger.handled] == [each.body for each in Ledger("").messages(range(amount))]


def test_4_a_broker_frozen_for_less_than_the_heartbeat_is_waited_for(node: Node, on_node: OpenBooks) -> None:
    ledger, progress = on_node(), Progress()

    def strike() -> None:
        progress.reaches(5000)
        freeze(node, 2)

    with rmqkit.connect(node.url) as connection, meanwhile(strike):
        report = publish(connection, ledger, 40_000, progress)
    ledger.drain(node.url)
    assert ledger.violations(report) == []
    assert report.complete
    assert report.republished == 0


@pytest.mark.usefixtures("leak_free")
def test_4_a_broker_frozen_for_longer_than_the_heartbeat_is_left_and_found_again(
    node: Node, on_node: OpenBooks
) -> None:
    ledger, progress = on_node(), Progress()

    def strike() -> None:
        progress.reaches(5000)
        freeze(node, 14)

    with rmqkit.connect(f"{node.url}?heartbeat=1") as connection, meanwhile(strike):
        report = publish(connection, ledger, 40_000, progress)
    ledger.drain(node.url)
    assert ledger.violations(report) == []
    assert report.complete
    assert report.republished > 0


def freeze(node: Node, seconds: float) -> None:
    """Stop the node's process, its connections standing; always let it go on."""
    os.kill(node.pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(node.pid, signal.SIGCONT)


@pytest.mark.usefixtures("leak_free")
def test_a_connection_with_two_urls_goes_on_with_the_other_broker(
    node: Node, own_node: Callable[[], Node], on_node: OpenBooks
) -> None:
    ledger, progress, other = on_node(), Progress(), own_node()
    with BlockingConnection(URLParameters(other.url)) as witness:
        witness.channel().queue_declare(ledger.queue, durable=True)

    def strike() -> None:
        progress.reaches(3000)
        other.kill()

    with rmqkit.connect(other.url, node.url) as connection, meanwhile(strike):
        report = publish(connection, ledger, 40_000, progress)
    assert report.complete
    ledger.drain(node.url)
    other.start()
    ledger.drain(other.url)
    assert ledger.violations(report, ordered=False) == []
