"""Traces of messages for OpenTelemetry: hooks that make spans. Needs the extra `otel`.

Names and attributes follow https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rmqkit.errors import SettingsError
from rmqkit.hooks import Hooks
from rmqkit.message import Delivery, Message, Properties, Verdict
from rmqkit.report import Fate
from rmqkit.version import VERSION

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
except ImportError as exc:
    raise SettingsError(
        "traces need the package opentelemetry-api, which is not installed", advice="Run `pip install 'rmqkit[otel]'`."
    ) from exc

_NO_CONTEXT = Context()
_DEFAULT_EXCHANGE = "amq.default"  # without a routing key
_ERRORS = (Fate.RETURNED, Fate.NACKED, Fate.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MessageSpan(Message):
    """A message, and the span that ends once its fate is known."""

    span: Span


class Traces(Hooks):
    """Hooks that make spans: `rmqkit.connect(hooks=Traces())`.

    A message is sent in a span, whose context goes into its headers: `traceparent`, or what the global propagator
    writes. The span ends when the broker confirmed the message; a message that has a context already keeps it. A
    delivery is handled in a span that continues the trace of its message; a batch has links to the traces of all its
    messages, as have the spans of arrivals and acknowledgements. No span holds a body, a header, or the text of an
    exception.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("rmqkit", VERSION, tracer_provider)

    def publishing(self, message: Message) -> Message:
        """Start the span of a message, and add its context to the headers."""
        name = _name(message.exchange, message.routing_key) or _DEFAULT_EXCHANGE
        properties = message.properties
        given = _link(properties)
        span = self._tracer.start_span(
            f"send {name}",
            kind=SpanKind.CLIENT if given else SpanKind.PRODUCER,
            attributes=_attributes("send", "send", name) | _of_message(message.routing_key, properties),
            links=given,
        )
        if not given:
            headers: dict[str, Any] = {**(properties.headers or {})}
            propagate.inject(headers, trace.set_span_in_context(span))
            properties = replace(properties, headers=headers)
        return _MessageSpan(message.body, message.routing_key, message.exchange, properties, span=span)

    def settled(self, message: Message, fate: Fate, seconds: float) -> None:  # noqa: ARG002
        """End the span of a message."""
        if isinstance(message, _MessageSpan):
            message.span.set_attribute("rmqkit.outcome", fate.value)
            if fate in _ERRORS:
                _fail(message.span, fate.value)
            message.span.end()

    @contextmanager
    def handling(self, queue: str, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """Make a span around the code that handles deliveries."""
        links = [link for each in deliveries for link in _link(each.properties)]
        name, attributes = _of_deliveries("process", "process", queue, deliveries)
        alone = len(deliveries) == 1
        with self._tracer.start_as_current_span(
            f"process {name}",
            context=propagate.extract(_carrier(deliveries[0].properties)) if alone else None,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                _fail(span, type(error).__qualname__)
                raise

    def received(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        """Note deliveries that arrived together."""
        self._note("receive", "receive", queue, deliveries)

    def consumed(self, queue: str, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        """Note an acknowledgement, a rejection or a requeue."""
        self._note(verdict.value, "settle", queue, deliveries)

    def _note(self, operation: str, kind: str, queue: str, deliveries: Sequence[Delivery]) -> None:
        name, attributes = _of_deliveries(operation, kind, queue, deliveries)
        links = [link for each in deliveries for link in _link(each.properties)]
        self._tracer.start_span(f"{operation} {name}", kind=SpanKind.CLIENT, attributes=attributes, links=links).end()


def _name(*parts: str) -> str:
    """Join names; a byte that is no UTF-8, which exporters refuse, is escaped."""
    return ":".join(filter(None, parts)).encode(errors="backslashreplace").decode()


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _carrier(properties: Properties) -> Mapping[str, str]:
    return {name: value for name, value in (properties.headers or {}).items() if isinstance(value, str)}


def _link(properties: Properties) -> list[Link]:
    """Return a link to the context in the headers, if there is one."""
    context = trace.get_current_span(propagate.extract(_carrier(properties), _NO_CONTEXT)).get_span_context()
    return [Link(context)] if context.is_valid else []


def _attributes(operation: str, kind: str, destination: str) -> dict[str, Any]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }


def _of_message(routing_key: str, properties: Properties) -> dict[str, Any]:
    values = {
        "messaging.rabbitmq.destination.routing_key": routing_key,
        "messaging.message.id": properties.message_id,
        "messaging.message.conversation_id": properties.correlation_id,
    }
    return {name: _name(value) for name, value in values.items() if value}


def _of_deliveries(operation: str, kind: str, queue: str, deliveries: Sequence[Delivery]) -> tuple[str, dict[str, Any]]:
    """Return the name of their destination, the queue alone for a batch, and the attributes."""
    if len(deliveries) != 1:
        batch = {"messaging.batch.message_count": len(deliveries)}
        return queue, _attributes(operation, kind, queue) | batch
    (delivery,) = deliveries
    own_queue = "" if queue == delivery.routing_key else queue
    name = _name(delivery.exchange, delivery.routing_key, own_queue)
    tag = {"messaging.rabbitmq.message.delivery_tag": delivery.delivery_tag}
    own = _of_message(delivery.routing_key, delivery.properties)
    return name, _attributes(operation, kind, name) | own | tag
