"""Replacing is killed at every step, rmqkit by itself and the broker under it, while a publisher goes on: 34."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pika
import pytest

import rmqkit
from rmqkit.stop import Stop
from tests.faults.ledger import Ledger
from tests.faults.replacing import bound_queue, is_begun, killed_at, left_over, replaced
from tests.faults.witness import declare, within

EXCHANGE, KEY = "amq.topic", "a.b"
MOST_STEPS = 20


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

    def __enter__(self) -> Publishing:
        self._thread.start()
        within(10, lambda: len(self._ledger.fates) > 200)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.request()
        self._thread.join(20)
        assert not self._thread.is_alive()


def bind(url: str, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_bind(queue, EXCHANGE, KEY)


@pytest.mark.parametrize(
    "kinds",
    [({}, {"x-message-ttl": 600_000}), ({"x-queue-type": "quorum"}, {"x-queue-type": "classic"})],
    ids=["classic", "quorum and classic"],
)
def test_rmqkit_killed_at_any_step_of_a_replacement_and_run_again_loses_and_doubles_nothing(
    vhost_url: str, kinds: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    ledger = ExchangeLedger("q")
    declare(vhost_url, "q", **{name.replace("-", "_"): value for name, value in kinds[0].items()})
    bind(vhost_url, "q")
    twice, begun = 0, 0
    with Publishing(vhost_url, ledger, 500) as publishing:
        for step in range(1, MOST_STEPS):
            wanted = kinds[step % 2]
            if not killed_at(step, vhost_url, "q", EXCHANGE, KEY, wanted):
                break
            begun += is_begun(vhost_url, bound_queue("q", EXCHANGE, KEY, wanted))
            twice += sum(each.twice for each in replaced(vhost_url, bound_queue("q", EXCHANGE, KEY, wanted)))
            assert left_over(vhost_url, "q") == []
        else:
            pytest.fail("a replacement has more steps than that")
    print(step, begun, twice)
    ledger.drain(vhost_url)
    report = replace(publishing.report, republished=publishing.report.republished + twice)
    assert ledger.violations(replace(report), ordered=False) == []
    assert publishing.report.complete
    assert begun >= 10
