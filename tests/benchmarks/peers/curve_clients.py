"""One of several clients that work at the same time, for curves.py.

    python curve_clients.py publish URL COUNT SIZE QUEUE...     COUNT messages, to the queues in turn
    python curve_clients.py subscribe URL COUNT QUEUE...        COUNT messages from each queue, over one connection

Prints a line when connected; then waits for a line, works, and prints when it began and ended.
"""

from __future__ import annotations

import sys
import threading
import time

from rmqkit import Consumer, Message, Verdict, connect


def publish(url: str, count: int, size: str, *queues: str) -> None:
    messages = [Message(bytes(int(size)), queue) for queue in queues]
    with connect(url) as connection:
        _wait()
        began_s = time.monotonic()
        connection.publish(messages[number % len(messages)] for number in range(count))
        print(began_s, time.monotonic())


def subscribe(url: str, count: int, *queues: str) -> None:
    def consume(consumer: Consumer) -> None:
        with consumer:
            for batch in consumer.batches():
                consumer.settle(batch, Verdict.ACK)

    threading.stack_size(256 * 1024)
    with connect(url) as connection:
        consumers = [connection.consume(queue, prefetch=100, count=count) for queue in queues]
        for each in consumers:
            each.subscribe()
        threads = [threading.Thread(target=consume, args=(each,)) for each in consumers]
        for thread in threads:
            thread.start()
        _wait()
        began_s = time.monotonic()
        for thread in threads:
            thread.join()
        print(began_s, time.monotonic())


def _wait() -> None:
    print("connected", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    action, url, count, *more = sys.argv[1:]
    {"publish": publish, "subscribe": subscribe}[action](url, int(count), *more)
