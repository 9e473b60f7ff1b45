"""Plan how to bring a broker in line with a topology, apply that plan, and destroy what a topology declares.

RabbitMQ's HTTP API shows everything on the broker. Over AMQP alone, exchanges and queues are inspected one by one, and
the plan says what it cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rmqkit.amqp import declare_methods
from rmqkit.amqp.inspector import EntityInspector
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.deploy import delete
from rmqkit.errors import AccessRefused, AuthenticationFailed, Location, Problem, PropertyMismatch, Unreachable
from rmqkit.http_api import client as http_api
from rmqkit.http_api.client import HttpApiClient, LiveTopology
from rmqkit.model import Binding, Policy, Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Outcome, Plan, Step
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
_DECLARED = (Outcome.CREATE, Outcome.CHANGE, Outcome.DECLARE)


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """The HTTP API and everything in the virtual host, or neither and `unavailable`, the reason."""

    api: HttpApiClient | None = None
    live: LiveTopology | None = None
    unavailable: str = ""

    @property
    def topology(self) -> Topology | None:
        """Return everything in the virtual host, if the HTTP API is available."""
        return self.live.topology if self.live else None


def take_snapshot(connection: ReconnectingConnection) -> BrokerSnapshot:
    """Read everything in the virtual host from the HTTP API if it answers, which it must if the settings name it.

    Raises Unreachable, AuthenticationFailed, AccessRefused, SettingsError.
    """
    try:
        api = http_api.connect(connection)
        return BrokerSnapshot(api, api.live())
    except (Unreachable, AuthenticationFailed, AccessRefused) as exc:
        if connection.settings.api_url:
            raise
        return BrokerSnapshot(unavailable=exc.message)


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
    interrupted = {(declare_methods.kind(each), each.name) for each in unfinished(connection, topology)}
    at_most_once: set[str] = set()
    if live is not None and live.default_queue_type == "quorum":
        at_most_once = {each.name for each in topology.queues if each.retry and "x-queue-type" not in each.arguments}
    decisions = {Outcome.EXTRA: Outcome.DELETE} if options.prune else {}
    if options.replace:
        decisions[Outcome.CONFLICT] = Outcome.REPLACE

    def decide(step: Step) -> Step:
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
    if planned.conflicts:
        raise conflict(planned)
    _require_http_api(topology, snapshot, prune=options.prune)
    pruned = extras(topology, snapshot.topology) if options.prune and snapshot.topology else Topology()
    if not options.force:
        delete.check_unused(connection, pruned, snapshot.topology)
    total = len(planned.changes)
    for done, _ in enumerate(_declare(connection, planned, snapshot.api), start=1):
        on_progress(done, total)
    if options.replace and not stop.requested:
        from rmqkit.deploy.replace.replace import replace as replace_entities  # noqa: PLC0415 - start-up time

        replacing = [step for step in planned.steps if step.outcome is Outcome.REPLACE]
        results = replace_entities(
            connection,
            publishing,
            topology,
            [step for step in replacing if step.differences or not step.interrupted],
            extra_bindings=snapshot.topology.bindings if snapshot.topology else (),
            wait_s=options.wait_s,
            stop=stop,
            on_step=on_step,
        )
        planned = _with_results(planned, results)
    delete.remove(connection, snapshot.api, pruned, force=options.force)
    return replace(planned, applied=True)


def _inspect(connection: ReconnectingConnection, topology: Topology, snapshot: BrokerSnapshot) -> Plan:
    """Compare exchanges and queues over AMQP, which shows nothing else."""
    with EntityInspector(connection) as inspector:
        steps = [*map(inspector.compare, topology.exchanges), *map(inspector.compare, topology.queues)]
    steps += [Step("binding", str(each), Outcome.DECLARE, entity=each) for each in topology.bindings]
    steps += [Step("policy", each.name, Outcome.DECLARE, entity=each) for each in topology.policies]
    unseen = f"Bindings, policies, extras and some arguments cannot be seen: {snapshot.unavailable}"
    return Plan(tuple(steps), unseen=(unseen,))


def _declare(connection: ReconnectingConnection, planned: Plan, api: HttpApiClient | None) -> Iterator[None]:
    entities = [step.entity for step in planned.steps if step.outcome in _DECLARED]
    replaced = {(step.kind, step.name) for step in planned.steps if step.interrupted}
    for policy in entities:  # first, so that a new queue has its policy from the beginning
        if isinstance(policy, Policy) and api is not None:
            api.put_policy(policy)
            yield
    missing = [each for each in entities if isinstance(each, declare_methods.Entity) and not _touches(each, replaced)]
    for kind in ("exchange", "queue", "binding"):
        same_kind = [each for each in missing if declare_methods.kind(each) == kind]
        yield from declare_methods.declare_all(connection, same_kind)


def _touches(entity: declare_methods.Entity, replaced: Collection[tuple[str, str]]) -> bool:
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
) -> Plan:
    """Delete what a topology declares, but no queue in use unless forced; return what existed.

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
        delete.check_unused(connection, topology, snapshot.topology)

    def deleted(step: Step) -> Step:
        outcome = Outcome.ABSENT if step.outcome is Outcome.CREATE else Outcome.DELETE
        return Step(step.kind, step.name, outcome, entity=step.entity)

    steps = tuple(deleted(step) for step in planned.steps if step.outcome is not Outcome.EXTRA)
    if not dry_run:
        delete.remove(connection, snapshot.api, topology, force=force)
    return Plan(steps, applied=not dry_run, unseen=planned.unseen)


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


def _require_http_api(topology: Topology, snapshot: BrokerSnapshot, *, prune: bool = False) -> None:
    subjects = [name for name, needed in (("policies", topology.policies), ("--prune", prune)) if needed]
    if subjects and snapshot.api is None:
        advice = "Set its URL with --api-url; nothing was changed."
        raise Unreachable(f"{' and '.join(subjects)} need RabbitMQ's HTTP API: {snapshot.unavailable}", advice=advice)
