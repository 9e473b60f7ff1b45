"""Run functions on threads; the first that fails stops the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty

from rmqkit.errors import RmqkitError
from rmqkit.stop import Stop
from rmqkit.thread_queue import ThreadQueue

_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it


def run_all(functions: Sequence[Callable[[], None]], stop: Stop) -> None:
    """Run each function on its own thread; a single one on the caller's.

    When one raises, the others are asked to stop; the error is raised once they have ended, a bug before all others.
    """
    if len(functions) == 1:
        functions[0]()
        return
    errors: list[BaseException] = []
    ended: list[Callable[[], None]] = []
    woken: ThreadQueue[None] = ThreadQueue()

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as exc:  # noqa: BLE001 - raised again below, on the caller's thread
            errors.append(exc)
            stop.request()
        finally:
            ended.append(function)
            woken.put(None)

    def wait() -> None:  # after a KeyboardInterrupt in Thread.join, Python 3.11 takes a running thread for dead
        while len(ended) < sum(thread.ident is not None for thread in threads):
            with suppress(Empty):
                woken.get(_WAIT_S)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    try:
        for thread in threads:
            thread.start()
        wait()
    except KeyboardInterrupt:
        stop.request()
        wait()
        raise
    if errors:
        raise min(errors, key=lambda each: isinstance(each, RmqkitError))
