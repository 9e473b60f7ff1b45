"""Declare, fill, count and drain queues with plain pika, a client independent of rmqkit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.wait import wait_for_queue


class Received(NamedTuple):
    """A message as pika received it."""

    method: Any
    properties: pika.BasicProperties
    body: bytes


@contextmanager
def open_channel(broker: str | BlockingChannel) -> Iterator[BlockingChannel]:
    """Open a channel at a URL, or use one that is open."""
    if isinstance(broker, str):
        with pika.BlockingConnection(pika.URLParameters(broker)) as connection:
            yield connection.channel()
    else:
        yield broker


def declare(broker: str | BlockingChannel, queue: str, **arguments: Any) -> None:
    """Declare a durable queue; write the arguments' names with underscores for dashes."""
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    with open_channel(broker) as channel:
        channel.queue_declare(queue, durable=True, arguments=named)


def ready(broker: str | BlockingChannel, queue: str) -> int:
    """Return the number of ready messages in a queue."""
    with open_channel(broker) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def consumers(broker: str | BlockingChannel, queue: str) -> int:
    """Return the number of consumers of a queue."""
    with open_channel(broker) as channel:
        return int(channel.queue_declare(queue, passive=True).method.consumer_count)


def fill(channel: BlockingChannel, queue: str, count: int, size: int = 0) -> list[bytes]:
    """Publish numbered persistent bodies of at least `size` bytes; return them once all are ready."""
    sent = [(b"%d " % number).ljust(size, b"x") for number in range(count)]
    for body in sent:
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
    wait_for_queue(channel, queue, ready=count)
    return sent


def drain_messages(broker: str | BlockingChannel, queue: str) -> list[Received]:
    """Empty a queue; return its messages in order."""
    received: list[Received] = []
    with open_channel(broker) as channel:
        while left := ready(channel, queue):
            for method, properties, body in channel.consume(queue, inactivity_timeout=20):
                assert method is not None, f"queue {queue} counts {left} more messages but delivers none"
                received.append(Received(method, properties or pika.BasicProperties(), body or b""))
                left -= 1
                if left % 500 == 0:
                    channel.basic_ack(method.delivery_tag, multiple=True)
                if not left:
                    break
            channel.cancel()
    return received


def drain(broker: str | BlockingChannel, queue: str) -> list[bytes]:
    """Empty a queue; return its bodies in order."""
    return [each.body for each in drain_messages(broker, queue)]
