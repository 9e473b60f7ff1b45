"""Replace a queue by another one of its name, under running publishers.

Each message is routed to one queue at every moment: RabbitMQ delivers one copy to a queue, by however many bindings it
is reached, so bindings are doubled before they are removed. docs/replace.md explains each step.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

from rmqkit.amqp import entity_methods
from rmqkit.amqp.error_mapping import NOT_IMPLEMENTED
from rmqkit.deploy.replace.session import ReplaceResult, ReplaceSession, ReplaceStopped
from rmqkit.deploy.replace.temporary_entities import MARKER, TemporaryEntities
from rmqkit.errors import AccessRefused, ConnectionLost, NotConfirmed, PropertyMismatch, Refused
from rmqkit.messaging.drain import Drain, DrainResult
from rmqkit.messaging.message_rewrite import DestinationFor, restored_in, stashed_in
from rmqkit.model import Binding, Exchange, Queue
from rmqkit.plural import plural

_LATE = 100  # messages that bypassed the bindings: enough to be sure
_TRIES = 20  # to empty a queue
_SAMPLES = 5  # of a queue, for moved messages
_FEW = 100  # messages that may be overtaken when new ones are routed directly again
_IDLE_S = 5.0  # a broker may pause for this long over messages it is known to have
_DIRECT = "publishers still send to it directly, bypassing its bindings"
_STOP_CONSUMER = "Stop that consumer, then run the command again."
_ADVICE = "Stop them and apply again, or pass `wait_s=SECONDS`. Every binding of the queue has to be in the topology."


class _NotYet(Exception):
    """The queue cannot be deleted now; everything is to be restored."""


@dataclass
class QueueReplacement:
    """One queue's replacement; `wait_s` bounds the wait for publishers and consumers that still use it.

    `conflicting` tells that the old queue exists, `classic` that the broker can be told to delete it only if it is
    unused, as far as is known, `may_duplicate` that an earlier run was killed; `delay_s` is how long the old queue may
    delay messages.
    """

    session: ReplaceSession
    queue: Queue
    temporary: TemporaryEntities
    bindings: Sequence[Binding]
    conflicting: bool
    may_duplicate: bool
    classic: bool
    wait_s: float
    delay_s: float = 0.0
    moved: int = 0
    duplicates_max: int = 0
    stashed: int = 0  # messages that have to be in the temporary queue
    stashed_bytes: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Replace the queue, from wherever an earlier run ended.

        Raises PropertyMismatch when it cannot be done, and everything was restored; ReplaceStopped, ConnectionLost and
        any error of draining: then another run resumes.
        """
        if self.conflicting:
            try:
                self._redirect()
                self._exchange_queues()
            except _NotYet as exc:
                self._step("restoring everything")
                self._refill()
                message = f"queue {self.queue.name!r}: {exc}; everything was restored"
                subject = entity_methods.subject(self.queue)
                raise PropertyMismatch(406, "in use", subject, message=message, advice=_ADVICE) from exc
        else:
            self._step("declaring it")
            self.session.declare(self.queue)
        self.session.pause(self.session.pauses.on_disk_s)
        self._refill()

    def result(self, *, finished: bool) -> ReplaceResult:
        """Return the result so far."""
        notes = tuple(f"{plural(count, 'message')} {note}" for note, count in self.notes.items())
        return ReplaceResult("queue", self.queue.name, self.moved, self.duplicates_max, notes, finished)

    # From the bindings to the temporary queues.

    def _redirect(self) -> None:
        """Route all bound messages through `ingress`, and then redirect them to `new_messages`."""
        session, temporary = self.session, self.temporary
        self._step("declaring its temporary entities")
        missing = [each for each in (temporary.old_messages, temporary.new_messages) if not session.exists(each)]
        session.declare(
            MARKER,
            temporary.ingress,
            temporary.overflow,
            *missing,
            _binding(temporary.overflow, temporary.new_messages),
            _binding(MARKER, temporary.ingress),
        )
        if not session.exists(temporary.drain):  # else this was done
            self._step(f"adding its bindings to {temporary.ingress.name}")
            session.declare(_binding(temporary.ingress, self.queue), *map(self._to_ingress, self.bindings))
            session.pause(session.pauses.on_disk_s)
            self._step("removing its bindings")
            session.call(*map(entity_methods.unbind_call, self.bindings))
        self._step("preparing to drain it")
        session.declare(temporary.drain, _binding(temporary.drain, temporary.old_messages))
        self._step(f"redirecting new messages to {temporary.new_messages.name}")
        session.call(entity_methods.unbind_call(_binding(temporary.ingress, self.queue)))
        session.pause(session.pauses.stale_s)

    def _exchange_queues(self) -> None:
        """Move the messages to `old_messages` until no more arrive, and put the new queue in place of the old one."""
        deadline = time.monotonic() + self.wait_s
        self.stashed = self.session.ready(self.temporary.old_messages)
        try:
            if ready := self.session.ready(self.queue):
                self._step(f"moving {plural(ready, 'message')} to {self.temporary.old_messages.name}")
                self._stash(ready, _IDLE_S)
            if self.delay_s and not self.session.api:  # it cannot be seen whether there are any
                self._step(f"waiting {self.delay_s:g} s for delayed messages")
                self._stash(None, self.delay_s + self.session.pauses.quiet_s)
            while obstacle := self._late_publisher() or self._lack_of_room() or self._missing() or self._swap():
                if time.monotonic() > deadline:
                    raise _NotYet(obstacle)
        except AccessRefused as exc:  # another client consumes exclusively
            raise _NotYet(exc.reply_text) from exc
        except NotConfirmed as exc:  # a limit that cannot be seen applies to the temporary queue
            raise _NotYet(exc.message) from exc

    def _late_publisher(self) -> str:
        """Say through which exchange messages still arrive, although no binding leads here."""
        late = self._stash(_LATE, self.session.pauses.quiet_s)
        if not late.messages:
            return ""
        through = f"exchange {late.last_exchange!r}" if late.last_exchange else "the default exchange"
        return f"{_DIRECT}, through {through}"

    def _lack_of_room(self) -> str:
        held = self.session.ready(self.temporary.old_messages)
        lack = lack_of_room(self.session.effective(self.queue), held, self.stashed_bytes)
        return lack and f"it {lack}"

    def _missing(self) -> str:
        """Say how many of the moved messages the temporary queue did not keep: a policy that cannot be seen applies."""
        name = self.temporary.old_messages.name
        for _ in range(_SAMPLES):
            missing = self.stashed - self.session.ready(self.temporary.old_messages)
            if missing <= 0:
                return ""
            self.session.pause(self.session.pauses.stale_s)
        return f"{plural(missing, 'message')} left {name!r}, by a policy or to another consumer"

    def _swap(self) -> str:
        """Delete the old queue and declare the new one, in one write; return the reason if that is impossible."""
        self._step("deleting it and declaring the new one")
        counts = self.session.queue_counts(self.queue)
        if counts and counts.consumer_count:
            return f"it has {plural(counts.consumer_count, 'consumer')}"
        if counts and counts.message_count:
            return _DIRECT
        for _, contents in self.session.use(self.queue):
            return f"it has {contents}"
        try:
            self.session.call(
                entity_methods.delete_call(self.queue, if_unused=self.classic, if_empty=self.classic),
                entity_methods.declare_call(self.queue),
            )
        except PropertyMismatch as exc:
            if not exc.subject.startswith("deleting"):
                raise
            return exc.reply_text
        except Refused as exc:
            if exc.reply_code != NOT_IMPLEMENTED:
                raise
            self.classic = False  # the virtual host's default is another type; nothing was done
            return self._swap()
        return ""

    # From the temporary queues to the new queue.

    def _refill(self) -> None:
        """Move everything back, route new messages directly again, and delete the temporary entities."""
        session, temporary = self.session, self.temporary
        session.declare(temporary.refill, _binding(temporary.refill, self.queue))
        if session.exists(temporary.old_messages):
            self._restore(temporary.old_messages, lambda count: f"moving {plural(count, 'message')} back")
        if session.exists(temporary.new_messages):
            self._catch_up()
        self._step("restoring its bindings")
        session.declare(*self.bindings)
        session.pause(session.pauses.stale_s)
        self._step("deleting its temporary entities")
        session.call(*(entity_methods.unbind_call(self._to_ingress(each)) for each in self.bindings))
        queues = (temporary.old_messages, temporary.new_messages)
        for queue in queues:
            self._restore(queue, lambda count: f"moving {plural(count, 'more message')} back")
        for queue, contents in session.use(*queues, wait_s=self.wait_s):
            raise NotConfirmed(f"queue {queue.name!r} still has {contents}", advice=_STOP_CONSUMER)
        for careful in (temporary.old_messages.arguments.get("x-queue-type") == "classic", False):
            try:
                session.call(
                    *(entity_methods.delete_call(each, if_unused=careful, if_empty=careful) for each in queues)
                )
                break
            except Refused as exc:
                if not careful or exc.reply_code != NOT_IMPLEMENTED:  # an earlier run made them for a quorum queue
                    raise
        exchanges = (temporary.drain, temporary.overflow, temporary.refill, temporary.ingress)
        session.call(*map(entity_methods.delete_call, exchanges))

    def _catch_up(self) -> None:
        """Move new messages back; route newer ones directly to the queue when few are left, which they overtake.

        They are routed directly too when more arrive than can be moved. One drain does it all: one that ends early
        leaves the messages that a quorum queue was about to deliver, and they return behind newer ones.
        """
        session, source = self.session, self.temporary.new_messages
        self._step(f"moving back the new messages, {session.ready(source)} or more")
        direct, left_before, count_at = False, math.inf, 0
        result = DrainResult()
        drain = self._drain(source, restored_in(self.temporary.refill.name))
        with closing(drain.run(idle_s=session.pauses.stale_s)) as progress:
            for result in progress:
                if direct or result.messages < count_at:
                    continue
                with suppress(ConnectionLost):  # the drain recovers from it as well, and then this is tried again
                    left = session.ready(source)
                    if _FEW < left < left_before:
                        left_before, count_at = left, result.messages + left
                    else:
                        self._route_directly()
                        direct = True
        self._add_restored(result)
        if not direct:  # the broker paused
            self._route_directly()
            session.pause(session.pauses.stale_s)
        self._restore(source, lambda count: f"moving the last {plural(count, 'message')} back")

    def _route_directly(self) -> None:
        self.session.on_step(f"queue {self.queue.name!r}: routing new messages to it")
        self.session.declare(_binding(self.temporary.ingress, self.queue))

    # Moving.

    def _stash(self, count: int | None, idle_s: float) -> DrainResult:
        drain = self._drain(self.queue, stashed_in(self.temporary.drain.name))
        result = deque(drain.run(count=count, idle_s=idle_s), maxlen=1).pop()
        self.stashed += result.messages
        self.stashed_bytes += result.body_bytes
        self._add(result)
        return result

    def _restore(self, source: Queue, step: Callable[[int], str]) -> None:
        """Move all messages of a queue that no message reaches any more to the new queue."""
        for _ in range(_TRIES):
            ready = self.session.ready(source)
            if not ready:
                return
            self._step(step(ready))
            drain = self._drain(source, restored_in(self.temporary.refill.name))
            self._add_restored(deque(drain.run(count=ready, idle_s=_IDLE_S), maxlen=1).pop())
        raise NotConfirmed(
            f"another consumer is taking messages from queue {source.name!r}",
            advice=_STOP_CONSUMER,
        )

    def _drain(self, source: Queue, destination_for: DestinationFor) -> Drain:
        session = self.session
        return Drain(session.publishing, source.name, destination_for, self.may_duplicate, session.stop)

    def _add_restored(self, result: DrainResult) -> None:
        self.moved += result.messages
        self.notes += result.notes
        self._add(result)

    def _add(self, result: DrainResult) -> None:
        self.duplicates_max += result.duplicates_max
        if self.session.stop.requested:
            raise ReplaceStopped

    def _step(self, text: str) -> None:
        self.session.step(f"queue {self.queue.name!r}: {text}")

    def _to_ingress(self, binding: Binding) -> Binding:
        return replace(binding, destination=self.temporary.ingress.name, destination_type="exchange")


def lack_of_room(queue: Queue, messages: int, body_bytes: int = 0) -> str:
    """Say why a queue would drop or refuse some of these messages, with no dead-letter exchange that takes them."""
    arguments = queue.arguments
    if "x-dead-letter-exchange" in arguments and arguments.get("x-overflow", "drop-head") == "drop-head":
        return ""
    for name, held, unit in (("x-max-length", messages, "messages"), ("x-max-length-bytes", body_bytes, "bytes")):
        limit = arguments.get(name)
        if isinstance(limit, int) and held > limit:
            return f"holds {held} {unit}, but the new queue has room for {limit} ({name})"
    return ""


def _binding(source: Exchange, destination: Exchange | Queue) -> Binding:
    return Binding(source.name, destination.name, "queue" if isinstance(destination, Queue) else "exchange")
