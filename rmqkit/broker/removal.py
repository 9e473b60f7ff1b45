"""Take exchanges, queues, bindings and policies away, and no message with them unless forced.

Comes in: what is to go, as a Topology. Goes out: what was there. Room: broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pika import spec

from rmqkit.broker import methods
from rmqkit.broker.channel import Call
from rmqkit.broker.link import Link
from rmqkit.broker.management import Management
from rmqkit.broker.probing import Looker
from rmqkit.errors import ConnectionLost, Location, Problem, PropertyMismatch
from rmqkit.model import Binding, Queue, Topology
from rmqkit.topology.comparison import binding_key

_OTHERS = "Remove those bindings; --force deletes the exchanges, and what is bound to them gets no more messages."
_FORCE = "Consume or move the messages and stop the consumers; --force deletes the queues with what they hold."


def check_unused(link: Link, queues: Sequence[Queue]) -> None:
    """Make sure that no queue holds messages or has consumers; `problems` of the error has one for each that does.

    Raises PropertyMismatch, ResourceLocked, AccessRefused, ConnectionLost.
    """
    with Looker(link) as looker:
        problems = [
            Problem(queue.where or Location("broker"), f"queue {queue.name!r} {held}")
            for queue in queues
            if (held := _held(looker.answer(queue)))
        ]
    _refuse("queues", problems, "nothing was changed", _FORCE)


def _refuse(what: str, problems: Sequence[Problem], done: str, advice: str) -> None:
    if problems:
        message = f"{len(problems)} of the {what} to delete {'is' if len(problems) == 1 else 'are'} in use; {done}"
        raise PropertyMismatch(406, "in use", what, message=message, advice=advice, problems=problems)


def _held(answer: Any) -> str:
    if answer is None:
        return ""
    counts = ((answer.message_count, "message"), (answer.consumer_count, "consumer"))
    held = " and ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count)
    return f"has {held}" if held else ""


def remove(link: Link, api: Management | None, topology: Topology, *, force: bool) -> None:
    """Remove everything a topology declares, as far as it is there: bindings, queues, exchanges, policies.

    Unless forced, nothing is removed if others bound an exchange, as far as the HTTP API shows it; and the broker is
    told to keep such an exchange, and a queue that is in use after all, which ends the removal. Raises PropertyMismatch
    about that, AccessRefused, Unreachable, ConnectionLost.
    """
    if api is not None and topology.exchanges and not force:
        _check_unbound(topology, api.live().topology.bindings)
    try:
        _delete(link, topology, force=force, typeless="classic")
    except ConnectionLost as exc:
        if "NOT_IMPLEMENTED" not in exc.message:
            raise
        _delete(link, topology, force=force, typeless="quorum")  # the virtual host's default, it turns out
    for policy in topology.policies:
        if api is not None:
            api.delete_policy(policy.name)


def _check_unbound(topology: Topology, bindings: Iterable[Binding]) -> None:
    """Make sure that no exchange feeds what stays."""
    going = {("exchange", each.name): each.where for each in topology.exchanges}
    going |= {("queue", each.name): each.where for each in topology.queues}
    unbound = {binding_key(each) for each in topology.bindings}
    problems = [
        Problem(
            going["exchange", each.source] or Location("broker"), f"exchange {each.source!r}: others bound it: {each}"
        )
        for each in bindings
        if ("exchange", each.source) in going
        and (each.destination_type, each.destination) not in going
        and binding_key(each) not in unbound
    ]
    _refuse("exchanges", problems, "none was removed, and no queue", _OTHERS)


def _delete(link: Link, topology: Topology, *, force: bool, typeless: str) -> None:
    channel = link.channel()
    try:
        for _ in channel.call_each(_calls(topology, force=force, typeless=typeless)):
            pass
    finally:
        channel.close()


def _calls(topology: Topology, *, force: bool, typeless: str) -> Iterator[Call]:
    queues = {queue.name for queue in topology.queues}
    for binding in topology.bindings:
        if binding.destination_type == "exchange" or binding.destination not in queues:  # else it goes with its queue
            yield methods.unbinding(binding)
    for queue in topology.queues:
        # Only classic queues know if-unused and if-empty; the others close the connection over them.
        careful = not force and queue.arguments.get("x-queue-type", typeless) == "classic"
        method = spec.Queue.Delete(queue=queue.name, if_unused=careful, if_empty=careful)
        yield Call(method, spec.Queue.DeleteOk, methods.subject(queue))
    for exchange in topology.exchanges:
        last = spec.Exchange.Delete(exchange=exchange.name, if_unused=not force)
        yield Call(last, spec.Exchange.DeleteOk, methods.subject(exchange))
