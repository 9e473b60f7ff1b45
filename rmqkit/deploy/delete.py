"""Delete a queue, an exchange or bindings that no file declares, and show what goes with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rmqkit.amqp import entity_methods
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy import safe_delete
from rmqkit.deploy.broker_snapshot import BrokerSnapshot, take_snapshot
from rmqkit.deploy.queue_use import STALE, contents_text, find_use
from rmqkit.errors import InputError, NotFound, PropertyMismatch
from rmqkit.http_api.mapping import QueueTotal
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.plan import Outcome, Plan, Step
from rmqkit.topology import policies
from rmqkit.topology.comparison import binding_key

_UNSEEN = "Unacknowledged messages, bindings and policies cannot be seen: "


def delete_entities(
    connection: ReconnectingConnection,
    entities: Sequence[Queue | Exchange | Binding],
    *,
    if_empty: bool,
    if_unused: bool,
    dry_run: bool,
) -> Plan:
    """Delete entities; `Connection.delete` has the errors."""
    for each in entities:
        if isinstance(each, Exchange) and (not each.name or each.name.startswith("amq.")):
            raise InputError(f"{entity_methods.subject(each)} is RabbitMQ's own, which nobody can delete")
    snapshot = take_snapshot(connection)
    live = snapshot.topology or Topology()
    steps = tuple(step for entity in entities for step in _steps(connection, snapshot, live, entity))
    doomed = Topology(
        queues=tuple(each for each in entities if isinstance(each, Queue)),
        exchanges=tuple(each for each in entities if isinstance(each, Exchange)),
        bindings=tuple(each for each in entities if isinstance(each, Binding)),
    )
    if if_empty or if_unused:
        _check(connection, snapshot, doomed.queues, if_empty=if_empty, if_unused=if_unused)
    if not dry_run:
        api = snapshot.api
        lost = safe_delete.remove(connection, api, doomed, snapshot.topology, if_unused=if_unused, if_empty=if_empty)
        steps = safe_delete.with_losses(steps, lost)
    return Plan(steps, applied=not dry_run, unseen=() if snapshot.topology else (_UNSEEN + snapshot.unavailable,))


def _check(
    connection: ReconnectingConnection,
    snapshot: BrokerSnapshot,
    queues: Sequence[Queue],
    *,
    if_empty: bool,
    if_unused: bool,
) -> None:
    """Raise PropertyMismatch if a queue is in use: the broker itself checks classic queues alone."""
    api = snapshot.api if if_empty else None  # AMQP counts the consumers
    used = find_use(connection, api, queues, ready=if_empty, consumers=if_unused)
    for queue, contents in used:
        subject = entity_methods.subject(queue)
        message = f"{subject} has {contents}; nothing was deleted"
        raise PropertyMismatch(406, "in use", subject, message=message)
    if if_empty and not api and safe_delete.unseen_queues(connection, queues):
        message = f"unacknowledged messages cannot be seen; nothing was deleted: {snapshot.unavailable}"
        raise PropertyMismatch(406, "cannot be seen", "queues", message=message, advice=safe_delete.UNSEEN)


def _steps(
    connection: ReconnectingConnection, snapshot: BrokerSnapshot, live: Topology, entity: Queue | Exchange | Binding
) -> Iterator[Step]:
    """Yield the deletion of an entity, and of the bindings that go with it. Raises NotFound."""
    subject = entity_methods.subject(entity)
    if isinstance(entity, Binding):
        if snapshot.topology and binding_key(entity) not in map(binding_key, live.bindings):
            raise NotFound(404, "NOT_FOUND", subject, message=f"{subject} does not exist")
        yield Step("binding", str(entity), Outcome.DELETE, entity=entity)
        return
    kind = entity_methods.kind(entity)
    with EntityInspector(connection) as inspector:
        answer = inspector.passive_declare(entity)
    if answer is None:
        raise NotFound(404, "NOT_FOUND", subject, message=f"{subject} does not exist")
    notes = []
    if isinstance(entity, Queue):
        totals = {each.name: each for each in snapshot.api.queue_totals()} if snapshot.api else {}
        total = totals.get(entity.name, QueueTotal(entity.name, current=False))
        nothing = "empty" if snapshot.api else "no ready messages"
        contents = contents_text(answer.message_count, answer.consumer_count, total) or nothing
        notes.append(contents if total.current else f"{contents} ({STALE})")
    notes += _effects(live, entity)
    yield Step(kind, entity.name, Outcome.DELETE, note="; ".join(notes), entity=entity)
    for binding in live.bindings:
        if (kind, entity.name) in (("exchange", binding.source), (binding.destination_type, binding.destination)):
            yield Step("binding", str(binding), Outcome.DELETE, entity=binding)


def _effects(live: Topology, entity: Queue | Exchange) -> Iterator[str]:
    """Yield what uses an entity, and the policy that applies to it, in words."""
    same_kind = live.queues if isinstance(entity, Queue) else live.exchanges
    for queue in live.queues:
        target = policies.dead_letter_target(live, queue)
        if target and entity == (Exchange(target.exchange) if target.exchange else Queue(target.routing_key)):
            yield f"dead letters of queue {queue.name!r} would be lost"
    for exchange in live.exchanges if isinstance(entity, Exchange) else ():
        if policies.effective(live, exchange).get("alternate-exchange") == entity.name:
            yield f"unroutable messages of exchange {exchange.name!r} would be lost"
    found = next((each for each in same_kind if each.name == entity.name), None)
    if found and (policy := policies.policy_of(live, found)):
        yield f"policy {policy.name!r} stays"
