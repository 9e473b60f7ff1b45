"""Replacing is killed at every step, rmqkit by itself and the broker under it, while a publisher goes on: 34."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

import rmqkit
from rmqkit.broker.mover import PREFETCH
from rmqkit.broker.site import Pauses
from rmqkit.errors import BrokerError
from rmqkit.model import Binding
from rmqkit.node import Node
from rmqkit.stop import Stop
from tests.conftest import Broker
from tests.faults.ledger import Ledger
from tests.faults.replacing import (
    EXCHANGE,
    KEY,
    bind,
    bound_queue,
    killed_at,
    left_over,
    replaced,
    start,
    waiting,
)
from tests.faults.rounds import restart_after_kill
from tests.faults.witness import declare, within

MOST_STEPS = 20
pytestmark = pytest.mark.timeout(150)  # a process or a broker is started for every blow


class ExchangeLedger(Ledger):
    """The books of a queue that is published to through an exchange."""

    def messages(self, ids: Iterable[int]) -> Iterator[rmqkit.Message]:
        for message in super().messages(ids):
            yield replace(message, exchange=EXCHANGE, routing_key=KEY)


class Publishing:
    """A publisher on a thread of its own, until it is told to end."""

    def __init__(self, url: str, ledger: Ledger, rate: float) -> None:
        self._stop = Stop()
        self._url, self._ledger, self._rate = url, ledger, rate
        self.report = rmqkit.PublishReport()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        options = rmqkit.PublishOptions(rate=self._rate)
        with rmqkit.connect(self._url) as connection:
            self.report = connection.publish(
                self._ledger.messages(range(1_000_000)),
                options=options,
                check=False,
                stop=self._stop,
                on_settled=self._ledger.settled,
            )

    def __enter__(self) -> Self:
        self._thread.start()
        within(10, lambda: len(self._ledger.fates) > 50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.request()
        self._thread.join(20)
        assert not self._thread.is_alive()


def violations(ledger: Ledger, publishing: Publishing, twice: int) -> list[str]:
    """Check I1 to I4 and I6; what a mover says may be there twice counts as published again."""
    report = publishing.report
    assert report.complete
    return ledger.violations(replace(report, republished=report.republished + twice), ordered=False)


def live_bindings(broker: Broker, url: str) -> list[Binding]:
    """Return every binding of a virtual host, as RabbitMQ's HTTP API tells them."""
    found = json.loads(broker.api("GET", f"bindings/{urlsplit(url).path[1:]}"))
    return [
        Binding(each["source"], each["destination"], each["destination_type"], each["routing_key"], each["arguments"])
        for each in found
    ]


CLASSIC, QUORUM = {"x-queue-type": "classic"}, {"x-queue-type": "quorum"}
STRIDE = 4
ROUNDS = [
    *(((CLASSIC, {**CLASSIC, "x-message-ttl": 600_000}), first) for first in range(1, STRIDE + 1)),
    ((QUORUM, CLASSIC), 4),
]


@pytest.mark.parametrize(("kinds", "first"), ROUNDS)
def test_34_rmqkit_killed_at_a_step_of_a_replacement_and_run_again_loses_nothing(
    broker: Broker, vhost_url: str, kinds: tuple[dict[str, Any], dict[str, Any]], first: int
) -> None:
    """Every step is one of some round's: a round kills one process at its step, then lets another finish."""
    ledger = ExchangeLedger("q")
    declare(vhost_url, "q", **{name.replace("-", "_"): value for name, value in kinds[0].items()})
    bind(vhost_url, "q")
    twice = rounds = 0
    with Publishing(vhost_url, ledger, 500) as publishing:
        for step in range(first, MOST_STEPS, STRIDE):
            rounds += 1
            wanted = kinds[rounds % 2]
            if not killed_at(step, vhost_url, "q", wanted):
                break
            # What a run sees with RabbitMQ's HTTP API, and over AMQP alone.
            seen = live_bindings(broker, vhost_url) if first % 2 else []
            twice += sum(each.twice for each in replaced(vhost_url, bound_queue("q", wanted), extra_bindings=seen))
        else:
            pytest.fail("a replacement has more steps than that")
    assert left_over(vhost_url, "q") == []
    ledger.drain(vhost_url)
    assert violations(ledger, publishing, twice) == []
    assert step > STRIDE * 2
    sources = [(each.source, each.destination) for each in live_bindings(broker, vhost_url) if each.source]
    assert sources == [(EXCHANGE, "q")]


def test_34_rmqkit_killed_while_it_moves_messages_may_double_those_on_their_way_and_no_others(vhost_url: str) -> None:
    ledger, amount = ExchangeLedger("q"), 8000
    declare(vhost_url, "q")
    bind(vhost_url, "q")
    with rmqkit.connect(vhost_url) as connection:
        report = connection.publish(ledger.messages(range(amount)), on_settled=ledger.settled)
    wanted = bound_queue("q", {"x-message-ttl": 600_000})
    with start(vhost_url, "q", {"x-message-ttl": 600_000}) as process:
        within(20, lambda: 0 < waiting(vhost_url, "q.rmqkit.kept") < amount)
        process.kill()
    (done,) = replaced(vhost_url, wanted)
    ledger.drain(vhost_url)
    assert ledger.violations(replace(report, republished=done.twice), ordered=False) == []
    assert done.twice <= PREFETCH


BLOWS = ("set", "delete it")  # the beginnings of steps


@pytest.mark.parametrize("blow", BLOWS)
def test_34_the_broker_killed_at_a_step_of_a_replacement_and_rmqkit_run_again_loses_nothing(
    node: Node, on_node: Callable[[str], Ledger], blow: str
) -> None:
    queue = on_node("").queue
    bind(node.url, queue)
    node.ctl("eval", "mnesia:sync_log().")
    ledger, wanted = ExchangeLedger(queue), bound_queue(queue, {"x-message-ttl": 600_000})
    struck = []

    def strike(step: str) -> None:
        if not struck and f": {blow}" in step:
            struck.append(step)
            threading.Timer(0.1, lambda: struck.append(restart_after_kill(node))).start()

    with Publishing(node.url, ledger, 500) as publishing:
        for _ in range(3):
            try:
                done = replaced(node.url, wanted, pauses=Pauses(stale_s=0.3, quiet_s=0.3), on_step=strike)
            except BrokerError:
                within(30, lambda: len(struck) == 2)  # the broker is back
            else:
                break
        else:
            pytest.fail("it does not come to its end")
    within(30, lambda: len(struck) == 2)
    assert left_over(node.url, queue) == []
    ledger.drain(node.url)
    # Acknowledgements that a classic queue had not on its disk are forgotten, and nothing marks what comes again.
    assert [each for each in violations(ledger, publishing, done[0].twice) if not each.startswith("I4")] == []
