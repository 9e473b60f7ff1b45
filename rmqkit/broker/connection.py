"""The connection as users see it: declare, publish, consume, move, call, serve.

Comes in: settings or URLs, topologies, messages, queue names. Goes out: plans, reports, consumers, answers.
Room: broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from rmqkit.broker import server, trouble
from rmqkit.broker.caller import Caller
from rmqkit.broker.consumer import Consumer
from rmqkit.broker.declarer import Declarer
from rmqkit.broker.link import Link
from rmqkit.broker.options import (
    CallOptions,
    ConsumeOptions,
    MoveOptions,
    PublishOptions,
    Replay,
    ServeOptions,
)
from rmqkit.broker.publisher import Publisher
from rmqkit.message import Delivery, Message
from rmqkit.model import Exchange, Target, Topology
from rmqkit.payload.contracts import Contracts
from rmqkit.report import Answer, Fate, MoveReport, PublishReport, ServeReport
from rmqkit.settings import Settings, load_settings
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.broker.rehearsal import Rehearsal
    from rmqkit.broker.stream import Offset

F = TypeVar("F", bound=server.Function)


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
        super().__init__(Link(settings, "consumer"), Link(settings, "publisher"))
        self._callers: list[Caller] = []  # those that nobody uses at the moment
        self._served: list[server.Served] = []
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
        if check and (error := trouble.of_run(report)):
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
        from rmqkit.broker.move import Move  # noqa: PLC0415 - start-up time: few connections move
        from rmqkit.broker.ways import finder  # noqa: PLC0415

        options = MoveOptions(limit, rate, dry_run)
        return Move(
            self._publishing, source, finder(to), matches, options, stop or Stop(), on_progress, on_warning
        ).run()

    def rehearsal(self, *, stop: Stop | None = None) -> Rehearsal:
        """Return a stage for the scenarios of `rmqkit test`, to be used in a `with` block; it needs AMQP alone."""
        from rmqkit.broker.rehearsal import Rehearsal  # noqa: PLC0415 - start-up time: few connections test

        stop = stop or Stop()
        return Rehearsal(self._consuming, partial(self.publish, stop=stop), stop)

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
            caller = Caller(self._publishing)
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
            served = server.checked(function, check) if check else function
            self._served.append(server.Served(served, queue, options))
            return function

        return register

    def run(
        self,
        *,
        stop: Stop | None = None,
        on_failure: server.OnFailure | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> ServeReport:
        """Serve all that was registered, until a stop is requested; what runs by then is finished.

        Each reply is confirmed before its request is acknowledged: at least once. `on_failure` gets every request that
        a function failed at, and the exception; without it, they are logged. Raises what a consumer raises.
        """
        site = server.Site(self._consuming, self._publishing, stop or Stop(), on_failure, on_warning)
        return server.run(self._served, site)

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
