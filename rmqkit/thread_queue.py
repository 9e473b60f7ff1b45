"""Hand items from any thread, or from a signal handler, to one thread that waits for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from queue import Empty
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class ThreadQueue(Generic[ItemT]):
    """A queue of which one thread gets; any thread may put, and a signal handler at any moment.

    `queue.SimpleQueue` cannot be used: before Python 3.13, its `get` waits forever if its timeout ends before it has
    begun to wait, as it may on a busy machine, or in a signal handler.
    """

    def __init__(self) -> None:
        self._items: deque[ItemT] = deque()
        self._added = threading.Lock()  # held: nothing was put since the last wait

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: ItemT) -> None:
        """Add an item, and wake the thread that waits for it."""
        try:
            self._items.append(item)
            self._wake()
        except BaseException:  # of a signal handler, in between
            self._wake()
            raise

    def _wake(self) -> None:
        if self._added.locked():  # else the thread will look
            with suppress(RuntimeError):  # another one released it just now
                self._added.release()

    def get(self, timeout_s: float = 0.0) -> ItemT:
        """Return the oldest item; wait for one up to this time, which may be infinite. Raises `queue.Empty`."""
        if not self._items and timeout_s > 0:
            deadline_s = time.monotonic() + timeout_s
            while not self._items and (left_s := deadline_s - time.monotonic()) > 0:
                self._added.acquire(timeout=min(left_s, threading.TIMEOUT_MAX))
        try:
            return self._items.popleft()
        except IndexError:
            raise Empty from None
