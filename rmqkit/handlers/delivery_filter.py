"""Pass only matching deliveries to the handler, and settle the others.

Deliveries to be requeued are held until the consumer closes: requeued immediately, they would arrive again immediately
(https://www.rabbitmq.com/docs/nack). So a consumer sees no further into the queue than its prefetch.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from rmqkit.errors import Location, PayloadError
from rmqkit.message import Delivery, Origin, Verdict
from rmqkit.messaging.consumer import Consumer
from rmqkit.payload.compression import contents
from rmqkit.payload.death_headers import deaths
from rmqkit.payload.jinja_sandbox import Expression

NAMES = ("body", "death", "exchange", "headers", "properties", "redelivered", "routing_key")


class DeliveryFilter:
    """A Jinja2 expression that is true for some deliveries.

    A delivery for which it has no value, as when text is compared with a number, does not match; `on_warning` is called
    once for each kind of such an error. Raises PayloadError for an invalid expression.
    """

    def __init__(self, expression: str, on_warning: Callable[[str], None] = lambda _: None) -> None:
        self._expression = Expression(expression, names=NAMES, origin="`filter=`")
        self._warn = on_warning
        self._shown: set[str] = set()
        self._last: tuple[Origin, dict[str, Any]] | None = None

    def __call__(self, delivery: Delivery) -> bool:
        """Evaluate the expression; any thread may call this."""
        last = self._last
        if last is None or last[0] is not delivery.origin:
            self._last = last = (delivery.origin, _describe(delivery.origin))
        variables = last[1] | {"redelivered": delivery.redelivered}
        if "body" in self._expression.uses:
            variables |= _body(delivery)
        if "death" in self._expression.uses:
            variables |= _death(delivery.origin)
        try:
            return bool(self._expression.evaluate(variables))
        except PayloadError as exc:
            if exc.message not in self._shown:
                self._shown.add(exc.message)
                self._warn(f"`filter=`: {exc.message}; the message does not match")
            return False


def _describe(origin: Origin) -> dict[str, Any]:
    given = origin.properties
    properties = {each.name: value for each in fields(given) if (value := getattr(given, each.name)) is not None}
    target = {"exchange": origin.exchange, "routing_key": origin.routing_key}
    return {**target, "headers": properties.get("headers", {}), "properties": properties}


def _death(origin: Origin) -> dict[str, Any]:
    """Return the latest death, if any, with the seconds since it first happened."""
    died = deaths(origin.properties.headers)
    if not died:
        return {}
    age = {"age": (datetime.now(UTC) - died[0].time).total_seconds()} if died[0].time else {}
    return {"death": asdict(died[0]) | age}


def _body(delivery: Delivery) -> dict[str, Any]:
    """Return the decoded body, also of a compressed one; if it is not JSON, `body` is left undefined."""
    try:
        body = contents(delivery.body, delivery.properties.content_encoding, Location("the message"))
        return {"body": json.loads(body)}
    except (ValueError, RecursionError, PayloadError):
        return {}


@dataclass
class FilteredSource:
    """A source of the deliveries that match, at most the `remaining` number; the others get the verdict `unmatched`."""

    consumer: Consumer
    matches: DeliveryFilter
    verdict: Verdict
    remaining: int | None
    prefetch: int
    on_warning: Callable[[str], None]
    unmatched: int = 0
    _held: int = 0  # the number of deliveries held,
    _session: int = 0  # and their channel

    def batches(self, *, busy: Callable[[], bool] = lambda: False) -> Iterator[list[Delivery]]:
        """Yield the matching deliveries of each batch, possibly none."""
        for batch in self.consumer.batches(busy=busy):
            matched: list[Delivery] = []
            others: list[Delivery] = []
            for delivery in batch:
                if len(matched) == self.remaining:
                    break  # closing the consumer requeues the rest
                (matched if self.matches(delivery) else others).append(delivery)
            self._settle(others)
            if self.remaining is not None:
                self.remaining -= len(matched)
            yield matched
            if self.remaining == 0:
                return

    @property
    def holds(self) -> bool:
        """Tell whether deliveries that did not match are held until the consumer closes."""
        return self._held > 0

    def is_lost(self, delivery: Delivery) -> bool:
        """Tell whether the broker requeued a delivery."""
        return self.consumer.is_lost(delivery)

    def handling(self, deliveries: Sequence[Delivery]) -> AbstractContextManager[object]:
        """Return a block in which deliveries are handled."""
        return self.consumer.handling(deliveries)

    def wake(self, after_s: float = 0.0) -> None:
        """Have `batches` yield an empty batch soon."""
        self.consumer.wake(after_s)

    def _settle(self, deliveries: list[Delivery]) -> None:
        self.unmatched += len(deliveries)
        if self.verdict is not Verdict.REQUEUE:
            self.consumer.settle(deliveries, self.verdict)
        elif deliveries:
            if deliveries[0].session != self._session:
                self._held, self._session = 0, deliveries[0].session
            before, self._held = self._held, self._held + len(deliveries)
            if before < self.prefetch <= self._held:
                self.on_warning(
                    f"{self._held:,} non-matching messages fill the prefetch, so no more will arrive."
                    " Raise `prefetch=`, or use `unmatched=ack` or `unmatched=reject`."
                )
