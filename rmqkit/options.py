"""Options of publishing, consuming, moving, calling, serving and applying."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from rmqkit.errors import SettingsError

Offset = int | str | datetime
"""The start in a stream: an offset, `first`, `last` (the last chunk), `next`, an age like `5m`, or a time."""
MAX_PREFETCH = 65_535  # AMQP 0-9-1 section 1.8.3.1: a short integer


def at_least(least: int, **values: float | None) -> None:
    """Raise SettingsError for the value of an argument that is below the least one; None stands for no value."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise SettingsError(f"`{name}=` must be at least {least}, not {value:g}")


def _require_prefetch(prefetch: int) -> None:
    if not 1 <= prefetch <= MAX_PREFETCH:
        raise SettingsError(f"`prefetch=` must be 1 to {MAX_PREFETCH}, not {prefetch}")


def _require_rate(rate: float | None) -> None:
    if rate is not None and not rate > 0:
        raise SettingsError(f"`rate=` must be above 0, not {rate:g}")


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How to publish.

    `window` and `window_bytes` bound the unconfirmed messages, in number and in bytes of their bodies (one message may
    be larger); `rate` is in messages a second. Publishing gives up after `confirm_timeout_s` without any confirm, or
    after `blocked_timeout_s` of a broker alarm, by default that of the settings. A message that reaches no
    queue is returned, and an error; if not `mandatory`, the broker confirms and drops it
    (https://www.rabbitmq.com/docs/publishers#unroutable).
    """

    confirms: bool = True
    window: int = 10_000
    window_bytes: int = 16 * 1024 * 1024
    rate: float | None = None
    confirm_timeout_s: float = 60.0
    blocked_timeout_s: float | None = None
    mandatory: bool = True

    def __post_init__(self) -> None:
        at_least(1, window=self.window, window_bytes=self.window_bytes)
        _require_rate(self.rate)


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """How to consume.

    `prefetch` bounds the unacknowledged deliveries (1 to 65535; with 1 each message goes to a consumer that is free).
    Consuming ends after `count` deliveries, or after `idle_timeout_s` without one. With `no_ack` deliveries are
    acknowledged before they are handed out, one by one to a loop, up to 100 at a time in batches: none is handled
    twice, and those in hand are lost in a crash. `offset` is the start in a stream.
    """

    prefetch: int = 1000
    count: int | None = None
    idle_timeout_s: float | None = None
    no_ack: bool = False
    offset: Offset | None = None

    def __post_init__(self) -> None:
        _require_prefetch(self.prefetch)
        at_least(0, count=self.count, idle_timeout_s=self.idle_timeout_s)


class FailurePolicy(Enum):
    """The fate of a message whose handler fails, in place of its retry."""

    STOP = "stop"  # end the run; the message is still in its queue
    REQUEUE = "requeue"  # it is redelivered after a pause
    REJECT = "reject"  # it is dead-lettered, or dropped where no dead-letter exchange is set


class Replay(Enum):
    """Where a dead-lettered message is returned to.

    QUEUE is the queue it died in last: no other queue receives it again. EXCHANGE is the exchange it was first
    published to, with its routing keys: every queue bound there receives it.
    """

    QUEUE = "queue"
    EXCHANGE = "exchange"


DRY_RUN = 1000  # messages that a dry run of a move inspects, unless its limit asks for more


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """How to move: at most `limit` messages, `rate` messages a second; a `dry_run` inspects and requeues the first.

    With `copy` the messages stay in their queue.
    """

    limit: int | None = None
    rate: float | None = None
    dry_run: bool = False
    copy: bool = False

    def __post_init__(self) -> None:
        at_least(0, limit=self.limit)
        _require_rate(self.rate)


@dataclass(frozen=True, slots=True)
class WaitFor:
    """The state of a queue to wait for: `empty`, or minimum numbers, where 0 means exactly none.

    An empty queue has no messages, ready or, as far as RabbitMQ's HTTP API shows them, unacknowledged.
    """

    empty: bool = False
    ready: int | None = None
    consumers: int | None = None

    def holds(self, ready: int, consumers: int) -> bool:
        """Tell whether these numbers of ready messages and consumers are the wanted ones."""
        pairs = ((self.ready, ready), (self.consumers, consumers))
        return all(wanted is None or (count >= wanted if wanted else count == 0) for wanted, count in pairs)


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How to call.

    A call ends after `replies` replies or after `timeout_s`; with `replies` None it collects every reply within that
    time. `window` bounds the requests in flight. After a lost connection a request is sent again only if `idempotent`:
    handling it twice must do no harm.
    """

    timeout_s: float = 10.0
    replies: int | None = 1
    window: int = 100
    idempotent: bool = False

    def __post_init__(self) -> None:
        at_least(1, window=self.window, replies=self.replies)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve.

    `prefetch` bounds the requests that wait at a busy server: 1 balances load best, more is faster for quick functions.
    Serving ends after `count` requests; `concurrency` is the number of threads that run the function. A failed request
    is acknowledged, because its requester got the error; with `reject_failed` it is dead-lettered instead, as a failed
    request without `reply_to` always is.
    """

    prefetch: int = 1
    count: int | None = None
    concurrency: int = 1
    reject_failed: bool = False

    def __post_init__(self) -> None:
        _require_prefetch(self.prefetch)
        at_least(1, concurrency=self.concurrency)
        at_least(0, count=self.count)


def shares(count: int | None, parts: int) -> list[int | None]:
    """Split a count into parts that add up to it, without empty parts; None stays None in each part."""
    if count is None:
        return [None] * parts
    each, more = divmod(count, parts)
    return [share for number in range(parts) if (share := each + (number < more))]


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How to apply a topology.

    `prune` deletes extra entities; with `force` even queues that hold messages or have consumers. `replace` recreates
    conflicting entities and moves their messages; with `force` also without the HTTP API, which alone counts the
    unacknowledged ones. Consumers and unacknowledged messages of queues to be deleted have `wait_s` to leave.
    """

    prune: bool = False
    force: bool = False
    replace: bool = False
    wait_s: float = 0.0
