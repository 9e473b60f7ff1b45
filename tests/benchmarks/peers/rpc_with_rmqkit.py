"""The same with rmqkit: `serve URL QUEUE PREFETCH`, `call URL QUEUE COUNT WINDOW`; window 0 is one `call` a request."""

from __future__ import annotations

import sys
import time

import rmqkit
from rmqkit import Message


def serve(url: str, queue: str, prefetch: int) -> None:
    """Answer each request with its body, until the process is ended."""
    with rmqkit.connect(url) as connection:
        connection.serve(queue, prefetch=prefetch)(lambda request: request.body)
        connection.run()


def call(url: str, queue: str, count: int, window: int) -> None:
    """Ask, so many questions at once, 0 for one call after the other; print the seconds it took."""
    with rmqkit.connect(url) as connection:
        connection.queue_state(queue)
        requests = (Message(b"%d" % number, queue) for number in range(count))
        begun = time.perf_counter()
        if window:
            for number, answer in enumerate(connection.call_many(requests, window=window)):
                assert answer.reply.body == b"%d" % number
        else:
            for number, request in enumerate(requests):
                assert connection.call(request).body == b"%d" % number
        print(time.perf_counter() - begun)


if __name__ == "__main__":
    role, url, queue, *numbers = sys.argv[1:]
    if role == "serve":
        serve(url, queue, int(numbers[0]))
    else:
        call(url, queue, int(numbers[0]), int(numbers[1]))
