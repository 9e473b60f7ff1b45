"""Publish the messages that a function makes of deliveries; a delivery is done when all of its messages are confirmed.

At least once: if the acknowledgement of a delivery is lost, its messages are published again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue

from rmqkit.errors import ConnectionLost, RmqkitError
from rmqkit.handlers.calls import Called
from rmqkit.handlers.function import as_verdict, wrong_result
from rmqkit.handlers.handler import HandledBatch
from rmqkit.handlers.worker import Verdicts
from rmqkit.message import Delivery, Message, Verdict
from rmqkit.messaging.background_publisher import BackgroundPublisher
from rmqkit.model import Target
from rmqkit.report import Fate, PublishReport
from rmqkit.stop import Stop

Transformed = Message | Iterable[Message] | Verdict | None

_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it


class _Pending:
    """A delivery whose messages are unconfirmed: the outcome of each of them."""

    __slots__ = ("_ended", "_left", "delivery", "error")

    def __init__(self, delivery: Delivery, messages: int, ended: Callable[[_Pending], None]) -> None:
        self.delivery = delivery
        self.error: RmqkitError | None = None
        self._left = messages
        self._ended = ended

    def set_running_or_notify_cancel(self) -> bool:
        return True

    def set_result(self, _: Fate, /) -> None:
        self._left -= 1
        if not self._left:
            self._ended(self)

    def set_exception(self, error: RmqkitError, /) -> None:
        self.error = self.error or error
        self.set_result(Fate.UNKNOWN)


class Outputs:
    """The results of a transform, for one source: messages are published, verdicts settle the delivery.

    A message without an exchange and a routing key goes `to` this target. A delivery fails if the broker does not take
    one of its messages.
    """

    def __init__(
        self,
        publisher: BackgroundPublisher,
        transform: Callable[..., object],
        to: Target | None,
        wake: Callable[[], None],
    ) -> None:
        self._publisher, self._transform, self._to, self._wake = publisher, transform, to, wake
        self._verdicts = Verdicts(lambda *_: ())
        self._made: list[tuple[Message, _Pending]] = []  # to be published together: fewer switches of threads
        self._ended: SimpleQueue[_Pending | None] = SimpleQueue()
        self._unfinished = 0
        self._to_call: list[Callable[[], None]] = []
        publisher.direct, publisher.call_soon = True, self._to_call.append

    def put(self, called: Called) -> None:
        """Take the messages of a call. Raises HandlerError for a result that is no Transformed."""
        (delivery,) = called.deliveries
        result = called.result
        if called.failure:
            self._verdicts.reject(called)
        elif isinstance(result, Message):
            self._add(delivery, (result,))
        elif not isinstance(result, list):
            self._verdicts.settle(delivery, as_verdict(result, self._transform))
        elif wrong := [each for each in result if not isinstance(each, Message)]:
            raise wrong_result(wrong[0], self._transform, "a Message among its messages")
        elif result:
            self._add(delivery, result)
        else:
            self._verdicts.settle(delivery, Verdict.ACK)

    def is_busy(self) -> bool:
        """Tell whether confirms are expected."""
        return self._unfinished > 0

    def handled(self) -> Iterator[HandledBatch]:
        """Publish what was made; yield the deliveries whose messages were confirmed, or failed.

        Raises the error if this is not known of a message.
        """
        made, self._made = self._made, []
        for message, pending in made:
            self._publisher.queue(message, pending)
        while self._to_call:
            self._to_call.pop()()
        unknown: RmqkitError | None = None
        with suppress(Empty):
            while True:
                unknown = self._take(self._ended.get_nowait()) or unknown
        yield from self._verdicts.handled()
        if unknown is not None:
            raise unknown

    def rest(self, stop: Stop) -> Iterator[HandledBatch]:
        """Wait for all confirms; after a stop, only for those of messages that were sent already."""
        with stop.waking(lambda: self._ended.put(None)):
            while self._unfinished and not stop.requested:
                with suppress(Empty):
                    self._ended.put(self._ended.get(timeout=_WAIT_S))
                yield from self.handled()
        self._publisher.close(0)
        with suppress(ConnectionLost):
            yield from self.handled()

    def close(self) -> None:
        """Publish nothing more."""
        self._publisher.close(0)

    def _add(self, delivery: Delivery, messages: Sequence[Message]) -> None:
        pending = _Pending(delivery, len(messages), self._end)
        self._unfinished += 1
        for message in messages:
            to = None if message.exchange or message.routing_key else self._to
            addressed = message if to is None else replace(message, exchange=to.exchange, routing_key=to.routing_key)
            self._made.append((addressed, pending))

    def _end(self, pending: _Pending) -> None:
        """Note that the outcomes of all messages of a delivery are known; called on the publisher's thread."""
        self._ended.put(pending)
        if self._ended.qsize() == 1:  # else the source has been woken already
            self._wake()

    def _take(self, pending: _Pending | None) -> RmqkitError | None:
        """Note what becomes of a delivery; return the error if the broker may have taken its messages."""
        if pending is None:
            return None
        self._unfinished -= 1
        error = pending.error
        if error is None:
            self._verdicts.settle(pending.delivery, Verdict.ACK)
        elif isinstance(error.report, PublishReport) and error.report.unknown:
            return error
        else:
            self._verdicts.reject(Called((pending.delivery,), failure=f"an output was not confirmed: {error.message}"))
        return None


def collected(result: object) -> object:
    """Return what a transform returned, with a list in place of any other iterable of messages."""
    if type(result) is Message or isinstance(result, Message | Verdict | str | bytes):
        return result
    if not isinstance(result, Iterable):
        return result
    return list(result)
