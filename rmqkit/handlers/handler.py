"""What every way to handle deliveries has in common: they come in batches, and go out with a verdict.

    deliveries -source.batches-> Handler.handle -Settled-> consumer.settle

A handler settles nothing itself: what it does not yield, because it was stopped or raised, goes back to the queue.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from rmqkit.message import Delivery, Verdict
from rmqkit.stop import Stop


class HandledBatch(NamedTuple):
    """Deliveries whose verdict is known, in any order; `failure` says why handling failed (empty: it did not).

    `detail` may hold a piece of the body: it is for the headers of the message, and never printed.
    """

    deliveries: Sequence[Delivery]
    verdict: Verdict = Verdict.ACK
    failure: str = ""
    detail: str = ""


class Source(Protocol):
    """Where deliveries come from: a Consumer, or what stands before one."""

    def batches(self, *, busy: Callable[[], bool] = ...) -> Iterator[list[Delivery]]:
        """Yield deliveries as they come; see `Consumer.batches`."""
        ...

    def wake(self) -> None:
        """Have `batches` yield an empty batch soon; any thread may call this."""
        ...


@runtime_checkable
class Handler(Protocol):
    """Something that handles deliveries; several threads may each call `handle`, with a source of their own."""

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Handle what comes until the source ends; after a requested stop finish what was begun, and no more.

        Raises RmqkitError when it cannot go on.
        """
        ...

    def close(self) -> None:
        """Give up at once what still runs."""
        ...


def readers_are_gone(*descriptors: int) -> bool:
    """Tell whether nobody can read any more what goes to one of these, as to a pipe whose other end was closed.

    What fails then is no fault of its message.
    """
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLERR)
    return bool(poll.poll(0))
