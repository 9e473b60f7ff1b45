"""Callbacks from other threads, which an event loop runs: many at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class CallbackQueue:
    """Runs functions on an event loop in the order in which they were posted: one wake-up for all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._scheduled = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call a function soon; any thread may call this, even after the loop was closed."""
        self._posted.append((function, args))
        if not self._scheduled:
            self._scheduled = True
            with suppress(RuntimeError):  # the loop was closed: nobody waits
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False  # first: what is posted from now on may need another call
        while self._posted:
            function, args = self._posted.popleft()
            function(*args)
