"""The command line of every peer, which prints the seconds that its action took.

    python with_NAME.py ACTION URL COUNT [FILE]

The clock starts once the connection is open and stops once it is closed again, so that everything sent was taken. The
seconds go to stdout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

QUEUE = "worker_queue"
PREFETCH = 1000
BATCH = 1000  # messages in flight, where a client can wait for several confirms


@contextmanager
def clock() -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(time.perf_counter() - start)


def port(url: str) -> int:
    return urlsplit(url).port or 5672


def run_action(*actions: Callable[..., None]) -> None:
    """Call the action that the command line names: publish(url, count) or consume(url, count, file)."""
    action, url, count, *file = sys.argv[1:]
    {each.__name__: each for each in actions}[action](url, int(count), *file)
