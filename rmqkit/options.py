"""How to publish, consume, move, call, serve and apply."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

Offset = int | str | datetime
"""Where to begin in a stream: an offset, `first`, `last` (the last chunk), `next`, an age like `5m`, or a time."""


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How to publish.

    `window` and `window_bytes` bound what is unconfirmed, in messages and in bytes of their bodies (one message may be
    larger); `rate` is in messages a second. Without any confirm for `confirm_timeout_s`, or under an alarm of the
    broker for `blocked_timeout_s`, publishing gives up.
    """

    confirms: bool = True
    window: int = 10_000
    window_bytes: int = 16 * 1024 * 1024
    rate: float | None = None
    confirm_timeout_s: float = 60.0
    blocked_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """How to consume.

    `prefetch` bounds what is delivered and not settled (1 to 65535; 1 deals messages out strictly by who is free);
    `count` ends after so many deliveries, `idle_timeout_s` after so long without one. With `no_ack` the broker forgets
    a message when it is sent, and a crash loses what was under way; `count` then still acknowledges, or the broker
    would drop what was delivered beyond it. `offset` is where to begin in a stream, which has to be acknowledged.
    """

    prefetch: int = 1000
    count: int | None = None
    idle_timeout_s: float | None = None
    no_ack: bool = False
    offset: Offset | None = None


class Replay(Enum):
    """Back to where a dead-lettered message came from.

    QUEUE is the queue it died in last: no other queue gets it a second time. EXCHANGE is the exchange it was first
    published to, with its routing keys: every queue that is bound there gets it.
    """

    QUEUE = "queue"
    EXCHANGE = "exchange"


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """How to move.

    `limit` ends after so many messages, `rate` is in messages a second. A `dry_run` looks at the messages and gives
    them back.
    """

    limit: int | None = None
    rate: float | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How to call.

    A call ends after so many `replies`, or after `timeout_s`; with None for replies, it takes what comes within that
    time. So many requests as `window` says are on their way at once. Only one that is `idempotent`, so that handling it
    twice does no harm, is sent again after a lost connection.
    """

    timeout_s: float = 10.0
    replies: int | None = 1
    window: int = 100
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve.

    `prefetch` bounds what waits at a server that is busy: 1 shares requests out best, more is faster for quick
    functions. `count` ends after so many requests; `concurrency` runs the function on so many threads. A request that
    failed is acknowledged, for the requester was told; `reject_failed` sends it to the dead-letter exchange as well, as
    is done with one that named nobody to tell.
    """

    prefetch: int = 1
    count: int | None = None
    concurrency: int = 1
    reject_failed: bool = False


def shares(count: int | None, parts: int) -> list[int | None]:
    """Deal a count out, so that the parts together take exactly that many; none gets none."""
    if count is None:
        return [None] * parts
    each, more = divmod(count, parts)
    return [share for number in range(parts) if (share := each + (number < more))]


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How to apply a topology.

    `prune` removes what is extra; `force` does so even if a queue holds messages or has consumers. `replace` puts new
    entities in the place of those that are there with other properties, and moves the messages; `wait_s` is how long
    consumers of theirs may take to leave.
    """

    prune: bool = False
    force: bool = False
    replace: bool = False
    wait_s: float = 0.0
