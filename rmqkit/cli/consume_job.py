"""Consuming over one connection: one consumer, or several with a channel each, and one handler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rmqkit.cli import output
from rmqkit.cli.handler_options import FilterOptions, HandlerOptions
from rmqkit.cli.options import connect
from rmqkit.connection import Connection
from rmqkit.errors import RmqkitError
from rmqkit.handlers.handler import Handler
from rmqkit.handlers.runner import ConsumeJob, FailurePolicy, run_handler
from rmqkit.model import Contract, Retry, Target
from rmqkit.options import ConsumeOptions, shares
from rmqkit.report import ConsumeReport
from rmqkit.settings import Settings
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.options import Offset


@dataclass(frozen=True, slots=True)
class ConsumeRequest:
    """What to consume, and how; `count` None means no end, `idle_timeout_s` None means to wait for ever.

    What breaks the `contract` goes to `invalid_to`, or is rejected; what the handler fails on goes where `retry` says,
    or is rejected. `enter` returns the queue, where it is known only once there is a connection.
    """

    settings: Settings
    queue: str
    prefetch: int = 1000
    count: int | None = None
    idle_timeout_s: float | None = None
    no_ack: bool = False
    channels: int = 1
    contract: Contract | None = None
    invalid_to: Target | None = None
    handling: HandlerOptions = field(default_factory=HandlerOptions)
    filtering: FilterOptions = field(default_factory=FilterOptions)
    enter: Callable[[Connection], str] | None = None
    retry: Retry | None = None
    offset: Offset | None = None

    def split(self, parts: int) -> list[ConsumeRequest]:
        """Deal the count out, so that the parts together take exactly that many; no part takes none."""
        return [replace(self, count=count) for count in shares(self.count, parts)]

    def work(self, connection: Connection) -> ConsumeJob:
        """Return what is to be done over a connection. Raises PayloadError for a filter that is none."""
        return ConsumeJob(
            self.enter(connection) if self.enter else self.queue,
            ConsumeOptions(self.prefetch, self.count, self.idle_timeout_s, self.no_ack, self.offset),
            FailurePolicy(self.contract, self.invalid_to, self.retry),
            self.channels,
            self.filtering.make(output.warn),
            self.filtering.verdict,
        )


@dataclass(frozen=True, slots=True)
class ConsumeResult:
    """What was done, and what ended it before its time."""

    report: ConsumeReport
    error: RmqkitError | None = None


def run(
    job: ConsumeRequest,
    stop: Stop,
    *,
    lock_fd: int | None = None,
    on_consuming: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ConsumeResult:
    """Handle the messages of a queue, each settled as the handler says, up to the end of the job or a stop.

    `on_consuming` is called once the broker knows all consumers, which are subscribed in order; `on_progress` now and
    then, with how many messages were acknowledged.
    """
    handler: Handler | None = None
    try:
        with connect(job.settings) as connection:
            work = job.work(connection)
            handler = job.handling.make(work.queue, job.settings, lock_fd)
            report = run_handler(
                connection,
                work,
                handler,
                stop=stop,
                on_warning=output.warn,
                on_consuming=on_consuming,
                on_progress=on_progress,
            )
    except RmqkitError as exc:
        return ConsumeResult(exc.report or ConsumeReport(), exc)
    finally:
        if handler:
            handler.close()
    return ConsumeResult(report)
