"""What an independent client does and sees: plain pika, no rmqkit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pika


def declare(url: str, queue: str, **arguments: Any) -> None:
    """Declare a durable queue; the arguments' names have underscores for dashes."""
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_declare(queue, durable=True, arguments=named)


def ready(url: str, queue: str) -> int:
    """Return how many messages wait in a queue; while no consumer holds any, that is all there are."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return int(connection.channel().queue_declare(queue, passive=True).method.message_count)


def bodies(url: str, queue: str) -> list[bytes]:
    """Empty a queue, and return what was in it."""
    found: list[bytes] = []
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        left = channel.queue_declare(queue, passive=True).method.message_count
        for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=5) if left else ():
            assert body is not None, f"{left} messages were counted, and {left - len(found)} do not come"
            found.append(body)
            if len(found) == left:
                break
    return found


def within(seconds: float, holds: Callable[[], bool], what: Callable[[], str] = lambda: "it did not happen") -> None:
    """Wait until something holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)
