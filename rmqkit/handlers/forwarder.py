"""Forward deliveries to another exchange, on the same broker or another one.

At least once: a delivery whose copy was confirmed, and whose acknowledgement was lost, is forwarded again.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from rmqkit.connection import Connection
from rmqkit.handlers.failure_copy import copy_error
from rmqkit.handlers.handler import HandledBatch, Source
from rmqkit.message import PERSISTENT, Delivery, Message, Origin, Properties
from rmqkit.messaging.message_rewrite import sent_on
from rmqkit.payload.field_table import decode_properties
from rmqkit.report import Fate
from rmqkit.stop import Stop

_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it
_ADVICE = "Bind a queue there, or exclude these messages with --filter; the message stays in its queue."


@dataclass(frozen=True, slots=True, kw_only=True)
class _ForwardedMessage(Message):
    """The copy of a delivery, and the delivery that is acknowledged once the copy is confirmed."""

    delivery: Delivery


@dataclass(frozen=True)
class Forwarder:
    """Publishes each delivery with its body and properties, byte for byte, over its own connection, which it closes.

    Where `exchange` or `routing_key` is None, that of the delivery is used.
    """

    may_fail = False  # on a message alone

    connection: Connection
    exchange: str | None
    routing_key: str | None

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Forward deliveries in order.

        Raises Unroutable when a copy reached no queue, NotConfirmed when it was not confirmed for any other reason,
        ConnectionLost; unconfirmed messages stay in their queue.
        """
        publisher = _PublisherThread(self.connection, self._target, source.wake)
        try:
            for batch in source.batches(busy=publisher.is_busy):
                publisher.put(batch)
                yield publisher.take_confirmed()
                if publisher.ended:
                    break
            publisher.finish(at_once=stop.requested)
            yield publisher.take_confirmed()
        finally:
            publisher.halt()
        if publisher.error:
            raise publisher.error

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _target(self, origin: Origin) -> tuple[str, str, Properties]:
        """Return the routing key, the exchange and the properties of the copies of an origin's deliveries."""
        exchange = origin.exchange if self.exchange is None else self.exchange
        key = origin.routing_key if self.routing_key is None else self.routing_key
        header = sent_on(origin.header, self.connection.username, to_queue=not exchange)
        return key, exchange, decode_properties(header)[0]


class _PublisherThread:
    """A thread that publishes copies of deliveries, in one endless call, and collects those that were confirmed.

    `error` is what ended it early. When there is nothing to publish it waits for the confirms; the deliveries that
    arrive meanwhile are published together.
    """

    def __init__(
        self, connection: Connection, target: Callable[[Origin], tuple[str, str, Properties]], wake: Callable[[], None]
    ) -> None:
        self.ended = False  # nothing more will be published
        self.error: BaseException | None = None
        self._target = target
        self._wake = wake
        self._stop = Stop()
        self._deliveries: SimpleQueue[Delivery | None] = SimpleQueue()
        self._confirmed: SimpleQueue[Delivery] = SimpleQueue()
        self._in_flight = 0  # put and not taken
        self._thread = threading.Thread(target=self._run, args=(connection,), name="rmqkit-forward", daemon=True)
        self._thread.start()

    def is_busy(self) -> bool:
        """Tell whether a confirm is expected."""
        return self._in_flight > 0 and not self.ended

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Publish copies of deliveries, in this order."""
        self._in_flight += len(deliveries)
        for delivery in deliveries:
            self._deliveries.put(delivery)

    def take_confirmed(self) -> HandledBatch:
        """Return the deliveries whose copies were confirmed since the last call."""
        confirmed: list[Delivery] = []
        with suppress(Empty):
            while True:
                confirmed.append(self._confirmed.get_nowait())
        self._in_flight -= len(confirmed)
        return HandledBatch(confirmed)

    def finish(self, *, at_once: bool) -> None:
        """Wait until all copies are confirmed; `at_once`, only those that were sent already."""
        if at_once:
            self._stop.request()
        self._deliveries.put(None)
        while not self.ended:
            self._thread.join(_WAIT_S)

    def halt(self) -> None:
        """Publish nothing more."""
        self._stop.request()
        self._deliveries.put(None)

    def _run(self, connection: Connection) -> None:
        try:
            report = connection.publish(self._copies(), check=False, stop=self._stop, on_settled=self._on_settled)
            self.error = copy_error(report, "a message cannot be forwarded", _ADVICE)
        except BaseException as exc:  # noqa: BLE001 - raised again by the handler
            self.error = exc
        self.ended = True
        self._wake()

    def _copies(self) -> Iterator[Message | None]:
        origin, target = None, ("", "", PERSISTENT)
        while True:
            try:
                delivery = self._deliveries.get_nowait()
            except Empty:
                yield None  # waits for the confirms
                delivery = self._deliveries.get()
            if delivery is None:
                return
            if delivery.origin is not origin:
                origin, target = delivery.origin, self._target(delivery.origin)
            yield _ForwardedMessage(delivery.body, *target, delivery=delivery)

    def _on_settled(self, _index: int, message: Message, fate: Fate) -> None:
        if fate is not Fate.CONFIRMED:
            self.halt()  # the report has the reason
            return
        assert isinstance(message, _ForwardedMessage)  # noqa: S101 - no other is published
        self._confirmed.put(message.delivery)
        if self._confirmed.qsize() == 1:  # else the source has been woken already
            self._wake()
