"""A failed delivery leaves its queue with the reason: a copy is published, confirmed, and then it is acknowledged.

Comes in: deliveries that failed, each with a reason. Goes out: copies with headers, and what may be settled. Room:
handlers.

A broker adds no header of ours to what it dead-letters, hence the copy. At least once: a delivery whose copy was
confirmed and whose acknowledgement was lost leaves again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rmqkit.broker.aside import EXPIRATION, USER_ID
from rmqkit.broker.connection import Connection
from rmqkit.broker.ways import DIED
from rmqkit.errors import NotConfirmed, RmqkitError, Unroutable
from rmqkit.handlers.handler import Settled
from rmqkit.message import Delivery, Message, Verdict
from rmqkit.model import Target
from rmqkit.payload.deaths import EXCHANGE, REASON, ROUTING_KEY, SUMMARIES, X_DEATH
from rmqkit.report import Fate, PublishReport
from rmqkit.stop import Stop

MAX_REASON = 500  # characters
# What would send the copy elsewhere too (https://www.rabbitmq.com/docs/sender-selected).
_SELECTING = ("CC", "BCC")


class Failed(NamedTuple):
    """A delivery, why it failed, where it leaves to (a routing key of "" is its own), and what else its headers tell.

    Without a target it is rejected: the broker dead-letters it, without a reason, or drops it.
    """

    delivery: Delivery
    reason: str
    target: Target | None = None
    marks: Mapping[str, Any] = {}


class Exit:
    """Where failed deliveries leave."""

    def __init__(self, connection: Connection, stop: Stop) -> None:
        self._connection = connection
        self._stop = stop

    def leave(self, failed: Sequence[Failed]) -> Iterator[Settled]:
        """Let deliveries leave, in order; one whose properties cannot be read whole is rejected.

        Raises Unroutable or NotConfirmed when a copy was not taken, ConnectionLost; what was not confirmed is queued
        still.
        """
        going = [each for each in failed if each.target and not each.delivery.origin.malformed]
        if rejected := [each.delivery for each in failed if not each.target or each.delivery.origin.malformed]:
            yield Settled(rejected, Verdict.REJECT)
        if going:
            confirmed, error = self._publish(going)
            yield Settled(confirmed)
            if error:
                raise error

    def _publish(self, failed: Sequence[Failed]) -> tuple[list[Delivery], RmqkitError | None]:
        """Publish copies; return the deliveries whose copy was confirmed, and why others were not."""
        confirmed: list[Delivery] = []

        def note(place: int, _message: Message, fate: Fate) -> None:
            if fate is Fate.CONFIRMED:
                confirmed.append(failed[place].delivery)

        try:
            copies = (copy(each, each.target) for each in failed if each.target)
            report = self._connection.publish(copies, check=False, stop=self._stop, on_settled=note)
        except RmqkitError as exc:
            return confirmed, exc
        return confirmed, _trouble(report)


def _trouble(report: PublishReport) -> RmqkitError | None:
    if not report.failures or report.interrupted:  # what was not sent because of a stop is no trouble
        return None
    first = report.failures[0]
    what = f"a failed message cannot leave to {Target(first.message.exchange, first.message.routing_key)}"
    if first.fate is Fate.RETURNED:
        return Unroutable(f"{what}: it reached no queue", advice="Declare one there; the message is queued still.")
    return NotConfirmed(f"{what}: {first.reason}", advice="The message is queued still.")


def copy(failed: Failed, target: Target) -> Message:
    """Return what a failed delivery is sent on as: its body and properties, and headers that tell why.

    What would expire it there, or have it refused or sent elsewhere, is a header of another name or left out. So are
    its deaths: RabbitMQ before 4.0 could take them for a cycle when it dies there, and drop it. Where it was first
    published is kept through any number of exits.
    """
    delivery = failed.delivery
    properties = delivery.properties
    given = dict(properties.headers or {})
    if X_DEATH in given:
        given[DIED] = given.pop(X_DEATH)
    headers = {
        name: value for name, value in given.items() if name not in _SELECTING and not name.startswith(SUMMARIES)
    }
    headers.setdefault(EXCHANGE, delivery.exchange)
    headers.setdefault(ROUTING_KEY, delivery.routing_key)
    headers[REASON] = failed.reason[:MAX_REASON]
    headers |= failed.marks
    aside = {EXPIRATION: properties.expiration, USER_ID: properties.user_id}
    headers |= {name: value for name, value in aside.items() if value is not None}
    properties = replace(properties, headers=headers, expiration=None, user_id=None)
    return Message(delivery.body, target.routing_key or delivery.routing_key, target.exchange, properties)
