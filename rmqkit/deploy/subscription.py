"""Subscriptions to an exchange: a queue of one connection's own, or one that is kept for a reader who is away."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rmqkit.amqp import declare_methods
from rmqkit.amqp.inspector import EntityInspector
from rmqkit.deploy import plan_apply
from rmqkit.errors import AccessRefused, InputError, PropertyMismatch
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.report import QueueState
from rmqkit.topology.comparison import binding_key

if TYPE_CHECKING:
    from rmqkit.amqp.channel import Channel, ChannelTransport
    from rmqkit.amqp.reconnect import ReconnectingConnection

MARK = "x-rmqkit-subscription"  # an argument that RabbitMQ keeps and does nothing with: whose subscription a queue is
PRIVATE_LENGTH = 10_000  # messages: a slow reader of a busy exchange does not fill the broker


@dataclass(frozen=True, slots=True)
class Subscription:
    """What is wanted of an exchange: what any of the `keys` matches, or the headers; by default everything.

    `headers` are for a headers exchange, and `match` says whether all of them must be there, or any.
    """

    exchange: str
    keys: tuple[str, ...] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)
    match: str = "all"

    @property
    def is_everything(self) -> bool:
        """Tell whether nothing in particular is asked for."""
        return not self.keys and not self.headers

    def bindings(self, queue: str) -> Iterator[Binding]:
        """Yield what the queue needs; only topic exchanges look at the key `#`, and to them it is everything."""
        arguments = {"x-match": self.match, **self.headers} if self.headers else {}
        for key in self.keys or ("" if self.headers else "#",):
            yield Binding(self.exchange, queue, routing_key=key, arguments=arguments)


class TemporaryQueue:
    """A queue of one connection's own, bounded, and gone with it: declared and bound again on the next connection."""

    def __init__(self, wanted: Subscription, max_length: int | None) -> None:
        self._wanted = wanted
        self._arguments = {"x-max-length": max_length or PRIVATE_LENGTH, "x-overflow": "drop-head"}
        self._declared_on: Callable[[], ChannelTransport | None] = lambda: None
        self._name = ""

    def open(self, channel: Channel) -> str:
        """Declare and bind it, and return its name: another one on each connection.

        The broker may hold the old queue until it finds that the connection before is dead. Raises NotFound,
        AccessRefused, ConnectionLost.
        """
        if self._declared_on() is not channel.transport:
            self._name = f"rmqkit.subscription.{uuid.uuid4().hex}"
            self._declared_on = weakref.ref(channel.transport)
        queue = Queue(self._name, durable=False, auto_delete=True, exclusive=True, arguments=self._arguments)
        declare_methods.declare(channel, queue)
        for binding in self._wanted.bindings(self._name):
            declare_methods.declare(channel, binding)
        return self._name


def check(link: ReconnectingConnection, wanted: Subscription) -> None:
    """Make sure that the exchange is there, and can be asked that way.

    Raises NotFound, InputError for what the exchange would ignore, ConnectionLost.
    """
    if not wanted.exchange:
        raise InputError("the default exchange takes no bindings", advice="Consume the queue itself.")
    channel = link.channel()
    try:
        declare_methods.declare(channel, Exchange(wanted.exchange), passive=True)
    finally:
        channel.close()
    if wanted.keys and not wanted.headers:
        return  # the broker is not to log what is asked for nothing
    kind = _kind(link, wanted.exchange)
    if wanted.headers and kind not in ("headers", ""):
        raise InputError(
            f"exchange {wanted.exchange!r} is of type {kind}, and looks at no headers", advice="Name routing keys."
        )
    if wanted.is_everything and kind not in ("fanout", "topic", "headers", ""):
        raise InputError(
            f"exchange {wanted.exchange!r} is of type {kind}: nobody can ask it for everything",
            advice="Name the routing keys, each with -r.",
        )


def _kind(link: ReconnectingConnection, exchange: str) -> str:
    """Return the type of an exchange; empty if this user may not ask."""
    with EntityInspector(link) as looker:
        try:
            differences = looker.compare(Exchange(exchange)).differences
        except AccessRefused:
            return ""
    return next((each.actual for each in differences if each.property == "type"), "direct")


def keep(
    link: ReconnectingConnection,
    name: str,
    wanted: Subscription,
    *,
    max_length: int | None,
    on_warning: Callable[[str], None],
) -> None:
    """Declare a durable queue and bind it; one that is there keeps what it has, and gets what else is wanted.

    `on_warning` hears of that. Raises PropertyMismatch for another `max_length` than the queue has, and what `declare`
    raises.
    """
    arguments: dict[str, Any] = {MARK: wanted.exchange}
    if max_length:
        arguments["x-max-length"] = max_length
    with EntityInspector(link) as looker:
        is_new = looker.passive_declare(Queue(name)) is None
    bindings = list(wanted.bindings(name))
    if not is_new:
        bindings = _missing(link, name, wanted, on_warning)
    channel = link.channel()
    try:
        if is_new or max_length:
            declare_methods.declare(channel, Queue(name, arguments=arguments))
        for binding in bindings:
            declare_methods.declare(channel, binding)
    finally:
        channel.close()


def remove(link: ReconnectingConnection, name: str, *, force: bool, ours: bool) -> QueueState:
    """Remove the queue of a subscription, known as one if `ours`, and return what it was like.

    Raises NotFound, and PropertyMismatch unless forced: if it holds messages or has consumers, or was made otherwise.
    """
    state = plan_apply.queue_state(link, name)
    seen = plan_apply.take_snapshot(link)
    if not force and not ours:
        _check_ours(name, seen)
    plan_apply.destroy(link, Topology(queues=(Queue(name),)), seen, force=force)
    return state


def _check_ours(name: str, seen: plan_apply.BrokerSnapshot) -> None:
    if seen.live is None:
        what = f"whether queue {name!r} is a subscription's cannot be seen: {seen.blind}"
    elif any(each.name == name and MARK in each.arguments for each in seen.live.topology.queues):
        return
    else:
        what = f"queue {name!r} is no subscription's: `rmqkit subscribe --durable` did not make it"
    advice = "`rmqkit destroy` removes what a topology declares; --force removes the queue, with what it holds."
    raise PropertyMismatch(406, "PRECONDITION_FAILED", f"queue {name!r}", message=what, advice=advice)


def _missing(
    link: ReconnectingConnection, name: str, wanted: Subscription, on_warning: Callable[[str], None]
) -> list[Binding]:
    """Return the bindings that a queue is to get besides those it has; asked for nothing new, it needs one at least."""
    live = plan_apply.take_snapshot(link).live
    if live is None:
        if wanted.is_everything:
            on_warning(f"queue {name!r} is left as it is: without the HTTP API its bindings cannot be seen")
            return []
        on_warning(f"queue {name!r} is there, and keeps what it is bound to besides")
        return list(wanted.bindings(name))
    way = (wanted.exchange, name, "queue")
    bound = [each for each in live.topology.bindings if (each.source, each.destination, each.destination_type) == way]
    if wanted.is_everything and bound:
        return []
    missing = [each for each in wanted.bindings(name) if binding_key(each) not in set(map(binding_key, bound))]
    if missing:
        added = ", ".join(map(str, missing))
        on_warning(f"queue {name!r} keeps what it is bound to; added: {added}")
    return missing
