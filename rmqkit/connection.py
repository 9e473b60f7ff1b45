"""The connection as users see it: administer, publish, consume, move, call, serve."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from rmqkit.deploy.subscription import Subscription, Subscriptions
from rmqkit.hooks import GuardedHooks, Hooks
from rmqkit.message import Message
from rmqkit.messaging.background_publisher import BackgroundPublisher
from rmqkit.messaging.consumer import Consumer
from rmqkit.messaging.delayed_publishing import Delay, DelayedPublishing
from rmqkit.messaging.idle_callback import with_idle_callback
from rmqkit.messaging.publish_channel import IdleChannels
from rmqkit.messaging.publish_counts import PublishCallbacks
from rmqkit.messaging.publisher import Publisher
from rmqkit.messaging.shared_publisher import SharedPublisher
from rmqkit.model import Target, Topology
from rmqkit.options import (
    MAX_PREFETCH,
    ConsumeOptions,
    Offset,
    PublishOptions,
)
from rmqkit.report import (
    ConsumeReport,
    Failure,
    Fate,
    PublishReport,
    QueueState,
)
from rmqkit.request_reply import RequestReply
from rmqkit.settings import Settings, load_settings
from rmqkit.stop import Stop, StoppedAtOnce

if TYPE_CHECKING:
    from rmqkit.deploy.scenario_runner import ScenarioRunner
    from rmqkit.handlers.function import HandlerFunction
    from rmqkit.handlers.function_runner import BatchFunction, Transform, WorkOptions
    from rmqkit.handlers.handler import Handler

OnWarning = Callable[[str], None]
DEFAULTS = PublishOptions()
_log = logging.getLogger("rmqkit")
_LOGGED = PublishCallbacks(on_warning=_log.warning)


def connect(
    *urls: str,
    context: str | None = None,
    settings: Settings | None = None,
    name: str = "rmqkit",
    wait_s: float = 0.0,
    recover_s: float | None = 60.0,
    hooks: Hooks | None = None,
    stop: Stop | None = None,
) -> Connection:
    """Connect to the first broker that answers; RabbitMQ lists the connection under `name`.

    Without a URL or the name of a `context`, use RMQKIT_URL, RMQKIT_CONTEXT, AMQP_URL or CLOUDAMQP_URL, else
    `amqp://guest:guest@localhost:5672/`: the choice of `rmqkit context use` holds for the command line only. A broker
    that does not answer, as at the start of a container, is tried again for `wait_s`, or until a `stop` is requested.
    A connection that is lost later is reopened for `recover_s`, unless `settings` are given; None sets no limit.
    `hooks` observe what is published and consumed: see `Hooks`. Raises SettingsError, Unreachable,
    AuthenticationFailed.
    """
    settings = settings or replace(load_settings(urls, context=context), recover_s=recover_s)
    if hooks is not None:
        settings = replace(settings, hooks=GuardedHooks(hooks))
    return Connection(settings, name, wait_s=wait_s, stop=stop)


class Connection(RequestReply):
    """A connection to one broker, or to one of several equivalent brokers.

    Publishing has a separate TCP connection, because a broker under an alarm stops reading from publishers only
    (https://www.rabbitmq.com/docs/connection-blocked). Threads may share a connection, but not a consumer. Each method
    passes the faults it recovers from to its `on_warning`: by default the logger `rmqkit` logs them as warnings.
    """

    def __init__(
        self, settings: Settings, name: str = "rmqkit", *, wait_s: float = 0.0, stop: Stop | None = None
    ) -> None:
        super().__init__(settings, name)
        self._subscriptions = Subscriptions(self._consuming)
        self._idle_channels = IdleChannels()
        self._shared_publisher = SharedPublisher(self._publishing, self._idle_channels, _log.warning)
        self._publishers: weakref.WeakSet[BackgroundPublisher] = weakref.WeakSet()
        self._hooks = settings.hooks
        self._delayed = DelayedPublishing(self._consuming, self.queue_settings)
        self._consuming.verify(wait_s, stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self.complete_advice(error)
        if kind is StoppedAtOnce:
            self._publishing.reset()
            self._publishing.close()
            self._consuming.reset()
        self.close()

    def close(self) -> None:
        """Close the connection, after its publishers; unsettled deliveries are requeued."""
        for publisher in tuple(self._publishers):
            publisher.close()
        self._shared_publisher.close()
        self._publishing.close()
        self._consuming.close()

    @property
    def is_connected(self) -> bool:
        """Tell whether the connection is open, as far as is known; a lost one is reopened by its next use."""
        return self._consuming.is_connected

    @property
    def blocked(self) -> str:
        """Return why the broker currently blocks publishers; empty if it does not."""
        return self._publishing.blocked

    @property
    def username(self) -> str:
        """Return the user name of the login."""
        return self._publishing.settings.addresses[0].username

    def subscribe(
        self,
        exchange: str,
        keys: Iterable[str] = (),
        *,
        headers: Mapping[str, Any] | None = None,
        match: Literal["all", "any"] = "all",
        durable: str = "",
        max_length: int | None = None,
        on_warning: OnWarning = _log.warning,
    ) -> str:
        """Bind a queue to an exchange and return its name; without keys and headers it receives every message.

        The temporary queue belongs to this connection, and is deleted with it or with its last consumer. Beyond
        `max_length` messages, 10,000 by default, the oldest are dropped. After a lost connection a consumer resumes
        with a new queue.

        A queue with the name `durable` remains until `unsubscribe`; an existing one keeps its bindings, and each added
        one is reported to `on_warning`. Raises NotFound if the exchange does not exist, InputError for arguments that
        its type would ignore, PropertyMismatch for other properties, and for an auto-delete exchange that nothing else
        is bound to: it would be deleted with the queue. Raises AccessRefused, ConnectionLost.
        """
        wanted = Subscription(exchange, tuple(keys), headers or {}, match)
        return self._subscriptions.subscribe(wanted, durable, max_length=max_length, on_warning=on_warning)

    def unsubscribe(self, queue: str, *, force: bool = False) -> QueueState:
        """Delete the queue of a subscription, and return its last state.

        Unless forced, raises PropertyMismatch if it holds messages, unacknowledged ones included, has consumers, or was
        not made by `subscribe` according to RabbitMQ's HTTP API. Raises NotFound.
        """
        return self._subscriptions.unsubscribe(queue, force=force)

    def publish(
        self,
        messages: Message | Iterable[Message | None],
        *,
        topology: Topology | None = None,
        delay: Delay | None = None,
        options: PublishOptions = DEFAULTS,
        check: bool = True,
        timeout_s: float | None = None,
        stop: Stop | None = None,
        on_progress: Callable[[PublishReport], None] | None = None,
        on_settled: Callable[[int, Message, Fate], None] | None = None,
        on_failure: Callable[[Failure], None] | None = None,
        on_warning: OnWarning = _log.warning,
    ) -> PublishReport:
        """Publish messages: persistent, mandatory and confirmed, unless they or `options` say otherwise.

        A None among the messages waits until all earlier ones are settled. `on_progress` receives the report so far
        about ten times a second and at the end, also after an error; `on_settled` the index, the message and the fate
        of each message, once; `on_failure` each message that was not confirmed, with the reason: the report of an
        endless input would hold too many; `on_warning` each fault that publishing recovered from.

        A message that breaks the contract of its exchange in `topology`, or of the queue it is published to directly,
        is not sent: once all earlier ones are settled, raises PayloadError with its number, from 1, the place and the
        rule. `timeout_s` bounds all of this, connecting and recovering included: then raises NotConfirmed or
        ConnectionLost.

        With a `delay`, a timedelta or the time of delivery, messages wait on the broker for up to 180 days, in steps
        of a second, before they go to their exchange with their key; if no queue receives one then, it waits until one
        does. Raises NotFound for an exchange or queue that does not exist, InputError for a time in the past,
        PayloadError for a message with an expiration.

        With `check`, as with `subprocess.run`, an unconfirmed message raises an error: NotConfirmed, or Unroutable if
        all that failed reached no queue. Raises PayloadError for messages that AMQP cannot carry, ConnectionLost when
        recovery fails. The `report` of a BrokerError has the numbers.
        """
        callbacks = PublishCallbacks(on_progress, on_settled, on_failure, on_warning)
        plain = not topology and delay is None and stop is None and options == DEFAULTS and callbacks == _LOGGED
        if plain and isinstance(messages, Message):
            report = self._shared_publisher.publish(messages, timeout_s)
        else:
            source = (messages,) if isinstance(messages, Message | bytes | str) else messages  # bytes are refused
            if topology:
                source = self._contracts.of_topology(topology).checked(source)
            if self._hooks is not None:
                source = self._hooks.each_publishing(source)
            if delay is not None:
                source = self._delayed.each(source, delay, on_warning)
            report = self._publish_each(source, options, timeout_s, stop, callbacks)
        if check and (error := report.error()):
            raise error
        return report

    def _publish_each(
        self,
        messages: Iterable[Message | None],
        options: PublishOptions,
        timeout_s: float | None,
        stop: Stop | None,
        callbacks: PublishCallbacks,
    ) -> PublishReport:
        publisher = Publisher(
            self._publishing,
            options,
            idle_channels=self._idle_channels,
            stop=stop,
            timeout_s=timeout_s,
            callbacks=callbacks,
        )
        if isinstance(messages, Sequence):  # none of them is waited for
            return publisher.publish(messages)
        with closing(with_idle_callback(messages, publisher.look)) as each:
            return publisher.publish(each)

    def publisher(
        self,
        *,
        options: PublishOptions = DEFAULTS,
        warn_of_failures: bool = True,
        on_warning: OnWarning = _log.warning,
    ) -> BackgroundPublisher:
        """Return a publisher that any number of threads may use: it publishes in the background.

        Each message gets a future of its outcome. See `PublishOptions` for the options. Close the publisher, as a
        `with` block does, to wait for the outcomes; closing the connection closes it, too. `on_warning` receives each
        fault that publishing recovered from, and with `warn_of_failures`, how many messages failed.
        """
        publisher = BackgroundPublisher(
            self._publishing, options, self._idle_channels, on_warning=on_warning, warn_of_failures=warn_of_failures
        )
        self._publishers.add(publisher)
        return publisher

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
        on_warning: OnWarning = _log.warning,
    ) -> Consumer:
        """Return a consumer of a queue: iterate over it, or over its `batches`.

        See `ConsumeOptions` for the options; `on_warning` receives each fault that the consumer recovered from.
        """
        options = ConsumeOptions(prefetch, count, idle_timeout_s, no_ack, offset)
        open_queue = self._subscriptions.open_queue(queue)
        return Consumer(self._consuming, queue, options, stop=stop, on_warning=on_warning, open_queue=open_queue)

    def scenario_runner(self, *, stop: Stop | None = None) -> ScenarioRunner:
        """Return the runner of `rmqkit test --live`, for use in a `with` block; it needs AMQP alone."""
        from rmqkit.deploy.scenario_runner import ScenarioRunner  # noqa: PLC0415 - start-up time: few connections test

        stop = stop or Stop()
        publish = partial(self.publish, options=PublishOptions(mandatory=False), stop=stop)
        return ScenarioRunner(self._consuming, publish, stop)

    def handle(
        self, queue: str, handler: HandlerFunction | Handler, *, concurrency: int = 1, **options: Unpack[WorkOptions]
    ) -> ConsumeReport:
        """Call a function with each delivery of a queue, and acknowledge the delivery when the function returns.

        If the function raises, the message follows the retry that `topology` has for the queue: it waits, is delivered
        again, and in the end is parked for inspection, with the reason in its headers. A message that breaks the
        queue's contract is parked immediately, as is one the function returns Verdict.REJECT for; Verdict.REQUEUE
        requeues it. Without a retry, a failed message is rejected if `topology` or RabbitMQ's HTTP API shows that it is
        dead-lettered. Otherwise the run ends with HandlerError, and the message is still queued. `failed` decides in
        place of all this.

        The run ends as a consumer does: see `ConsumeOptions`. `concurrency` is the number of threads that call the
        function; each has a consumer, and `prefetch` is 100, or 2 with several threads, so that each gets a share of a
        short queue. `on_failure` gets the exceptions; `on_warning` is called once for each kind of failure, and for
        problems that were recovered from; both are logged by default. Any Handler may take the place of the function.
        Raises what a consumer raises, NotFound if a queue of the retry is missing, Unroutable or NotConfirmed if a
        message could not be parked or retried, HandlerError if the function returns anything else; their `report` has
        the counts.
        """
        from rmqkit.handlers.function_runner import function_handler, work  # noqa: PLC0415 - start-up time

        prefetch = 100 if concurrency == 1 else 2
        return work(self, queue, function_handler(handler, options), options, consumers=concurrency, prefetch=prefetch)

    def handle_batches(
        self,
        queue: str,
        function: BatchFunction,
        *,
        size: int = 500,
        within_s: float = 0.05,
        concurrency: int = 1,
        **options: Unpack[WorkOptions],
    ) -> ConsumeReport:
        """Call a function with batches of deliveries, in order, and acknowledge a batch when the function returns.

        A batch has `size` deliveries, or those that arrived in `within_s` seconds. The function may return a Verdict
        for the batch, or a sequence with a Verdict or None for each delivery. If it raises, all messages of the batch
        have failed. `prefetch` is twice the size; see `handle` for the rest.
        """
        from rmqkit.handlers.function_runner import batch_worker, plain_calls, work  # noqa: PLC0415 - start-up time

        worker = batch_worker(plain_calls(function, options), function, size, within_s)
        return work(self, queue, worker, options, consumers=concurrency, prefetch=min(2 * size, MAX_PREFETCH))

    def pipe(
        self,
        queue: str,
        transform: Transform,
        *,
        to: Target | None = None,
        concurrency: int = 1,
        **options: Unpack[WorkOptions],
    ) -> ConsumeReport:
        """Publish what a function makes of each delivery, and acknowledge the delivery when all of that is confirmed.

        The function returns a Message, an iterable of messages, a Verdict, or None to publish nothing. A message
        without an exchange and a routing key goes `to` this target. If the function raises, or the broker does not take
        one of the messages, as one that reaches no queue, the delivery has failed. `prefetch` is 1000; see
        `handle` for the rest.
        """
        from rmqkit.handlers.function_runner import pipe_worker, transform_calls, work  # noqa: PLC0415 - start-up time

        worker = pipe_worker(self, transform_calls(transform, options), transform, to, options)
        return work(self, queue, worker, options, consumers=concurrency, prefetch=1000)


handle = Connection.handle
