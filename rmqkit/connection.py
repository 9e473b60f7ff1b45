"""The connection as users see it: declare, publish, consume, move, call, serve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.deploy import plan_apply
from rmqkit.errors import NotFound
from rmqkit.http_api import client as http_api
from rmqkit.http_api.client import LiveTopology
from rmqkit.message import Delivery, Message
from rmqkit.messaging import rpc_server
from rmqkit.messaging.consumer import Consumer
from rmqkit.messaging.publisher import Publisher
from rmqkit.messaging.rpc_client import RpcClient
from rmqkit.model import Exchange, Target, Topology
from rmqkit.options import ApplyOptions, CallOptions, ConsumeOptions, MoveOptions, PublishOptions, Replay, ServeOptions
from rmqkit.payload.contracts import Contracts
from rmqkit.plan import Plan
from rmqkit.report import Answer, Fate, MoveReport, PublishReport, QueueState, QueueStatus, ServeReport
from rmqkit.settings import Settings, load_settings
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.deploy.scenario_runner import ScenarioRunner
    from rmqkit.deploy.subscription import TemporaryQueue
    from rmqkit.options import Offset


class Declarer:
    """Declares over one link; over the other it moves messages, where a queue is replaced."""

    def __init__(self, consuming: ReconnectingConnection, publishing: ReconnectingConnection) -> None:
        self._consuming = consuming
        self._publishing = publishing
        self._private: dict[str, TemporaryQueue] = {}  # by the names that `subscribe` returned

    def plan(self, topology: Topology, *, options: ApplyOptions = ApplyOptions()) -> Plan:  # noqa: B008 - frozen
        """Tell what applying a topology would do, and change nothing.

        Raises AccessRefused, ConnectionLost, and Unreachable if the settings name an HTTP API that does not answer.
        """
        return plan_apply.plan(self._consuming, topology, plan_apply.take_snapshot(self._consuming), options)

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
        seen = plan_apply.take_snapshot(self._consuming)
        return plan_apply.apply(
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
        seen = plan_apply.take_snapshot(self._consuming)
        return plan_apply.destroy(self._consuming, topology, seen, force=force, dry_run=dry_run)

    def live(self) -> LiveTopology:
        """Return all that the virtual host holds, as RabbitMQ's HTTP API shows it.

        Raises Unreachable, AuthenticationFailed, AccessRefused if that does not answer, or not to us.
        """
        return http_api.connect(self._consuming).live()

    def queue_statuses(self) -> tuple[QueueStatus, ...]:
        """Return how all queues of the virtual host do, sorted by name.

        Raises what `live` raises.
        """
        return http_api.connect(self._consuming).queues()

    def queue_state(self, queue: str) -> QueueState:
        """Tell how many messages are ready in a queue, and how many consumers it has.

        Raises NotFound, ResourceLocked, AccessRefused, ConnectionLost.
        """
        return plan_apply.queue_state(self._consuming, queue)

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
        from rmqkit.deploy import subscription  # noqa: PLC0415 - start-up time: few connections subscribe

        wanted = subscription.Subscription(exchange, tuple(keys), headers or {}, match)
        subscription.check(self._consuming, wanted)
        if durable:
            subscription.keep(self._consuming, durable, wanted, max_length=max_length, on_warning=on_warning)
            return durable
        private = subscription.TemporaryQueue(wanted, max_length)
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
        from rmqkit.deploy import subscription  # noqa: PLC0415

        try:
            state = subscription.remove(self._consuming, queue, force=force, ours=queue in self._private)
        except NotFound:  # it went with its consumer
            self._private.pop(queue, None)
            raise
        self._private.pop(queue, None)
        return state


F = TypeVar("F", bound=rpc_server.Function)


def connect(*urls: str, settings: Settings | None = None) -> Connection:
    """Connect to the first broker that answers.

    Without a URL those of RMQKIT_URL, AMQP_URL or CLOUDAMQP_URL are used, else `amqp://guest:guest@localhost:5672/`.
    Raises SettingsError, Unreachable, AuthenticationFailed.
    """
    return Connection(settings or load_settings(urls))


class Connection(Declarer):
    """A way to one broker, or to several that stand in for each other.

    Publishing has a TCP connection of its own, because a broker under an alarm stops reading from publishers only
    (https://www.rabbitmq.com/docs/connection-blocked). Threads may share a connection; a consumer belongs to one.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(ReconnectingConnection(settings, "consumer"), ReconnectingConnection(settings, "publisher"))
        self._callers: list[RpcClient] = []  # those that nobody uses at the moment
        self._served: list[rpc_server.ServedFunction] = []
        self._contracts: tuple[Topology, Contracts] | None = None
        self._consuming.verify()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def blocked(self) -> str:
        """Say why the broker takes nothing from publishers at the moment; empty when it does."""
        return self._publishing.blocked

    def publish(
        self,
        messages: Message | Iterable[Message | None],
        *,
        topology: Topology | None = None,
        options: PublishOptions = PublishOptions(),  # noqa: B008 - frozen
        check: bool = True,
        stop: Stop | None = None,
        on_progress: Callable[[PublishReport], None] | None = None,
        on_settled: Callable[[int, Message, Fate], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> PublishReport:
        """Publish messages, each persistent, mandatory and confirmed unless it or `options` says otherwise.

        A None among the messages waits until those before it are settled. `on_progress` gets the report so far about
        ten times a second and at the end, also when this raises; `on_settled` the index, the message and the fate of
        each message, once; `on_warning` hears of what went wrong and is recovered from.

        What breaks the contract that the `topology` has for its exchange, or for the queue it goes straight to, is not
        sent: PayloadError tells its number, from 1, the place and the rule, once all before it are settled.

        With `check`, as with `subprocess.run`, a message that was not confirmed raises: Unroutable for one that reached
        no queue through the default exchange, NotConfirmed for any other but one that merely had no reader behind its
        exchange. Raises also PayloadError for what AMQP cannot carry, ConnectionLost when recovery fails. The `report`
        of a BrokerError has the numbers.
        """
        source = (messages,) if isinstance(messages, Message) else messages
        if topology:
            source = self._contracts_of(topology).checked(source)
        publisher = Publisher(
            self._publishing,
            options,
            stop=stop,
            on_progress=on_progress,
            on_settled=on_settled,
            on_warning=on_warning,
        )
        report = publisher.publish(source)
        if check and (error := report.error()):
            raise error
        return report

    def consume(
        self,
        queue: str,
        *,
        prefetch: int = 1000,
        count: int | None = None,
        idle_timeout_s: float | None = None,
        no_ack: bool = False,
        offset: Offset | None = None,
        stop: Stop | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> Consumer:
        """Return a consumer of a queue: iterate over it, or over its `batches`.

        The options are explained at `ConsumeOptions`; `on_warning` hears of what went wrong and is recovered from.
        """
        options = ConsumeOptions(prefetch, count, idle_timeout_s, no_ack, offset)
        private = self._private.get(queue)
        return Consumer(
            self._consuming,
            queue,
            options,
            stop=stop,
            on_warning=on_warning,
            open_queue=private.open if private else None,
        )

    def move(
        self,
        source: str,
        to: Replay | Target | Exchange = Replay.QUEUE,
        *,
        matches: Callable[[Delivery], bool] = lambda _: True,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        stop: Stop | None = None,
        on_progress: Callable[[int, str], None] = lambda _looked, _blocked: None,
        on_warning: Callable[[str], None] = lambda _: None,
    ) -> MoveReport:
        """Move what a queue holds back to where it came from, or to a target; an Exchange gets it with its own key.

        Each message is acknowledged once its copy is confirmed. What does not match, or cannot be moved, stays; one
        pass over what is there at the start is made. `limit` bounds how many are moved, `rate` how many a second;
        `on_progress` hears how many were looked at, and why the broker takes nothing. Raises NotFound, AccessRefused,
        ResourceLocked, ConsumerCancelled, NotConfirmed, ConnectionLost; the `report` of these has the numbers.
        """
        from rmqkit.messaging.message_rewrite import destination_for  # noqa: PLC0415
        from rmqkit.messaging.move import Move  # noqa: PLC0415 - start-up time: few connections move

        options = MoveOptions(limit, rate, dry_run)
        return Move(
            self._publishing, source, destination_for(to), matches, options, stop or Stop(), on_progress, on_warning
        ).run()

    def rehearsal(self, *, stop: Stop | None = None) -> ScenarioRunner:
        """Return a stage for the scenarios of `rmqkit test`, to be used in a `with` block; it needs AMQP alone."""
        from rmqkit.deploy.scenario_runner import ScenarioRunner  # noqa: PLC0415 - start-up time: few connections test

        stop = stop or Stop()
        return ScenarioRunner(self._consuming, partial(self.publish, stop=stop), stop)

    def call(self, request: Message, *, timeout_s: float = 10.0) -> Delivery:
        """Send a request and return the reply to it.

        `reply_to` and `correlation_id` are set here. The request is transient, for its reply would be lost with the
        broker, and expires with the time for its reply, unless it says otherwise. Raises ReplyTimeout, Unroutable when
        no queue takes the request, NotConfirmed when it is full, RemoteError when the server says that it failed,
        Refused, and ConnectionLost: then it may have been handled.
        """
        (answer,) = self.call_many((request,), timeout_s=timeout_s)
        return answer.reply

    def call_many(
        self,
        requests: Iterable[Message | None],
        *,
        timeout_s: float = 10.0,
        replies: int | None = 1,
        window: int = 100,
        idempotent: bool = False,
        on_warning: Callable[[str], None] | None = None,
    ) -> Iterator[Answer]:
        """Send requests, several at once, and yield an answer for each, in their order.

        The options are explained at `CallOptions`; a None among the requests waits until those before it were answered.
        An answer has the replies, or the error that `call` would raise. Raises what `requests` raises, and
        ConnectionLost or AuthenticationFailed when there is no way to the broker any more, after the answers to what
        was sent before.
        """
        options = CallOptions(timeout_s, replies, window, idempotent)
        try:
            caller = self._callers.pop()
        except IndexError:
            caller = RpcClient(self._publishing)
        try:
            yield from caller.run(requests, options, on_warning)
        finally:
            self._callers.append(caller)

    def serve(
        self,
        queue: str,
        *,
        prefetch: int = 1,
        count: int | None = None,
        concurrency: int = 1,
        reject_failed: bool = False,
        topology: Topology | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function to answer the requests in a queue, once `run` is called.

        It gets a Delivery and returns the reply: bytes, str, a Message, or None for an empty one. The message of a
        HandlerError that it raises is told to the requester, of any other exception the name alone. A request that
        breaks the contract that the `topology` has for the queue is answered so, too. The options are explained at
        `ServeOptions`.
        """
        options = ServeOptions(prefetch, count, concurrency, reject_failed)
        check = self._contracts_of(topology).check("", queue) if topology else None

        def register(function: F) -> F:
            served = rpc_server.checked(function, check) if check else function
            self._served.append(rpc_server.ServedFunction(served, queue, options))
            return function

        return register

    def run(
        self,
        *,
        stop: Stop | None = None,
        on_failure: rpc_server.OnFailure | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> ServeReport:
        """Serve all that was registered, until a stop is requested; what runs by then is finished.

        Each reply is confirmed before its request is acknowledged: at least once. `on_failure` gets every request that
        a function failed at, and the exception; without it, they are logged. Raises what a consumer raises.
        """
        context = rpc_server.ServeContext(self._consuming, self._publishing, stop or Stop(), on_failure, on_warning)
        return rpc_server.run(self._served, context)

    def _contracts_of(self, topology: Topology) -> Contracts:
        """Return the contracts of a topology; those of the last one are kept, for their schemas take time to read."""
        if self._contracts is None or self._contracts[0] is not topology:
            exchanges = {each.name: each.contract for each in topology.exchanges if each.contract}
            queues = {each.name: each.contract for each in topology.queues if each.contract}
            self._contracts = topology, Contracts(exchanges, queues)
        return self._contracts[1]

    def close(self) -> None:
        """Close; deliveries that were not settled go back to their queues."""
        self._publishing.close()
        self._consuming.close()
