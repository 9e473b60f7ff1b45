"""Call a user's function with deliveries, one or a list at a time."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any, NamedTuple, Protocol

from rmqkit.errors import HandlerError
from rmqkit.handlers.function import name_and_line
from rmqkit.handlers.handler import Source
from rmqkit.message import Delivery
from rmqkit.messaging.rpc_server import OnFailure
from rmqkit.stop import Stop

Batching = tuple[int, float]  # the size of a batch, and the seconds to wait until it is full
_EACH: Batching = (0, inf)


class Called(NamedTuple):
    """The deliveries of one call, and its result, or the reason why it failed; see `HandledBatch` for the texts."""

    deliveries: Sequence[Delivery]
    result: Any = None
    failure: str = ""
    detail: str = ""


class Calls(Protocol):
    """The calls of a function with the deliveries of one source, on the thread of that source."""

    def of(self, groups: Sequence[Sequence[Delivery]]) -> Iterator[Called]:
        """Call the function with each group; yield the calls that have ended, of these groups or of earlier ones."""

    def is_busy(self) -> bool:
        """Tell whether calls are running."""

    def rest(self) -> Iterator[Called]:
        """Wait for the running calls, and yield them."""

    def close(self) -> None:
        """Cancel the running calls."""


OpenCalls = Callable[[Source, Stop], Calls]


def failed(deliveries: Sequence[Delivery], error: Exception, on_failure: OnFailure) -> Called:
    """Report what a function raised, for each delivery, and return the call."""
    for delivery in deliveries:
        on_failure(delivery, error)
    last_line = traceback.format_exception_only(error)[-1].strip()
    return Called(deliveries, None, f"the handler raised {name_and_line(error)}", last_line)


class PlainCalls:
    """Calls a function on the thread of the source, one call after the other."""

    def __init__(self, source: Source, stop: Stop, call: Callable[[Sequence[Delivery]], Any], fail: OnFailure) -> None:
        self._source, self._stop, self._call, self._on_failure = source, stop, call, fail

    def of(self, groups: Sequence[Sequence[Delivery]]) -> Iterator[Called]:
        """Yield each call; after a stop, none is begun. Raises HandlerError if the function exits, as by `sys.exit`."""
        for group in groups:
            if self._stop.requested or self._source.is_lost(group[0]):
                return
            try:
                with self._source.handling(group):
                    called = Called(group, self._call(group))
            except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
                called = failed(group, exc, self._on_failure)
            except SystemExit as exc:
                raise HandlerError(f"the handler raised {name_and_line(exc)}") from exc
            yield called

    def is_busy(self) -> bool:
        """Tell whether calls are running: never."""
        return False

    def rest(self) -> Iterator[Called]:
        """Yield nothing."""
        return iter(())

    def close(self) -> None:
        """Do nothing."""


def grouped(source: Source, busy: Callable[[], bool], batching: Batching = _EACH) -> Iterator[list[Sequence[Delivery]]]:
    """Yield the deliveries of a source in groups, possibly none: one by one, or in batches.

    A batch is full, or its first delivery has waited for the time of the batching, or it is the last.
    """
    size, within_s = batching
    waiting: list[Delivery] = []
    due_s = inf
    for arrived in source.batches(busy=busy):
        if not size:
            yield [(each,) for each in arrived]
            continue
        waiting = [each for each in waiting if not source.is_lost(each)] + arrived
        groups: list[Sequence[Delivery]] = []
        while len(waiting) >= size or (waiting and time.monotonic() >= due_s):
            groups.append(waiting[:size])
            del waiting[:size]
            due_s = inf
        if waiting and due_s == inf:
            due_s = time.monotonic() + within_s
            source.wake(within_s)
        yield groups
    if waiting:
        yield [waiting]
