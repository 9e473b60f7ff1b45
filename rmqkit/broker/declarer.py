"""What is declared on a broker: planned, applied, looked at, destroyed; and subscriptions.

Comes in: topologies, names. Goes out: plans, and what the broker has. Room: broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from rmqkit.broker import declare
from rmqkit.broker.link import Link
from rmqkit.broker.management import Live
from rmqkit.broker.options import ApplyOptions
from rmqkit.errors import NotFound
from rmqkit.model import Topology
from rmqkit.plan import Plan
from rmqkit.report import QueueState, QueueStatus
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.broker.subscription import Private


class Declarer:
    """Declares over one link; over the other it moves messages, where a queue is replaced."""

    def __init__(self, consuming: Link, publishing: Link) -> None:
        self._consuming = consuming
        self._publishing = publishing
        self._private: dict[str, Private] = {}  # by the names that `subscribe` returned

    def plan(self, topology: Topology, *, options: ApplyOptions = ApplyOptions()) -> Plan:  # noqa: B008 - frozen
        """Tell what applying a topology would do, and change nothing.

        Raises AccessRefused, ConnectionLost, and Unreachable if the settings name an HTTP API that does not answer.
        """
        return declare.plan(self._consuming, topology, declare.sight(self._consuming), options)

    def apply(
        self,
        topology: Topology,
        *,
        options: ApplyOptions = ApplyOptions(),  # noqa: B008 - frozen
        stop: Stop | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
        on_step: Callable[[str], None] = lambda _step: None,
    ) -> Plan:
        """Declare what is missing: policies, exchanges, queues, bindings; applying twice equals applying once.

        `on_progress` is told how many changes are done, and how many there are; `on_step` hears of each step of
        replacing. What a `stop` kept from being replaced is in conflict still, and applying again goes on.

        Raises PropertyMismatch with a problem for each entity that is there with other properties, or that `options`
        would delete although it is in use; then nothing was changed. Raises AccessRefused, ConnectionLost; then a
        second run finishes the work. Policies and pruning need RabbitMQ's HTTP API: Unreachable without.
        """
        seen = declare.sight(self._consuming)
        return declare.apply(
            self._consuming,
            self._publishing,
            topology,
            seen,
            options,
            stop=stop or Stop(),
            on_progress=on_progress,
            on_step=on_step,
        )

    def destroy(self, topology: Topology, *, force: bool = False, dry_run: bool = False) -> Plan:
        """Remove what a topology declares, and return what was there; a `dry_run` only looks.

        Raises PropertyMismatch with a problem for each queue that holds messages or has consumers, unless forced; then
        nothing was changed. Raises also what `apply` raises.
        """
        seen = declare.sight(self._consuming)
        return declare.destroy(self._consuming, topology, seen, force=force, dry_run=dry_run)

    def live(self) -> Live:
        """Return all that the virtual host holds, as RabbitMQ's HTTP API shows it.

        Raises Unreachable, AuthenticationFailed, AccessRefused if that does not answer, or not to us.
        """
        return self._consuming.management().live()

    def queue_statuses(self) -> tuple[QueueStatus, ...]:
        """Return how all queues of the virtual host do, sorted by name.

        Raises what `live` raises.
        """
        return self._consuming.management().queues()

    def queue_state(self, queue: str) -> QueueState:
        """Tell how many messages are ready in a queue, and how many consumers it has.

        Raises NotFound, ResourceLocked, AccessRefused, ConnectionLost.
        """
        return declare.queue_state(self._consuming, queue)

    def subscribe(
        self,
        exchange: str,
        keys: Iterable[str] = (),
        *,
        headers: Mapping[str, Any] | None = None,
        match: Literal["all", "any"] = "all",
        durable: str = "",
        max_length: int | None = None,
        on_warning: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Return the name of a queue that gets what any of the keys matches, or the headers; without any, everything.

        The queue is this connection's own and gone with it, or with its last consumer; beyond `max_length` messages,
        10,000 unless given, the oldest are dropped. A consumer goes on with a new one after a lost connection.

        One that is `durable`, by that name, stays until `unsubscribe`; if it is there it keeps its bindings, and those
        that are added are told to `on_warning`. Raises NotFound if there is no such exchange, InputError for what its
        type would ignore, PropertyMismatch, AccessRefused, ConnectionLost.
        """
        from rmqkit.broker import subscription  # noqa: PLC0415 - start-up time: few connections subscribe

        wanted = subscription.Subscription(exchange, tuple(keys), headers or {}, match)
        subscription.check(self._consuming, wanted)
        if durable:
            subscription.keep(self._consuming, durable, wanted, max_length=max_length, on_warning=on_warning)
            return durable
        private = subscription.Private(wanted, max_length)
        channel = self._consuming.channel()
        try:
            name = private.open(channel)
        finally:
            channel.close()
        self._private[name] = private
        return name

    def unsubscribe(self, queue: str, *, force: bool = False) -> QueueState:
        """Remove the queue of a subscription, and return what it was like.

        Raises NotFound, and PropertyMismatch unless forced: if it holds messages or has consumers, or was not made by
        `subscribe`, which RabbitMQ's HTTP API tells.
        """
        from rmqkit.broker import subscription  # noqa: PLC0415

        try:
            state = subscription.remove(self._consuming, queue, force=force, ours=queue in self._private)
        except NotFound:  # it went with its consumer
            self._private.pop(queue, None)
            raise
        self._private.pop(queue, None)
        return state
