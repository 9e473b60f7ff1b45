"""The protocol of handlers: deliveries arrive in batches and leave with a verdict.

    deliveries -source.batches-> Handler.handle -HandledBatch-> consumer.settle

A handler settles nothing itself: deliveries it does not yield, because it was stopped or raised, return to the queue.
"""

import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from rmqkit.message import Delivery, Verdict
from rmqkit.stop import Stop


class HandledBatch(NamedTuple):
    """Deliveries with their verdict, in any order; `failure` says why handling failed (empty: it succeeded).

    `detail` may contain a part of the body: it goes to the headers of the message and is never printed.
    """

    deliveries: Sequence[Delivery]
    verdict: Verdict = Verdict.ACK
    failure: str = ""
    detail: str = ""


class Source(Protocol):
    """A source of deliveries: a Consumer, or a filter in front of one."""

    def batches(self, *, busy: Callable[[], bool] = ...) -> Iterator[list[Delivery]]:
        """Yield deliveries as they arrive; see `Consumer.batches`."""
        ...

    def is_lost(self, delivery: Delivery) -> bool:
        """Tell whether the broker requeued a delivery; any thread may call this."""
        ...

    def handling(self, deliveries: Sequence[Delivery]) -> AbstractContextManager[object]:
        """Return a block in which deliveries are handled, for hooks."""
        ...

    def wake(self, after_s: float = 0.0) -> None:
        """Have `batches` yield an empty batch soon; any thread may call this, but with `after_s` only its own."""
        ...


@runtime_checkable
class Handler(Protocol):
    """Handles deliveries; several threads may call `handle` at once, each with its own source."""

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Handle deliveries until the source ends; after a requested stop, finish those in progress and start no more.

        Raises RmqkitError when it cannot continue.
        """
        ...

    def close(self) -> None:
        """Abort running work; the default does nothing."""
        return


OUTPUT_CLOSED = "output closed by its reader (broken pipe)"


def is_output_closed(*descriptors: int) -> bool:
    """Tell whether the reader of any of these, as of a pipe, closed it: a failure after that is not the message's."""
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLERR)
    return bool(poll.poll(0))
