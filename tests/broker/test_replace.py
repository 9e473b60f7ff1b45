"""Replacing queues and exchanges on a live broker: what was in them is there afterwards, and so are their bindings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from pika import BasicProperties, URLParameters
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.broker.link import Link
from rmqkit.broker.probing import Looker
from rmqkit.broker.replace import Replaced, replace
from rmqkit.broker.site import Pauses
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.report import Outcome
from rmqkit.settings import load_settings
from tests.faults.witness import declare, within

SHORT = Pauses(on_disk_s=0.05, stale_s=0.1, quiet_s=0.2)


@contextmanager
def links(url: str) -> Iterator[tuple[Link, Link]]:
    pair = Link(load_settings((url,)), "consumer"), Link(load_settings((url,)), "publisher")
    try:
        yield pair
    finally:
        for link in pair:
            link.close()


def replaced(url: str, topology: Topology, **options: Any) -> tuple[Replaced, ...]:
    """Replace whatever conflicts with a topology."""
    with links(url) as (consuming, publishing):
        with Looker(consuming) as looker:
            steps = [looker.look(each) for each in (*topology.exchanges, *topology.queues)]
        conflicts = [each for each in steps if each.outcome is Outcome.CONFLICT]
        return replace(consuming, publishing, topology, conflicts, pauses=SHORT, **options)


@pytest.fixture
def witness(vhost_url: str) -> Iterator[BlockingChannel]:
    """A channel of plain pika, on a fresh virtual host."""
    with pika.BlockingConnection(URLParameters(vhost_url)) as connection:
        yield connection.channel()


def drained(channel: BlockingChannel, queue: str) -> list[tuple[bytes, BasicProperties, str]]:
    """Empty a queue; return bodies, properties and routing keys."""
    found = []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append((body, properties, method.routing_key))


def left_over(url: str) -> list[str]:
    """Return every name on the virtual host that only a replacement uses."""
    with links(url) as (link, _), Looker(link) as looker:
        names = [f"q.rmqkit.{part}" for part in ("way", "turn", "out", "back", "kept", "came", "trial", "gate")]
        names += ["rmqkit.replacing"]
        return [
            f"{noun.__name__} {name}"
            for name in names
            for noun in (Exchange, Queue)
            if looker.answer(noun(name)) is not None
        ]


CHANGES = {
    "classic to quorum": ({}, {"x-queue-type": "quorum"}),
    "quorum to classic": ({"x-queue-type": "quorum"}, {"x-queue-type": "classic"}),
    "a quorum queue's delivery limit": ({"x-queue-type": "quorum"}, {"x-queue-type": "quorum", "x-delivery-limit": 5}),
    "TTL": ({}, {"x-message-ttl": 600_000}),
    "dead-letter exchange": ({"x-dead-letter-exchange": ""}, {"x-dead-letter-exchange": "amq.fanout"}),
    "length": ({"x-max-length": 900}, {"x-max-length": 1000, "x-overflow": "reject-publish"}),
    "single active consumer": ({"x-single-active-consumer": True}, {}),
    "to a stream": ({}, {"x-queue-type": "stream"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_replaced_queue_has_its_new_properties_its_messages_in_order_and_its_bindings(
    vhost_url: str, witness: BlockingChannel, change: str
) -> None:
    old, new = CHANGES[change]
    declare(vhost_url, "q", **{name.replace("-", "_"): value for name, value in old.items()})
    witness.queue_bind("q", "amq.topic", "a.*")
    for number in range(700):
        witness.basic_publish("amq.topic", "a.b", b"%d" % number)
    topology = Topology(queues=(Queue("q", arguments=new),), bindings=(Binding("amq.topic", "q", routing_key="a.*"),))
    within(5, lambda: witness.queue_declare("q", passive=True).method.message_count == 700)
    (done,) = replaced(vhost_url, topology)
    assert done == Replaced("queue", "q", moved=700)
    witness.queue_declare("q", durable=True, arguments=new)
    witness.basic_publish("amq.topic", "a.c", b"later")
    if new.get("x-queue-type") != "stream":
        found = drained(witness, "q")
        assert [body for body, _, _ in found] == [*(b"%d" % number for number in range(700)), b"later"]
        assert {key for _, _, key in found} == {"a.b", "a.c"}
    assert left_over(vhost_url) == []
