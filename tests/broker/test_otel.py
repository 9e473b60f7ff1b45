"""Spans of real messages, as OpenTelemetry's SDK exports them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import rmqkit
from rmqkit import Delivery, Message, Properties, Stop, Verdict
from rmqkit.otel import Traces
from tests.support.queues import declare, drain_messages


class Spans:
    """The provider of a test, and the spans that ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def __getitem__(self, operation: str) -> list[ReadableSpan]:
        return [each for each in self.exporter.get_finished_spans() if each.name.startswith(f"{operation} ")]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {name.removeprefix("messaging."): value for name, value in (span.attributes or {}).items()}


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def queue(queue_name: str, broker_url: str) -> str:
    declare(broker_url, queue_name)
    return queue_name


@pytest.fixture
def connection(broker_url: str, spans: Spans) -> Iterator[rmqkit.Connection]:
    with rmqkit.connect(broker_url, hooks=Traces(spans.provider)) as connection:
        yield connection


def test_producer_and_consumer_are_in_the_trace_of_the_request(
    connection: rmqkit.Connection, spans: Spans, queue: str
) -> None:
    properties = Properties(message_id="m-7", correlation_id="c-7", headers={"kept": 1})
    with spans.provider.get_tracer("shop").start_as_current_span("POST /orders") as request:
        connection.publish(Message(b"secret body", queue, properties=properties))
    inside = []
    for delivery in connection.consume(queue, count=1):
        inside.append(trace.get_current_span().get_span_context().span_id)
        assert (delivery.properties.headers or {})["kept"] == 1
    (send,), (process,), (ack,) = spans["send"], spans["process"], spans["ack"]
    assert send.context.trace_id == process.context.trace_id == request.get_span_context().trace_id
    assert send.parent is not None and process.parent is not None  # noqa: PT018
    assert send.parent.span_id == request.get_span_context().span_id
    assert process.parent.span_id == send.context.span_id == process.links[0].context.span_id
    assert ack.links[0].context.span_id == send.context.span_id
    assert inside == [process.context.span_id]
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    common = {
        "system": "rabbitmq",
        "destination.name": queue,
        "rabbitmq.destination.routing_key": queue,
        "message.id": "m-7",
        "message.conversation_id": "c-7",
    }
    assert attributes(send) == common | {
        "operation.name": "send", "operation.type": "send", "rmqkit.outcome": "confirmed",
    }  # fmt: skip
    tag = {"rabbitmq.message.delivery_tag": 1}
    assert attributes(process) == common | tag | {"operation.name": "process", "operation.type": "process"}
    assert attributes(ack) == common | tag | {"operation.name": "ack", "operation.type": "settle"}
    assert send.end_time is not None
    assert send.status.status_code is StatusCode.UNSET
    assert not any("secret" in each.to_json() for each in spans.exporter.get_finished_spans())


def test_a_destination_is_named_by_exchange_key_and_queue(
    connection: rmqkit.Connection, spans: Spans, queue: str
) -> None:
    binding = rmqkit.Binding("amq.topic", queue, routing_key="#")
    connection.apply(rmqkit.Topology(queues=(rmqkit.Queue(queue),), bindings=(binding,)))
    connection.publish(Message(b"x", f"{queue}.\udcff", "amq.topic"))
    list(connection.consume(queue, count=1))
    assert spans["send"][0].name == f"send amq.topic:{queue}.\\udcff"
    assert spans["process"][0].name == f"process amq.topic:{queue}.\\udcff:{queue}"


def test_failures_are_errors_without_their_text(connection: rmqkit.Connection, spans: Spans, queue: str) -> None:
    def fail(_: Delivery) -> None:
        raise ValueError("secret")

    connection.publish(Message(b"lost", f"no {queue}"), check=False)
    connection.publish(Message(b"kept", queue))
    rmqkit.handle(connection, queue, fail, count=1, failed=rmqkit.FailurePolicy.REJECT, on_failure=lambda _, __: None)
    lost, kept = spans["send"]
    assert (lost.status.status_code, attributes(lost)["error.type"]) == (StatusCode.ERROR, "returned")
    assert kept.status.status_code is StatusCode.UNSET
    (process,) = spans["process"]
    assert (process.status.status_code, attributes(process)["error.type"]) == (StatusCode.ERROR, "ValueError")
    assert spans["reject"]
    assert not any("secret" in each.to_json() for each in spans.exporter.get_finished_spans())


def test_a_batch_links_to_the_traces_of_its_messages(connection: rmqkit.Connection, spans: Spans, queue: str) -> None:
    connection.publish(Message(b"%d" % number, queue) for number in range(3))
    handled = 0
    with connection.consume(queue, count=3) as consumer:
        for batch in consumer.batches():
            with consumer.handling(batch):
                handled += len(batch)
            consumer.settle(batch, Verdict.ACK)
    sent = {each.context.span_id for each in spans["send"]}
    assert (handled, len(sent)) == (3, 3)
    assert {link.context.span_id for each in spans["receive"] for link in each.links} == sent
    assert {link.context.span_id for each in spans["process"] for link in each.links} == sent
    assert {link.context.span_id for each in spans["ack"] for link in each.links} == sent


def test_a_context_that_a_message_has_already_is_kept(
    connection: rmqkit.Connection, spans: Spans, queue: str, broker_url: str
) -> None:
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    connection.publish(Message(b"x", queue, properties=replace(Properties(), headers={"traceparent": given})))
    (send,) = spans["send"]
    assert f"{send.links[0].context.span_id:x}" == "b7ad6b7169203331"
    (found,) = drain_messages(broker_url, queue)
    assert (found.properties.headers or {})["traceparent"] == given


def test_a_call_is_one_trace(connection: rmqkit.Connection, spans: Spans, queue: str) -> None:
    stop = Stop()
    connection.serve(queue)(lambda request: request.body)
    server = threading.Thread(target=connection.run, kwargs={"stop": stop})
    server.start()
    connection.call(Message(b"hello", queue))
    stop.request()
    server.join()
    (send,), (process,) = spans["send"], spans["process"]
    assert send.context.trace_id == process.context.trace_id
