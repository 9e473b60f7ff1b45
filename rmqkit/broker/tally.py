"""The count of what became of each message: every one gets one fate, and the report adds up.

Comes in: messages with their fates. Goes out: a PublishReport. Room: broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rmqkit.broker.unconfirmed import Sent
from rmqkit.message import Message
from rmqkit.report import Failure, Fate, PublishReport

KEPT_FAILURES = 100

OnSettled = Callable[[int, Message, Fate], None]


class Tally:
    """The numbers of one run of publishing; `on_settled` hears of every message once."""

    def __init__(self, *, confirms: bool, on_settled: OnSettled | None = None) -> None:
        self.published = 0
        self.republished = 0
        self.interrupted = False
        self._confirms = confirms
        self._on_settled = on_settled
        self._counts = dict.fromkeys(Fate, 0)
        self._failures: list[Failure] = []
        self._started_s = time.monotonic()

    @property
    def report(self) -> PublishReport:
        """Return what is known so far."""
        return PublishReport(
            published=self.published,
            republished=self.republished,
            seconds=time.monotonic() - self._started_s,
            failures=tuple(self._failures),
            confirms=self._confirms,
            interrupted=self.interrupted,
            **{fate.value: number for fate, number in self._counts.items()},
        )

    def settle(self, settled: list[Sent], fate: Fate, returned: dict[int, str]) -> None:
        """Note the fate of messages, except that those in `returned`, by place, were returned; they leave it."""
        if not returned and self._on_settled is None:
            self._counts[fate] += len(settled)
            return
        for sent in settled:
            reason = returned.pop(sent.place, "")
            if reason:
                self.fail(sent, Fate.RETURNED, reason)
            else:
                self._note(sent, fate)

    def fail(self, sent: Sent, fate: Fate, reason: str) -> None:
        """Note a message that is not where it was sent, and why."""
        if len(self._failures) < KEPT_FAILURES:
            self._failures.append(Failure(sent.place, sent.message, fate, reason))
        self._note(sent, fate)

    def balance(self) -> None:
        """Call unknown what an exception from a signal handler caught on its way from one place to another."""
        self._counts[Fate.UNKNOWN] += self.published - sum(self._counts.values())

    def _note(self, sent: Sent, fate: Fate) -> None:
        self._counts[fate] += 1
        if self._on_settled is not None:
            self._on_settled(sent.place, sent.message, fate)
