from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aio_pika
from client import BATCH, PREFETCH, QUEUE, clock, run_action


def publish(url: str, count: int) -> None:
    asyncio.run(_publish(url, count))


async def _publish(url: str, count: int) -> None:
    connection = await aio_pika.connect(url)
    channel = await connection.channel(publisher_confirms=True)
    exchange = channel.default_exchange
    with clock():
        for start in range(0, count, BATCH):
            await asyncio.gather(
                *[
                    exchange.publish(aio_pika.Message(b"%d" % number, delivery_mode=2), QUEUE)
                    for number in range(start, min(start + BATCH, count))
                ]
            )
        await connection.close()


def consume(url: str, count: int, file: str) -> None:
    asyncio.run(_consume(url, count, file))


async def _consume(url: str, count: int, file: str) -> None:
    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.declare_queue(QUEUE, durable=True)
    missing, done = count, asyncio.Event()

    with Path(file).open("wb") as out:

        async def on_message(message: Any) -> None:
            nonlocal missing
            out.write(message.body + b"\n")
            await message.ack()
            missing -= 1
            if not missing:
                done.set()

        with clock():
            await queue.consume(on_message)
            await done.wait()
            await connection.close()


if __name__ == "__main__":
    run_action(publish, consume)
