"""Publish the messages that a function makes of deliveries; a delivery is done when all of its messages are confirmed.

At least once: if the acknowledgement of a delivery is lost, its messages are published again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty

from rmqkit.errors import BrokerError, ConnectionLost, RmqkitError
from rmqkit.handlers.function import as_verdict, wrong_result
from rmqkit.handlers.function_calls import Called
from rmqkit.handlers.function_worker import Verdicts
from rmqkit.handlers.handler import HandledBatch
from rmqkit.message import Delivery, Message, Verdict
from rmqkit.messaging.background_publisher import BackgroundPublisher
from rmqkit.model import Target
from rmqkit.report import Fate, PublishReport
from rmqkit.stop import Stop
from rmqkit.thread_queue import ThreadQueue

Transformed = Message | Iterable[Message] | Verdict | None

_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it


class Pending:
    """A delivery whose messages are unconfirmed, and their first error."""

    __slots__ = ("_ended", "_left", "delivery", "error")

    def __init__(self, delivery: Delivery, messages: int, ended: Callable[[Pending], None]) -> None:
        self.delivery = delivery
        self.error: RmqkitError | None = None
        self._left = messages
        self._ended = ended

    def set_running_or_notify_cancel(self) -> bool:
        """Tell that the message is to be sent."""
        return True

    def set_result(self, _: Fate, /) -> None:
        """Note that one of the messages was confirmed."""
        self._left -= 1
        if not self._left:
            self._ended(self)

    def set_exception(self, error: RmqkitError, /) -> None:
        """Note why one of the messages was not confirmed."""
        self.error = self.error or error
        self.set_result(Fate.UNKNOWN)

    @property
    def is_unknown(self) -> bool:
        """Tell whether it is unknown if the broker took the messages."""
        report = self.error.report if isinstance(self.error, BrokerError) else None
        return isinstance(report, PublishReport) and bool(report.unknown)


class PublishedDeliveries:
    """Publishes messages made from the deliveries of one source, and returns the deliveries that may be settled."""

    def __init__(self, publisher: BackgroundPublisher, wake: Callable[[], None]) -> None:
        self._publisher, self._wake = publisher, wake
        self._added: list[tuple[Message, Pending]] = []  # to be published together: fewer switches of threads
        self._ended: ThreadQueue[Pending | None] = ThreadQueue()
        self._unfinished = 0
        self._woken = False  # since the last `take`
        self._to_call: list[Callable[[], None]] = []
        publisher.direct, publisher.call_soon = True, self._to_call.append

    def add(self, delivery: Delivery, messages: Sequence[Message]) -> None:
        """Publish the messages of a delivery, in this order, with the next `take`."""
        pending = Pending(delivery, len(messages), self._end)
        self._unfinished += 1
        self._added += [(message, pending) for message in messages]

    def is_busy(self) -> bool:
        """Tell whether confirms are expected."""
        return self._unfinished > 0

    def take(self) -> list[Pending]:
        """Publish what was added; return the deliveries whose messages were confirmed, or failed, in this order."""
        added, self._added = self._added, []
        for message, pending in added:
            self._publisher.queue(message, pending)
        while self._to_call:
            self._to_call.pop()()
        self._woken = False  # first: another wake-up tells of what ends from now on
        ended: list[Pending] = []
        with suppress(Empty):
            while True:
                if pending_or_woken := self._ended.get():
                    ended.append(pending_or_woken)
        self._unfinished -= len(ended)
        return ended

    def rest(self, stop: Stop, *, at_once: bool = False) -> Iterator[list[Pending]]:
        """Wait for all confirms; `at_once` or after a stop, only for those of messages that were sent already."""
        with stop.waking(lambda: self._ended.put(None)):
            while self._unfinished and not (stop.requested or at_once):
                with suppress(Empty):
                    self._ended.put(self._ended.get(_WAIT_S))
                yield self.take()
        self._publisher.close(0)
        yield self.take()

    def close(self) -> None:
        """Publish nothing more."""
        self._publisher.close(0)

    def _end(self, pending: Pending) -> None:
        """Note that the outcomes of all messages of a delivery are known; called on any thread."""
        self._ended.put(pending)
        if not self._woken:  # else `take` follows, or the source is being woken
            self._woken = True
            self._wake()


class PublishedResults:
    """The results of a transform, for one source: messages are published, verdicts settle the delivery.

    A message without an exchange and a routing key goes `to` this target. A delivery fails if the broker does not take
    one of its messages.
    """

    def __init__(self, published: PublishedDeliveries, transform: Callable[..., object], to: Target | None) -> None:
        self._published, self._transform, self._to = published, transform, to
        self._verdicts = Verdicts(lambda *_: ())

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
        return self._published.is_busy()

    def handled(self) -> Iterator[HandledBatch]:
        """Publish what was made; yield the deliveries whose messages were confirmed, or failed.

        Raises the error if this is not known of a message.
        """
        return self._settled(self._published.take())

    def rest(self, stop: Stop) -> Iterator[HandledBatch]:
        """Wait for all confirms; after a stop, only for those of messages that were sent already."""
        for ended in self._published.rest(stop):
            with suppress(*[ConnectionLost] * stop.requested):
                yield from self._settled(ended)

    def close(self) -> None:
        """Publish nothing more."""
        self._published.close()

    def _add(self, delivery: Delivery, messages: Sequence[Message]) -> None:
        self._published.add(delivery, [self._addressed(message) for message in messages])

    def _addressed(self, message: Message) -> Message:
        if self._to is None or message.exchange or message.routing_key:
            return message
        return replace(message, exchange=self._to.exchange, routing_key=self._to.routing_key)

    def _settled(self, ended: Sequence[Pending]) -> Iterator[HandledBatch]:
        unknown: RmqkitError | None = None
        for each in ended:
            if each.error is None:
                self._verdicts.settle(each.delivery, Verdict.ACK)
            elif each.is_unknown:
                unknown = each.error
            else:
                failure = f"an output was not confirmed: {each.error.message}"
                self._verdicts.reject(Called((each.delivery,), failure=failure))
        yield from self._verdicts.handled()
        if unknown is not None:
            raise unknown


def collected(result: object) -> object:
    """Return what a transform returned, with a list in place of any other iterable of messages."""
    if type(result) is Message or isinstance(result, Message | Verdict | str | bytes):
        return result
    if not isinstance(result, Iterable):
        return result
    return list(result)
