"""Find out whether a queue can be deleted without losing a message.

AMQP counts the ready messages and the consumers of a queue. Unacknowledged messages, delayed ones and dead letters that
wait for their target are counted by RabbitMQ's HTTP API alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.http_api.client import HttpApiClient
from rmqkit.http_api.mapping import QueueTotal
from rmqkit.model import Queue
from rmqkit.plural import plural
from rmqkit.report import QueueState

STALE_S = 6.0  # a queue that is not classic counts its messages every five seconds
STALE = "counts may be 5 s old"  # of a stream, even over AMQP; of other queues, unacknowledged ones
CHECK_EVERY_S = 0.5


def queue_state(connection: ReconnectingConnection, name: str, timeout_s: float | None = None) -> QueueState:
    """Count the messages and consumers of a queue.

    Raises NotFound, ResourceLocked, AccessRefused; Unreachable, ConnectionLost, also after the timeout.
    """
    deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    with closing(connection.channel(deadline_s=deadline_s)) as channel:
        counts = channel.queue_counts(name)
    return QueueState(name, counts.message_count, counts.consumer_count)


def contents_text(ready: int, consumers: int, total: QueueTotal) -> str:
    """Return the contents of a queue in words, like `2 messages and 1 consumer`; empty if it has none."""
    counts = [(ready, "message"), (consumers, "consumer"), (total.unacknowledged, "unacknowledged message")]
    counts.append((total.waiting, "delayed or dead-lettered message"))
    return " and ".join(plural(count, noun) for count, noun in counts if count)


def find_use(
    connection: ReconnectingConnection,
    api: HttpApiClient | None,
    queues: Sequence[Queue],
    *,
    ready: bool = True,
    consumers: bool = True,
    wait_s: float = 0.0,
    delays_s: Mapping[str, float] = {},
    pause: Callable[[float], object] = time.sleep,
    on_wait: Callable[[float, list[tuple[Queue, str]]], object] = lambda _wait_s, _used: None,
) -> list[tuple[Queue, str]]:
    """Return the queues that are in use, each with a text like `2 messages and 1 consumer`; wait for them to be free.

    Without `ready` such messages do not count, without `consumers` those. A queue named in `delays_s` may take so long
    instead, if it only has delayed messages. Numbers that may be out of date are read twice, so this takes up to
    `STALE_S` longer; a `pause` that returns True ends it early. `on_wait` is called once, if there is a reason to wait,
    with the longest wait. Without the HTTP API only ready messages and consumers are seen. Raises ResourceLocked,
    AccessRefused, Unreachable, ConnectionLost.
    """
    started, free_since, told = time.monotonic(), math.inf, False
    while queues:
        asked = time.monotonic()
        totals = {each.name: each for each in api.queue_totals()} if api else {}
        with EntityInspector(connection) as inspector:  # after the HTTP API: a message may have been requeued
            answers = [(queue, inspector.passive_declare(queue)) for queue in queues]
        certain_found, late, consumed, found, patience_s = False, False, False, [], math.inf
        for queue, answer in answers:
            if answer is None:  # it does not exist
                continue
            total = totals.get(queue.name, QueueTotal(queue.name))
            ready_count, consumer_count = answer.message_count * ready, answer.consumer_count * consumers
            certain_found |= ready_count + consumer_count > 0 or (total.current and total.hidden > 0)
            late |= not total.current
            consumed |= consumer_count > 0
            if contents := contents_text(ready_count, consumer_count, total):
                found.append((queue, contents))
                only_waiting = not (ready_count or consumer_count or total.unacknowledged)
                delay_s = delays_s.get(queue.name, 0.0) if only_waiting else 0.0
                patience_s = min(patience_s, max(wait_s, delay_s))
        free_since = math.inf if consumed else min(free_since, asked)
        certain = not late or asked - free_since >= STALE_S
        if not found and certain:
            break
        if found and asked - started >= patience_s + (0 if certain_found else STALE_S):
            return found
        if found and patience_s and not told:
            told = True
            on_wait(patience_s, found)
        if pause(CHECK_EVERY_S if found else STALE_S - (asked - free_since)):
            return found or [(queue, "messages that are not counted yet") for queue in queues]
    return []
