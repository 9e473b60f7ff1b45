"""Replace queues and exchanges whose properties cannot be changed, and lose no message.

Everything is done over AMQP, and the entities on the broker show how far a run came: one that was killed is finished by
another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from rmqkit.amqp import declare_methods
from rmqkit.amqp.inspector import EntityInspector
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.deploy.replace.exchange import ExchangeReplacement
from rmqkit.deploy.replace.queue import QueueReplacement, lack_of_room
from rmqkit.deploy.replace.session import Pauses, ReplaceResult, ReplaceSession, ReplaceStopped
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
from rmqkit.plan import Step
from rmqkit.plural import plural
from rmqkit.stop import Stop

_CHECK_EVERY_S = 0.5
_TYPE = "x-queue-type"


def unfinished(connection: ReconnectingConnection, topology: Topology) -> tuple[Exchange | Queue, ...]:
    """Return the entities whose replacement ended early, exchanges first. Raises AccessRefused, ConnectionLost."""
    with EntityInspector(connection) as inspector:
        if inspector.passive_declare(MARKER) is None:
            return ()
        temporary: list[tuple[Exchange | Queue, Exchange]]
        temporary = [(each, temporary_exchange(each)) for each in topology.exchanges]
        temporary += [(each, TemporaryEntities.of(each).ingress) for each in topology.queues]
        return tuple(each for each, exchange in temporary if inspector.passive_declare(exchange) is not None)


def replace(
    consuming: ReconnectingConnection,
    publishing: ReconnectingConnection,
    topology: Topology,
    conflicts: Sequence[Step],
    *,
    extra_bindings: Sequence[Binding] = (),
    wait_s: float = 0,
    stop: Stop | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    pauses: Pauses = Pauses(),  # noqa: B008 - frozen
) -> tuple[ReplaceResult, ...]:
    """Replace the entities that conflict with a topology, and finish what an earlier run left; exchanges first.

    The ends of the topology's bindings have to exist, except those to be replaced. `extra_bindings` are those that only
    the broker has; `wait_s` is how long consumers, and publishers that bypass the bindings, may take to leave;
    `on_step` receives each step. After a stop the last result is not finished.

    Raises PropertyMismatch with a problem for each entity that cannot be replaced, before anything was changed; for a
    single one also later, and everything was restored. Raises NotConfirmed, Unroutable, AccessRefused, ConnectionLost;
    then replacing again resumes.
    """
    session = ReplaceSession(consuming, publishing, stop or Stop(), on_step, pauses)
    session.lock()
    done: list[ReplaceResult] = []
    try:
        begun = unfinished(consuming, topology)
        steps = {(step.kind, step.name): step for step in conflicts}
        every: tuple[Exchange | Queue, ...] = (*topology.exchanges, *topology.queues)
        found = [(each, steps.get((declare_methods.kind(each), each.name))) for each in every]
        entities = [(each, step) for each, step in found if step or each in begun]
        _check(session, entities, wait_s)
        bindings = (*topology.bindings, *extra_bindings)
        for entity, step in entities:
            resumed = entity in begun
            replacement = _replacement(session, entity, step, bindings, resumed=resumed, wait_s=wait_s)
            try:
                replacement.run()
            except ReplaceStopped:
                done.append(replacement.result(finished=False))
                break
            done.append(replacement.result(finished=True))
    except ReplaceStopped:
        pass  # before anything was changed
    finally:
        with suppress(BrokerError):  # the broker is gone, and the lock with it
            session.unlock()
    return tuple(done)


def _replacement(
    session: ReplaceSession,
    entity: Exchange | Queue,
    step: Step | None,
    bindings: Iterable[Binding],
    *,
    resumed: bool,
    wait_s: float,
) -> ExchangeReplacement | QueueReplacement:
    conflicting = step is not None
    if isinstance(entity, Exchange):
        gate = temporary_exchange(entity)
        own = bindings_of_exchange(entity, gate, bindings)
        return ExchangeReplacement(session, entity, gate, own, conflicting=conflicting)
    types = (_actual_type(entity, step), str(entity.arguments.get(_TYPE, "")))
    temporary = TemporaryEntities.of(entity, types)
    return QueueReplacement(
        session,
        entity,
        temporary,
        bindings_of_queue(entity, temporary, bindings),
        conflicting=conflicting,
        may_duplicate=resumed,
        classic=types[0] in ("classic", ""),
        wait_s=wait_s,
    )


def _check(session: ReplaceSession, entities: Sequence[tuple[Exchange | Queue, Step | None]], wait_s: float) -> None:
    """Wait for consumers to leave. Raises PropertyMismatch with a problem for each entity that cannot be replaced."""
    problems = [problem for entity, step in entities if step for problem in _obstacles(session, entity, step)]
    deadline = time.monotonic() + wait_s
    queues = [entity for entity, step in entities if step and isinstance(entity, Queue)]
    reported = False
    while not problems:
        states = [(queue, session.queue_counts(queue)) for queue in queues]
        busy = [(queue, counts.consumer_count) for queue, counts in states if counts and counts.consumer_count]
        if not busy:
            return
        if time.monotonic() >= deadline:
            problems = [_problem(queue, f"has {plural(consumers, 'consumer')}") for queue, consumers in busy]
        elif not reported:
            names = ", ".join(repr(queue.name) for queue, _ in busy)
            session.step(f"waiting for the consumers of {names} to leave")
            reported = True
        session.pause(min(_CHECK_EVERY_S, wait_s))
    if problems:
        message = f"{plural(len(problems), 'entity')} cannot be replaced; nothing was changed"
        advice = "Stop the consumers, or wait for them with --wait SECONDS." if queues else ""
        raise PropertyMismatch(
            406, "cannot be replaced", "replacing", message=message, advice=advice, problems=problems
        )


def _obstacles(session: ReplaceSession, entity: Exchange | Queue, step: Step) -> Iterator[Problem]:
    trial = trial_of(entity)
    if isinstance(entity, Queue):
        actual = {each.property: each.actual.lower() for each in step.differences}
        if entity.exclusive or actual.get("exclusive") == "true":
            yield _problem(entity, "is exclusive: it is deleted with its connection")
        if actual.get("auto_delete", str(entity.auto_delete).lower()) == "true":
            yield _problem(entity, "is auto-delete: it would be deleted with its last consumer, the one that drains it")
        if _actual_type(entity, step) == "stream":
            yield _problem(entity, "is a stream: its log cannot be moved; its readers would lose their offsets")
        try:
            lack = lack_of_room(entity, session.ready(entity))
        except ResourceLocked:
            yield _problem(entity, "is exclusive to another connection, and is deleted with it")
            return
        if lack:
            yield _problem(entity, f"{lack}: make room first, or give it a dead-letter exchange")
    try:
        session.call(declare_methods.declare_call(trial), declare_methods.delete_call(trial))
    except Refused as exc:
        yield _problem(entity, f"cannot be declared anew: {exc.reply_code} {exc.reply_text}")


def _problem(entity: Exchange | Queue, predicate: str) -> Problem:
    return Problem(entity.where or Location("broker"), f"{declare_methods.subject(entity)} {predicate}")


def _actual_type(queue: Queue, step: Step | None) -> str:
    """Return the type of the existing queue; empty: the virtual host's default."""
    actual = [each.actual for each in step.differences if each.property == _TYPE] if step else []
    return actual[0].removeprefix("none") if actual else str(queue.arguments.get(_TYPE, ""))
