"""Run scenarios on a live broker, in copies of their topologies under a prefix, over AMQP alone.

Each queue of a copy has a consumer that holds its messages, and makes them leave as the scenario says. Time decides
nothing that the broker can be asked about: a confirmed message is in its queues, and once a marker that was sent to
every queue has been delivered, so has everything sent before it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Self
from uuid import uuid4

from rmqkit.amqp import entity_methods
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import ConsumerCancel, encode_ack, encode_nack, encode_reject
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy import safe_delete
from rmqkit.errors import BrokerError, ConnectionLost, ConsumerCancelled
from rmqkit.message import Message, Properties
from rmqkit.model import Topology
from rmqkit.stop import Stop, StopRequested
from rmqkit.topology.file.scenarios import Case, Scenario, ScenarioStep
from rmqkit.topology.policies import effective, unread
from rmqkit.topology.prefixed_copy import prefixed_copy
from rmqkit.topology.routing import DeathReason
from rmqkit.topology.scenario_check import Observation, offline

MARKER_TIMEOUT_S = 30.0  # a broker that does not deliver a marker in this time counts as lost
LATE_S = 3.0  # how late messages may arrive: at-least-once dead letters, and exchanges that delay
_POLL_S = 0.02
_PREFETCH = 1000  # streams require one; no scenario comes close to it
_REDELIVERIES = 3  # enough to exceed a delivery limit of one

Publish = Callable[[Iterator[Message]], object]
"""Publishes messages, and returns once all are confirmed."""


class ScenarioRunner:
    """Declares copies of topologies while scenarios run; leaving the block deletes them. `observe` is for `judge`."""

    def __init__(self, connection: ReconnectingConnection, publish: Publish, stop: Stop) -> None:
        self.connection, self.publish, self.stop = connection, publish, stop
        self._open = ExitStack()
        self._topology: Topology | None = None
        self._runs: dict[frozenset[tuple[str, DeathReason]], _ScenarioRun] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def observe(self, scenario: Scenario, case: Case) -> Observation:
        """Publish a message, take it through the steps of a case, and report the queues it is in then.

        Raises StopRequested after a stop, Refused for a topology that the broker refuses, AccessRefused, NotConfirmed,
        ConnectionLost.
        """
        if why := _unsupported(scenario, case):
            return replace(offline(scenario, case), note=f"checked offline only, because of {why}")
        if scenario.topology is not self._topology:
            self._open.close()
            self._runs.clear()
            self._topology = scenario.topology
        reasons = frozenset((step.queue, step.when) for step in case.steps if step.when != "rejected")
        if reasons not in self._runs:
            self._runs[reasons] = self._open.enter_context(_ScenarioRun(self, scenario.topology, reasons))
        return Observation(self._runs[reasons].observe(scenario, case))


def _unsupported(scenario: Scenario, case: Case) -> str:
    """Name the feature that a copy of the topology cannot have, if there is one."""
    for policy in unread(scenario.topology):
        return f"the pattern of policy {policy.name!r}"
    for step in case.steps:
        queue = next(queue for queue in scenario.topology.queues if queue.name == step.queue)
        if step.when == "maxlen" and effective(scenario.topology, queue).get("x-overflow") == "reject-publish-dlx":
            return "reject-publish-dlx"
    return ""


class _ScenarioRun:
    """The copy of one topology on the broker, and the deliveries that are held from its queues."""

    _channel: Channel

    def __init__(self, runner: ScenarioRunner, topology: Topology, reasons: frozenset[tuple[str, DeathReason]]) -> None:
        self._connection, self._send, self._stop = runner.connection, runner.publish, runner.stop
        self._copy = prefixed_copy(topology, f"rmqkit-test-{uuid4().hex[:12]}.", reasons)
        self._numbers = count(1)
        self._body = b""  # of the message that is followed
        self._arrived: list[tuple[str, int]] = []  # its copies since the last step: queue and delivery tag

    def __enter__(self) -> Self:
        topology = self._copy.topology
        try:
            for entities in (topology.exchanges, topology.queues, topology.bindings):
                for _ in entity_methods.declare_all(self._connection, entities):
                    self._check_stop()
            self._channel = self._connection.channel()
            self._channel.qos(_PREFETCH, subject="a channel")
            for queue in self._copy.queues:
                self._channel.consume(queue, tag=queue)
        except BaseException as error:
            self.__exit__(error)
            raise
        return self

    def __exit__(self, error: object, *_: object) -> None:
        with ExitStack() as quiet:
            if error:  # it says more than an error of the cleanup
                quiet.enter_context(suppress(BrokerError))
            if hasattr(self, "_channel"):
                self._channel.close()
            safe_delete.remove(self._connection, None, self._copy.topology, if_unused=False, if_empty=False)

    def observe(self, scenario: Scenario, case: Case) -> tuple[str, ...]:
        """Return the queues that the message is in after the last step, one for each copy, sorted."""
        self._body = f"{self._copy.prefix}{next(self._numbers)}".encode()
        target, properties = scenario.target, Properties(headers=scenario.headers)
        message = Message(self._body, target.routing_key, self._copy.named(target.exchange), properties)
        held: list[int] = []
        self._arrived = []
        self._publish(message)
        self._gather()
        for done, step in enumerate(case.steps):
            self._await(scenario, Case(case.steps[:done], (step.queue,), step.where))
            tags = [tag for queue, tag in self._arrived if queue == step.queue]
            held += (tag for _, tag in self._arrived if tag not in tags[:1])
            self._arrived = []
            if tags:  # else it is in no queue, although it was in this one when the earlier case ended here
                self._apply(step, self._copy.named(step.queue), tags[0])
            self._gather()  # a queue forwards a message before its own marker, hence before those of the second round
            self._gather()
        self._await(scenario, case)
        queues = tuple(sorted(queue for queue, _ in self._arrived))
        for tag in (*held, *(tag for _, tag in self._arrived)):
            self._channel.send(encode_ack(self._channel.number, tag, multiple=False))
        return queues

    def _apply(self, step: ScenarioStep, queue: str, tag: int) -> None:
        match step.when:
            case "rejected":
                self._nack(queue, tag, requeue=False)
            case "delivery_limit":
                for _ in range(_REDELIVERIES):
                    self._channel.send(encode_reject(self._channel.number, tag, requeue=True))
                    self._ready(queue)  # once the queue knows it
                    self._gather()
                    redelivered = [each for each in self._arrived if each[0] == step.queue]
                    if not redelivered:
                        return
                    self._arrived.remove(redelivered[0])
                    tag = redelivered[0][1]
                self._arrived.append((step.queue, tag))
            case "expired" | "maxlen":  # the queue has a time to live, or room for one message
                self._channel.cancel(queue, subject=f"queue {queue!r}")
                self._nack(queue, tag, requeue=True)
                self._publish(Message(b"another", queue))
                deadline = time.monotonic() + LATE_S
                while step.when == "expired" and self._ready(queue) and time.monotonic() < deadline:
                    self._stop.wait(_POLL_S)
                    self._check_stop()
                self._channel.consume(queue, tag=queue)

    def _nack(self, queue: str, tag: int, *, requeue: bool) -> None:
        """Reject or requeue a copy, and wait until the queue knows it."""
        self._channel.send(encode_nack(self._channel.number, tag, requeue=requeue))
        self._ready(queue)

    def _ready(self, queue: str) -> int:
        return int(self._channel.queue_counts(queue).message_count)

    def _publish(self, *messages: Message) -> None:
        self._send(iter(messages))
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.requested:
            raise StopRequested

    def _gather(self) -> None:
        marker = f"marker {next(self._numbers)}".encode()
        self._publish(*(Message(marker, queue) for queue in self._copy.queues))
        missing = Counter(self._copy.queues.keys())
        deadline = time.monotonic() + MARKER_TIMEOUT_S
        while missing := +missing:
            if time.monotonic() > deadline:
                raise ConnectionLost(f"queue {min(missing)!r} delivered nothing within {MARKER_TIMEOUT_S:g} s")
            missing.subtract(queue for queue, body in self._take(deadline) if body == marker)

    def _await(self, scenario: Scenario, case: Case) -> None:
        """Wait a little for the copies that the router expects, or the scenario if the router does not know."""
        router = offline(scenario, case)
        expected = set(case.queues if router.unknown else router.queues)
        deadline = time.monotonic() + LATE_S
        if not expected - {queue for queue, _ in self._arrived}:
            return
        while expected - {queue for queue, _ in self._arrived} and time.monotonic() < deadline:
            list(self._take(deadline))
        self._gather()

    def _take(self, deadline: float) -> Iterator[tuple[str, bytes]]:
        """Yield queue and body of the next deliveries: copies of the message are held, all others acknowledged."""
        with self._stop.waking(self._channel.wake):
            self._check_stop()
            events = self._channel.wait(max(0.0, deadline - time.monotonic()))
        for event in events:
            if isinstance(event, ConsumerCancel):
                raise ConsumerCancelled(f"queue {event.consumer_tag!r} was deleted while scenarios were running")
            for delivery in event if isinstance(event, list) else ():
                queue, tag = delivery.origin.consumer_tag, delivery.delivery_tag
                if delivery.body == self._body:
                    self._arrived.append((self._copy.queues[queue], tag))
                else:
                    self._channel.send(encode_ack(self._channel.number, tag, multiple=False))
                yield queue, delivery.body
