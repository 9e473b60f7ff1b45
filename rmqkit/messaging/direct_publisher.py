"""Publish on one channel from many threads with few thread switches: the I/O thread itself passes on the confirms.

It handles only confirms. Any other event of the channel or its connection ends it; then a `Publisher` takes over the
channel and its unconfirmed messages. So recovery, returns and refusals are implemented once.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from rmqkit.amqp.channel import Received
from rmqkit.amqp.frames import Confirm
from rmqkit.amqp.transport import WRITE_BYTES
from rmqkit.errors import RmqkitError
from rmqkit.message import Message
from rmqkit.messaging.publish_channel import PublishChannel
from rmqkit.messaging.unconfirmed import Sent
from rmqkit.report import Fate

_MANY = 100  # submitted messages that are written without waiting for more


class MessageOutcome(Protocol):
    """The part of a `concurrent.futures.Future` that publishers use."""

    def set_running_or_notify_cancel(self) -> bool:
        """Return whether the message is still to be sent; from now on it cannot be cancelled."""

    def set_result(self, result: Fate, /) -> None:
        """Tell that the message was confirmed or, without confirms, sent."""

    def set_exception(self, exception: RmqkitError, /) -> None:
        """Tell why the message was not confirmed."""


CallSoon = Callable[[Callable[[], None]], object]
Submitted = tuple[Message | None, MessageOutcome]  # None: a barrier


class DirectPublisher:
    """Publishes what is `submitted`, in order, until it ends; then it leaves there what was not sent.

    `on_confirmed` and `on_cancelled` are called without a lock, on any thread, the I/O thread included; so is
    `on_ended`, once.
    """

    def __init__(
        self,
        opened: PublishChannel,
        submitted: deque[Submitted],
        *,
        on_confirmed: Callable[[Message, MessageOutcome], None],
        on_cancelled: Callable[[Message], None],
        on_ended: Callable[[DirectPublisher], None],
    ) -> None:
        self.confirms = 0  # that arrived
        self._opened, self._submitted = opened, submitted
        self._channel, self._unconfirmed = opened.channel, opened.unconfirmed
        self._on_confirmed, self._on_cancelled, self._on_ended = on_confirmed, on_cancelled, on_ended
        self._lock = threading.Lock()  # of the next four, and of what is unconfirmed
        self._sent: dict[int, tuple[Message, MessageOutcome]] = {}  # by position
        self._position = 0
        self._ended = False
        self._writing = threading.Lock()  # held by the thread that writes for all
        self._queued = False  # the I/O thread will write
        self._soon = False  # `_queue` will be called
        self._process = os.getpid()

    def start(self) -> None:
        """Receive events of the channel; any event that has arrived already, except wake-ups, ends this."""
        inbox, self._channel.receive = self._channel.inbox, self._receive
        while inbox:
            if item := inbox.get():
                self._receive(item)
                return

    def flush(self, *, now: bool, call_soon: CallSoon | None = None) -> None:
        """Have submitted messages written: `now`, unless another thread is writing; otherwise by the I/O thread.

        A signal handler may raise on the main thread, which could break what all threads share: it never writes here.
        `call_soon` calls a function later: then one wake-up of the I/O thread is enough for many messages.
        """
        written = now and threading.current_thread() is not threading.main_thread()
        while written and self._submitted and not self._ended and self._writing.acquire(blocking=False):
            try:
                written = self._channel.transport.write_now(self._encode)
            finally:
                self._writing.release()
        if written or self._queued:
            return
        if call_soon is None or len(self._submitted) >= _MANY:
            self._queue()
        elif not self._soon:
            self._soon = True
            call_soon(self._queue)

    def _queue(self) -> None:
        if not self._queued:
            self._queued = True
            try:
                self._channel.transport.send(self._encode)
            except BaseException:  # of a signal handler: the next message has to be queued again
                self._queued = False
                raise

    def end(self) -> bool:
        """Publish nothing more, and pass events of the channel to its inbox; return False if this has ended already."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
            self._channel.receive = self._channel.inbox.put
        self._on_ended(self)
        return True

    def take_over(self) -> tuple[PublishChannel, dict[int, Submitted]]:
        """Return the channel and its unconfirmed messages, by new positions from 0. End it first."""
        assert self._ended, "end it first: another publisher takes over"  # noqa: S101
        sent: dict[int, Submitted] = {}

        def renumbered(each: Sent) -> Sent:
            position = len(sent)
            sent[position] = self._sent[each.position]
            return each._replace(position=position)

        self._unconfirmed.replace_each(renumbered)
        return self._opened, sent

    def _encode(self) -> bytes:
        """Encode submitted messages, up to a limit; the caller holds the lock of the connection's writer."""
        self._queued = self._soon = False
        pieces: list[bytes] = []
        size, cancelled, refused = 0, [], False
        with self._lock:
            while self._submitted and not self._ended:
                message, outcome = self._submitted[0]
                if message is None or size >= WRITE_BYTES:
                    break
                try:
                    data = self._opened.encoder.encode(message)
                except Exception:  # noqa: BLE001 - the publisher that takes over encodes it again, and refuses it
                    refused = True
                    break
                self._submitted.popleft()
                if outcome.set_running_or_notify_cancel():
                    self._unconfirmed.add(Sent(self._position, message, len(message.body)))
                    self._sent[self._position] = message, outcome
                    self._position += 1
                    pieces.append(data)
                    size += len(data)
                else:
                    cancelled.append(message)
        for each in cancelled:
            self._on_cancelled(each)
        if refused:
            self.end()
        elif size >= WRITE_BYTES:
            self._channel.transport.send(self._encode)
        return b"".join(pieces)

    def _receive(self, item: Received) -> None:
        """Settle confirmed messages, on the I/O thread; in a forked process, where no thread waits, do nothing."""
        if os.getpid() != self._process:
            return
        confirmed: list[tuple[Message, MessageOutcome]] = []
        rest: Received = item
        if isinstance(item, list):
            with self._lock:
                done = 0
                while not self._ended and done < len(item) and self._settle(item[done], confirmed):
                    done += 1
            rest = item[done:]
        for message, outcome in confirmed:
            self._on_confirmed(message, outcome)
        if rest or rest is None:
            self._channel.inbox.put(rest)
            self.end()

    def _settle(self, event: object, confirmed: list[tuple[Message, MessageOutcome]]) -> bool:
        """Add what an event confirms; return False if it is anything else."""
        if not isinstance(event, Confirm) or not event.ack or not (settled := self._unconfirmed.settle(event)):
            return False
        confirmed += [self._sent.pop(sent.position) for sent in settled]
        self.confirms += 1
        return True
