"""The numbers of one run of publishing, and the fate of each message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from rmqkit.errors import PayloadError, RmqkitError
from rmqkit.hooks import GuardedHooks
from rmqkit.message import Message
from rmqkit.messaging.unconfirmed import Sent
from rmqkit.report import Failure, Fate, PublishReport

NOTHING_YET = Message(b"")  # in place of the next message: wait for the broker, or for `Publisher.wake`
MAX_FAILURES = 100  # of each fate in a report, if every one was passed on

OnSettled = Callable[[int, Message, Fate], None]


class PublishCallbacks(NamedTuple):
    """The callbacks of one run of publishing, which are explained at `Connection.publish`."""

    on_progress: Callable[[PublishReport], None] | None = None
    on_settled: OnSettled | None = None
    on_failure: Callable[[Failure], None] | None = None
    on_warning: Callable[[str], None] = lambda _: None


def check(message: Message) -> None:
    """Raise PayloadError for anything but a message whose body is bytes."""
    if not isinstance(message, Message):
        raise PayloadError(f"publish a rmqkit.Message, not {type(message).__name__}")
    if not isinstance(message.body, bytes):
        raise PayloadError(f"a body has to be bytes, not {type(message.body).__name__}")


class PublishCounts:
    """The numbers of one run of publishing; the callbacks are explained at `Connection.publish`."""

    def __init__(
        self,
        *,
        confirms: bool,
        on_settled: OnSettled | None = None,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> None:
        self.published = 0
        self.republished = 0
        self.interrupted = False
        self._confirms = confirms
        self._on_settled = on_settled
        self._on_failure = on_failure
        self._fates = dict.fromkeys(Fate, 0)
        self._failures: list[Failure] = []
        self._started_s = time.monotonic()

    @property
    def report(self) -> PublishReport:
        """Return the numbers so far."""
        return PublishReport(
            published=self.published,
            republished=self.republished,
            seconds=time.monotonic() - self._started_s,
            failures=tuple(self._failures),
            confirms=self._confirms,
            interrupted=self.interrupted,
            **{fate.value: number for fate, number in self._fates.items()},
        )

    def settle(self, settled: list[Sent], fate: Fate, returned: dict[int, str]) -> None:
        """Count messages of one fate, except those whose positions are in `returned`; they are removed from it."""
        if not returned and self._on_settled is None:
            self._fates[fate] += len(settled)
            return
        for sent in settled:
            reason = returned.pop(sent.position, "")
            if reason:
                self.fail(sent, Fate.RETURNED, reason)
            else:
                self._note(sent, fate)

    def fail(self, sent: Sent, fate: Fate, reason: str, cause: RmqkitError | None = None) -> None:
        """Count a message that did not arrive, and keep the reason and the error, if there is one."""
        failure = Failure(sent.position, sent.message, fate, reason, cause)
        if self._on_failure is not None:
            self._on_failure(failure)
        if self._on_failure is None or self._fates[fate] < MAX_FAILURES:
            self._failures.append(failure)
        self._note(sent, fate)

    def balance(self) -> None:
        """Count as unknown the messages that an exception from a signal handler caught between two counters."""
        self._fates[Fate.UNKNOWN] += self.published - sum(self._fates.values())

    def _note(self, sent: Sent, fate: Fate) -> None:
        self._fates[fate] += 1
        if self._on_settled is not None:
            self._on_settled(sent.position, sent.message, fate)


class HookWatch:
    """Tells hooks the fate of each message of one run of publishing, and how long it took; then calls `on_settled`."""

    def __init__(self, hooks: GuardedHooks, on_settled: OnSettled | None) -> None:
        self._hooks = hooks
        self._on_settled = on_settled
        self._taken_s: dict[int, float] = {}  # by position

    def watch(self, messages: Iterable[Message | None]) -> Iterator[Message | None]:
        """Yield the messages, and note when each is taken."""
        position = 0
        for message in messages:
            if message is not None and message is not NOTHING_YET:
                self._taken_s[position] = time.monotonic()
                position += 1
            yield message

    def settle(self, position: int, message: Message, fate: Fate) -> None:
        """Note the fate of a message."""
        now_s = time.monotonic()
        self._hooks.settled(message, fate, now_s - self._taken_s.pop(position, now_s))
        if self._on_settled is not None:
            self._on_settled(position, message, fate)

    def refuse(self, position: int, message: Message) -> None:
        """Note that a message was never sent: AMQP cannot carry it."""
        self._hooks.settled(message, Fate.REFUSED, time.monotonic() - self._taken_s.pop(position))
