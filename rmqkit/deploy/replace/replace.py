"""Replace queues and exchanges whose properties cannot be changed, and lose no message.

Everything is done over AMQP, and the entities on the broker show how far a run came: one that was killed is finished by
another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from rmqkit.amqp import entity_methods
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
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
from rmqkit.errors import AccessRefused, BrokerError, Location, Problem, PropertyMismatch, Refused, ResourceLocked
from rmqkit.http_api.client import HttpApiClient
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.plan import Step
from rmqkit.plural import plural
from rmqkit.stop import Stop
from rmqkit.topology import policies

_TYPE, _DELAY = "x-queue-type", "x-delayed-retry-max"
# By these a policy drops, moves or delays messages that wait in a temporary queue, or deletes it.
_HARMFUL = {
    "max-length", "max-length-bytes", "message-ttl", "expires", "overflow", "delivery-limit", "dead-letter-exchange",
    "delayed-retry-type",
}  # fmt: skip


def unfinished(connection: ReconnectingConnection, topology: Topology) -> tuple[Exchange | Queue, ...]:
    """Return the entities whose replacement ended early, exchanges first. Raises AccessRefused, ConnectionLost.

    A login that may not inspect the marker, since RabbitMQ 4.3, cannot replace anything: for it there are none.
    """
    with EntityInspector(connection) as inspector:
        try:
            if inspector.passive_declare(MARKER) is None:
                return ()
        except AccessRefused:
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
    api: HttpApiClient | None = None,
    extra_bindings: Sequence[Binding] = (),
    wait_s: float = 0,
    stop: Stop | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    pauses: Pauses = Pauses(),  # noqa: B008 - frozen
) -> tuple[ReplaceResult, ...]:
    """Replace the entities that conflict with a topology, and finish earlier replacements; exchanges first.

    The ends of the topology's bindings have to exist, except those to be replaced. Without the `api` nothing shows the
    messages that clients hold unacknowledged, which are lost. `extra_bindings` are those that only the broker has;
    `wait_s` is how long consumers, unacknowledged messages, and publishers that bypass the bindings may take to leave;
    `on_step` receives each step. After a stop the last result is not finished.

    Raises PropertyMismatch with a problem for each entity that cannot be replaced, before anything was changed; for a
    single one also later, and everything was restored. Raises NotConfirmed, Unroutable, AccessRefused, ConnectionLost;
    then replacing again resumes.
    """
    all_policies = (api.policies(), api.operator_policies()) if api else ()
    session = ReplaceSession(consuming, publishing, stop or Stop(), on_step, pauses, api, all_policies)
    session.lock()
    done: list[ReplaceResult] = []
    try:
        begun = unfinished(consuming, topology)
        steps = {(step.kind, step.name): step for step in conflicts}
        every: tuple[Exchange | Queue, ...] = (*topology.exchanges, *topology.queues)
        found = [(each, steps.get((entity_methods.kind(each), each.name))) for each in every]
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
        exchange = temporary_exchange(entity)
        own = bindings_of_exchange(entity, exchange, bindings)
        return ExchangeReplacement(session, entity, exchange, own, conflicting=conflicting)
    types = _types(entity, step)
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
        delay_s=_delay_s(entity, step),
    )


def _check(session: ReplaceSession, entities: Sequence[tuple[Exchange | Queue, Step | None]], wait_s: float) -> None:
    """Wait for consumers to leave, and for delayed messages.

    Raises PropertyMismatch with a problem for each entity that cannot be replaced.
    """
    problems = [problem for entity, step in entities if step for problem in _obstacles(session, entity, step)]
    advice = ""
    if not problems:
        queues = [(entity, _delay_s(entity, step)) for entity, step in entities if step and isinstance(entity, Queue)]
        delays_s = {queue.name: delay_s for queue, delay_s in queues}
        used = session.use(*(queue for queue, _ in queues), ready=False, wait_s=wait_s, delays_s=delays_s)
        problems = [_problem(queue, f"has {contents}") for queue, contents in used]
        advice = "Stop the clients that consume or hold messages, or wait for them with `wait_s=SECONDS`."
    if problems:
        message = f"{plural(len(problems), 'entity')} cannot be replaced; nothing was replaced"
        raise PropertyMismatch(
            406, "cannot be replaced", "replacing", message=message, advice=advice, problems=problems
        )


def _obstacles(session: ReplaceSession, entity: Exchange | Queue, step: Step) -> Iterator[Problem]:
    trials: list[Exchange | Queue] = [trial_of(entity)]
    if isinstance(entity, Queue):
        temporary = TemporaryEntities.of(entity, _types(entity, step))
        actual = {each.property: each.actual.lower() for each in step.differences}
        if entity.exclusive or actual.get("exclusive") == "true":
            yield _problem(entity, "is exclusive: it is deleted with its connection")
        if actual.get("auto_delete", str(entity.auto_delete).lower()) == "true":
            yield _problem(entity, "is auto-delete: it would be deleted with its last consumer, the one that drains it")
        if _actual_type(entity, step) == "stream":
            yield _problem(entity, "is a stream: its log cannot be moved; its readers would lose their offsets")
        try:
            lack = lack_of_room(session.effective(entity), session.ready(entity))
        except ResourceLocked:
            yield _problem(entity, "is exclusive to another connection, and is deleted with it")
            return
        if lack:
            yield _problem(entity, f"{lack}: make room first, or give it a dead-letter exchange")
        for queue in (temporary.old_messages, temporary.new_messages):
            for policy in (policy for each in session.policies for policy in policies.possible(each, queue)):
                if harmful := sorted(policy.definition.keys() & _HARMFUL):
                    verb = "applies" if policies.applies(policy, queue) else "may apply"
                    keys = ", ".join(harmful)
                    yield _problem(entity, f"policy {policy.name!r} {verb} to temporary queue {queue.name!r} ({keys})")
            if not session.exists(queue):
                trials.append(queue)
    try:
        session.call(*map(entity_methods.declare_call, trials), *map(entity_methods.delete_call, trials))
    except Refused as exc:
        with suppress(Refused):
            session.call(*map(entity_methods.delete_call, trials))
        yield _problem(entity, f"cannot be declared again: {exc.reply_code} {exc.reply_text}")


def _problem(entity: Exchange | Queue, predicate: str) -> Problem:
    return Problem(entity.where or Location("broker"), f"{entity_methods.subject(entity)} {predicate}")


def _types(queue: Queue, step: Step | None) -> tuple[str, str]:
    """Return the types of the existing and of the new queue."""
    return _actual_type(queue, step), str(queue.arguments.get(_TYPE, ""))


def _delay_s(queue: Queue, step: Step | None) -> float:
    """Return how long a quorum queue may delay a message that was returned to it."""
    actual = [each.actual for each in step.differences if each.property == _DELAY] if step else []
    values = [*actual, queue.arguments.get(_DELAY, 0)]
    return max(int(value) if str(value).isdecimal() else 0 for value in values) / 1000


def _actual_type(queue: Queue, step: Step | None) -> str:
    """Return the type of the existing queue; empty: the virtual host's default."""
    actual = [each.actual for each in step.differences if each.property == _TYPE] if step else []
    return actual[0].removeprefix("none") if actual else str(queue.arguments.get(_TYPE, ""))
