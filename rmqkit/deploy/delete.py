"""Take exchanges, queues, bindings and policies away, and no message with them unless forced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rmqkit.amqp import declare_methods
from rmqkit.amqp.channel import MethodCall
from rmqkit.amqp.inspector import EntityInspector
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.errors import ConnectionLost, Location, Problem, PropertyMismatch
from rmqkit.http_api.client import HttpApiClient
from rmqkit.model import Binding, Topology
from rmqkit.topology.comparison import binding_key

_OTHERS = "Remove those bindings; --force deletes the exchanges, and what is bound to them gets no more messages."
_FORCE = "Consume or move the messages and stop the consumers; --force deletes the queues with what they hold."


def check_unused(link: ReconnectingConnection, topology: Topology, live: Topology | None) -> None:
    """Make sure that no queue to be removed holds messages or has consumers, and that no exchange feeds what stays.

    The latter can only be told from what is `live`; None means that it cannot be seen. Raises PropertyMismatch with a
    problem for each, ResourceLocked, AccessRefused, ConnectionLost.
    """
    with EntityInspector(link) as looker:
        problems = [
            Problem(queue.where or Location("broker"), f"queue {queue.name!r} {held}")
            for queue in topology.queues
            if (held := _held(looker.passive_declare(queue)))
        ]
    _refuse("queues", problems, _FORCE)
    _refuse("exchanges", list(_bound_by_others(topology, live.bindings if live else ())), _OTHERS)


def _refuse(what: str, problems: Sequence[Problem], advice: str) -> None:
    if problems:
        are = "is" if len(problems) == 1 else "are"
        message = f"{len(problems)} of the {what} to delete {are} in use; nothing was changed"
        raise PropertyMismatch(406, "in use", what, message=message, advice=advice, problems=problems)


def _held(answer: Any) -> str:
    if answer is None:
        return ""
    counts = ((answer.message_count, "message"), (answer.consumer_count, "consumer"))
    held = " and ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count)
    return f"has {held}" if held else ""


def remove(link: ReconnectingConnection, api: HttpApiClient | None, topology: Topology, *, force: bool) -> None:
    """Remove everything a topology declares, as far as it is there: bindings, queues, exchanges, policies.

    Unless forced, the broker is told to keep a queue that is in use after all, and an exchange that others bound, which
    ends the removal. Raises PropertyMismatch about that, AccessRefused, Unreachable, ConnectionLost.
    """
    try:
        _delete(link, topology, force=force, typeless="classic")
    except ConnectionLost as exc:
        if "NOT_IMPLEMENTED" not in exc.message:
            raise
        _delete(link, topology, force=force, typeless="quorum")  # the virtual host's default, it turns out
    for policy in topology.policies:
        if api is not None:
            api.delete_policy(policy.name)


def _bound_by_others(topology: Topology, bindings: Iterable[Binding]) -> Iterator[Problem]:
    """Yield the bindings by which an exchange to be removed feeds what stays."""
    going = {("exchange", each.name): each.where for each in topology.exchanges}
    going |= {("queue", each.name): each.where for each in topology.queues}
    unbound = {binding_key(each) for each in topology.bindings}
    for each in bindings:
        ours = (each.destination_type, each.destination) in going or binding_key(each) in unbound
        if ("exchange", each.source) in going and not ours:
            where = going["exchange", each.source] or Location("broker")
            yield Problem(where, f"exchange {each.source!r}: others bound it: {each}")


def _delete(link: ReconnectingConnection, topology: Topology, *, force: bool, typeless: str) -> None:
    channel = link.channel()
    try:
        for _ in channel.call_each(_calls(topology, force=force, typeless=typeless)):
            pass
    finally:
        channel.close()


def _calls(topology: Topology, *, force: bool, typeless: str) -> Iterator[MethodCall]:
    queues = {queue.name for queue in topology.queues}
    for binding in topology.bindings:
        if binding.destination_type == "exchange" or binding.destination not in queues:  # else it goes with its queue
            yield declare_methods.unbind_call(binding)
    for queue in topology.queues:
        # Only classic queues know if-unused and if-empty; the others close the connection over them.
        careful = not force and queue.arguments.get("x-queue-type", typeless) == "classic"
        yield declare_methods.delete_call(queue, if_unused=careful, if_empty=careful)
    for exchange in topology.exchanges:
        yield declare_methods.delete_call(exchange, if_unused=not force)
