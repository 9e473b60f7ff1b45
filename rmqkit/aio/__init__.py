"""The library for asyncio: the same nouns, options, errors and guarantees, on the same engine.

import rmqkit.aio
from rmqkit import Message

async with rmqkit.aio.connect("amqp://guest:guest@localhost:5672/") as connection:
    await connection.publish(Message(b"hello", "worker_queue"))
    async for delivery in connection.consume("worker_queue", count=1):
        print(delivery.body)
"""

from __future__ import annotations

from rmqkit.aio.connection import AsyncConnection, connect
from rmqkit.aio.consumer import AsyncConsumer

__all__ = ["AsyncConnection", "AsyncConsumer", "connect"]
