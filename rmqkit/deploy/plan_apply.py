"""Plan how to bring a broker in line with a topology, apply that plan, and destroy what a topology declares.

RabbitMQ's HTTP API shows everything on the broker. Over AMQP alone, exchanges and queues are inspected one by one, and
the plan says what it cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from rmqkit.amqp import entity_methods, error_mapping
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy import delete
from rmqkit.deploy.queue_use import find_use
from rmqkit.deploy.snapshot import BrokerSnapshot, take_snapshot
from rmqkit.errors import (
    AccessRefused,
    BrokerError,
    Location,
    NotFound,
    Problem,
    PropertyMismatch,
    Refused,
    ResourceLocked,
    Unreachable,
)
from rmqkit.http_api.client import HttpApiClient
from rmqkit.model import Binding, Exchange, Policy, Queue, Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Kind, Outcome, Plan, Step
from rmqkit.plural import plural
from rmqkit.report import QueueState
from rmqkit.stop import Stop
from rmqkit.topology.comparison import compare, extras
from rmqkit.topology.retry import expand

if TYPE_CHECKING:
    from rmqkit.deploy.replace.session import ReplaceResult

_REPLACE_IT = "Run `rmqkit apply --replace` to recreate it and keep its messages, or rename it in the file."
_REPLACE_THEM = "Run `rmqkit apply --replace` to recreate them and keep their messages, or rename them in the file."
_AT_MOST_ONCE = "a quorum queue on this broker: write `type: quorum`, so that its retries lose no waiting message"
_INTERRUPTED = (
    "replacing it was interrupted, and some of its messages are in temporary queues: `rmqkit apply --replace` resumes"
)
_NAMED = 10  # entities of a run that was refused midway
_DECLARED = (Outcome.CREATE, Outcome.CHANGE, Outcome.DECLARE)


def plan(
    connection: ReconnectingConnection, topology: Topology, snapshot: BrokerSnapshot, options: ApplyOptions
) -> Plan:
    """Find out what applying a topology would do; declare nothing.

    An entity whose replacement was interrupted is a conflict. Raises AccessRefused, ConnectionLost.
    """
    from rmqkit.deploy.replace.replace import unfinished  # noqa: PLC0415 - start-up time: publishers replace nothing

    topology = expand(topology)
    live = snapshot.live
    if live is None:
        planned = _inspect(connection, topology, snapshot)
    else:
        steps = compare(topology, live.topology, default_queue_type=live.default_queue_type)
        planned = Plan(steps, unseen=live.unseen)
    at = next((at for at, step in enumerate(planned.steps) if step.outcome is Outcome.EXTRA), len(planned.steps))
    missing = _missing_externals(connection, topology, snapshot.topology)
    planned = replace(planned, steps=(*planned.steps[:at], *missing, *planned.steps[at:]))
    interrupted = {(entity_methods.kind(each), each.name) for each in unfinished(connection, topology)}
    at_most_once: set[str] = set()
    if live is not None and live.default_queue_type == "quorum":
        at_most_once = {each.name for each in topology.queues if each.retry and "x-queue-type" not in each.arguments}
    types = snapshot.api.exchange_types if snapshot.api else ()
    declared = (Outcome.CREATE, Outcome.CONFLICT) if options.replace else (Outcome.CREATE,)
    decisions = {Outcome.EXTRA: Outcome.DELETE} if options.prune else {}
    if options.replace:
        decisions[Outcome.CONFLICT] = Outcome.REPLACE

    def decide(step: Step) -> Step:
        if isinstance(step.entity, Exchange) and types and step.outcome in declared and step.entity.type not in types:
            note = f"the broker does not know exchange type {step.entity.type!r}"
            return replace(step, outcome=Outcome.UNSUPPORTED, differences=(), note=note)
        if (step.kind, step.name) in interrupted:
            step = replace(step, outcome=Outcome.CONFLICT, note=_INTERRUPTED, interrupted=True)
        elif step.kind == "queue" and step.name in at_most_once:
            step = replace(step, note=_AT_MOST_ONCE)
        return replace(step, outcome=decisions.get(step.outcome, step.outcome))

    return replace(planned, steps=tuple(map(decide, planned.steps)))


def apply(
    connection: ReconnectingConnection,
    publishing: ReconnectingConnection,
    topology: Topology,
    snapshot: BrokerSnapshot,
    options: ApplyOptions,
    *,
    stop: Stop,
    on_progress: Callable[[int, int], None],
    on_step: Callable[[str], None],
) -> Plan:
    """Declare the policies, exchanges, queues and bindings of a topology unless one conflicts; then replace and prune.

    An entity that a stop kept from being replaced is still a conflict in the plan that is returned. Raises
    PropertyMismatch with a problem for each conflict, for each queue that pruning would empty, or for each entity that
    cannot be replaced, before anything is deleted; Unreachable for policies without the HTTP API; AccessRefused,
    ConnectionLost.
    """
    topology = expand(topology)
    planned = plan(connection, topology, snapshot, options)
    _require_applicable(planned, topology, snapshot, prune=options.prune)
    pruned = extras(topology, snapshot.topology) if options.prune and snapshot.topology else Topology()
    to_replace = (step for step in planned.steps if step.outcome is Outcome.REPLACE)
    replaced = [step for step in to_replace if step.differences or not step.interrupted]

    def check_pruned() -> None:
        if not options.force:
            live, wait_s = snapshot.topology, options.wait_s
            delete.check_unused(connection, snapshot.api, pruned, live, wait_s=wait_s, pause=stop.wait)

    check_pruned()
    if snapshot.api is None and not options.force:
        _require_sight(connection, replaced, snapshot)
    try:
        total = len(planned.changes)
        for done, _ in enumerate(_declare(connection, planned, snapshot.api), start=1):
            on_progress(done, total)
        if options.replace and not stop.requested:
            from rmqkit.deploy.replace.replace import replace as replace_entities  # noqa: PLC0415 - start-up time

            results = replace_entities(
                connection,
                publishing,
                topology,
                replaced,
                api=snapshot.api,
                extra_bindings=snapshot.topology.bindings if snapshot.topology else (),
                wait_s=options.wait_s,
                stop=stop,
                on_step=on_step,
            )
            planned = _with_results(planned, results)
            check_pruned()
        lost = delete.remove(connection, snapshot.api, pruned, snapshot.topology, force=options.force)
        planned = replace(planned, steps=_with_losses(planned.steps, lost))
    except Refused as exc:
        with suppress(BrokerError):
            _add_report(exc, planned, plan(connection, topology, take_snapshot(connection), ApplyOptions()))
        raise
    return replace(planned, applied=True)


def _require_sight(connection: ReconnectingConnection, replaced: Iterable[Step], snapshot: BrokerSnapshot) -> None:
    """Raise PropertyMismatch if a queue is to be replaced: its unacknowledged messages would be lost with it."""
    queues = [step.entity for step in replaced if isinstance(step.entity, Queue)]
    if problems := delete.unseen_queues(connection, queues):
        unseen = "unacknowledged messages and policies of the temporary queues cannot be seen"
        message = f"{unseen}; nothing was changed: {snapshot.unavailable}"
        advice = f"{delete.UNSEEN} --force replaces the queues anyway: stop all their clients first."
        raise PropertyMismatch(406, "cannot be seen", "replacing", message=message, advice=advice, problems=problems)


def _add_report(error: Refused, planned: Plan, now: Plan) -> None:
    """Add to an error what the run created or changed first."""
    unchanged = {(step.kind, step.name) for step in now.steps if step.outcome is Outcome.UNCHANGED}
    changed = (Outcome.CREATE, Outcome.CHANGE)
    done = [step for step in planned.steps if step.outcome in changed and (step.kind, step.name) in unchanged]
    error.report = Plan(tuple(done), applied=True, unseen=now.unseen)
    if done:
        names = [f"{step.kind} {step.name!r}" for step in done]
        more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
        entities = f"{plural(len(done), 'entity')}: {', '.join([*names[:_NAMED], *more])}"
        note = f"This run first created or changed {entities}. Apply again to complete it."
        error.advice = "\n".join(filter(None, [error.advice, note]))


def _inspect(connection: ReconnectingConnection, topology: Topology, snapshot: BrokerSnapshot) -> Plan:
    """Compare exchanges and queues over AMQP, which shows nothing else."""
    with EntityInspector(connection) as inspector:
        steps = [*map(inspector.compare, topology.exchanges), *map(inspector.compare, topology.queues)]
    steps += [Step("binding", str(each), Outcome.DECLARE, entity=each) for each in topology.bindings]
    steps += [Step("policy", each.name, Outcome.DECLARE, entity=each) for each in topology.policies]
    unseen = f"Bindings, policies, extras and some arguments cannot be seen: {snapshot.unavailable}"
    return Plan(tuple(steps), unseen=(unseen,))


def _missing_externals(connection: ReconnectingConnection, topology: Topology, live: Topology | None) -> Iterator[Step]:
    """Yield a step for each external exchange and queue that does not exist, and that a binding needs."""
    needed: dict[tuple[Kind, str], Binding] = {}
    for binding in topology.bindings:
        if binding.source in topology.external_exchanges:
            needed.setdefault(("exchange", binding.source), binding)
        externals = topology.external_queues if binding.destination_type == "queue" else topology.external_exchanges
        if binding.destination in externals:
            needed.setdefault((binding.destination_type, binding.destination), binding)
    found = [topology, live] if live else [topology]  # in one of several files it may be declared
    existing = {("exchange", each.name) for part in found for each in part.exchanges}
    existing |= {("queue", each.name) for part in found for each in part.queues}
    with EntityInspector(connection) as inspector:
        for (kind, name), binding in needed.items():
            with suppress(AccessRefused, ResourceLocked):  # it exists, as far as this user may see
                entity = Exchange(name, where=binding.where) if kind == "exchange" else Queue(name, where=binding.where)
                if (kind, name) not in existing and (live or inspector.passive_declare(entity) is None):
                    note = f"external, needed by {binding}"
                    yield Step(kind, name, Outcome.MISSING, note=note, entity=entity)


def _declare(connection: ReconnectingConnection, planned: Plan, api: HttpApiClient | None) -> Iterator[None]:
    entities = [step.entity for step in planned.steps if step.outcome in _DECLARED]
    replaced = {(step.kind, step.name) for step in planned.steps if step.interrupted}
    policies = [each for each in entities if isinstance(each, Policy)]
    # First, so that a new queue has its policy from the beginning; by priority, so that none is briefly in the place of
    # a higher one, whose limits may be wider.
    for policy in sorted(policies, key=lambda each: -each.priority):
        if api is not None:
            api.put_policy(policy)
            yield
    missing = [each for each in entities if isinstance(each, entity_methods.Entity) and not _touches(each, replaced)]
    for kind in ("exchange", "queue", "binding"):
        same_kind = [each for each in missing if entity_methods.kind(each) == kind]
        yield from entity_methods.declare_all(connection, same_kind)


def _touches(entity: entity_methods.Entity, replaced: Collection[tuple[str, str]]) -> bool:
    """Tell whether a binding has an end that is being replaced, and is restored with it."""
    if not isinstance(entity, Binding):
        return False
    return ("exchange", entity.source) in replaced or (entity.destination_type, entity.destination) in replaced


def _with_results(planned: Plan, results: Iterable[ReplaceResult]) -> Plan:
    """Add the results of replacing to a plan; an unfinished replacement is a conflict again."""
    finished = {(each.kind, each.name): each for each in results if each.finished}

    def with_result(step: Step) -> Step:
        if step.outcome is not Outcome.REPLACE:
            return step
        result = finished.get((step.kind, step.name))
        if result is None:
            return replace(step, outcome=Outcome.CONFLICT, note=_INTERRUPTED, interrupted=True)
        moved = [f"{plural(result.moved, 'message')} moved"] if step.kind == "queue" else []
        twice = [f"up to {plural(result.duplicates_max, 'duplicate')}"] if result.duplicates_max else []
        return replace(step, note="; ".join([*moved, *twice, *result.notes]))

    return replace(planned, steps=tuple(map(with_result, planned.steps)))


def destroy(
    connection: ReconnectingConnection,
    topology: Topology,
    snapshot: BrokerSnapshot,
    *,
    force: bool,
    dry_run: bool = False,
    wait_s: float = 0.0,
) -> Plan:
    """Delete what a topology declares, but no queue in use after `wait_s` unless forced; return what existed.

    Raises PropertyMismatch before anything is changed, Unreachable for policies without the HTTP API, AccessRefused,
    ConnectionLost.
    """
    topology = expand(topology)
    _require_http_api(topology, snapshot)
    planned = plan(connection, topology, snapshot, ApplyOptions())
    if not force:
        interrupted = tuple(step for step in planned.steps if step.interrupted)
        if interrupted:
            raise conflict(replace(planned, steps=interrupted))
        unavailable, live = snapshot.unavailable, snapshot.topology
        delete.check_unused(connection, snapshot.api, topology, live, unavailable=unavailable, wait_s=wait_s)

    def deleted(step: Step) -> Step:
        outcome = Outcome.ABSENT if step.outcome in (Outcome.CREATE, Outcome.UNSUPPORTED) else Outcome.DELETE
        return Step(step.kind, step.name, outcome, entity=step.entity)

    kept = (Outcome.EXTRA, Outcome.MISSING)
    steps = tuple(deleted(step) for step in planned.steps if step.outcome not in kept)
    if not dry_run:
        lost = delete.remove(connection, snapshot.api, topology, snapshot.topology, force=force)
    else:
        used = find_use(connection, snapshot.api, topology.queues) if force else []
        lost = {queue.name: contents for queue, contents in used}
    return Plan(_with_losses(steps, lost), applied=not dry_run, unseen=planned.unseen)


def _with_losses(steps: Iterable[Step], lost: Mapping[str, str]) -> tuple[Step, ...]:
    """Note the messages that are deleted with their queues."""
    return tuple(
        replace(step, note=f"with {lost[step.name]}")
        if step.kind == "queue" and step.outcome is Outcome.DELETE and step.name in lost
        else step
        for step in steps
    )


def queue_state(connection: ReconnectingConnection, name: str) -> QueueState:
    """Count the messages and consumers of a queue; raise NotFound, ResourceLocked, AccessRefused, ConnectionLost."""
    with closing(connection.channel()) as channel:
        counts = channel.queue_counts(name)
    return QueueState(name, counts.message_count, counts.consumer_count)


def conflict(planned: Plan) -> PropertyMismatch:
    """Return the error that lists every conflict of a plan."""
    problems = [
        Problem(step.where or Location(f"{step.kind} {step.name!r}"), f"{step.kind} {step.name!r}: {step.remarks}")
        for step in planned.conflicts
    ]
    conflicts = plural(len(problems), "conflict")
    message = f"{conflicts}: already declared with different properties; nothing was changed"
    advice = _REPLACE_IT if len(problems) == 1 else _REPLACE_THEM
    error = PropertyMismatch(406, "PRECONDITION_FAILED", conflicts, message=message, advice=advice, problems=problems)
    error.report = planned
    return error


def _not_found(planned: Plan) -> NotFound:
    """Return the error that lists every missing external entity of a plan."""
    problems = [
        Problem(step.where or Location(step.kind), f"{step.kind} {step.name!r} does not exist: {step.note}")
        for step in planned.missing
    ]
    missing = plural(len(problems), "external entity")
    message = f"{missing} {'is' if len(problems) == 1 else 'are'} missing; nothing was changed"
    advice = "First apply the topology that declares them, or correct the names under external."
    error = NotFound(404, "NOT_FOUND", missing, message=message, advice=advice, problems=problems)
    error.report = planned
    return error


def _unknown_types(planned: Plan) -> Refused:
    """Return the error that lists every exchange of a plan whose type the broker does not know."""
    problems = [
        Problem(
            step.where or Location(f"exchange {step.name!r}"),
            f"exchange {step.name!r}: {step.note}",
            error_mapping.unknown_type_advice(step.entity.type) if isinstance(step.entity, Exchange) else "",
        )
        for step in planned.unsupported
    ]
    message = f"{plural(len(problems), 'exchange')} of an unknown type; nothing was changed"
    error = Refused(503, "unknown exchange type", "exchanges", message=message, problems=problems)
    error.report = planned
    return error


def _require_applicable(planned: Plan, topology: Topology, snapshot: BrokerSnapshot, *, prune: bool) -> None:
    """Raise the error that keeps a plan from being applied, before anything is changed."""
    if planned.conflicts:
        raise conflict(planned)
    if planned.missing:
        raise _not_found(planned)
    if planned.unsupported:
        raise _unknown_types(planned)
    _require_http_api(topology, snapshot, prune=prune)


def _require_http_api(topology: Topology, snapshot: BrokerSnapshot, *, prune: bool = False) -> None:
    subjects = [name for name, needed in (("policies", topology.policies), ("--prune", prune)) if needed]
    if subjects and snapshot.api is None:
        advice = "Set its URL with --api-url; nothing was changed."
        raise Unreachable(f"{' and '.join(subjects)} need RabbitMQ's HTTP API: {snapshot.unavailable}", advice=advice)
