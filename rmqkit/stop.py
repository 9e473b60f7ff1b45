"""A request to stop, from a signal handler or another thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty

from rmqkit.thread_queue import ThreadQueue


class StopRequested(Exception):
    """A stop was requested during work that ends at once: a wait inside `Stop.interruptible`, a run of scenarios."""


class StoppedAtOnce(BaseException):
    """Raised in the main thread by a second signal: messages in progress are abandoned, and no broker is waited for."""


class Stop:
    """A flag that is set once and wakes every waiter.

    `request` takes no lock, so a signal handler may call it at any moment; setting a `threading.Event` is not safe
    there.
    """

    def __init__(self) -> None:
        self.requested = False
        self._wakers: list[Callable[[], None]] = []
        self._interrupting = False

    def request(self) -> None:
        """Set the flag and wake every waiter; raise StopRequested if the main thread waits for input."""
        self.requested = True
        for wake in tuple(self._wakers):
            wake()
        if self._interrupting:
            self._interrupting = False
            raise StopRequested

    def wait(self, seconds: float) -> bool:
        """Wait until the time has passed or a stop is requested; return whether one is requested."""
        woken: ThreadQueue[None] = ThreadQueue()
        with self.waking(lambda: woken.put(None)):
            if not self.requested and seconds > 0:
                with suppress(Empty):
                    woken.get(seconds)
        return self.requested

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` on a request while the block runs; `ThreadQueue.put` is safe to call."""
        self._wakers.append(wake)
        try:
            yield
        finally:
            self._wakers.remove(wake)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a request end a blocking wait in the main thread, by raising StopRequested out of the block.

        Wait for readiness inside the block and read outside of it, so that no input is dropped.
        """
        self._interrupting = True
        try:
            if self.requested:
                raise StopRequested
            yield
        finally:
            self._interrupting = False
