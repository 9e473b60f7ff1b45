"""Only what matches comes to the handler; the rest is settled here.

What is to be given back is held until the consumer closes: requeued at once it would come at once again
(https://www.rabbitmq.com/docs/nack). So a consumer sees no further into the queue than its prefetch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from rmqkit.errors import PayloadError
from rmqkit.message import Delivery, Origin, Properties, Verdict
from rmqkit.messaging.consumer import Consumer
from rmqkit.payload.death_headers import deaths
from rmqkit.payload.jinja_sandbox import Expression

NAMES = ("body", "death", "exchange", "headers", "properties", "redelivered", "routing_key")


class DeliveryFilter:
    """Tells whether an expression over a message is true; `warn` hears of a fault, of each kind once.

    A message for which it has no value, as when a text is compared with a number, does not match. Raises PayloadError
    when it is none.
    """

    def __init__(self, expression: str, warn: Callable[[str], None]) -> None:
        self._expression = Expression(expression, names=NAMES, origin="--filter")
        self._warn = warn
        self._told: set[str] = set()
        self._last: tuple[Origin, dict[str, Any]] | None = None

    def __call__(self, delivery: Delivery) -> bool:
        """Evaluate it; any thread may call this."""
        last = self._last
        if last is None or last[0] is not delivery.origin:
            self._last = last = (delivery.origin, _describe(delivery.origin))
        variables = last[1] | {"redelivered": delivery.redelivered}
        if "body" in self._expression.uses:
            variables |= _body(delivery.body)
        if "death" in self._expression.uses:
            variables |= _death(delivery.origin)
        try:
            return bool(self._expression.evaluate(variables))
        except PayloadError as exc:
            if exc.message not in self._told:
                self._told.add(exc.message)
                self._warn(f"--filter: {exc.message}; it does not match")
            return False


def _describe(origin: Origin) -> dict[str, Any]:
    properties = {
        field.name: value
        for field in fields(Properties)
        if (value := getattr(origin.properties, field.name)) is not None
    }
    return {
        "exchange": origin.exchange,
        "routing_key": origin.routing_key,
        "headers": properties.get("headers", {}),
        "properties": properties,
    }


def _death(origin: Origin) -> dict[str, Any]:
    """Return how it died last, if it did, and how many seconds ago it first died so."""
    died = deaths(origin.properties.headers)
    if not died:
        return {}
    age = {"age": (datetime.now(UTC) - died[0].time).total_seconds()} if died[0].time else {}
    return {"death": asdict(died[0]) | age}


def _body(body: bytes) -> dict[str, Any]:
    """Return the body as JSON; what is no JSON is left undefined."""
    try:
        return {"body": json.loads(body)}
    except (ValueError, RecursionError):
        return {}


class FilteredSource:
    """A source of what matches, at most `count` of it; what does not gets the verdict `unmatched`.

    `warn` hears, once, that as many as the `prefetch` are held, so that nothing more will come.
    """

    def __init__(
        self,
        consumer: Consumer,
        matches: Callable[[Delivery], bool],
        unmatched: Verdict,
        *,
        count: int | None = None,
        prefetch: int,
        warn: Callable[[str], None],
    ) -> None:
        self.left_out = 0
        self._consumer = consumer
        self._matches = matches
        self._verdict = unmatched
        self._missing = count  # how many are still to come
        self._prefetch = prefetch
        self._warn = warn
        self._held, self._session = 0, 0  # how many are held of that channel

    def batches(self, *, busy: Callable[[], bool] = lambda: False) -> Iterator[list[Delivery]]:
        """Yield what matches of each batch, which may be nothing."""
        for batch in self._consumer.batches(busy=busy):
            matched: list[Delivery] = []
            others: list[Delivery] = []
            for delivery in batch:
                if len(matched) == self._missing:
                    break  # what is beyond the count goes back
                (matched if self._matches(delivery) else others).append(delivery)
            self._settle(others)
            if self._missing is not None:
                self._missing -= len(matched)
            yield matched
            if self._missing == 0:
                return

    def wake(self) -> None:
        """Have `batches` yield an empty batch soon."""
        self._consumer.wake()

    def _settle(self, deliveries: list[Delivery]) -> None:
        self.left_out += len(deliveries)
        if self._verdict is not Verdict.REQUEUE:
            self._consumer.settle(deliveries, self._verdict)
        elif deliveries:
            if deliveries[0].session != self._session:
                self._held, self._session = 0, deliveries[0].session
            before, self._held = self._held, self._held + len(deliveries)
            if before < self._prefetch <= self._held:
                self._warn(
                    f"{self._held:,} messages do not match and are held until the end, as many as the prefetch:"
                    " no more come; raise --prefetch, or choose --unmatched ack or reject"
                )
