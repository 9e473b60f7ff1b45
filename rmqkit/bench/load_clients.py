"""The producers, consumers, callers and servers of a load: each has a connection, and runs on a thread."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from itertools import cycle
from typing import Any, NamedTuple

from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.bench.latency import Counts
from rmqkit.bench.load import STAMP_BYTES, Lane, Load
from rmqkit.bench.sequences import NUMBER_BITS, NUMBERS, STAMP, ReceivedNumbers
from rmqkit.message import Delivery, Message, Properties, Verdict
from rmqkit.messaging import rpc_server
from rmqkit.messaging.consumer import Consumer
from rmqkit.messaging.delayed_publishing import DelayedPublishing
from rmqkit.messaging.publish_counts import PublishCallbacks
from rmqkit.messaging.publisher import Publisher
from rmqkit.messaging.rpc_client import RpcClient
from rmqkit.options import CallOptions, ConsumeOptions, PublishOptions, ServeOptions
from rmqkit.report import Fate
from rmqkit.settings import Settings
from rmqkit.stop import Stop

LATE_NS = 1_000_000  # the times of a message that is sent later than this begin when it was due
_RUN = 100  # messages that a fast producer sends to a target before the next one: each change costs encoding
_FAST = 1000  # messages a second

Warn = Callable[[str], None]


class Times(NamedTuple):
    """Times of the monotonic clock, in nanoseconds: the start of a load, that of its measurement, and its end, if set.

    All processes of a machine share this clock.
    """

    start: int
    measured: int
    end: int | None


class Client(ABC):
    """A client of a load, with its counts; `last_ns` is the time of its last confirm or delivery."""

    def __init__(self, settings: Settings, load: Load, name: str, warn: Warn) -> None:
        self.load = load
        self.counts = Counts()
        self.stop = Stop()
        self.last_ns = 0
        self.connection = ReconnectingConnection(settings, f"rmqkit bench {name}")
        self._warn = warn

    def open(self) -> tuple[int, ...]:
        """Connect, and return the version of the broker."""
        with closing(self.connection.channel()) as channel:
            return channel.transport.version

    @abstractmethod
    def run(self, times: Times) -> None:
        """Work until the load ends, or a stop is requested. Raises BrokerError."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """Return the numbers of messages that this client published or received, for the check."""


class Producer(Client):
    """Publishes messages with a number and the time; `count` is its share of the load's count."""

    def __init__(
        self, settings: Settings, load: Load, lanes: Sequence[Lane], number: int, warn: Warn, *, count: int | None
    ) -> None:
        super().__init__(settings, load, f"producer {number + 1}", warn)
        self._lanes = lanes
        self._count = count
        self._next = dict.fromkeys((lane.number for lane in lanes), 0)  # the numbers of the next messages
        self._failed: dict[int, list[int]] = defaultdict(list)
        self._properties = Properties(delivery_mode=2 if load.persistent else 1)
        self._measured = 0
        self.republished = 0
        self._delayed = DelayedPublishing(self.connection, lambda _: None) if load.delay_s else None

    def open(self) -> tuple[int, ...]:
        """Connect; declare the queues of delayed messages before the measurement, because this takes seconds."""
        if self._delayed is not None:
            next(self._delayed.each([Message(b"", self._lanes[0].target.routing_key)], self._delay, self._warn))
        return super().open()

    def run(self, times: Times) -> None:
        """Publish; see `Client.run`."""
        self._measured = times.measured
        messages: Iterable[Message | None] = self._messages(times)
        if self._delayed is not None:
            messages = self._delayed.each(messages, self._delay, self._warn)
        rate = None if self.load.rate is None else self.load.rate / self.load.producers
        publisher = Publisher(
            self.connection,
            PublishOptions(window=self.load.window, rate=rate),
            stop=self.stop,
            callbacks=PublishCallbacks(None, self._settle, lambda _: None, self._warn),
        )
        self.republished = publisher.publish(messages).republished

    @property
    def _delay(self) -> timedelta:
        return timedelta(seconds=self.load.delay_s)

    def _messages(self, times: Times) -> Iterator[Message]:
        """Yield messages to the lanes in turn, until the end, or the count of those that are measured."""
        clock, pack, properties = time.monotonic_ns, STAMP.pack, self._properties
        bodies = cycle([bytes(size - STAMP_BYTES) for size in self.load.sizes])
        rate = (self.load.rate or 0) / self.load.producers
        interval = round(1e9 / rate) if rate else 0
        due, left, end, measured = clock(), self._count, times.end, times.measured
        run = 1 if rate and rate < _FAST else _RUN
        for lane in cycle(self._lanes):
            exchange, key = lane.target.exchange, lane.target.routing_key
            first = lane.number << NUMBER_BITS | self._next[lane.number]
            for head in range(first, first + run):
                now = clock()
                if left is None:
                    if end is not None and now >= end:
                        return
                elif now >= measured:
                    if not left:
                        return
                    left -= 1
                if interval:
                    if now - due > LATE_NS:
                        now = due
                    due += interval
                self._next[lane.number] += 1
                yield Message(pack(head, now) + next(bodies), key, exchange, properties)

    def _settle(self, _: int, message: Message, fate: Fate) -> None:
        head, sent = STAMP.unpack_from(message.body)
        if fate is Fate.CONFIRMED:
            self.last_ns = now = time.monotonic_ns()
            self.counts.confirmed += 1
            if sent >= self._measured:
                self.counts.confirm.record(now - sent)
        else:
            self._failed[head >> NUMBER_BITS].append(head & NUMBERS)

    def result(self) -> dict[str, Any]:
        """Return the count of messages of each lane, the numbers of unconfirmed ones, and the republished count."""
        return {"published": self._next, "failed": self._failed, "republished": self.republished}


class Caller(Producer):
    """Sends requests, and checks the replies."""

    def run(self, times: Times) -> None:
        """Call; see `Client.run`."""
        self._measured = times.measured
        options = CallOptions(window=self.load.window)
        for answer in RpcClient(self.connection).run(self._paced(self._messages(times)), options, self._warn):
            complete = answer.error is None and answer.reply.body == answer.request.body
            self._settle(0, answer.request, Fate.CONFIRMED if complete else Fate.UNKNOWN)

    def _paced(self, messages: Iterator[Message]) -> Iterator[Message | None]:
        """Yield requests at the load's rate; before each pause, yield None, which waits for all replies."""
        interval_s = self.load.producers / self.load.rate if self.load.rate else 0.0
        due_s = time.monotonic()
        for message in messages:
            yield message
            due_s += interval_s
            if self.stop.requested:
                return
            if interval_s and due_s > time.monotonic():
                yield None
                self.stop.wait(due_s - time.monotonic())


class LoadConsumer(Client):
    """Consumes a queue, and checks the numbers."""

    def __init__(self, settings: Settings, load: Load, queue: str, number: int, warn: Warn) -> None:
        super().__init__(settings, load, f"consumer {number + 1}", warn)
        self.queue = queue
        self.redelivered = 0
        self._lanes: dict[int, ReceivedNumbers] = defaultdict(ReceivedNumbers)
        offset = "first" if load.streams else None
        options = ConsumeOptions(load.prefetch, offset=offset)
        self._consumer = Consumer(self.connection, queue, options, stop=self.stop, on_warning=warn)

    def open(self) -> tuple[int, ...]:
        """Connect and, unless the queue is filled first, subscribe."""
        version = super().open()
        if not self.load.fill_first:
            self._consumer.subscribe()
        return version

    def run(self, times: Times) -> None:
        """Consume; see `Client.run`."""
        with self._consumer as consumer:
            for batch in consumer.batches():
                self._take(batch, times.measured)
                consumer.settle(batch, Verdict.ACK)
            self.redelivered = consumer.report.redelivered

    def _take(self, batch: Sequence[Delivery], measured: int) -> None:
        """Count deliveries that arrived together."""
        self.last_ns = now = time.monotonic_ns()
        now -= self.load.delay_s * 1_000_000_000
        lanes, unpack_from, record = self._lanes, STAMP.unpack_from, self.counts.latency.record
        for delivery in batch:
            head, sent = unpack_from(delivery.body)
            lane = lanes[head >> NUMBER_BITS]
            number = head & NUMBERS
            if number == lane.next:
                lane.next = number + 1
            else:
                lane.jump(number, redelivered=delivery.redelivered)
            if sent >= measured:
                record(now - sent)
        self.counts.received += len(batch)

    def result(self) -> dict[str, Any]:
        """Return the queue and the numbers received in each lane."""
        lanes = {number: lane.as_json() for number, lane in self._lanes.items()}
        return {"queue": self.queue, "lanes": lanes, "redelivered": self.redelivered}


class Server(LoadConsumer):
    """Answers requests with their own bodies."""

    def open(self) -> tuple[int, ...]:
        """Connect; `run` subscribes."""
        return Client.open(self)

    def run(self, times: Times) -> None:
        """Serve; see `Client.run`."""

        def reply(request: Delivery) -> bytes:
            self._take((request,), times.measured)
            return request.body

        served = rpc_server.ServedFunction(reply, self.queue, ServeOptions(self.load.prefetch))
        publishing = ReconnectingConnection(self.connection.settings, f"rmqkit bench replies of {self.queue}")
        with closing(publishing):
            context = rpc_server.ServeContext(
                self.connection, publishing, self.stop, rpc_server.log_failure, self._warn
            )
            self.redelivered = rpc_server.run([served], context).redelivered
