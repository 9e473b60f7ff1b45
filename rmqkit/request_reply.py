"""The part of a connection that makes and answers calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rmqkit.message import Delivery, Message
from rmqkit.messaging import rpc_server
from rmqkit.messaging.rpc_client import RpcClient
from rmqkit.model import Topology
from rmqkit.options import CallOptions, ServeOptions
from rmqkit.payload.contracts import ContractCache
from rmqkit.queue_contents import QueueContents
from rmqkit.report import Answer, ServeReport
from rmqkit.settings import Settings
from rmqkit.stop import Stop

F = TypeVar("F", bound=rpc_server.Function)
OnWarning = Callable[[str], None]
_log = logging.getLogger("rmqkit")


class RequestReply(QueueContents):
    """The methods of `Connection` for request and reply."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        self._idle_clients: list[RpcClient] = []
        self._served: list[rpc_server.ServedFunction] = []
        self._contracts = ContractCache()

    def call(self, request: Message, *, timeout_s: float = 10.0) -> Delivery:
        """Send a request and return its reply.

        `reply_to` and `correlation_id` are set automatically. By default the request is transient, because a restart of
        the broker loses its reply anyway, and expires after the timeout. Raises ReplyTimeout, Unroutable when no queue
        receives the request, NotConfirmed when the queue is full, RemoteError when the server reports a failure,
        Refused, and ConnectionLost, after which the request may have been handled.
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
        on_warning: OnWarning = _log.warning,
    ) -> Iterator[Answer]:
        """Send requests concurrently, and yield an answer for each, in their order.

        See `CallOptions` for the options. A None among the requests waits until all earlier ones are answered. An
        answer has the replies, or the error that `call` would raise. Raises the errors of `requests`; and, after the
        answers to the requests already sent, ConnectionLost or AuthenticationFailed when it cannot reconnect.
        """
        options = CallOptions(timeout_s, replies, window, idempotent)
        try:
            client = self._idle_clients.pop()
        except IndexError:
            client = RpcClient(self._publishing)
        try:
            yield from client.run(requests, options, on_warning)
        finally:
            self._idle_clients.append(client)

    def serve(
        self,
        queue: str,
        function: rpc_server.Function | None = None,
        *,
        prefetch: int = 1,
        count: int | None = None,
        concurrency: int = 1,
        reject_failed: bool = False,
        topology: Topology | None = None,
    ) -> Callable[[F], F]:
        """Register a function to answer the requests of a queue while `run` runs; return a decorator that does this.

        The function receives a Delivery and returns the reply: bytes, str, a Message, or None for an empty one. If it
        raises a HandlerError, the requester receives its message; of any other exception only the name. A request that
        breaks the queue's contract in `topology` is answered with an error, too. See `ServeOptions` for the options.
        """
        options = ServeOptions(prefetch, count, concurrency, reject_failed)

        def register(function: F) -> F:
            self._served.append(self._as_served(function, queue, options, topology))
            return function

        if function is not None:
            register(function)
        return register

    def run(
        self,
        *,
        stop: Stop | None = None,
        on_failure: rpc_server.OnFailure | None = None,
        on_warning: OnWarning = _log.warning,
    ) -> ServeReport:
        """Run all registered functions until a stop is requested; then finish the requests in progress.

        Each reply is confirmed before its request is acknowledged: at least once. `on_failure` receives each request
        whose function failed, and the exception; without it, failures are logged. Raises the errors of a consumer.
        """
        return self._run_served(self._served, stop or Stop(), on_failure or rpc_server.log_failure, on_warning)

    def _as_served(
        self, function: rpc_server.Function, queue: str, options: ServeOptions, topology: Topology | None
    ) -> rpc_server.ServedFunction:
        check = self._contracts.of_topology(topology).check("", queue) if topology else None
        return rpc_server.ServedFunction(rpc_server.checked(function, check) if check else function, queue, options)

    def _run_served(
        self,
        served: Sequence[rpc_server.ServedFunction],
        stop: Stop,
        on_failure: rpc_server.OnFailure,
        on_warning: OnWarning,
    ) -> ServeReport:
        context = rpc_server.ServeContext(self._consuming, self._publishing, stop, on_failure, on_warning)
        return rpc_server.run(served, context)
