"""Subscriptions to an exchange: a temporary queue of one connection, or a durable one that outlives it."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from rmqkit.amqp import entity_methods
from rmqkit.amqp.channel import Channel, ChannelTransport
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy.broker_snapshot import BrokerSnapshot, take_snapshot
from rmqkit.deploy.destroy import destroy
from rmqkit.deploy.queue_use import queue_state
from rmqkit.errors import AccessRefused, InputError, NotFound, PropertyMismatch
from rmqkit.model import Binding, Exchange, Queue, Topology
from rmqkit.report import QueueState
from rmqkit.topology.comparison import binding_key

MARK = "x-rmqkit-subscription"  # an argument of the queue that RabbitMQ keeps and ignores: the exchange
_BIND_ANOTHER = "First bind a permanent queue, or declare the exchange without auto_delete."
DEFAULT_MAX_LENGTH = 10_000  # messages of a temporary queue: a slow reader of a busy exchange does not fill the broker


@dataclass(frozen=True, slots=True)
class Subscription:
    """The messages wanted of an exchange: those that any of the `keys` matches, or the headers; by default all.

    `headers` are for a headers exchange; `match` says whether all of them have to match, or any.
    """

    exchange: str
    keys: tuple[str, ...] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)
    match: str = "all"

    @property
    def is_everything(self) -> bool:
        """Tell whether all messages are wanted."""
        return not self.keys and not self.headers

    def bindings(self, queue: str) -> Iterator[Binding]:
        """Yield the bindings of the queue; only topic exchanges use the key `#`, and to them it is everything."""
        arguments = {"x-match": self.match, **self.headers} if self.headers else {}
        for key in self.keys or ("" if self.headers else "#",):
            yield Binding(self.exchange, queue, routing_key=key, arguments=arguments)


class TemporaryQueue:
    """A bounded, exclusive queue that is deleted with its connection, and declared and bound again on the next one."""

    def __init__(self, subscription: Subscription, max_length: int | None) -> None:
        self._subscription = subscription
        self._arguments = {"x-max-length": max_length or DEFAULT_MAX_LENGTH, "x-overflow": "drop-head"}
        self._declared_on: Callable[[], ChannelTransport | None] = lambda: None
        self._name = ""

    def open(self, channel: Channel) -> str:
        """Declare and bind the queue, and return its name, which differs on each connection.

        The broker may keep the old queue until it finds that the earlier connection is dead. Raises NotFound,
        AccessRefused, ConnectionLost.
        """
        if self._declared_on() is not channel.transport:
            self._name = f"rmqkit.subscription.{uuid.uuid4().hex}"
            self._declared_on = weakref.ref(channel.transport)
        queue = Queue(self._name, durable=False, auto_delete=True, exclusive=True, arguments=self._arguments)
        entity_methods.declare(channel, queue)
        for binding in self._subscription.bindings(self._name):
            entity_methods.declare(channel, binding)
        return self._name


class Subscriptions:
    """The subscriptions of one connection, and its temporary queues by name."""

    def __init__(self, connection: ReconnectingConnection) -> None:
        self._connection = connection
        self._temporary: dict[str, TemporaryQueue] = {}

    def subscribe(
        self, subscription: Subscription, durable: str, *, max_length: int | None, on_warning: Callable[[str], None]
    ) -> str:
        """Bind a temporary queue, or the `durable` one, and return its name; `Connection.subscribe` has the errors."""
        _check(self._connection, subscription)
        if durable:
            _declare_durable(self._connection, durable, subscription, max_length=max_length, on_warning=on_warning)
            return durable
        queue = TemporaryQueue(subscription, max_length)
        with closing(self._connection.channel()) as channel:
            name = queue.open(channel)
        self._temporary[name] = queue
        return name

    def open_queue(self, name: str) -> Callable[[Channel], str] | None:
        """Return the function that declares a temporary queue again on a new connection; None for any other queue."""
        return self._temporary[name].open if name in self._temporary else None

    def unsubscribe(self, name: str, *, force: bool) -> QueueState:
        """Delete the queue of a subscription, and return its last state; `Connection.unsubscribe` has the errors."""
        is_temporary = name in self._temporary
        try:
            state = queue_state(self._connection, name)
            snapshot = take_snapshot(self._connection)
            if not (force or is_temporary):
                _check_mark(name, snapshot)
            queue = Queue(name, exclusive=is_temporary)
            destroy(self._connection, Topology(queues=(queue,)), snapshot, force=force)
        except NotFound:  # deleted with its consumer
            self._temporary.pop(name, None)
            raise
        self._temporary.pop(name, None)
        return state


def _check(connection: ReconnectingConnection, subscription: Subscription) -> None:
    """Make sure that the exchange exists, supports the subscription, and survives it.

    Raises NotFound, InputError for routing keys or headers that the exchange would ignore, PropertyMismatch for an
    auto-delete exchange that nothing else is bound to, AccessRefused, ConnectionLost.
    """
    name = subscription.exchange
    if not name:
        raise InputError("the default exchange takes no bindings", advice="Consume the queue itself.")
    with closing(connection.channel()) as channel, suppress(AccessRefused):  # binding tells, and requires less
        entity_methods.declare(channel, Exchange(name), passive=True)
    kind, auto_delete = _type_and_auto_delete(connection, name)
    if subscription.headers and kind not in ("headers", ""):
        raise InputError(f"exchange {name!r} is of type {kind}, which ignores headers", advice="Name routing keys.")
    if subscription.is_everything and kind not in ("fanout", "topic", "headers", ""):
        message = f"exchange {name!r} is of type {kind}: it cannot be subscribed to without routing keys"
        raise InputError(message, advice="Name the routing keys, each with -r.")
    if auto_delete:
        _require_other_binding(connection, name)


def _type_and_auto_delete(connection: ReconnectingConnection, exchange: str) -> tuple[str, bool]:
    """Return the type of an exchange, and whether it is auto-delete; nothing if this user may not declare it.

    Each property that differs from the default is an error in the broker's log.
    """
    with EntityInspector(connection) as inspector:
        try:
            actual = {each.property: each.actual for each in inspector.compare(Exchange(exchange)).differences}
        except AccessRefused:
            return "", False
    return actual.get("type", "direct"), actual.get("auto_delete") == "true"


def _require_other_binding(connection: ReconnectingConnection, exchange: str) -> None:
    """Raise PropertyMismatch if an auto-delete exchange would be deleted with the queue of a subscription."""
    snapshot = take_snapshot(connection)
    if snapshot.topology is None:
        reason = f"its other bindings cannot be seen ({snapshot.unavailable}); if it has none"
    elif any(each.source == exchange for each in snapshot.topology.bindings):
        return
    else:
        reason = "nothing else is bound to it"
    message = f"exchange {exchange!r} is auto-delete, and {reason}, it would be deleted when the subscription ends"
    raise PropertyMismatch(406, "auto-delete", f"exchange {exchange!r}", message=message, advice=_BIND_ANOTHER)


def _declare_durable(
    connection: ReconnectingConnection,
    name: str,
    subscription: Subscription,
    *,
    max_length: int | None,
    on_warning: Callable[[str], None],
) -> None:
    """Declare a durable queue and bind it; one that exists keeps its bindings and gets those it lacks.

    `on_warning` is called with the bindings that an existing queue gets. Raises PropertyMismatch if the queue has
    another `max_length`, and what `declare` raises.
    """
    arguments: dict[str, Any] = {MARK: subscription.exchange}
    if max_length:
        arguments["x-max-length"] = max_length
    with EntityInspector(connection) as inspector:
        is_new = inspector.passive_declare(Queue(name)) is None
    bindings = list(subscription.bindings(name))
    if not is_new:
        bindings = _missing(connection, name, subscription, on_warning)
    with closing(connection.channel()) as channel:
        if is_new or max_length:
            entity_methods.declare(channel, Queue(name, arguments=arguments))
        for binding in bindings:
            entity_methods.declare(channel, binding)


def _check_mark(name: str, snapshot: BrokerSnapshot) -> None:
    if snapshot.topology is None:
        message = f"cannot tell whether queue {name!r} is a subscription: {snapshot.unavailable}"
    elif any(each.name == name and MARK in each.arguments for each in snapshot.topology.queues):
        return
    else:
        message = f"queue {name!r} is not a subscription: it was not created by subscribing"
    advice = "Destroying a topology deletes what it declares; `force=True` deletes the queue with its messages."
    raise PropertyMismatch(406, "PRECONDITION_FAILED", f"queue {name!r}", message=message, advice=advice)


def _missing(
    connection: ReconnectingConnection, name: str, subscription: Subscription, on_warning: Callable[[str], None]
) -> list[Binding]:
    """Return the bindings that an existing queue lacks; one that is to get everything needs no more than it has."""
    live = take_snapshot(connection).topology
    if live is None:
        if subscription.is_everything:
            on_warning(f"queue {name!r} is unchanged: without the HTTP API its bindings cannot be seen")
            return []
        on_warning(f"queue {name!r} exists and keeps its other bindings")
        return list(subscription.bindings(name))
    ends = (subscription.exchange, name, "queue")
    bound = {
        binding_key(each) for each in live.bindings if (each.source, each.destination, each.destination_type) == ends
    }
    if subscription.is_everything and bound:
        return []
    missing = [each for each in subscription.bindings(name) if binding_key(each) not in bound]
    if missing:
        on_warning(f"queue {name!r} keeps its bindings; added: {', '.join(map(str, missing))}")
    return missing
