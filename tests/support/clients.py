"""Clients of pika that go about their work while a test watches them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel


@contextmanager
def client(
    url: str, set_up: Callable[[BlockingChannel], object], name: str = ""
) -> Iterator[list[pika.exceptions.AMQPError]]:
    """Run a client with a connection of this name, whose channel is set up; yield the errors that end it."""
    parameters = pika.URLParameters(url)
    parameters.client_properties = {"connection_name": name} if name else None
    ready, done = threading.Event(), threading.Event()
    errors: list[pika.exceptions.AMQPError] = []

    def run() -> None:
        try:
            with pika.BlockingConnection(parameters) as connection:
                set_up(connection.channel())
                ready.set()
                while not done.is_set():
                    connection.process_data_events(0.02)
        except pika.exceptions.AMQPError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(60)
        yield errors
    finally:
        done.set()
        thread.join()


def holder(queue: str, prefetch: int = 0, **options: Any) -> Callable[[BlockingChannel], None]:
    """Return a function that consumes a queue and acknowledges nothing."""

    def set_up(channel: BlockingChannel) -> None:
        channel.basic_qos(prefetch_count=prefetch)
        channel.basic_consume(queue, lambda *_: None, **options)

    return set_up
