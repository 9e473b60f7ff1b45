"""Iterate over what may be slow to come, and do other work meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

EVERY_S = 0.1

T = TypeVar("T")


def watched(items: Iterable[T], look: Callable[[], None]) -> Generator[T]:
    """Yield items; while the iterable waits for its next one, call `look` ten times a second, on another thread.

    It is never called while the consumer of the items runs. What it raises is raised here, in place of the next item.
    """
    looking = threading.Lock()
    waiting = False
    ended = threading.Event()
    errors: list[BaseException] = []

    def watch() -> None:
        while not ended.wait(EVERY_S):
            with looking:
                if waiting and not errors:
                    try:
                        look()
                    except BaseException as exc:  # noqa: BLE001 - raised below
                        errors.append(exc)

    thread = threading.Thread(target=watch, name="rmqkit-watch", daemon=True)
    thread.start()
    try:
        iterator, more = iter(items), True
        while True:
            waiting = True
            try:
                item = next(iterator)
            except StopIteration:
                more = False
            finally:
                with looking:
                    waiting = False
            if errors:
                raise errors[0]
            if not more:
                return
            yield item
    finally:
        ended.set()
        with looking:
            waiting = False
        thread.join()
