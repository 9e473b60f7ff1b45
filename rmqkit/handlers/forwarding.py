"""Deliveries to another exchange, on the same broker or another one.

Comes in: deliveries. Goes out: messages, each confirmed before its delivery is acknowledged. Room: handlers.

At least once: a delivery whose copy was confirmed, and whose acknowledgement was lost, is forwarded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rmqkit.broker.connection import Connection
from rmqkit.errors import HandlerError, NotConfirmed, RmqkitError, Unroutable
from rmqkit.handlers.handler import Settled, Source
from rmqkit.message import Delivery, Message
from rmqkit.report import Fate, PublishReport
from rmqkit.stop import Stop


class Forwarder:
    """Publishes each delivery over a connection of its own, which it closes, with its body and properties as they are.

    `exchange` and `routing_key` are those of the message where they are None.
    """

    def __init__(self, connection: Connection, exchange: str | None, routing_key: str | None) -> None:
        self._connection = connection
        self._exchange = exchange
        self._routing_key = routing_key

    def handle(self, source: Source, stop: Stop) -> Iterator[Settled]:
        """Forward what comes, in order.

        Raises Unroutable when a copy reached no queue, NotConfirmed when it was not taken for any other reason,
        HandlerError for properties that cannot be read, ConnectionLost; what was not confirmed stays queued.
        """
        for batch in source.batches():
            if batch and not stop.requested:
                yield from self._forward(batch, stop)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _forward(self, batch: Sequence[Delivery], stop: Stop) -> Iterator[Settled]:
        confirmed: list[Delivery] = []
        error: RmqkitError | None = None

        def note(place: int, _message: Message, fate: Fate) -> None:
            if fate is Fate.CONFIRMED:
                confirmed.append(batch[place])

        try:
            messages = map(self._message, batch)
            report = self._connection.publish(messages, check=False, stop=stop, on_settled=note)
            error = self._trouble(report)
        except RmqkitError as exc:
            error = exc
        if confirmed:
            yield Settled(confirmed)
        if error:
            raise error

    def _message(self, delivery: Delivery) -> Message:
        origin = delivery.origin
        if origin.malformed:
            raise HandlerError(f"a message cannot be forwarded as it is: {origin.malformed}")
        exchange = origin.exchange if self._exchange is None else self._exchange
        key = origin.routing_key if self._routing_key is None else self._routing_key
        return Message(delivery.body, key, exchange, origin.properties)

    def _trouble(self, report: PublishReport) -> RmqkitError | None:
        if not report.failures or report.interrupted:  # what was not sent because of a stop is no trouble
            return None
        first = report.failures[0]
        where = f"exchange {first.message.exchange!r} with routing key {first.message.routing_key!r}"
        if first.fate is Fate.RETURNED:
            return Unroutable(
                f"a message to {where} reached no queue: {first.reason}",
                advice="Bind a queue there, or take these messages out with --filter; it is still in its queue.",
            )
        return NotConfirmed(f"a message to {where} was not taken: {first.reason}", advice="It is still in its queue.")
