"""Copy a failed delivery to where failures go, with the reason, and acknowledge it once the copy is confirmed.

A broker adds no headers of a client to the messages it dead-letters, hence the copy. At least once: a delivery whose
copy was confirmed and whose acknowledgement was lost is copied again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rmqkit.amqp.frames import fits
from rmqkit.errors import NotConfirmed, RmqkitError, Unroutable
from rmqkit.hooks import MessageCopy
from rmqkit.message import Delivery, Message, Verdict
from rmqkit.messaging.message_rewrite import rename_properties
from rmqkit.model import Target
from rmqkit.payload.death_headers import EXCHANGE, REASON, ROUTING_KEY, SUMMARIES, set_aside
from rmqkit.payload.field_table import (
    Field,
    MalformedField,
    decode_properties,
    encode_table,
    join_header,
    split_header,
    split_table,
)
from rmqkit.report import Fate, PublishReport
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.connection import Connection

MAX_REASON = 500  # characters
_ADVICE = "Declare a queue there; the message stays in its queue."


class FailedDelivery(NamedTuple):
    """A failed delivery: the reason, the target of its copy (a routing key of "" keeps its own), and extra headers.

    Without a target it is rejected: the broker dead-letters it, without a reason, or drops it. A copy whose headers
    have no room for the reason is sent to `end`, because its tries could not be counted.
    """

    delivery: Delivery
    reason: str
    target: Target | None = None
    marks: Mapping[str, Any] = {}
    end: Target | None = None

    @property
    def verdict(self) -> Verdict:
        """Return the verdict on the delivery itself, once its copy is confirmed."""
        return Verdict.ACK if self.target else Verdict.REJECT


@dataclass(frozen=True, slots=True, kw_only=True)
class _FailureCopy(MessageCopy):
    """The copy of a failed delivery."""

    failed: FailedDelivery


def publish_copies(
    connection: Connection, failed: Sequence[FailedDelivery], frame_max: int, stop: Stop
) -> Iterator[list[FailedDelivery]]:
    """Publish copies; yield the deliveries that may be settled, all of one verdict, each with its actual target.

    A frame to the broker has `frame_max` bytes at most, and properties have to fit in one. Raises Unroutable or
    NotConfirmed when a copy was not confirmed, ConnectionLost; unconfirmed messages stay in their queue.
    """
    if rejected := [each for each in failed if not each.target]:
        yield rejected
    copied: list[FailedDelivery] = []
    error: RmqkitError | None = None
    copies = (_fitting_copy(each, frame_max) for each in failed if each.target)

    def on_settled(_index: int, message: Message, fate: Fate) -> None:
        assert isinstance(message, _FailureCopy)  # noqa: S101 - no other is published
        if fate is Fate.CONFIRMED:
            copied.append(message.failed)

    if len(rejected) < len(failed):
        try:
            report = connection.publish(copies, check=False, stop=stop, on_settled=on_settled)
            error = copy_error(report, "a failed message cannot be copied", _ADVICE)
        except RmqkitError as exc:
            error = exc
    if copied:
        yield copied
    if error:
        raise error


def copy_error(report: PublishReport, text: str, advice: str) -> NotConfirmed | Unroutable | None:
    """Return the error about the first copy that was not confirmed; `text` starts its message.

    A copy that a stop left without an answer is no error. The advice is for a copy that reached no queue.
    """
    for each in report.failures:
        message = f"{text} to {Target(each.message.exchange, each.message.routing_key)}"
        if each.fate is Fate.RETURNED:
            return Unroutable(f"{message}: it reached no queue", advice=advice)
        if each.fate is not Fate.UNKNOWN or not report.interrupted:
            return NotConfirmed(f"{message}: {each.reason}", advice="The message stays in its queue.")
    return None


def _fitting_copy(failed: FailedDelivery, frame_max: int) -> _FailureCopy:
    """Return the first variant of a copy that fits in a frame.

    The last one always does: it has the headers of this module, and none of the delivery's properties.
    """
    assert failed.target, "a delivery without a target is rejected"  # noqa: S101
    message = copy(failed, failed.target)
    if fits(message, frame_max):
        return message
    end = failed.end or failed.target
    parts, headers, _ = _harmless(failed.delivery)
    message = _copy(failed, end, parts, headers)
    return message if fits(message, frame_max) else _copy(failed, end, {}, _added(failed, ()))


def copy(failed: FailedDelivery, target: Target) -> _FailureCopy:
    """Return the copy of a failed delivery: its body and properties, byte for byte, and headers with the reason.

    A property that would expire the copy, or have it refused or routed elsewhere, is renamed to a header or left out.
    So are its deaths: RabbitMQ before 4.0 could take them for a cycle when the copy dies there, and drop it. The
    exchange it was first published to is kept through any number of copies.
    """
    parts, headers, renamed = _harmless(failed.delivery)
    added = _added(failed, dict(headers)) + renamed
    names = dict(added)
    return _copy(failed, target, parts, [field for field in headers if field[0] not in names] + added)


def _harmless(delivery: Delivery) -> tuple[dict[str, bytes], list[Field], list[Field]]:
    """Return the properties and headers that a copy may have, and more headers with renamed properties.

    CC and BCC would route it to other queues too (https://www.rabbitmq.com/docs/sender-selected).
    """
    try:
        parts, headers = split_header(delivery.origin.header)
    except MalformedField:  # no RabbitMQ sends such bytes
        return {}, [], []
    kept = set_aside(headers, to_queue=True)
    kept = [field for field in kept if field[0] != "BCC" and not field[0].startswith(SUMMARIES)]
    return parts, kept, rename_properties(parts, None)


def _added(failed: FailedDelivery, present: Container[str]) -> list[Field]:
    """Return the headers with the reason, and with the origin unless they are present."""
    origin = {EXCHANGE: failed.delivery.exchange, ROUTING_KEY: failed.delivery.routing_key}
    reason = failed.reason.encode("utf-8", "replace").decode()[:MAX_REASON]
    added = {name: value for name, value in origin.items() if name not in present}
    return split_table(encode_table(added | {REASON: reason, **failed.marks}))


def _copy(failed: FailedDelivery, target: Target, parts: Mapping[str, bytes], headers: Iterable[Field]) -> _FailureCopy:
    key = target.routing_key or failed.delivery.routing_key
    properties, _ = decode_properties(join_header(parts, headers))
    return _FailureCopy(failed.delivery.body, key, target.exchange, properties, failed=failed._replace(target=target))
