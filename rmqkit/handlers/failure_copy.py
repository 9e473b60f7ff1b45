"""A failed delivery leaves its queue with the reason: a copy is published, confirmed, and then it is acknowledged.

A broker adds no header of ours to what it dead-letters, hence the copy. At least once: a delivery whose copy was
confirmed and whose acknowledgement was lost leaves again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rmqkit.amqp.frames import fits
from rmqkit.connection import Connection
from rmqkit.errors import RmqkitError
from rmqkit.message import Delivery, Message, Properties, Verdict
from rmqkit.messaging import publisher
from rmqkit.messaging.message_rewrite import DIED, EXPIRATION, USER_ID
from rmqkit.model import Target
from rmqkit.payload.death_headers import EXCHANGE, REASON, ROUTING_KEY, SUMMARIES, X_DEATH
from rmqkit.report import Fate
from rmqkit.stop import Stop

MAX_REASON = 500  # characters
# What would send the copy elsewhere too (https://www.rabbitmq.com/docs/sender-selected).
_SELECTING = ("CC", "BCC")
_ADVICE = "Declare a queue there; the message is in its own queue still."


class FailedDelivery(NamedTuple):
    """A delivery, why it failed, where it leaves to (a routing key of "" is its own), and what else its headers tell.

    Without a target it is rejected: the broker dead-letters it, without a reason, or drops it. One whose headers have
    no room for ours leaves to `end`, for its tries could not be counted.
    """

    delivery: Delivery
    reason: str
    target: Target | None = None
    marks: Mapping[str, Any] = {}
    end: Target | None = None

    @property
    def verdict(self) -> Verdict:
        """Return what becomes of the delivery itself, once its copy has left."""
        return Verdict.ACK if self.target else Verdict.REJECT


class FailureCopier:
    """Where failed deliveries leave."""

    def __init__(self, connection: Connection, stop: Stop) -> None:
        self._connection = connection
        self._stop = stop

    def leave(self, failed: Sequence[FailedDelivery], frame_max: int) -> Iterator[list[FailedDelivery]]:
        """Let deliveries leave; yield those that may be settled, all of one verdict, each with where it left to.

        A frame to the broker has `frame_max` bytes at most, and properties have to fit in one. Raises Unroutable or
        NotConfirmed when a copy was not taken, ConnectionLost; what was not confirmed is queued still.
        """
        if rejected := [each for each in failed if not each.target]:
            yield rejected
        if going := [each for each in failed if each.target]:
            left: list[FailedDelivery] = []
            error = self._publish(going, left, frame_max)
            if left:
                yield left
            if error:
                raise error

    def _publish(
        self, failed: Sequence[FailedDelivery], left: list[FailedDelivery], frame_max: int
    ) -> RmqkitError | None:
        """Publish copies; note those that were confirmed, and return why others were not."""
        sent: list[FailedDelivery] = []

        def copies() -> Iterator[Message]:
            for each in failed:
                target, message = next(way for way in _ways(each) if fits(way[1], frame_max))
                sent.append(each._replace(target=target))
                yield message

        def note(place: int, _message: Message, fate: Fate) -> None:
            if fate is Fate.CONFIRMED:
                left.append(sent[place])

        try:
            report = self._connection.publish(copies(), check=False, stop=self._stop, on_settled=note)
        except RmqkitError as exc:
            return exc
        return publisher.of_copies(report, "a failed message cannot leave", _ADVICE)


def _ways(failed: FailedDelivery) -> Iterator[tuple[Target, Message]]:
    """Yield what a delivery may be sent on as, and where to: the first that fits in a frame is taken.

    The last one always does: headers of ours, and no property of its own.
    """
    assert failed.target, "what has none is rejected"  # noqa: S101
    end = failed.end or failed.target
    yield failed.target, copy(failed, failed.target)
    yield end, _message(failed.delivery, end, _harmless(failed.delivery.properties))
    yield end, _message(failed.delivery, end, Properties(headers=_told(failed)))


def copy(failed: FailedDelivery, target: Target) -> Message:
    """Return what a failed delivery is sent on as: its body and properties, and headers that tell why.

    What would expire it there, or have it refused or sent elsewhere, is a header of another name or left out. So are
    its deaths: RabbitMQ before 4.0 could take them for a cycle when it dies there, and drop it. Where it was first
    published is kept through any number of exits. Of properties that cannot be read whole, what can be is kept.
    """
    given = failed.delivery.properties
    kept = _harmless(given)
    aside = {EXPIRATION: given.expiration, USER_ID: given.user_id}
    headers = _told(failed) | dict(kept.headers or {}) | _why(failed)
    headers |= {name: value for name, value in aside.items() if value is not None}
    return _message(failed.delivery, target, replace(kept, headers=headers))


def _harmless(properties: Properties) -> Properties:
    """Leave out what would act on a copy; the deaths get another name."""
    given = dict(properties.headers or {})
    if X_DEATH in given:
        given[DIED] = given.pop(X_DEATH)
    headers = {
        name: value for name, value in given.items() if name not in _SELECTING and not name.startswith(SUMMARIES)
    }
    return replace(properties, headers=headers, expiration=None, user_id=None)


def _told(failed: FailedDelivery) -> dict[str, Any]:
    return {EXCHANGE: failed.delivery.exchange, ROUTING_KEY: failed.delivery.routing_key} | _why(failed)


def _why(failed: FailedDelivery) -> dict[str, Any]:
    reason = failed.reason.encode("utf-8", "replace").decode()[:MAX_REASON]
    if malformed := failed.delivery.origin.malformed:
        reason += f"; of its properties not all can be read: {malformed}"
    return {REASON: reason, **failed.marks}


def _message(delivery: Delivery, target: Target, properties: Properties) -> Message:
    return Message(delivery.body, target.routing_key or delivery.routing_key, target.exchange, properties)
