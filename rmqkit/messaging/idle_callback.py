"""Iterate over items that may be slow to arrive, and call a function while the next one is awaited."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from rmqkit.stop import Stop

EVERY_S = 0.1

T = TypeVar("T")


def with_idle_callback(items: Iterable[T], look: Callable[[Stop], None]) -> Generator[T]:
    """Yield items; while the iterable waits for its next one, call `look` ten times a second, on another thread.

    It is never called while the consumer of the items runs. What it raises is raised here, in place of the next item.
    When this is closed, or the iterable raises, the argument of `look` is requested to stop.
    """
    looking = threading.Lock()
    waiting = busy = False  # on this thread; on the other one
    ended = Stop()
    errors: list[BaseException] = []

    def watch() -> None:
        nonlocal busy
        while not ended.wait(EVERY_S):
            with looking:
                busy = True  # before `waiting` is read, which is set before this is read: no need to take the lock
                if waiting and not errors:
                    try:
                        look(ended)
                    except BaseException as exc:  # noqa: BLE001 - raised below
                        errors.append(exc)
                busy = False

    thread = threading.Thread(target=watch, name="rmqkit-watch", daemon=True)
    thread.start()
    try:
        waiting = True
        for item in items:
            waiting = False
            if busy:
                with looking:
                    pass
            if errors:
                raise errors[0]  # noqa: TRY301 - it ends the iterable, too
            yield item
            waiting = True
    except BaseException:
        ended.request()
        raise
    finally:
        waiting = False
        with looking:
            ended.request()
        thread.join()
    if errors:
        raise errors[0]
