"""Metrics of connections for Prometheus: hooks that count and measure. Needs the extra `prometheus`."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rmqkit.errors import SettingsError
from rmqkit.hooks import ConnectionEvent, Hooks
from rmqkit.message import Delivery, Message, Verdict
from rmqkit.report import Fate

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ImportError as exc:
    raise SettingsError(
        "metrics need the package prometheus-client, which is not installed",
        advice="Run `pip install 'rmqkit[prometheus]'`.",
    ) from exc

_LATENCIES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_AGES_S = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400)  # a timestamp has a resolution of one second
_TEMPORARY = ("amq.", "rmqkit.subscription.")  # names of queues that are new with each connection


class Metrics(Hooks):
    """Hooks that keep metrics in a registry: `rmqkit.connect(hooks=Metrics())`; make one for each registry.

    Queues with generated names share the label `temporary`, so that the number of time series stays bounded.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._published = Counter(
            "rmqkit_published_messages",
            "Messages by their outcome: confirmed, returned, nacked, refused or unknown.",
            ("exchange", "outcome"),
            registry=registry,
        )
        self._confirmed_s = Histogram(
            "rmqkit_publish_seconds",
            "Time from sending a message until its outcome is known.",
            ("exchange",),
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self._called_s = Histogram(
            "rmqkit_call_seconds",
            "Time from sending a request until it is answered.",
            ("exchange",),
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self._received = Counter("rmqkit_received_messages", "Deliveries.", ("queue", "redelivered"), registry=registry)
        self._consumed = Counter(
            "rmqkit_consumed_messages",
            "Deliveries by their outcome: ack, reject or requeue.",
            ("queue", "outcome"),
            registry=registry,
        )
        self._handled_s = Histogram(
            "rmqkit_handler_seconds",
            "Time that the handler took for a delivery, or for a batch.",
            ("queue", "outcome"),
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self._queued_s = Histogram(
            "rmqkit_time_in_queue_seconds",
            "Age of deliveries whose message has a timestamp.",
            ("queue",),
            buckets=_AGES_S,
            registry=registry,
        )
        self._events = Counter(
            "rmqkit_connection_events",
            "Events of connections: connected, lost, recovered, blocked, unblocked or cancelled.",
            ("event",),
            registry=registry,
        )

    def settled(self, message: Message, fate: Fate, seconds: float) -> None:
        """Count a message by its outcome, and measure the time; that of a request until its answer apart."""
        self._published.labels(message.exchange, fate.value).inc()
        is_request = message.properties.reply_to is not None
        (self._called_s if is_request else self._confirmed_s).labels(message.exchange).observe(seconds)

    def received(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        """Count deliveries, and measure their age."""
        label, now_s = _label(queue), time.time()
        redelivered = sum(each.redelivered for each in deliveries)
        for name, number in (("no", len(deliveries) - redelivered), ("yes", redelivered)):
            if number:
                self._received.labels(label, name).inc(number)
        for origin, number in Counts(each.origin for each in deliveries).items():  # one for a run of equal properties
            if (sent := origin.properties.timestamp) is not None:
                age_s = max(now_s - sent.timestamp(), 0.0)
                for _ in range(number):
                    self._queued_s.labels(label).observe(age_s)

    @contextmanager
    def handling(self, queue: str, deliveries: Sequence[Delivery]) -> Iterator[None]:  # noqa: ARG002
        """Measure how long handling takes."""
        started_s, outcome = time.perf_counter(), "done"
        try:
            yield
        except Exception:
            outcome = "failed"
            raise
        finally:
            self._handled_s.labels(_label(queue), outcome).observe(time.perf_counter() - started_s)

    def consumed(self, queue: str, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        """Count deliveries by their outcome."""
        self._consumed.labels(_label(queue), verdict.value).inc(len(deliveries))

    def event(self, event: ConnectionEvent) -> None:
        """Count an event."""
        self._events.labels(event.kind.value).inc()


def _label(queue: str) -> str:
    return "temporary" if queue.startswith(_TEMPORARY) else queue
