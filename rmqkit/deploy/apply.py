"""Apply a topology to a broker: declare it, replace conflicting entities, and delete extra ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from rmqkit.amqp import entity_methods
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy import safe_delete
from rmqkit.deploy.broker_snapshot import BrokerSnapshot, take_snapshot
from rmqkit.deploy.planner import INTERRUPTED, adapted, plan, require_applicable
from rmqkit.errors import BrokerError, PropertyMismatch, Refused
from rmqkit.http_api.client import HttpApiClient
from rmqkit.model import Binding, Policy, Queue, Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Outcome, Plan, Step
from rmqkit.plural import plural
from rmqkit.stop import Stop
from rmqkit.topology.comparison import extras
from rmqkit.topology.delays import DELIVER

if TYPE_CHECKING:
    from rmqkit.deploy.replace.session import ReplaceResult

_NAMED = 10  # entities of a run that was refused midway
_DECLARED = (Outcome.CREATE, Outcome.CHANGE, Outcome.DECLARE)


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
    planned = plan(connection, topology, snapshot, options)
    topology = adapted(connection, topology)
    require_applicable(planned, topology, snapshot, prune=options.prune)
    pruned = extras(topology, snapshot.topology) if options.prune and snapshot.topology else Topology()
    replaced = _to_replace(planned)

    def check_pruned() -> None:
        if not options.force:
            live, wait_s = snapshot.topology, options.wait_s
            safe_delete.check_unused(connection, snapshot.api, pruned, live, wait_s=wait_s, pause=stop.wait)

    check_pruned()
    if snapshot.api is None and not options.force:
        _require_visible(connection, replaced, snapshot)
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
        careful = not options.force
        api, live = snapshot.api, snapshot.topology
        lost = safe_delete.remove(connection, api, pruned, live, if_unused=careful, if_empty=careful)
        planned = replace(planned, steps=safe_delete.with_losses(planned.steps, lost))
    except Refused as exc:
        with suppress(BrokerError):
            _add_report(exc, planned, plan(connection, topology, take_snapshot(connection), ApplyOptions()))
        raise
    return replace(planned, applied=True)


def _to_replace(planned: Plan) -> list[Step]:
    """Return the steps that replace; an interrupted one without differences is only finished."""
    steps = (step for step in planned.steps if step.outcome is Outcome.REPLACE)
    return [step for step in steps if step.differences or not step.interrupted]


def _require_visible(connection: ReconnectingConnection, replaced: Iterable[Step], snapshot: BrokerSnapshot) -> None:
    """Raise PropertyMismatch if a queue is to be replaced: its unacknowledged messages would be lost with it."""
    queues = [step.entity for step in replaced if isinstance(step.entity, Queue)]
    if problems := safe_delete.unseen_queues(connection, queues):
        unseen = "unacknowledged messages and policies of the temporary queues cannot be seen"
        message = f"{unseen}; nothing was changed: {snapshot.unavailable}"
        advice = f"{safe_delete.UNSEEN} `force=True` replaces the queues anyway: stop all their clients first."
        raise PropertyMismatch(406, "cannot be seen", "replacing", message=message, advice=advice, problems=problems)


def _add_report(error: Refused, planned: Plan, now: Plan) -> None:
    """Add to an error the entities that the run first created or changed."""
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
    complete = [each for each in missing if each == DELIVER]  # the last one: it says that all levels are there
    for kind in ("exchange", "queue", "binding"):
        same_kind = [each for each in missing if entity_methods.kind(each) == kind and each not in complete]
        yield from entity_methods.declare_all(connection, same_kind)
    yield from entity_methods.declare_all(connection, complete)


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
            return replace(step, outcome=Outcome.CONFLICT, note=INTERRUPTED, interrupted=True)
        moved = [f"{plural(result.moved, 'message')} moved"] if step.kind == "queue" else []
        twice = [f"up to {plural(result.duplicates_max, 'duplicate')}"] if result.duplicates_max else []
        return replace(step, note="; ".join([*moved, *twice, *result.notes]))

    return replace(planned, steps=tuple(map(with_result, planned.steps)))
