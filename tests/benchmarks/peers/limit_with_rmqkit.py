"""rmqkit at the work of limit.c, with the same arguments but the URL; prints its seconds."""

from __future__ import annotations

import sys

from client import clock

from rmqkit import Message, PublishOptions, Verdict, connect


def publish(url: str, queue: str, count: int, size: int, window: int) -> None:
    message = Message(bytes(size), queue)
    with connect(url) as connection, clock():
        connection.publish((message for _ in range(count)), options=PublishOptions(window=window))


def consume(url: str, queue: str, count: int, size: int, window: int) -> None:
    with connect(url) as connection, clock():
        consumer = connection.consume(queue, prefetch=window, count=count)
        for batch in consumer.batches():
            assert {len(delivery.body) for delivery in batch} == {size}
            consumer.settle(batch, Verdict.ACK)
        consumer.close()


if __name__ == "__main__":
    work, url, queue, *numbers = sys.argv[1:]
    {"publish": publish, "consume": consume}[work](url, queue, *map(int, numbers))
