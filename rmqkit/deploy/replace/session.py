"""Where something is being replaced: the ways to the broker, the steps that are told, and one run at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rmqkit.amqp import declare_methods
from rmqkit.amqp.channel import MethodCall
from rmqkit.amqp.inspector import EntityInspector
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.deploy.replace.temporary_entities import LOCK, MARKER
from rmqkit.errors import PropertyMismatch, ResourceLocked
from rmqkit.model import Exchange, Queue
from rmqkit.stop import Stop

_LOCKED_S = 5.0  # a run that was killed lets go of its lock as soon as the broker sees its connection close


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait for what AMQP does not show.

    RabbitMQ 3.x writes a declaration to disk within two seconds: no message relies on it before `on_disk_s`. What was
    routed before a binding changed is in its queue after `stale_s`. A queue that nothing came to for `quiet_s` has no
    publisher left.
    """

    on_disk_s: float = 3.0
    stale_s: float = 1.0
    quiet_s: float = 1.0


class ReplaceStopped(Exception):
    """A stop was requested; what is begun is finished by another run."""


@dataclass(frozen=True)
class ReplaceSession:
    """The ways to one broker. Each call is on a channel of its own, and under the lock."""

    consuming: ReconnectingConnection
    publishing: ReconnectingConnection
    stop: Stop
    tell: Callable[[str], None]
    pauses: Pauses

    def step(self, what: str) -> None:
        """Tell of the next step; raise ReplaceStopped if there is not to be one."""
        if self.stop.requested:
            raise ReplaceStopped
        self.tell(what)

    def pause(self, seconds: float) -> None:
        """Wait; raise ReplaceStopped when that is requested."""
        if self.stop.wait(seconds):
            raise ReplaceStopped

    def do(self, *calls: MethodCall) -> None:
        """Make calls in order, up to a hundred in one write; the broker ends at the first it refuses.

        Raises Refused, ConnectionLost.
        """
        channel = self.consuming.channel()
        try:
            for _ in channel.call_each((declare_methods.declare_call(LOCK), *calls)):
                pass
        finally:
            channel.close()

    def answer(self, entity: Exchange | Queue) -> Any:
        """Return the broker's answer about an entity, with a queue's counts, or None if it is not there."""
        with EntityInspector(self.consuming) as looker:
            return looker.passive_declare(entity)

    def ready(self, queue: Queue) -> int:
        """Return how many messages wait in a queue; 0 if it is not there."""
        answer = self.answer(queue)
        return answer.message_count if answer else 0

    def lock(self) -> None:
        """Become the only run that replaces something in this virtual host.

        Raises PropertyMismatch if there is another.
        """
        deadline = time.monotonic() + _LOCKED_S
        while True:
            try:
                return self.do()
            except ResourceLocked as exc:
                if time.monotonic() > deadline or self.stop.wait(0.1):
                    message = "another run of rmqkit is replacing something in this virtual host; nothing was changed"
                    advice = "Let it come to its end. One that was killed lets go once the broker sees it is gone."
                    raise PropertyMismatch(405, exc.reply_text, exc.subject, message=message, advice=advice) from exc

    def unlock(self) -> None:
        """Let others; the marker goes too, unless something is left to be finished."""
        with suppress(PropertyMismatch):  # it is bound to what is left
            self.do(declare_methods.delete_call(MARKER, if_unused=True))
        self.do(declare_methods.delete_call(LOCK))
