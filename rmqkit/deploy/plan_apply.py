"""From a topology to a plan, and from a plan to exchanges, queues, bindings and policies.

With RabbitMQ's HTTP API everything is seen at once, and compared; over AMQP alone entities are probed, and the plan
says what stays unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace

from rmqkit.amqp import declare_methods
from rmqkit.amqp.inspector import EntityInspector
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.deploy import delete
from rmqkit.deploy.replace import replace as replacement
from rmqkit.deploy.replace.replace import ReplaceResult
from rmqkit.errors import AccessRefused, AuthenticationFailed, Location, Problem, PropertyMismatch, Unreachable
from rmqkit.http_api import client as http_api
from rmqkit.http_api.client import HttpApiClient, LiveTopology
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Outcome, Plan, Step
from rmqkit.report import QueueState
from rmqkit.stop import Stop
from rmqkit.topology.comparison import compare, extras
from rmqkit.topology.retry import expand

OnProgress = Callable[[int, int], None]
"""Is told how many steps are done, and how many there are."""

_REPLACE = (
    "`rmqkit apply --replace` puts new ones in their place and moves the messages; else give the entity another name,"
    " or delete it on the broker once it may go, and apply again."
)


_AT_MOST_ONCE = "it is a quorum queue here: write `type: quorum`, so that its retry keeps what waits until it is back"
_INTERRUPTED = "replacing it was interrupted, and some of its messages wait elsewhere: --replace goes on"


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """How a broker can be looked at: its HTTP API with all that is there, or neither and why not."""

    api: HttpApiClient | None = None
    live: LiveTopology | None = None
    blind: str = ""


def take_snapshot(link: ReconnectingConnection) -> BrokerSnapshot:
    """Look at a broker through its HTTP API, if that answers; if the settings name one, it must.

    Raises Unreachable, AuthenticationFailed, AccessRefused, SettingsError.
    """
    try:
        api = http_api.connect(link)
        return BrokerSnapshot(api, api.live())
    except (Unreachable, AuthenticationFailed, AccessRefused) as exc:
        if link.settings.api_url:
            raise
        return BrokerSnapshot(blind=exc.message)


def plan(link: ReconnectingConnection, topology: Topology, seen: BrokerSnapshot, options: ApplyOptions) -> Plan:
    """Find out what applying would do; nothing is declared.

    What an interrupted replacement left is in conflict as well. Raises AccessRefused, ConnectionLost.
    """
    topology = expand(topology)
    if seen.live is None:
        found = _probed(link, topology, seen.blind)
    else:
        steps = compare(topology, seen.live.topology, default_queue_type=seen.live.default_queue_type)
        found = Plan(steps, unseen=seen.live.unseen)
    left = {(declare_methods.kind(each), each.name) for each in replacement.unfinished(link, topology)}
    is_quorum = seen.live is not None and seen.live.default_queue_type == "quorum"
    risky = {each.name for each in topology.queues if each.retry and "x-queue-type" not in each.arguments and is_quorum}
    wanted = {Outcome.EXTRA: Outcome.DELETE} if options.prune else {}
    if options.replace:
        wanted[Outcome.CONFLICT] = Outcome.REPLACE

    def decided(step: Step) -> Step:
        if (step.kind, step.name) in left:
            step = replace(step, outcome=Outcome.CONFLICT, note=_INTERRUPTED)
        elif step.kind == "queue" and step.name in risky:
            step = replace(step, note=_AT_MOST_ONCE)
        return replace(step, outcome=wanted.get(step.outcome, step.outcome))

    return replace(found, steps=tuple(map(decided, found.steps)))


def apply(
    link: ReconnectingConnection,
    publishing: ReconnectingConnection,
    topology: Topology,
    seen: BrokerSnapshot,
    options: ApplyOptions,
    *,
    stop: Stop,
    on_progress: OnProgress,
    on_step: Callable[[str], None],
) -> Plan:
    """Carry out the plan of a topology, unless something conflicts: policies, exchanges, queues, bindings.

    Then replace, and prune. What a stop kept from being replaced is still in conflict in the plan that is returned.
    Raises PropertyMismatch with all conflicts as problems, or with all queues that prune would empty or that cannot be
    replaced, before anything was deleted; Unreachable for policies without the HTTP API; AccessRefused, ConnectionLost.
    """
    topology = expand(topology)
    planned = plan(link, topology, seen, options)
    if planned.conflicts:
        raise conflict(planned)
    _check_sight(topology, seen, options)
    beyond = extras(topology, seen.live.topology) if options.prune and seen.live else Topology()
    if not options.force:
        delete.check_unused(link, beyond, seen.live.topology if seen.live else None)
    changes = len(planned.changes)
    for done in _carry_out(link, topology, planned, seen.api):
        on_progress(done, changes)
    if options.replace and not stop.requested:
        replacing = [step for step in planned.steps if step.outcome is Outcome.REPLACE]
        replaced = replacement.replace(
            link,
            publishing,
            topology,
            [step for step in replacing if step.note != _INTERRUPTED or step.differences],
            extra_bindings=seen.live.topology.bindings if seen.live else (),
            wait_s=options.wait_s,
            stop=stop,
            on_step=on_step,
        )
        planned = _with_replaced(planned, replaced)
    delete.remove(link, seen.api, beyond, force=options.force)
    return replace(planned, applied=True)


def _with_replaced(planned: Plan, replaced: Iterable[ReplaceResult]) -> Plan:
    """Say in the plan what replacing did; what a stop kept from being finished is a conflict again."""
    done = {(each.kind, each.name): each for each in replaced if each.finished}

    def told(step: Step) -> Step:
        if step.outcome is not Outcome.REPLACE:
            return step
        result = done.get((step.kind, step.name))
        if result is None:
            return replace(step, outcome=Outcome.CONFLICT, note=_INTERRUPTED)
        moved = [f"{result.moved:,} messages moved"] if step.kind == "queue" else []
        twice = [f"up to {result.duplicates_max:,} of them are there twice"] if result.duplicates_max else []
        return replace(step, note="; ".join([*moved, *twice, *result.notes]))

    return replace(planned, steps=tuple(map(told, planned.steps)))


def _carry_out(
    link: ReconnectingConnection, topology: Topology, planned: Plan, api: HttpApiClient | None
) -> Iterator[int]:
    """Declare what is missing, and yield how many steps are done."""
    entities: Iterable[declare_methods.Entity] = (*topology.exchanges, *topology.queues, *topology.bindings)
    needed = (Outcome.CREATE, Outcome.CHANGE, Outcome.DECLARE)
    steps = iter(planned.steps)
    missing = [entity for entity, step in zip(entities, steps, strict=False) if step.outcome in needed]
    left = {(step.kind, step.name) for step in planned.steps if step.note == _INTERRUPTED}
    done = 0
    for policy in topology.policies:  # first, so that a new queue begins under its policy
        step = next(steps)
        if api is not None and step.outcome in needed:
            api.put_policy(policy)
            done += 1
            yield done
    for noun in (Exchange, Queue, Binding):
        these = [entity for entity in missing if isinstance(entity, noun) and not _touches(entity, left)]
        for _ in declare_methods.declare_all(link, these):
            done += 1
            yield done


def _touches(entity: declare_methods.Entity, left: Container[tuple[str, str]]) -> bool:
    """Tell whether a binding has an end that is being replaced, and is restored with it."""
    if not isinstance(entity, Binding):
        return False
    return ("exchange", entity.source) in left or (entity.destination_type, entity.destination) in left


def destroy(
    link: ReconnectingConnection, topology: Topology, seen: BrokerSnapshot, *, force: bool, dry_run: bool = False
) -> Plan:
    """Remove what a topology declares, and return what was there; unless forced, no queue that is in use.

    Raises PropertyMismatch before anything was changed, Unreachable for policies without the HTTP API, AccessRefused,
    ConnectionLost.
    """
    topology = expand(topology)
    _check_sight(topology, seen, ApplyOptions())
    planned = plan(link, topology, seen, ApplyOptions())
    if not force:
        interrupted = replace(planned, steps=tuple(step for step in planned.steps if step.note == _INTERRUPTED))
        if interrupted.conflicts:
            raise conflict(interrupted)
        delete.check_unused(link, topology, seen.live.topology if seen.live else None)
    steps = tuple(
        Step(
            each.kind, each.name, Outcome.ABSENT if each.outcome is Outcome.CREATE else Outcome.DELETE, where=each.where
        )
        for each in planned.steps
        if each.outcome is not Outcome.EXTRA
    )
    if not dry_run:
        delete.remove(link, seen.api, topology, force=force)
    return Plan(steps, applied=not dry_run, unseen=planned.unseen)


def queue_state(link: ReconnectingConnection, name: str) -> QueueState:
    """Count a queue's messages and consumers; raise NotFound, ResourceLocked, AccessRefused, ConnectionLost."""
    channel = link.channel()
    try:
        answer = channel.queue_counts(name)
    finally:
        channel.close()
    return QueueState(name, answer.message_count, answer.consumer_count)


def conflict(planned: Plan) -> PropertyMismatch:
    """Return the error that lists every conflict of a plan."""
    problems = [
        Problem(step.where or Location(f"{step.kind} {step.name!r}"), f"{step.kind} {step.name!r}: {_reason(step)}")
        for step in planned.conflicts
    ]
    number = len(problems)
    subject = f"{number} {'entity' if number == 1 else 'entities'}"
    message = f"{subject} {'is' if number == 1 else 'are'} there with other properties; nothing was changed"
    error = PropertyMismatch(406, "PRECONDITION_FAILED", subject, message=message, advice=_REPLACE, problems=problems)
    error.report = planned
    return error


def _reason(step: Step) -> str:
    return "; ".join([*map(str, step.differences), *([step.note] if step.note else [])])


def _probed(link: ReconnectingConnection, topology: Topology, blind: str) -> Plan:
    with EntityInspector(link) as looker:
        steps = [*map(looker.look, topology.exchanges), *map(looker.look, topology.queues)]
    unknown = [("binding", str(each), each.where) for each in topology.bindings]
    unknown += [("policy", each.name, each.where) for each in topology.policies]
    steps += [Step(kind, name, Outcome.DECLARE, where=where) for kind, name, where in unknown]  # type: ignore[arg-type]
    return Plan(tuple(steps), unseen=(f"Bindings, policies, extras and some arguments cannot be seen: {blind}",))


def _check_sight(topology: Topology, seen: BrokerSnapshot, options: ApplyOptions) -> None:
    """Refuse what cannot be done over AMQP alone."""
    asked = [name for name, wanted in (("policies", topology.policies), ("--prune", options.prune)) if wanted]
    if asked and seen.api is None:
        advice = "Say where it is with --api-url; nothing was changed."
        raise Unreachable(f"{' and '.join(asked)} need RabbitMQ's HTTP API: {seen.blind}", advice=advice)
