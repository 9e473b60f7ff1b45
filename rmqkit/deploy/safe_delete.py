"""Delete exchanges, queues, bindings and policies, and no message with them unless forced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from rmqkit.amqp import entity_methods
from rmqkit.amqp.channel import MethodCall
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.error_mapping import NOT_IMPLEMENTED
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy.queue_use import STALE, find_use
from rmqkit.errors import Location, Problem, PropertyMismatch, Refused
from rmqkit.http_api.client import HttpApiClient
from rmqkit.model import Binding, Queue, Topology
from rmqkit.plan import Outcome, Step
from rmqkit.plural import plural
from rmqkit.topology.comparison import binding_key

_IN_USE = "Consume or move the messages and stop the consumers; `force=True` deletes the queues with their messages."
UNSEEN = "Set `api_url=` to RabbitMQ's HTTP API, which counts them."
_BOUND = "Remove those bindings; `force=True` deletes the exchanges, and the queues bound to them get no more messages."


def check_unused(
    connection: ReconnectingConnection,
    api: HttpApiClient | None,
    deleted: Topology,
    live: Topology | None,
    *,
    unavailable: str = "",
    wait_s: float = 0.0,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Raise PropertyMismatch if a queue to be deleted is in use after `wait_s`, or an exchange feeds another entity.

    Each is a problem of the error; so is each queue without the HTTP API, for the reason `unavailable`: a message that
    a client holds unacknowledged cannot be seen. The bindings are those of `live`; None means that they cannot be seen.
    Raises ResourceLocked, AccessRefused, Unreachable, ConnectionLost.
    """
    used = find_use(connection, api, deleted.queues, wait_s=wait_s, pause=pause)
    if problems := [_problem(queue, f"has {contents}") for queue, contents in used]:
        verbs = "holds messages or has" if len(problems) == 1 else "hold messages or have"
        message = f"{plural(len(problems), 'queue')} {verbs} consumers; nothing was deleted"
        raise PropertyMismatch(406, "in use", "queues", message=message, advice=_IN_USE, problems=problems)
    if api is None and (unseen := unseen_queues(connection, deleted.queues)):
        message = f"unacknowledged messages cannot be seen; nothing was deleted: {unavailable}"
        advice = f"{UNSEEN} `force=True` deletes the queues with all messages that clients still hold."
        raise PropertyMismatch(406, "cannot be seen", "queues", message=message, advice=advice, problems=unseen)
    if problems := list(_undeclared_bindings(deleted, live.bindings if live else ())):
        bindings = plural(len(problems), "binding")
        message = f"the exchanges to delete have {bindings} this topology does not declare; nothing was deleted"
        raise PropertyMismatch(406, "in use", "exchanges", message=message, advice=_BOUND, problems=problems)


def unseen_queues(connection: ReconnectingConnection, queues: Iterable[Queue]) -> list[Problem]:
    """Return a problem for each existing queue whose messages another client may hold: not for exclusive queues.

    AMQP does not count the messages held by a client without a consumer.
    """
    with EntityInspector(connection) as inspector:
        return [
            _problem(queue, "may have unacknowledged messages")
            for queue in queues
            if not queue.exclusive and inspector.passive_declare(queue) is not None
        ]


def _problem(queue: Queue, predicate: str) -> Problem:
    return Problem(queue.where or Location("broker"), f"queue {queue.name!r} {predicate}")


def _undeclared_bindings(deleted: Topology, live: Sequence[Binding]) -> Iterator[Problem]:
    """Yield a problem for each binding by which an exchange to be deleted feeds an entity that stays."""
    places = {("exchange", each.name): each.where for each in deleted.exchanges}
    places |= {("queue", each.name): each.where for each in deleted.queues}
    declared = {binding_key(each) for each in deleted.bindings}
    for binding in live:
        stays = (binding.destination_type, binding.destination) not in places
        if ("exchange", binding.source) in places and stays and binding_key(binding) not in declared:
            where = places["exchange", binding.source] or Location("broker")
            message = f"exchange {binding.source!r} has a binding this topology does not declare: {binding}"
            yield Problem(where, message)


def remove(
    connection: ReconnectingConnection,
    api: HttpApiClient | None,
    topology: Topology,
    live: Topology | None = None,
    *,
    if_unused: bool,
    if_empty: bool,
) -> dict[str, str]:
    """Delete everything a topology declares, if it exists: bindings, queues, exchanges, policies.

    Return, by queue, the messages that were deleted with it, in words. The broker itself refuses to delete a classic
    queue that by now has consumers, with `if_unused`, or messages, with `if_empty`; and an exchange with a binding,
    with `if_unused`. Types of queues are those of `live`, if known. Raises PropertyMismatch then, AccessRefused,
    Unreachable, ConnectionLost.
    """
    delete = partial(_delete, connection, topology, if_unused=if_unused, if_empty=if_empty)
    types = {each.name: each.arguments.get("x-queue-type") for each in (live or topology).queues}
    streams = [queue for queue in topology.queues if types.get(queue.name) == "stream"]
    with EntityInspector(connection) as inspector:  # RabbitMQ counts none when it deletes a stream
        answers = {queue.name: inspector.passive_declare(queue) for queue in streams}
    stale = {name: answer.message_count for name, answer in answers.items() if answer is not None}
    hidden = {each.name: each.hidden for each in api.queue_totals()} if api and not if_empty and topology.queues else {}
    try:
        ready = delete(types, default_queue_type="classic")
    except Refused as exc:
        if exc.reply_code != NOT_IMPLEMENTED:
            raise
        types = types if live else {}
        ready = delete(types, default_queue_type="quorum")  # of the virtual host
    for policy in topology.policies:
        if api is not None:
            api.delete_policy(policy.name)
    lost = {}
    for queue, count in zip(topology.queues, ready, strict=True):
        counts = [(count, "message"), (hidden.get(queue.name, 0), "unacknowledged or delayed message")]
        if texts := [plural(number, noun) for number, noun in counts if number]:
            lost[queue.name] = " and ".join(texts)
        if found := stale.get(queue.name):
            lost[queue.name] = f"{plural(found, 'message')} ({STALE})"
    return lost


def with_losses(steps: Iterable[Step], lost: Mapping[str, str]) -> tuple[Step, ...]:
    """Note the messages that are deleted with their queues."""
    return tuple(
        replace(step, note=f"with {lost[step.name]}")
        if step.kind == "queue" and step.outcome is Outcome.DELETE and step.name in lost
        else step
        for step in steps
    )


def _delete(
    connection: ReconnectingConnection,
    topology: Topology,
    types: Mapping[str, str | None],
    *,
    if_unused: bool,
    if_empty: bool,
    default_queue_type: str,
) -> list[int]:
    """Return the number of messages that were ready in each queue."""
    with closing(connection.channel()) as channel:
        calls = _calls(topology, types, default_queue_type, if_unused=if_unused, if_empty=if_empty)
        return [each.message_count for each in channel.call_each(calls) if hasattr(each, "message_count")]


def _calls(
    topology: Topology, types: Mapping[str, str | None], default_queue_type: str, *, if_unused: bool, if_empty: bool
) -> Iterator[MethodCall]:
    queues = {queue.name for queue in topology.queues}
    for binding in topology.bindings:
        if binding.destination_type == "exchange" or binding.destination not in queues:  # else its queue removes it
            yield entity_methods.unbind_call(binding)
    for queue in topology.queues:
        # Only classic queues support if-unused and if-empty; for the others the broker closes the connection.
        classic = (types.get(queue.name) or default_queue_type) == "classic"
        yield entity_methods.delete_call(queue, if_unused=if_unused and classic, if_empty=if_empty and classic)
    for exchange in topology.exchanges:
        yield entity_methods.delete_call(exchange, if_unused=if_unused)
