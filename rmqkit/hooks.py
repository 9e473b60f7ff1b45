"""Hooks: a program observes, and may change, what its connections send and receive."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TypeVar, TypeVarTuple, Unpack

from rmqkit.message import Delivery, Message, Verdict
from rmqkit.report import Fate

T = TypeVar("T", bound=Message | None)
R = TypeVar("R")
Ts = TypeVarTuple("Ts")
_log = logging.getLogger("rmqkit.hooks")


class EventKind(Enum):
    """What happened to a connection."""

    CONNECTED = "connected"
    LOST = "lost"  # not by a call to close it
    RECOVERED = "recovered"  # open again, after it was lost
    BLOCKED = "blocked"  # an alarm keeps the broker from reading (https://www.rabbitmq.com/docs/connection-blocked)
    UNBLOCKED = "unblocked"
    CANCELLED = "cancelled"  # the broker ended a consumer (https://www.rabbitmq.com/docs/consumer-cancel)


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """An event of the `connection` that RabbitMQ lists under this name; `address` has no password."""

    kind: EventKind
    connection: str
    address: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MessageCopy(Message):
    """A copy of a delivery that rmqkit makes, with the same body: it is passed to no hook."""


class Hooks:
    """The methods that rmqkit calls for `rmqkit.connect(hooks=...)`: override those that you need.

    They are called on the thread or in the task that publishes or consumes, or on a publisher's background thread, from
    several threads at a time; keep them short. A hook that raises has no effect on the message: the logger
    `rmqkit.hooks` logs its first error.

        class Counter(rmqkit.Hooks):
            def settled(self, message, fate, seconds):
                outcomes[fate] += 1
    """

    def publishing(self, message: Message) -> Message:
        """Return the message to send in its place, as with another header; called where the program publishes it."""
        return message

    def settled(self, message: Message, fate: Fate, seconds: float) -> None:
        """Note the fate of a message, as `publishing` returned it; replies of a server are passed here alone.

        `seconds` have passed since it was taken to be sent. A request, which has a `reply_to`, is settled once it is
        answered. A message that is cancelled before it was sent has no fate.
        """

    def received(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        """Note deliveries that arrived, in order; redelivered ones too."""

    def handling(self, queue: str, deliveries: Sequence[Delivery]) -> AbstractContextManager[object]:  # noqa: ARG002
        """Return a block in which deliveries are handled: by a function, a command, or the body of a loop.

        An exception that ends the block is that of the handler; GeneratorExit is a loop that was left early.
        """
        return nullcontext()

    def consumed(self, queue: str, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        """Note deliveries that were settled."""

    def event(self, event: ConnectionEvent) -> None:
        """Note an event of a connection; called on a thread of its own, in the order of the events."""


class GuardedHooks(Hooks):
    """Calls the hooks of a program, whose errors reach the log alone, each hook's first one."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._failed: set[str] = set()
        self._events: deque[ConnectionEvent] = deque()
        self._events_lock = threading.Lock()
        self._telling = False

    def publishing(self, message: Message) -> Message:
        """Return the message of the hook, or the same one if it raises or returns anything else."""
        if isinstance(message, MessageCopy):
            return message
        changed = self.call("publishing", self._hooks.publishing, message)
        return changed if isinstance(changed, Message) else message

    def each_publishing(self, messages: Iterable[T]) -> Iterator[T | Message]:
        """Yield messages as the hook changes them, and anything else as it is."""
        return (self.publishing(each) if isinstance(each, Message) else each for each in messages)

    def settled(self, message: Message, fate: Fate, seconds: float) -> None:
        """Call the hook."""
        if not isinstance(message, MessageCopy):
            self.call("settled", self._hooks.settled, message, fate, seconds)

    def received(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        """Call the hook."""
        self.call("received", self._hooks.received, queue, deliveries)

    def handling(self, queue: str, deliveries: Sequence[Delivery]) -> AbstractContextManager[object]:
        """Return the block of the hook, which suppresses no exception."""
        block = self.call("handling", self._hooks.handling, queue, deliveries)
        return nullcontext() if block is None else _GuardedBlock(self, block)

    def consumed(self, queue: str, deliveries: Sequence[Delivery], verdict: Verdict) -> None:
        """Call the hook."""
        self.call("consumed", self._hooks.consumed, queue, deliveries, verdict)

    def event(self, event: ConnectionEvent) -> None:
        """Have the hook called on a thread: an event may happen on one that must not wait."""
        with self._events_lock:
            self._events.append(event)
            if self._telling:
                return
            self._telling = True
        threading.Thread(target=self._tell, name="rmqkit-hooks", daemon=True).start()

    def _tell(self) -> None:
        while True:
            with self._events_lock:
                if not self._events:
                    self._telling = False
                    return
                event = self._events.popleft()
            self.call("event", self._hooks.event, event)

    def call(self, hook: str, function: Callable[[Unpack[Ts]], R], *args: *Ts) -> R | None:
        """Call a part of a hook; log its exception, and return None."""
        try:
            return function(*args)
        except Exception:  # noqa: BLE001 - of the program
            if hook not in self._failed:
                self._failed.add(hook)
                _log.exception("the hook %s failed; further errors of this hook are not logged", hook)
            return None


class _GuardedBlock:
    """The block of a hook; its errors are logged."""

    def __init__(self, hooks: GuardedHooks, block: AbstractContextManager[object]) -> None:
        self._hooks = hooks
        self._block = block

    def __enter__(self) -> None:
        self._hooks.call("handling", self._block.__enter__)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.call("handling", self._block.__exit__, kind, error, trace)
