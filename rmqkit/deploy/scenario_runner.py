"""Scenarios on a real broker, under names of their own, over AMQP alone.

Each queue of a stand-in has a consumer that holds what comes, and lets it go as the scenario says. Nothing is decided
by time where the broker can be asked: a confirmed message is in its queues, and what came before a marker that was sent
to every queue is all that came.
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

from rmqkit.amqp import declare_methods
from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import ConsumerCancel, encode_ack, encode_nack
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.deploy import delete
from rmqkit.errors import BrokerError, ConnectionLost, ConsumerCancelled
from rmqkit.message import Message, Properties
from rmqkit.model import Topology
from rmqkit.stop import Stop, StopRequested
from rmqkit.topology.file.scenarios import Case, Scenario, ScenarioStep
from rmqkit.topology.policies import effective, unread
from rmqkit.topology.prefixed_copy import prefixed_copy
from rmqkit.topology.routing import DeathReason
from rmqkit.topology.scenario_check import Observation, offline

ANSWER_S = 30.0  # a broker that does not deliver a marker for so long is as good as gone
PATIENCE_S = 3.0  # for what comes late: at-least-once dead letters, and exchanges that delay
_LOOK_AGAIN_S = 0.02
_PREFETCH = 1000  # streams want one; nothing here comes near it
_REDELIVERIES = 3  # that end a message whose limit is one

Publish = Callable[[Iterator[Message]], object]
"""Publishes, and returns once all is confirmed."""


class ScenarioRunner:
    """Topologies put on a stage of their own, each for as long as its scenarios last; nothing of it is left behind.

    `follow` is for `judge`. Leaving the block removes all that was declared, whatever ended it.
    """

    def __init__(self, link: ReconnectingConnection, publish: Publish, stop: Stop) -> None:
        self._link = link
        self._publish = publish
        self._stop = stop
        self._open = ExitStack()
        self._topology: Topology | None = None
        self._stages: dict[frozenset[tuple[str, DeathReason]], _ScenarioRun] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def follow(self, scenario: Scenario, case: Case) -> Observation:
        """Publish a message of its own, lead it along the steps of a case, and tell where it is then.

        Raises StopRequested when a stop is, Refused when the topology is, and AccessRefused, NotConfirmed,
        ConnectionLost.
        """
        if why := _beyond_rehearsal(scenario, case):
            return replace(offline(scenario, case), note=f"looked at offline only, because of {why}")
        if scenario.topology is not self._topology:
            self._open.close()
            self._stages.clear()
            self._topology = scenario.topology
        leaving = frozenset((step.queue, step.when) for step in case.steps if step.when != "rejected")
        if leaving not in self._stages:
            stage = _ScenarioRun(self._link, self._publish, self._stop, scenario.topology, leaving)
            self._stages[leaving] = self._open.enter_context(stage)
        return Observation(self._stages[leaving].follow(scenario, case))


def _beyond_rehearsal(scenario: Scenario, case: Case) -> str:
    """Name what a stand-in cannot have, or nothing."""
    for policy in unread(scenario.topology):
        return f"the pattern of policy {policy.name!r}"
    for step in case.steps:
        queue = next(queue for queue in scenario.topology.queues if queue.name == step.queue)
        if step.when == "maxlen" and effective(scenario.topology, queue).get("x-overflow") == "reject-publish-dlx":
            return "reject-publish-dlx"
    return ""


class _ScenarioRun:
    """One topology's stand-in on the broker, and the messages that are held from its queues."""

    _channel: Channel

    def __init__(
        self,
        link: ReconnectingConnection,
        publish: Publish,
        stop: Stop,
        topology: Topology,
        leaving: frozenset[tuple[str, DeathReason]],
    ) -> None:
        self._link = link
        self._send = publish
        self._stop = stop
        self._actors = prefixed_copy(topology, f"rmqkit-test-{uuid4().hex[:12]}.", leaving)
        self._numbers = count(1)
        self._body = b""  # of the message that is followed
        self._came: list[tuple[str, int]] = []  # its copies since the last step: queue and delivery tag

    def __enter__(self) -> Self:
        play = self._actors.topology
        try:
            for entities in (play.exchanges, play.queues, play.bindings):
                for _ in declare_methods.declare_all(self._link, entities):
                    self._check_stop()
            self._channel = self._link.channel()
            self._channel.qos(_PREFETCH, subject="a channel")
            for queue in self._actors.queues:
                self._consume(queue)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with ExitStack() as quiet:
            if error:  # which says more than one about clearing up after it
                quiet.enter_context(suppress(BrokerError))
            if hasattr(self, "_channel"):
                self._channel.close()
            delete.remove(self._link, None, self._actors.topology, force=True)

    def follow(self, scenario: Scenario, case: Case) -> tuple[str, ...]:
        """Return the queues that a message is seen in after the last step, one entry a copy, sorted."""
        self._body = f"{self._actors.prefix}{next(self._numbers)}".encode()
        target, properties = scenario.target, Properties(headers=scenario.headers)
        message = Message(self._body, target.routing_key, self._actors.named(target.exchange), properties)
        held: list[int] = []
        self._came = []
        self._publish(message)
        self._gather()
        for done, step in enumerate(case.steps):
            self._await(scenario, Case(case.steps[:done], (step.queue,), step.where))
            tags = [tag for queue, tag in self._came if queue == step.queue]
            held += (tag for _, tag in self._came if tag not in tags[:1])
            self._came = []
            if tags:  # else it is nowhere now, though it came here when the step before was looked at by itself
                self._leave(step, self._actors.named(step.queue), tags[0])
            self._gather()  # what a queue sends on leaves before its marker does, and so before any of the next ones
            self._gather()
        self._await(scenario, case)
        seen = tuple(sorted(queue for queue, _ in self._came))
        for tag in (*held, *(tag for _, tag in self._came)):
            self._channel.send(encode_ack(self._channel.number, tag, multiple=False))
        return seen

    def _leave(self, step: ScenarioStep, queue: str, tag: int) -> None:
        """Let one copy leave its queue."""
        match step.when:
            case "rejected":
                self._return(queue, tag, requeue=False)
            case "delivery_limit":
                for _ in range(_REDELIVERIES):
                    self._return(queue, tag, requeue=True)
                    self._gather()
                    again = [each for each in self._came if each[0] == step.queue]
                    if not again:
                        return
                    self._came.remove(again[0])
                    tag = again[0][1]
                self._came.append((step.queue, tag))
            case "expired" | "maxlen":  # the queue has a time to live, or room for one message
                self._channel.cancel(queue, subject=f"queue {queue!r}")
                self._return(queue, tag, requeue=True)
                self._publish(Message(b"another", queue))
                deadline = time.monotonic() + PATIENCE_S
                while step.when == "expired" and self._ready(queue) and time.monotonic() < deadline:
                    self._stop.wait(_LOOK_AGAIN_S)
                    self._check_stop()
                self._consume(queue)

    def _return(self, queue: str, tag: int, *, requeue: bool) -> None:
        """Give a copy back, and wait until the channel has told its queue."""
        self._channel.send(encode_nack(self._channel.number, tag, requeue=requeue))
        self._ready(queue)

    def _ready(self, queue: str) -> int:
        return int(self._channel.queue_counts(queue).message_count)

    def _consume(self, queue: str) -> None:
        self._channel.consume(queue, tag=queue)

    def _publish(self, *messages: Message) -> None:
        self._send(iter(messages))
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.requested:
            raise StopRequested

    def _gather(self) -> None:
        """Take all that is in the queues by now."""
        marker = f"marker {next(self._numbers)}".encode()
        self._publish(*(Message(marker, queue) for queue in self._actors.queues))
        left = Counter(self._actors.queues.keys())
        deadline = time.monotonic() + ANSWER_S
        while left := +left:
            if time.monotonic() > deadline:
                raise ConnectionLost(f"queue {min(left)!r} did not deliver within {ANSWER_S:g} s")
            left.subtract(queue for queue, body in self._take(deadline) if body == marker)

    def _await(self, scenario: Scenario, case: Case) -> None:
        """Wait a little for what the router expects here, or the scenario where that cannot tell."""
        router = offline(scenario, case)
        awaited = set(case.queues if router.unknown else router.queues)
        if not awaited - {queue for queue, _ in self._came}:
            return
        deadline = time.monotonic() + PATIENCE_S
        while awaited - {queue for queue, _ in self._came} and time.monotonic() < deadline:
            list(self._take(deadline))
        self._gather()

    def _take(self, deadline: float) -> Iterator[tuple[str, bytes]]:
        """Yield what comes next, by queue and body: copies of the message are held, all else is done with."""
        with self._stop.waking(self._channel.wake):
            self._check_stop()
            events = self._channel.wait(max(0.0, deadline - time.monotonic()))
        for event in events:
            if isinstance(event, ConsumerCancel):
                raise ConsumerCancelled(f"queue {event.consumer_tag!r} was deleted while scenarios were rehearsed")
            for delivery in event if isinstance(event, list) else ():
                queue, tag = delivery.origin.consumer_tag, delivery.delivery_tag
                if delivery.body == self._body:
                    self._came.append((self._actors.queues[queue], tag))
                else:
                    self._channel.send(encode_ack(self._channel.number, tag, multiple=False))
                yield queue, delivery.body
