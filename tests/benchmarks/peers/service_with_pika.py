"""A service with pika, one connection a thread. Prints the median and 99th percentile in ms, or messages a second."""

from __future__ import annotations

import sys
import threading
import time

import pika

BODY, PROPERTIES = b"x" * 100, pika.BasicProperties(delivery_mode=2)


def channel(url: str) -> pika.adapters.blocking_connection.BlockingChannel:
    opened = pika.BlockingConnection(pika.URLParameters(url)).channel()
    opened.confirm_delivery()
    return opened


def one(url: str, queue: str, count: int) -> tuple[float, float]:
    opened, seconds = channel(url), []
    for _ in range(count):
        started_s = time.perf_counter()
        opened.basic_publish("", queue, BODY, PROPERTIES, mandatory=True)
        seconds.append(time.perf_counter() - started_s)
    return 1000 * sorted(seconds)[count // 2], 1000 * sorted(seconds)[count * 99 // 100]


def threads(url: str, queue: str, count: int) -> tuple[float]:
    def publish(opened: pika.adapters.blocking_connection.BlockingChannel) -> None:
        for _ in range(count // 32):
            opened.basic_publish("", queue, BODY, PROPERTIES, mandatory=True)

    workers = [threading.Thread(target=publish, args=(channel(url),)) for _ in range(32)]
    started_s = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (count / (time.perf_counter() - started_s),)


if __name__ == "__main__":
    what, url, queue, count = sys.argv[1:]
    print(*{"one": one, "threads": threads}[what](url, queue, int(count)))
