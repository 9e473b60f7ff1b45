"""A service with rmqkit: one connection. Prints the median and the 99th percentile in ms, or messages a second."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import rmqkit
import rmqkit.aio
from rmqkit import Message

BODY = b"x" * 100


def one(url: str, queue: str, count: int) -> tuple[float, float]:
    message, seconds = Message(BODY, queue), []
    with rmqkit.connect(url) as connection:
        connection.publish(message)  # pika's channel is open, too
        for _ in range(count):
            started_s = time.perf_counter()
            connection.publish(message)
            seconds.append(time.perf_counter() - started_s)
    return 1000 * sorted(seconds)[count // 2], 1000 * sorted(seconds)[count * 99 // 100]


def threads(url: str, queue: str, count: int) -> tuple[float]:
    message = Message(BODY, queue)
    with rmqkit.connect(url) as connection:
        connection.publish(message)

        def publish() -> None:
            for _ in range(count // 32):
                connection.publish(message)

        workers = [threading.Thread(target=publish) for _ in range(32)]
        started_s = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return (count / (time.perf_counter() - started_s),)


def publish(url: str, queue: str, count: int) -> tuple[float]:
    with rmqkit.connect(url) as connection:
        started_s = time.perf_counter()
        connection.publish(Message(BODY, queue) for _ in range(count))
        return (count / (time.perf_counter() - started_s),)


def pipe(url: str, queue: str, count: int) -> tuple[float]:
    output = f"{queue}.output"
    with rmqkit.connect(url) as connection:
        started_s = time.perf_counter()
        connection.pipe(queue, lambda delivery: Message(delivery.body, output), count=count)
        return (count / (time.perf_counter() - started_s),)


async def tasks(url: str, queue: str, count: int) -> float:
    message = Message(BODY, queue)
    async with rmqkit.aio.connect(url) as connection:
        started_s = time.perf_counter()
        for _ in range(count // 1000):
            await asyncio.gather(*(connection.publish(message) for _ in range(1000)))
        return count / (time.perf_counter() - started_s)


async def consume(url: str, queue: str, count: int) -> float:
    async with rmqkit.aio.connect(url) as connection:
        started_s = time.perf_counter()
        async for _ in connection.consume(queue, count=count):
            pass
        return count / (time.perf_counter() - started_s)


if __name__ == "__main__":
    what, url, queue, count = sys.argv[1:]
    if what in ("one", "threads", "publish", "pipe"):
        print(*{"one": one, "threads": threads, "publish": publish, "pipe": pipe}[what](url, queue, int(count)))
    else:
        print(asyncio.run({"tasks": tasks, "consume": consume}[what](url, queue, int(count))))
