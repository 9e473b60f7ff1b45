"""Plan how to bring a broker in line with a topology, and refuse plans that cannot be applied.

RabbitMQ's HTTP API shows everything on the broker. Over AMQP alone, exchanges and queues are inspected one by one, and
the plan lists the facts that stay unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace

from rmqkit.amqp import entity_methods, error_mapping
from rmqkit.amqp.entity_inspector import EntityInspector, unknown_exchange_types
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy.broker_snapshot import BrokerSnapshot
from rmqkit.errors import (
    AccessRefused,
    Location,
    NotFound,
    Problem,
    PropertyMismatch,
    Refused,
    ResourceLocked,
    Unreachable,
)
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Kind, Outcome, Plan, Step
from rmqkit.plural import plural
from rmqkit.topology import delays
from rmqkit.topology.comparison import compare
from rmqkit.topology.retry import NATIVE_SINCE, check_ends, expand, for_broker, native_arguments

_REPLACE_IT = "Apply with `replace=True` to recreate it and keep its messages, or give it another name."
_REPLACE_THEM = "Apply with `replace=True` to recreate them and keep their messages, or give them other names."
_AT_MOST_ONCE = "a quorum queue on this broker: write `type: quorum`, so that its retries lose no waiting message"
_NATIVE = "the queue itself delays failed messages (a native retry)"
_OLDER = f"failed messages wait in other queues: a native retry needs RabbitMQ {'.'.join(map(str, NATIVE_SINCE))}"
INTERRUPTED = (
    "replacing it was interrupted, and some of its messages are in temporary queues;"
    " applying with `replace=True` resumes"
)


def plan(
    connection: ReconnectingConnection, topology: Topology, snapshot: BrokerSnapshot, options: ApplyOptions
) -> Plan:
    """Compute the steps of applying a topology; declare nothing.

    An entity whose replacement was interrupted is a conflict. Raises AccessRefused, ConnectionLost.
    """
    from rmqkit.deploy.replace.replace import unfinished  # noqa: PLC0415 - start-up time: publishers replace nothing

    native = {each.name for each in topology.queues if each.retry and each.retry.native}
    topology = adapted(connection, topology)
    live = snapshot.live
    types = {each.type for each in topology.exchanges}
    if live is None:
        unknown = unknown_exchange_types(connection, types)
        planned = _inspect(connection, topology, snapshot, unknown)
    else:
        known = snapshot.api.exchange_types if snapshot.api else frozenset()
        unknown = frozenset(types - known if known else ())
        steps = compare(topology, live.topology, default_queue_type=live.default_queue_type)
        planned = Plan(steps, unseen=live.unseen)
    at = next((at for at, step in enumerate(planned.steps) if step.outcome is Outcome.EXTRA), len(planned.steps))
    missing = _missing_externals(connection, topology, snapshot.topology)
    planned = replace(planned, steps=(*planned.steps[:at], *missing, *planned.steps[at:]))
    begun = () if snapshot.is_new else unfinished(connection, topology)
    interrupted = {(entity_methods.kind(each), each.name) for each in begun}
    delaying = {each.name for each in topology.queues if native_arguments(each)}
    notes = {name: _NATIVE if name in delaying else _OLDER for name in native}
    if live is not None and live.default_queue_type == "quorum":
        untyped = (each.name for each in topology.queues if each.retry and "x-queue-type" not in each.arguments)
        notes |= dict.fromkeys(untyped, _AT_MOST_ONCE)
    declared = (Outcome.CREATE, Outcome.CONFLICT) if options.replace else (Outcome.CREATE,)
    decisions = {Outcome.EXTRA: Outcome.DELETE} if options.prune else {}
    if options.replace:
        decisions[Outcome.CONFLICT] = Outcome.REPLACE

    def decide(step: Step) -> Step:
        if isinstance(step.entity, Exchange) and step.entity.type in unknown and step.outcome in declared:
            note = f"the broker does not know exchange type {step.entity.type!r}"
            return replace(step, outcome=Outcome.UNSUPPORTED, differences=(), note=note)
        if (step.kind, step.name) in interrupted:
            step = replace(step, outcome=Outcome.CONFLICT, note=INTERRUPTED, interrupted=True)
        elif step.kind == "queue" and step.name in notes:
            step = replace(step, note=notes[step.name])
        return replace(step, outcome=decisions.get(step.outcome, step.outcome))

    return replace(planned, steps=tuple(map(decide, planned.steps)))


def adapted(connection: ReconnectingConnection, topology: Topology) -> Topology:
    """Return a topology as this broker is to have it: see `for_broker` and `delays.expand`.

    Raises TopologyError for a retry that never ends, ConnectionLost.
    """
    check_ends(topology)
    topology = delays.expand(topology)
    if not any(each.retry and each.retry.native for each in topology.queues):
        return expand(topology)
    with closing(connection.channel()) as channel:
        return for_broker(topology, channel.transport.version)


def _inspect(
    connection: ReconnectingConnection, topology: Topology, snapshot: BrokerSnapshot, unknown: frozenset[str]
) -> Plan:
    """Compare exchanges and queues over AMQP, which shows nothing else; `unknown` are types of exchanges."""
    with EntityInspector(connection) as inspector:
        steps = [inspector.compare(each, unknown) for each in topology.exchanges]
        steps += map(inspector.compare, topology.queues)
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


def conflict_error(planned: Plan) -> PropertyMismatch:
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


def require_applicable(planned: Plan, topology: Topology, snapshot: BrokerSnapshot, *, prune: bool) -> None:
    """Raise the error that keeps a plan from being applied, before anything is changed."""
    if planned.conflicts:
        raise conflict_error(planned)
    if planned.missing:
        raise _not_found(planned)
    if planned.unsupported:
        raise _unknown_types(planned)
    require_http_api(topology, snapshot, prune=prune)


def require_http_api(topology: Topology, snapshot: BrokerSnapshot, *, prune: bool = False) -> None:
    """Raise Unreachable for policies or pruning without the HTTP API."""
    subjects = [name for name, needed in (("policies", topology.policies), ("`prune=True`", prune)) if needed]
    if subjects and snapshot.api is None:
        advice = "Set its URL with `api_url=`; nothing was changed."
        need = "needs" if subjects == ["`prune=True`"] else "need"
        raise Unreachable(f"{' and '.join(subjects)} {need} RabbitMQ's HTTP API: {snapshot.unavailable}", advice=advice)
