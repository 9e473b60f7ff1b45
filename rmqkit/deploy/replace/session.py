"""The lock and the channels of one replacement run, and the steps that it reports."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from rmqkit.amqp import entity_methods
from rmqkit.amqp.channel import MethodCall
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy.queue_use import find_use
from rmqkit.deploy.replace.temporary_entities import LOCK, MARKER
from rmqkit.errors import NotFound, PropertyMismatch, ResourceLocked
from rmqkit.http_api.client import HttpApiClient
from rmqkit.model import Exchange, Policy, Queue, Topology
from rmqkit.plan import Kind
from rmqkit.stop import Stop
from rmqkit.topology.policies import effective

_LOCKED_S = 10.0  # a connection that ended, as of a killed run, releases its lock as soon as the broker notices that


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait for changes that AMQP does not show.

    RabbitMQ 3.x writes a declaration to disk within two seconds: no message relies on it before `on_disk_s`. A message
    that was routed before a binding changed is in its queue after `stale_s`. A queue that no message reached for
    `quiet_s` has no publisher left.
    """

    on_disk_s: float = 3.0
    stale_s: float = 1.0
    quiet_s: float = 1.0


@dataclass(frozen=True, slots=True)
class ReplaceResult:
    """How many messages were moved to replace one entity, and how many of them at most are duplicated.

    Without `finished` a stop was requested: replacing again resumes. `notes` are sentences.
    """

    kind: Kind
    name: str
    moved: int = 0
    duplicates_max: int = 0
    notes: tuple[str, ...] = ()
    finished: bool = True


class ReplaceStopped(Exception):
    """A stop was requested; another run finishes the replacement."""


@dataclass(frozen=True)
class ReplaceSession:
    """One run on one broker. Each call uses a channel of its own, and is made under the lock.

    `policies` are those of users, then those of operators. Without the `api` neither they nor unacknowledged messages
    are seen.
    """

    consuming: ReconnectingConnection
    publishing: ReconnectingConnection
    stop: Stop
    on_step: Callable[[str], None]
    pauses: Pauses
    api: HttpApiClient | None = None
    policies: tuple[tuple[Policy, ...], ...] = ()

    def step(self, text: str) -> None:
        """Report the next step; raise ReplaceStopped instead if a stop was requested."""
        if self.stop.requested:
            raise ReplaceStopped
        self.on_step(text)

    def pause(self, seconds: float) -> None:
        """Wait; raise ReplaceStopped when a stop is requested."""
        if self.stop.wait(seconds):
            raise ReplaceStopped

    def call(self, *calls: MethodCall) -> None:
        """Make calls in order, a hundred a write, up to the first that is refused. Raises Refused, ConnectionLost.

        The lock of a connection that has ended is waited for.
        """
        deadline_s = time.monotonic() + _LOCKED_S
        while True:
            try:
                with closing(self.consuming.channel()) as channel:
                    for _ in channel.call_each((entity_methods.declare_call(LOCK), *calls)):
                        pass
            except ResourceLocked as exc:
                locked = exc.subject == entity_methods.subject(LOCK)
                if not locked or time.monotonic() > deadline_s or self.stop.wait(0.1):
                    raise
            else:
                return

    def declare(self, *entities: entity_methods.Entity) -> None:
        """Declare entities as `call` does."""
        self.call(*map(entity_methods.declare_call, entities))

    def exists(self, entity: Exchange | Queue) -> bool:
        """Tell whether an entity of this name exists."""
        with EntityInspector(self.consuming) as inspector:
            return inspector.passive_declare(entity) is not None

    def queue_counts(self, queue: Queue) -> Any:
        """Return the counts of a queue, as `Channel.queue_counts` does, or None if it does not exist."""
        with closing(self.consuming.channel()) as channel, suppress(NotFound):
            return channel.queue_counts(queue.name)
        return None

    def ready(self, queue: Queue) -> int:
        """Count the messages that are ready in a queue; 0 if it does not exist."""
        counts = self.queue_counts(queue)
        return counts.message_count if counts else 0

    def use(
        self,
        *queues: Queue,
        ready: bool = True,
        wait_s: float = 0.0,
        delays_s: Mapping[str, float] = {},
    ) -> list[tuple[Queue, str]]:
        """Return the queues that are in use, as `find_use` does."""

        def tell(wait_s: float, used: list[tuple[Queue, str]]) -> None:
            reasons = ", ".join(f"queue {queue.name!r} has {contents}" for queue, contents in used)
            self.step(f"waiting up to {wait_s:g} s: {reasons}")

        use = partial(find_use, self.consuming, self.api, queues, ready=ready, wait_s=wait_s, delays_s=delays_s)
        return use(pause=self.pause, on_wait=tell)

    def effective(self, queue: Queue) -> Queue:
        """Return a queue with the arguments that its policies result in, as far as their patterns can be read."""
        for policies in self.policies:
            queue = dataclasses.replace(queue, arguments=effective(Topology(policies=policies), queue))
        return queue

    def lock(self) -> None:
        """Become the only run that replaces entities in this virtual host; raise PropertyMismatch if there is one."""
        try:
            self.call()
        except ResourceLocked as exc:
            message = "another run of rmqkit is replacing entities in this virtual host; nothing was changed"
            advice = "Wait until it ends. If it was killed, try again once the broker has noticed that."
            raise PropertyMismatch(405, exc.reply_text, exc.subject, message=message, advice=advice) from exc

    def unlock(self) -> None:
        """Release the lock; delete the marker too, unless a replacement is unfinished."""
        with suppress(PropertyMismatch):  # it is bound to temporary entities
            self.call(entity_methods.delete_call(MARKER, if_unused=True))
        self.call(entity_methods.delete_call(LOCK))
