"""A queue gives way to another one of its name, under running publishers.

Each message is routed to one queue at every moment: RabbitMQ delivers one copy to a queue, by however many ways it is
reached, so bindings are doubled before they are taken away. What happens at each step, and why, is in docs/replace.md.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rmqkit.amqp import declare_methods
from rmqkit.deploy.replace.session import ReplaceSession, ReplaceStopped
from rmqkit.deploy.replace.temporary_entities import MARKER, TemporaryEntities
from rmqkit.errors import AccessRefused, ConnectionLost, NotConfirmed, PropertyMismatch
from rmqkit.messaging.drain import Drain, DrainResult
from rmqkit.messaging.message_rewrite import set_aside, take_back
from rmqkit.model import Binding, Exchange, Queue

_LATE = 100  # messages that came around the bindings: enough to be sure
_TRIES = 20  # to empty a queue
_FEW = 100  # messages that may be overtaken when new ones take the short way again
_IDLE_S = 5.0  # a broker may pause so long over messages it is known to have
_AROUND = "Apply again once this has ended; --wait SECONDS waits for it. A binding to the queue has to be in the file."


class _NotYet(Exception):
    """The queue cannot be deleted now; everything is to be put back."""


@dataclass
class QueueReplacement:
    """One queue's replacement; `stays_s` bounds the wait for publishers and consumers that are still there.

    `conflicting` tells that the old queue is there, `classic` that the broker can be told to delete it only if it is
    unused, as far as is known, `suspect` that a run before us was killed.
    """

    site: ReplaceSession
    queue: Queue
    siblings: TemporaryEntities
    bindings: Sequence[Binding]
    conflicting: bool
    suspect: bool
    classic: bool
    stays_s: float
    moved: int = 0
    twice: int = 0
    aside_bytes: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Replace the queue, from wherever a run before this one ended.

        Raises PropertyMismatch when it cannot be done, and everything was put back; ReplaceStopped, ConnectionLost and
        what draining raises: then another run goes on.
        """
        if self.conflicting:
            try:
                self._lead_away()
                self._set_aside()
            except _NotYet as exc:
                self._step("put everything back")
                self._bring_back()
                message = f"queue {self.queue.name!r}: {exc}; everything was put back"
                raise PropertyMismatch(
                    406, "in use", declare_methods.subject(self.queue), message=message, advice=_AROUND
                ) from exc
        else:
            self._step("declare it")
            self.site.do(declare_methods.declaring(self.queue))
        self.site.pause(self.site.pauses.on_disk_s)
        self._bring_back()

    # From the bindings to the siblings.

    def _lead_away(self) -> None:
        """Let everything that is bound come through `way`, then turn it to `came`."""
        site, part = self.site, self.siblings
        self._step("declare its siblings")
        missing = [each for each in (part.kept, part.came) if site.answer(each) is None]
        declared: list[declare_methods.Entity] = [MARKER, part.way, part.turn, *missing]
        bound = (_binding(part.turn, part.came), _binding(MARKER, part.way))
        site.do(*map(declare_methods.declaring, declared), *map(declare_methods.declaring, bound))
        if site.answer(part.out) is None:  # else this was done
            self._step(f"lead its bindings through the exchange {part.way.name}")
            through = (_binding(part.way, self.queue), *map(self._through_way, self.bindings))
            site.do(*map(declare_methods.declaring, through))
            site.pause(site.pauses.on_disk_s)
            self._step("take its own bindings away")
            site.do(*map(declare_methods.unbinding, self.bindings))
        self._step("make the way out for what it holds")
        site.do(declare_methods.declaring(part.out), declare_methods.declaring(_binding(part.out, part.kept)))
        self._step(f"turn what comes to {part.came.name}")
        site.do(declare_methods.unbinding(_binding(part.way, self.queue)))
        site.pause(site.pauses.stale_s)

    def _set_aside(self) -> None:
        """Move what is in the queue to `kept` until nothing comes any more, and put the new queue in its place."""
        part, deadline = self.siblings, time.monotonic() + self.stays_s
        try:
            self._move_once(self.queue, part.out, lambda count: f"set {count} messages aside, in {part.kept.name}")
            while trouble := self._late() or self._lacks_room() or self._swap():
                if time.monotonic() > deadline:
                    raise _NotYet(trouble)
        except AccessRefused as exc:  # somebody consumes, exclusively
            raise _NotYet(exc.reply_text) from exc

    def _late(self) -> str:
        """Say what still comes, although no binding leads here."""
        late = self._mover(self.queue, self.siblings.out).move(count=_LATE, idle_s=self.site.pauses.quiet_s)
        self._count(late, self.siblings.out)
        if not late.messages:
            return ""
        through = f"exchange {late.last_exchange!r}" if late.last_exchange else "the default exchange"
        return f"messages come to it around its bindings, through {through}"

    def _lacks_room(self) -> str:
        return lacks_room(self.queue, self.site.ready(self.siblings.kept), self.aside_bytes)

    def _swap(self) -> str:
        """Delete the old queue and declare the new one, in one write; say why not, if so."""
        site = self.site
        self._step("delete it and declare it anew")
        state = site.answer(self.queue)
        if state and state.consumer_count:
            return f"it has {state.consumer_count} consumers"
        if state and state.message_count:
            return "messages come to it around its bindings"
        try:
            site.do(
                declare_methods.deleting(self.queue, if_unused=self.classic, if_empty=self.classic),
                declare_methods.declaring(self.queue),
            )
        except PropertyMismatch as exc:
            if not exc.subject.startswith("deleting"):
                raise
            return exc.reply_text
        except ConnectionLost as exc:
            if "NOT_IMPLEMENTED" not in exc.message:
                raise
            self.classic = False  # the virtual host's default is another type; nothing was done
            return self._swap()
        return ""

    # From the siblings to the new queue.

    def _bring_back(self) -> None:
        """Move everything back, let new messages take the short way again, and remove the siblings."""
        site, part = self.site, self.siblings
        site.do(declare_methods.declaring(part.back), declare_methods.declaring(_binding(part.back, self.queue)))
        if site.answer(part.kept) is not None:
            self._move(part.kept, part.back, lambda count: f"bring {count} messages back")
        if site.answer(part.came) is not None:
            self._follow_up()
        self._step("bind it")
        site.do(*map(declare_methods.declaring, self.bindings))
        site.pause(site.pauses.stale_s)
        self._step("remove its siblings")
        site.do(*(declare_methods.unbinding(self._through_way(each)) for each in self.bindings))
        for queue in (part.kept, part.came):
            self._move(queue, part.back, lambda count: f"bring {count} more messages back")
            site.do(declare_methods.deleting(queue))
        site.do(*(declare_methods.deleting(each) for each in (part.out, part.turn, part.back, part.way)))

    def _follow_up(self) -> None:
        """Bring back what came meanwhile; lead new messages to the queue when few are left, which they overtake.

        They are led there too when more come than can be moved. One mover does it all: one that ends early leaves what
        a quorum queue was about to deliver, and that comes again behind newer messages.
        """
        part, site = self.siblings, self.site
        lefts: list[int] = []  # each time it was asked
        turned = False

        def turn() -> None:
            nonlocal turned
            site.tell(f"queue {self.queue.name!r}: lead new messages to it")
            site.do(declare_methods.declaring(_binding(part.way, self.queue)))
            turned = True

        def caught_up() -> int | None:
            left = site.ready(part.came)
            if left > _FEW and (not lefts or left < lefts[-1]):
                lefts.append(left)
                return left
            turn()
            return None

        self._step(f"bring back what came meanwhile, {site.ready(part.came)} messages and more")
        mover = self._mover(part.came, part.back)
        self._count(mover.move(count=0, idle_s=site.pauses.stale_s, on_count=caught_up), part.back)
        if not turned:  # the broker paused
            turn()
            site.pause(site.pauses.stale_s)
        self._move(part.came, part.back, lambda count: f"bring the last {count} messages back")

    # Moving.

    def _move(self, source: Queue, target: Exchange, step: Callable[[int], str]) -> None:
        """Move all that is in a queue which nothing comes to any more."""
        for _ in range(_TRIES):
            if self._move_once(source, target, step) == 0:
                return
        raise NotConfirmed(f"queue {source.name!r} gives its messages to somebody else", advice="Find its consumer.")

    def _move_once(self, source: Queue, target: Exchange, step: Callable[[int], str]) -> int:
        left = self.site.ready(source)
        if left:
            self._step(step(left))
            self._count(self._mover(source, target).move(count=left, idle_s=_IDLE_S), target)
        return left

    def _mover(self, source: Queue, target: Exchange) -> Drain:
        change = set_aside if target is self.siblings.out else take_back
        return Drain(self.site.publishing, source.name, target.name, change, suspect=self.suspect, stop=self.site.stop)

    def _count(self, moved: DrainResult, target: Exchange) -> None:
        self.twice += moved.twice
        if target is self.siblings.out:
            self.aside_bytes += moved.body_bytes
        else:
            self.moved += moved.messages
            self.notes += moved.notes
        if self.site.stop.requested:
            raise ReplaceStopped

    def _step(self, what: str) -> None:
        self.site.step(f"queue {self.queue.name!r}: {what}")

    def _through_way(self, binding: Binding) -> Binding:
        return replace(binding, destination=self.siblings.way.name, destination_type="exchange")


def lacks_room(queue: Queue, messages: int, body_bytes: int = 0) -> str:
    """Say why a queue would drop or refuse some of these messages, with no dead-letter exchange that takes them."""
    arguments = queue.arguments
    if "x-dead-letter-exchange" in arguments and arguments.get("x-overflow", "drop-head") == "drop-head":
        return ""
    for name, held, what in (("x-max-length", messages, "messages"), ("x-max-length-bytes", body_bytes, "bytes")):
        limit = arguments.get(name)
        if isinstance(limit, int) and held > limit:
            return f"it holds {held} {what}, and the new one has room for {limit} ({name})"
    return ""


def _binding(source: Exchange, destination: Exchange | Queue) -> Binding:
    return Binding(source.name, destination.name, "queue" if isinstance(destination, Queue) else "exchange")
