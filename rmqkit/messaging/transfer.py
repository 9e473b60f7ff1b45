"""The engine of moves: publish deliveries, wait for the broker's confirms, then acknowledge.

Confirm before acknowledge: at least once (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import Confirm, ConsumerCancel, Encoder, Returned
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import ConsumerCancelled, PayloadError, Unroutable
from rmqkit.message import Delivery, Origin
from rmqkit.messaging.message_rewrite import Destination, DestinationFor
from rmqkit.messaging.publish_window import ConfirmDeadline
from rmqkit.messaging.unconfirmed import Transferred, Unconfirmed
from rmqkit.options import PublishOptions
from rmqkit.stop import Stop

WAIT_S = 1.0  # between two checks of the clocks
_CONFIRM_CHECK_S = 0.005  # between two looks for the confirms of another broker
LATE_S = 0.05  # a quorum queue may miss acknowledgements sent just before its channel closes


class Transfer(ABC):
    """Deliveries of one channel, published over it, and settled once the broker answers for their copies.

    They are published over `out` instead, if it is given: a channel of `connection`, which leads to another broker. A
    subclass decides which deliveries to `publish`, and what follows a confirm, a nack and a return.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        channel: Channel,
        queue: str,
        destination_for: DestinationFor,
        stop: Stop,
        *,
        out: Channel | None = None,
    ) -> None:
        self.channel = channel
        self.subject = f"queue {queue!r}"
        self.stop = stop
        self._connection = connection
        self._out = out = out or channel
        self._destination_for = destination_for
        self._username = out.transport.address.username
        self._encoder = Encoder(out.number, out.transport.frame_max)
        self._unconfirmed: Unconfirmed[Transferred] = Unconfirmed(always_exact=True)
        self._deadline = ConfirmDeadline(PublishOptions(), connection.settings.blocked_timeout_s)
        self._origin: Origin | None = None
        self._destination: Destination | str = ""  # for that origin
        out.confirm_select()

    @abstractmethod
    def take(self, deliveries: list[Delivery]) -> None:
        """Process new deliveries."""

    @abstractmethod
    def acknowledge(self, confirmed: list[Transferred]) -> None:
        """Acknowledge deliveries whose copies were confirmed, in rising order of their tags unless one was retried."""

    @abstractmethod
    def nacked(self, message: Transferred) -> None:
        """Process a delivery whose copy the broker rejected."""

    @abstractmethod
    def failed(self, message: Transferred, error: PayloadError | Unroutable) -> None:
        """Process a delivery whose copy cannot be encoded, or reached no queue."""

    @property
    def in_flight(self) -> int:
        """Count the messages that were published and are not settled."""
        return len(self._unconfirmed)

    def destination(self, delivery: Delivery) -> Destination | str:
        """Return the destination of a delivery, or the reason that it has none."""
        origin = delivery.origin
        if origin is not self._origin:
            self._origin, self._destination = origin, self._destination_for(origin, self._username)
        return self._destination

    def publish(self, messages: list[Transferred]) -> None:
        """Publish deliveries to their destinations, in one write."""
        forward, frames = self._encoder.forward, []
        for message in tuple(messages):
            delivery, (exchange, key, header, *_), _, _ = message
            try:
                frames.append(forward(delivery, exchange, header, key))
            except PayloadError as exc:  # its properties were the largest that a frame holds, and have grown
                messages.remove(message)
                self.failed(message, exc)
        if frames:  # writing no bytes is no frame
            self._unconfirmed.extend(messages)
            self._out.send(b"".join(frames))

    def receive(self, timeout_s: float) -> bool:
        """Process the events that have arrived, or wait for some; return whether there were any.

        Raises ConsumerCancelled when the queue was deleted, NotConfirmed when the broker confirms nothing for too long,
        StoppedWaiting, Refused, ConnectionLost.
        """
        if self._out is self.channel:
            events = self.channel.wait(timeout_s, subject=self.subject)
        else:
            wait_s = min(timeout_s, _CONFIRM_CHECK_S) if self.in_flight else timeout_s
            events = [*self.channel.wait(wait_s, subject=self.subject), *self._out.wait(0, subject="the target")]
        for event in events:
            if isinstance(event, list):
                self.take(event)
            elif isinstance(event, Confirm):
                self._settle(event)
            elif isinstance(event, Returned):
                self._unconfirmed.note_return(event)
            elif isinstance(event, ConsumerCancel):
                raise ConsumerCancelled(f"{self.subject} was deleted while its messages were being moved")
        if events or not self.in_flight:
            self._deadline.restart()
        self._deadline.check(blocked=self._connection.blocked, stopping=self.stop.requested, waiting_for=self.in_flight)
        return bool(events)

    def close(self) -> None:
        """Close the channels."""
        if self._out is not self.channel:
            self._out.close()
        self.channel.close()

    def _settle(self, confirm: Confirm) -> None:
        returned, settled = self._unconfirmed.returned, self._unconfirmed.settle(confirm)
        if returned or not confirm.ack:
            confirmed = []
            for message in settled:
                if reason := returned.pop(message.position, ""):
                    self.failed(message, _unroutable(message.destination, reason))
                elif confirm.ack:
                    confirmed.append(message)
                else:
                    self.nacked(message)
            settled = confirmed
        if settled:
            self.acknowledge(settled)


def _unroutable(destination: Destination, reason: str) -> Unroutable:
    if not destination.exchange:
        return Unroutable(f"there is no queue {destination.routing_key!r}: {reason}")
    return Unroutable(f"exchange {destination.exchange!r} has no queue for {destination.routing_key!r}: {reason}")
