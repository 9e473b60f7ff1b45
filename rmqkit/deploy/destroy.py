"""Destroy the entities that a topology declares."""

from __future__ import annotations

from dataclasses import replace

from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy import safe_delete
from rmqkit.deploy.broker_snapshot import BrokerSnapshot
from rmqkit.deploy.planner import adapted, conflict_error, plan, require_http_api
from rmqkit.deploy.queue_use import find_use
from rmqkit.model import Topology
from rmqkit.options import ApplyOptions
from rmqkit.plan import Outcome, Plan, Step


def destroy(
    connection: ReconnectingConnection,
    topology: Topology,
    snapshot: BrokerSnapshot,
    *,
    force: bool,
    dry_run: bool = False,
    wait_s: float = 0.0,
) -> Plan:
    """Delete the entities of a topology, but no queue in use after `wait_s` unless forced; return those that existed.

    Raises PropertyMismatch before anything is changed, Unreachable for policies without the HTTP API, AccessRefused,
    ConnectionLost.
    """
    require_http_api(topology, snapshot)
    planned = plan(connection, topology, snapshot, ApplyOptions())
    topology = adapted(connection, topology)
    if not force:
        interrupted = tuple(step for step in planned.steps if step.interrupted)
        if interrupted:
            raise conflict_error(replace(planned, steps=interrupted))
        unavailable, live = snapshot.unavailable, snapshot.topology
        safe_delete.check_unused(connection, snapshot.api, topology, live, unavailable=unavailable, wait_s=wait_s)

    def deleted(step: Step) -> Step:
        outcome = Outcome.ABSENT if step.outcome in (Outcome.CREATE, Outcome.UNSUPPORTED) else Outcome.DELETE
        return Step(step.kind, step.name, outcome, entity=step.entity)

    kept = (Outcome.EXTRA, Outcome.MISSING)
    steps = tuple(deleted(step) for step in planned.steps if step.outcome not in kept)
    if not dry_run:
        careful, live = not force, snapshot.topology
        lost = safe_delete.remove(connection, snapshot.api, topology, live, if_unused=careful, if_empty=careful)
    else:
        used = find_use(connection, snapshot.api, topology.queues) if force else []
        lost = {queue.name: contents for queue, contents in used}
    return Plan(safe_delete.with_losses(steps, lost), applied=not dry_run, unseen=planned.unseen)
