"""Work through a queue with a function: its results are verdicts, or messages to be published."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rmqkit.errors import RmqkitError
from rmqkit.handlers.function_calls import Batching, Called, OpenCalls, grouped
from rmqkit.handlers.handler import HandledBatch, Handler, Source
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.consumer import ACK_WITHIN_S
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable


class Results(Protocol):
    """What becomes of the results of calls, for one source."""

    def put(self, called: Called) -> None:
        """Take the result of a call. Raises HandlerError for a value that means nothing."""

    def is_busy(self) -> bool:
        """Tell whether deliveries wait for the broker."""

    def handled(self) -> Iterator[HandledBatch]:
        """Yield the deliveries that may be settled by now. Raises the error that keeps others from it."""

    def rest(self, stop: Stop) -> Iterator[HandledBatch]:
        """Wait until all deliveries may be settled, and yield them; after a stop, those that soon will be."""

    def close(self) -> None:
        """Give up what was not yielded."""


@dataclass
class FunctionWorker(Handler):
    """Calls a function with deliveries, or with batches of them, and passes on the results."""

    open_calls: OpenCalls
    open_results: Callable[[Source], Results]
    batching: Batching = (0, 0.0)

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Call the function; running calls are always awaited. Raises HandlerError, and the errors of the results."""
        calls, results = self.open_calls(source, stop), self.open_results(source)
        try:
            settled_s = time.monotonic()
            for groups in grouped(source, lambda: calls.is_busy() or results.is_busy(), self.batching):
                for called in calls.of(groups):
                    results.put(called)
                    if time.monotonic() - settled_s >= ACK_WITHIN_S:
                        yield from results.handled()
                        settled_s = time.monotonic()
                yield from results.handled()
            for called in calls.rest():
                results.put(called)
                yield from results.handled()
            yield from results.rest(stop)
        except RmqkitError:
            yield from results.handled()  # before it
            raise
        finally:
            calls.close()
            results.close()


@dataclass
class Verdicts:
    """Settles deliveries by the verdicts that a function returned: one for each delivery of its call."""

    verdicts: Callable[[object, int], Sequence[Verdict]]
    _waiting: list[HandledBatch] = field(default_factory=list)
    _done: list[Delivery] = field(default_factory=list)

    def put(self, called: Called) -> None:
        """Take the verdicts. Raises HandlerError for any other value."""
        if called.failure:
            self.reject(called)
            return
        for delivery, verdict in zip(
            called.deliveries, self.verdicts(called.result, len(called.deliveries)), strict=True
        ):
            self.settle(delivery, verdict)

    def settle(self, delivery: Delivery, verdict: Verdict) -> None:
        """Note the verdict on a delivery."""
        if verdict is Verdict.ACK:
            self._done.append(delivery)
        else:
            self._waiting.append(HandledBatch((delivery,), verdict))

    def reject(self, called: Called) -> None:
        """Note that the deliveries of a call failed."""
        self._waiting.append(HandledBatch(called.deliveries, Verdict.REJECT, called.failure, called.detail))

    def is_busy(self) -> bool:
        """Tell whether deliveries wait for the broker: never."""
        return False

    def handled(self) -> Iterator[HandledBatch]:
        """Yield all deliveries, those that are acknowledged together."""
        done, waiting = self._done, self._waiting
        self._done, self._waiting = [], []
        if done:
            yield HandledBatch(done)
        yield from waiting

    def rest(self, stop: Stop) -> Iterator[HandledBatch]:  # noqa: ARG002 - nothing is waited for
        """Yield all deliveries."""
        return self.handled()

    def close(self) -> None:
        """Do nothing."""
