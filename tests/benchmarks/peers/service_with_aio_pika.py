"""A service with aio-pika: a thousand tasks at once. Prints messages a second."""

from __future__ import annotations

import asyncio
import sys
import time

import aio_pika

BODY = b"x" * 100


async def tasks(url: str, queue: str, count: int) -> float:
    async with await aio_pika.connect(url) as connection:
        exchange = (await connection.channel(publisher_confirms=True)).default_exchange
        started_s = time.perf_counter()
        for _ in range(count // 1000):
            messages = [aio_pika.Message(BODY, delivery_mode=2) for _ in range(1000)]
            await asyncio.gather(*(exchange.publish(message, queue) for message in messages))
        return count / (time.perf_counter() - started_s)


async def consume(url: str, queue: str, count: int) -> float:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(1000)
        handled, started_s = 0, time.perf_counter()
        async with (await channel.get_queue(queue)).iterator() as deliveries:
            async for delivery in deliveries:
                await delivery.ack()
                handled += 1
                if handled == count:
                    return count / (time.perf_counter() - started_s)
    raise AssertionError


if __name__ == "__main__":
    what, url, queue, count = sys.argv[1:]
    print(asyncio.run({"tasks": tasks, "consume": consume}[what](url, queue, int(count))))
