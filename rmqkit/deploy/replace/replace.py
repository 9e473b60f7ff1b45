"""Queues and exchanges that cannot be changed give way to others of their name, and no message is lost.

All is done over AMQP, and what a run did is seen by what is there: one that was killed is finished by another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rmqkit.amqp import declare_methods
from rmqkit.amqp.inspector import EntityInspector
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.deploy.replace.exchange import ExchangeReplacement
from rmqkit.deploy.replace.queue import QueueReplacement, lacks_room
from rmqkit.deploy.replace.session import Pauses, ReplaceSession, ReplaceStopped
from rmqkit.deploy.replace.temporary_entities import (
    MARKER,
    TemporaryEntities,
    bindings_of_exchange,
    bindings_of_queue,
    temporary_exchange,
    trial_of,
)
from rmqkit.errors import BrokerError, Location, Problem, PropertyMismatch, Refused, ResourceLocked
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.plan import Kind, Step
from rmqkit.stop import Stop

_LOOK_EVERY_S = 0.5
_TYPE = "x-queue-type"


@dataclass(frozen=True, slots=True)
class ReplaceResult:
    """What replacing one entity did: messages that were moved, and how many of them at most are there twice.

    Without `finished` a stop was requested: replacing again goes on where this ended. `notes` are sentences.
    """

    kind: Kind
    name: str
    moved: int = 0
    twice: int = 0
    notes: tuple[str, ...] = ()
    finished: bool = True


def unfinished(link: ReconnectingConnection, topology: Topology) -> tuple[Exchange | Queue, ...]:
    """Return what a run that was stopped or killed left to be finished, exchanges first.

    Raises AccessRefused, ConnectionLost.
    """
    with EntityInspector(link) as looker:
        if looker.passive_declare(MARKER) is None:
            return ()
        exchanges = tuple(
            each for each in topology.exchanges if looker.passive_declare(temporary_exchange(each)) is not None
        )
        queues = tuple(
            each for each in topology.queues if looker.passive_declare(TemporaryEntities.of(each).way) is not None
        )
        return (*exchanges, *queues)


def replace(
    consuming: ReconnectingConnection,
    publishing: ReconnectingConnection,
    topology: Topology,
    conflicts: Sequence[Step],
    *,
    extra_bindings: Sequence[Binding] = (),
    wait_s: float = 0,
    stop: Stop | None = None,
    on_step: Callable[[str], None] | None = None,
    pauses: Pauses = Pauses(),  # noqa: B008 - frozen
) -> tuple[ReplaceResult, ...]:
    """Replace what conflicts with a topology, and finish what a run before left; exchanges first, one by one.

    What the topology's bindings name has to be there, but for what is replaced. `extra_bindings` are those that the
    broker has and the topology has not; `wait_s` is how long consumers, and publishers that reach a queue by no
    binding, may take to leave; `on_step` hears of each step. On a stop the last one returned is not finished.

    Raises PropertyMismatch with a problem for each entity that cannot be replaced, before anything was changed; for a
    single one also later, and everything was put back. Raises NotConfirmed, Unroutable, AccessRefused, ConnectionLost;
    then replacing again goes on.
    """
    site = ReplaceSession(consuming, publishing, stop or Stop(), on_step or (lambda _: None), pauses)
    site.lock()
    done: list[ReplaceResult] = []
    try:
        begun = unfinished(consuming, topology)
        wanted = {(step.kind, step.name): step for step in conflicts}
        every: tuple[Exchange | Queue, ...] = (*topology.exchanges, *topology.queues)
        entities = [each for each in every if (declare_methods.kind(each), each.name) in wanted or each in begun]
        _check(site, [(each, wanted.get((declare_methods.kind(each), each.name))) for each in entities], wait_s)
        bindings = (*topology.bindings, *extra_bindings)
        for entity in entities:
            step = wanted.get((declare_methods.kind(entity), entity.name))
            done.append(_replace(site, entity, step, bindings, resumed=entity in begun, wait_s=wait_s))
            if not done[-1].finished:
                break
    except ReplaceStopped:
        pass  # before anything was changed
    finally:
        with suppress(BrokerError):  # the broker is gone, and the lock with it
            site.unlock()
    return tuple(done)


def _replace(
    site: ReplaceSession,
    entity: Exchange | Queue,
    step: Step | None,
    bindings: Iterable[Binding],
    *,
    resumed: bool,
    wait_s: float,
) -> ReplaceResult:
    if isinstance(entity, Exchange):
        gate = temporary_exchange(entity)
        own = bindings_of_exchange(entity, gate, bindings)
        exchange = ExchangeReplacement(site, entity, gate, own, conflicting=step is not None)
        try:
            exchange.run()
        except ReplaceStopped:
            return ReplaceResult("exchange", entity.name, finished=False)
        return ReplaceResult("exchange", entity.name)
    kinds = (_actual_type(entity, step), str(entity.arguments.get(_TYPE, "")))
    siblings = TemporaryEntities.of(entity, kinds)
    queue = QueueReplacement(
        site,
        entity,
        siblings,
        bindings_of_queue(entity, siblings, bindings),
        conflicting=step is not None,
        suspect=resumed,
        classic=kinds[0] in ("classic", ""),
        stays_s=wait_s,
    )
    finished = True
    try:
        queue.run()
    except ReplaceStopped:
        finished = False
    notes = tuple(f"{count} messages {note}" for note, count in queue.notes.items())
    return ReplaceResult("queue", entity.name, queue.moved, queue.twice, notes, finished)


def _check(site: ReplaceSession, entities: Sequence[tuple[Exchange | Queue, Step | None]], wait_s: float) -> None:
    """Look that everything can be replaced; wait for consumers to leave.

    Raises PropertyMismatch with a problem for each that cannot.
    """
    problems = [problem for entity, step in entities if step for problem in _obstacles(site, entity, step)]
    deadline = time.monotonic() + wait_s
    queues = [entity for entity, step in entities if step and isinstance(entity, Queue)]
    told = False
    while not problems:
        states = [(queue, site.answer(queue)) for queue in queues]
        busy = [(queue, state.consumer_count) for queue, state in states if state and state.consumer_count]
        if not busy:
            return
        if time.monotonic() >= deadline:
            problems = [_problem(queue, f"has {_count(consumers, 'consumer')}") for queue, consumers in busy]
        elif not told:
            site.step("wait for the consumers of " + ", ".join(repr(queue.name) for queue, _ in busy))
            told = True
        site.pause(min(_LOOK_EVERY_S, wait_s))
    if problems:
        noun = "entity" if len(problems) == 1 else "entities"
        message = f"{len(problems)} {noun} cannot be replaced; nothing was changed"
        advice = "Stop the consumers, or wait for them with --wait SECONDS." if queues else ""
        raise PropertyMismatch(
            406, "cannot be replaced", "replacing", message=message, advice=advice, problems=problems
        )


def _obstacles(site: ReplaceSession, entity: Exchange | Queue, step: Step) -> Iterator[Problem]:
    """Yield why an entity cannot be replaced."""
    trial = trial_of(entity)
    if isinstance(entity, Queue):
        was = {each.property: each.actual for each in step.differences}
        if entity.exclusive or was.get("exclusive", "").lower() == "true":
            yield _problem(entity, "is exclusive: it goes with its connection")
        if was.get("auto_delete", str(entity.auto_delete)).lower() == "true":
            yield _problem(entity, "is deleted with its last consumer, and what moves its messages is one")
        if _actual_type(entity, step) == "stream":
            yield _problem(entity, "is a stream: its log cannot be moved; its readers would lose their offsets")
        try:
            lack = lacks_room(entity, site.ready(entity))
        except ResourceLocked:
            yield _problem(entity, "is held by another connection, and goes with it")
            return
        if lack:
            yield _problem(entity, f"{lack}: make room first, or give it a dead-letter exchange")
    try:
        site.do(declare_methods.declare_call(trial), declare_methods.delete_call(trial))
    except Refused as exc:
        yield _problem(entity, f"the broker does not take the new one: {exc.reply_code} {exc.reply_text}")


def _problem(entity: Exchange | Queue, what: str) -> Problem:
    return Problem(entity.where or Location("broker"), f"{declare_methods.subject(entity)} {what}")


def _actual_type(queue: Queue, step: Step | None) -> str:
    """Return the type of the queue that is there; empty: the virtual host's default."""
    actual = [each.actual for each in step.differences if each.property == _TYPE] if step else []
    return actual[0].removeprefix("none") if actual else str(queue.arguments.get(_TYPE, ""))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
