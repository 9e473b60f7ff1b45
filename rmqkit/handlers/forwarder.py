"""Deliveries to another exchange, on the same broker or another one.

At least once: a delivery whose copy was confirmed, and whose acknowledgement was lost, is forwarded again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue

from rmqkit.connection import Connection
from rmqkit.errors import HandlerError
from rmqkit.handlers.handler import HandledBatch, Source
from rmqkit.message import Delivery, Message
from rmqkit.messaging import publisher
from rmqkit.report import Fate
from rmqkit.stop import Stop

_WAIT_S = 0.5  # an endless wait, in slices: a signal that comes just before a wait does not end it
_ADVICE = "Bind a queue there, or leave these messages out with --filter; it is in its own queue still."


class Forwarder:
    """Publishes each delivery over a connection of its own, which it closes, with its body and properties as they are.

    `exchange` and `routing_key` are those of the message where they are None.
    """

    def __init__(self, connection: Connection, exchange: str | None, routing_key: str | None) -> None:
        self._connection = connection
        self._exchange = exchange
        self._routing_key = routing_key

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Forward what comes, in order.

        Raises Unroutable when a copy reached no queue, NotConfirmed when it was not taken for any other reason,
        HandlerError for properties that cannot be read, ConnectionLost; what was not confirmed stays queued.
        """
        ferry = _PublisherThread(self._connection, self._message, source.wake)
        try:
            for batch in source.batches(busy=ferry.is_busy):
                ferry.give(batch)
                yield ferry.take()
                if ferry.ended:
                    break
            ferry.land(at_once=stop.requested)
            yield ferry.take()
        finally:
            ferry.halt()
        if ferry.trouble:
            raise ferry.trouble

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _message(self, delivery: Delivery) -> Message:
        origin = delivery.origin
        if origin.malformed:
            raise HandlerError(f"a message cannot be forwarded as it is: {origin.malformed}")
        exchange = origin.exchange if self._exchange is None else self._exchange
        key = origin.routing_key if self._routing_key is None else self._routing_key
        return Message(delivery.body, key, exchange, origin.properties)


class _PublisherThread:
    """A thread that publishes what it is given, one endless call, and tells what was confirmed.

    `trouble` is what ended it before its time. Whenever there is nothing to publish it waits for the confirms; what
    comes meanwhile goes together.
    """

    def __init__(
        self, connection: Connection, convert: Callable[[Delivery], Message], wake: Callable[[], None]
    ) -> None:
        self.ended = False  # nothing more will be published
        self.trouble: BaseException | None = None
        self._convert = convert
        self._wake = wake
        self._stop = Stop()
        self._given: SimpleQueue[Delivery | None] = SimpleQueue()
        self._places = count()
        self._sent: dict[int, Delivery] = {}  # by their places among the messages
        self._confirmed: SimpleQueue[Delivery] = SimpleQueue()
        self._under_way = 0  # given and not taken
        self._thread = threading.Thread(target=self._run, args=(connection,), name="rmqkit-forward", daemon=True)
        self._thread.start()

    def is_busy(self) -> bool:
        """Tell whether something is to be confirmed."""
        return self._under_way > 0 and not self.ended

    def give(self, deliveries: Sequence[Delivery]) -> None:
        """Have deliveries published, in this order."""
        self._under_way += len(deliveries)
        for delivery in deliveries:
            self._given.put(delivery)

    def take(self) -> HandledBatch:
        """Return what was confirmed since the last time."""
        confirmed: list[Delivery] = []
        with suppress(Empty):
            while True:
                confirmed.append(self._confirmed.get_nowait())
        self._under_way -= len(confirmed)
        return HandledBatch(confirmed)

    def land(self, *, at_once: bool) -> None:
        """Wait until all is confirmed; `at_once`, only what was sent already."""
        if at_once:
            self._stop.request()
        self._given.put(None)
        while not self.ended:
            self._thread.join(_WAIT_S)

    def halt(self) -> None:
        """Publish nothing more."""
        self._stop.request()
        self._given.put(None)

    def _run(self, connection: Connection) -> None:
        try:
            report = connection.publish(self._messages(), check=False, stop=self._stop, on_settled=self._note)
            self.trouble = publisher.of_copies(report, "a message cannot be forwarded", _ADVICE)
        except BaseException as exc:  # noqa: BLE001 - raised again by the handler
            self.trouble = exc
        self.ended = True
        self._wake()

    def _messages(self) -> Iterator[Message | None]:
        while True:
            try:
                delivery = self._given.get_nowait()
            except Empty:
                yield None  # which waits for the confirms
                delivery = self._given.get()
            if delivery is None:
                return
            message = self._convert(delivery)
            self._sent[next(self._places)] = delivery
            yield message

    def _note(self, place: int, _message: Message, fate: Fate) -> None:
        if fate is not Fate.CONFIRMED:
            self.halt()  # the report says why
            return
        self._confirmed.put(self._sent.pop(place))
        if self._confirmed.qsize() == 1:  # else somebody is on the way
            self._wake()
