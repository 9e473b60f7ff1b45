"""What tests of `rmqkit consume` do with queues, by an independent client, and with its report."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

Start = Callable[..., "subprocess.Popen[bytes]"]


def fill(channel: BlockingChannel, queue: str, count: int, size: int = 0) -> list[bytes]:
    bodies = [(b"%d " % number).ljust(size, b"x") for number in range(count)]
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
    await_state(channel, queue, ready=count)
    return bodies


def await_state(channel: BlockingChannel, queue: str, **expected: int) -> None:
    """Wait until a queue has so many messages `ready`, or so many `consumers`."""
    deadline_s = time.monotonic() + 20
    while True:
        method = channel.queue_declare(queue, passive=True).method
        state = {"ready": method.message_count, "consumers": method.consumer_count}
        if expected.items() <= state.items():
            return
        assert time.monotonic() < deadline_s, f"{queue} is {state}, and does not become {expected}"


def drain(channel: BlockingChannel, queue: str) -> list[bytes]:
    bodies = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return bodies
        bodies.append(body)


def report(stderr: bytes) -> dict[str, Any]:
    return dict(json.loads(stderr[stderr.index(b"{\n") :]))
