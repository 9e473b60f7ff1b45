from __future__ import annotations

import asyncio
from pathlib import Path

from client import BATCH, PREFETCH, QUEUE, clock, port, run_action
from rabbitkit import AsyncBroker, BatchPublishConfig, ConnectionConfig, MessageEnvelope, RabbitConfig, RabbitQueue


def publish(url: str, count: int) -> None:
    asyncio.run(_publish(url, count))


async def _publish(url: str, count: int) -> None:
    broker = AsyncBroker(
        RabbitConfig(connection=ConnectionConfig(host="127.0.0.1", port=port(url))),
        batch_config=BatchPublishConfig(batch_size=BATCH, max_in_flight=10 * BATCH, flush_interval_ms=1),
    )
    await broker.start()
    with clock():
        for start in range(0, count, BATCH):
            outcomes = await asyncio.gather(
                *[
                    broker.publish(MessageEnvelope(QUEUE, b"%d" % number))
                    for number in range(start, min(start + BATCH, count))
                ]
            )
            assert all(outcome.ok for outcome in outcomes)
        await broker.stop()


def consume(url: str, count: int, file: str) -> None:
    asyncio.run(_consume(url, count, file))


async def _consume(url: str, count: int, file: str) -> None:
    broker = AsyncBroker(RabbitConfig(connection=ConnectionConfig(host="127.0.0.1", port=port(url))))
    missing, done = count, asyncio.Event()

    with Path(file).open("wb") as out:

        @broker.subscriber(queue=RabbitQueue(QUEUE), prefetch_count=PREFETCH, reject_without_dlx="discard")
        async def on_message(body: bytes) -> None:
            nonlocal missing
            out.write(body + b"\n")
            missing -= 1
            if not missing:
                done.set()

        with clock():
            await broker.start()
            await done.wait()
            await broker.stop()


if __name__ == "__main__":
    run_action(publish, consume)
