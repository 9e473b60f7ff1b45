"""The part of a connection that administers a broker: topologies, queues, exchanges, bindings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy.apply import apply
from rmqkit.deploy.broker_snapshot import BrokerSnapshot, take_snapshot
from rmqkit.deploy.destroy import destroy
from rmqkit.deploy.planner import plan
from rmqkit.deploy.queue_use import queue_state
from rmqkit.errors import AccessRefused, AuthenticationFailed, Refused, Unreachable
from rmqkit.http_api import client as http_api
from rmqkit.http_api import permissions, queue_settings
from rmqkit.http_api.client import HttpApiClient
from rmqkit.http_api.mapping import LiveTopology
from rmqkit.message import Delivery
from rmqkit.model import Binding, Exchange, Queue, Target, Topology
from rmqkit.options import ApplyOptions, WaitFor
from rmqkit.plan import Plan
from rmqkit.plural import plural
from rmqkit.report import PurgeReport, QueueState, WaitReport
from rmqkit.settings import Settings
from rmqkit.stop import Stop
from rmqkit.topology.permissions import Permissions

if TYPE_CHECKING:
    from rmqkit.messaging.queue_browser import SideEffects

_log = logging.getLogger("rmqkit")


class Administration:
    """The methods of `Connection` that do not send or receive messages."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._consuming = ReconnectingConnection(settings, f"{name} consumer")
        self._publishing = ReconnectingConnection(settings, f"{name} publisher")

    def plan(self, topology: Topology, *, options: ApplyOptions = ApplyOptions()) -> Plan:  # noqa: B008 - frozen
        """Return the plan of applying a topology, and change nothing.

        Raises AccessRefused, ConnectionLost, and Unreachable if the settings name an HTTP API that does not answer.
        """
        return plan(self._consuming, topology, take_snapshot(self._consuming), options)

    def plan_virtual_host(self, topology: Topology) -> Plan:
        """Return the plan of applying a topology in a virtual host that does not exist yet.

        Raises ConnectionLost, and the errors of `live`.
        """
        snapshot = BrokerSnapshot(self.http_api(), LiveTopology(Topology()), is_new=True)
        return plan(self._consuming, topology, snapshot, ApplyOptions())

    def create_virtual_host(self, name: str) -> None:
        """Create a virtual host in which the user of this connection has all permissions.

        Needs the tag administrator. Raises Refused, and the errors of `live`.
        """
        api = self.http_api()
        api.put_virtual_host(name)
        everything = Permissions(".*", ".*", ".*")
        permissions.put(api, api.address.username, name, everything)

    def apply(
        self,
        topology: Topology,
        *,
        options: ApplyOptions = ApplyOptions(),  # noqa: B008 - frozen
        stop: Stop | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
        on_step: Callable[[str], None] = lambda _step: None,
    ) -> Plan:
        """Declare missing policies, exchanges, queues and bindings; applying twice has the effect of applying once.

        `on_progress` receives the number of changes made and of all changes, `on_step` each step of a replacement. An
        entity that a `stop` kept from being replaced remains in conflict; applying again resumes.

        Raises PropertyMismatch, having changed nothing, with a problem for each entity that exists with different
        properties, or that `options` would delete although it is in use. Raises AccessRefused, ConnectionLost; then a
        second run completes the work. Policies and pruning need RabbitMQ's HTTP API: raises Unreachable without it.
        """
        return apply(
            self._consuming,
            self._publishing,
            topology,
            take_snapshot(self._consuming),
            options,
            stop=stop or Stop(),
            on_progress=on_progress,
            on_step=on_step,
        )

    def destroy(self, topology: Topology, *, force: bool = False, dry_run: bool = False, wait_s: float = 0.0) -> Plan:
        """Delete the entities of a topology and return those that existed; a `dry_run` changes nothing.

        Unless forced, raises PropertyMismatch, having changed nothing, with a problem for each queue that after
        `wait_s` holds messages, unacknowledged ones included, or has consumers; or for each queue, if RabbitMQ's HTTP
        API, which counts those, does not answer. Also raises the errors of `apply`.
        """
        snapshot = take_snapshot(self._consuming)
        return destroy(self._consuming, topology, snapshot, force=force, dry_run=dry_run, wait_s=wait_s)

    def delete(
        self,
        *entities: Queue | Exchange | Binding,
        if_empty: bool = False,
        if_unused: bool = False,
        dry_run: bool = False,
    ) -> Plan:
        """Delete entities, whatever they hold, and return what went with them; a `dry_run` changes nothing.

        Only the name of a queue or exchange counts. With `if_empty`, raises PropertyMismatch for a queue with
        messages, unacknowledged ones included, or that RabbitMQ's HTTP API does not count; with `if_unused`, for one
        with consumers, or an exchange that feeds another entity. Raises InputError for the exchanges of RabbitMQ
        itself, NotFound, ResourceLocked, AccessRefused, ConnectionLost.
        """
        from rmqkit.deploy.delete import delete_entities  # noqa: PLC0415 - start-up time: few commands delete

        return delete_entities(self._consuming, entities, if_empty=if_empty, if_unused=if_unused, dry_run=dry_run)

    def live(self, *, timeout_s: float = http_api.TIMEOUT_S) -> LiveTopology:
        """Return all entities of the virtual host, from RabbitMQ's HTTP API.

        Raises Unreachable, after `timeout_s` without an answer, too; AuthenticationFailed, AccessRefused.
        """
        return http_api.connect(self._consuming, timeout_s).live()

    def http_api(self) -> HttpApiClient:
        """Return a client of RabbitMQ's HTTP API, verified to be that of this broker. Raises the errors of `live`."""
        return http_api.connect(self._consuming)

    def dead_letter_target(self, queue: str) -> Target | None:
        """Return where the messages that a queue rejects go; None if they are dropped.

        A routing key of "" keeps the message's own. Raises NotFound, and the errors of `live`, after five seconds
        without an answer.
        """
        return queue_settings.dead_letter_target(http_api.connect(self._consuming, timeout_s=5.0), queue)

    def complete_advice(self, error: BaseException | None) -> None:
        """Add the command that grants a missing permission to the advice of an error, if RabbitMQ's HTTP API answers.

        The HTTP API shows permissions only to administrators. Leaving the `with` block of a connection does this, too.
        """
        if isinstance(error, AccessRefused):
            permissions.complete(error, self._consuming)

    def queue_settings(self, queue: str) -> dict[str, Any] | None:
        """Return the settings of a queue, in argument form, with those of its policies and its type.

        Return None where RabbitMQ's HTTP API does not answer within five seconds, or refuses; then a stream alone is
        recognized. Raises NotFound, ResourceLocked, AccessRefused, ConnectionLost.
        """
        self.queue_state(queue)
        try:
            return queue_settings.live_settings(http_api.connect(self._consuming, timeout_s=5.0), queue)
        except (Unreachable, AuthenticationFailed, Refused):
            return {"x-queue-type": "stream"} if self.is_stream(queue) else None

    def _side_effects(self, queue: str) -> SideEffects:
        """Return the side effects of browsing a queue. Raises the errors of `queue_settings`."""
        from rmqkit.messaging.queue_browser import SideEffects  # noqa: PLC0415 - start-up time: few commands browse

        settings = self.queue_settings(queue)
        with closing(self._consuming.channel()) as channel:
            return SideEffects.of(settings, channel.transport.version)

    def queue_state(self, queue: str, *, timeout_s: float | None = None) -> QueueState:
        """Return the numbers of ready messages and of consumers of a queue.

        `timeout_s` bounds the call, connecting included. Raises NotFound, ResourceLocked, AccessRefused; Unreachable
        and ConnectionLost, also after the timeout.
        """
        return queue_state(self._consuming, queue, timeout_s)

    def wait_for_queue(
        self, queue: str, wanted: WaitFor, *, timeout_s: float = 60.0, stop: Stop | None = None
    ) -> WaitReport:
        """Wait until a queue has the wanted state, or until the timeout.

        If the queue does not exist yet, waits until it does; with `empty`, raises NotFound instead. Waiting for a queue
        that is not classic to be empty takes at least 6 s, and up to 6 s longer than `timeout_s`, since its number of
        unacknowledged messages is updated every 5 s. Raises ResourceLocked, AccessRefused, Unreachable, ConnectionLost.
        """
        from rmqkit.deploy.queue_wait import wait_for_queue  # noqa: PLC0415 - start-up time: few commands wait

        return wait_for_queue(self._consuming, queue, wanted, timeout_s, stop or Stop())

    def is_stream(self, queue: str) -> bool:
        """Tell whether a queue is a stream. Raises ConnectionLost."""
        with EntityInspector(self._consuming) as inspector:
            return inspector.is_stream(queue)

    def purge(
        self,
        queue: str,
        *,
        matches: Callable[[Delivery], bool] | None = None,
        dry_run: bool = False,
        force: bool = False,
        stop: Stop | None = None,
        on_progress: Callable[[int, str], None] = lambda _scanned, _blocked: None,
        on_warning: Callable[[str], None] = _log.warning,
    ) -> PurgeReport:
        """Delete the ready messages of a queue, or in one pass those that match; none is dead-lettered.

        Messages that do not match, or are unacknowledged, stay. A dry run only counts, with `matches` within the
        bounds of a dry run of `move`. With `matches`, unless forced, raises InputError if that might delay, drop or
        dead-letter the messages that stay. Raises the errors of `move`.
        """
        from rmqkit.messaging import purge  # noqa: PLC0415 - start-up time: few commands purge

        if matches is None:
            return purge.purge(self._consuming, queue, dry_run=dry_run)
        effects = self._side_effects(queue)
        if not force and effects.type:
            effects.check(queue)
        return purge.purge_matching(
            self._consuming,
            queue,
            matches,
            queue_type=effects.type,
            dry_run=dry_run,
            stop=stop or Stop(),
            on_progress=on_progress,
            on_warning=on_warning,
        )


def overflow_warning(broker: Administration, queue: str, added: int) -> str:
    """Say that a queue will not keep so many messages besides its own; empty if it will, or if that is not known.

    Raises ConnectionLost.
    """
    try:
        settings, ready = broker.queue_settings(queue) or {}, broker.queue_state(queue).ready
    except Refused:
        return ""
    loss = queue_settings.overflow(settings, ready + added)
    return f"queue {queue!r} may have no room for {plural(added, 'message')}: {loss}" if loss else ""
