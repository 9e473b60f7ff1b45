"""Wait for a state of a queue, as deployments do."""

from __future__ import annotations

import time

from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.deploy.broker_snapshot import connect_if_available
from rmqkit.deploy.queue_use import CHECK_EVERY_S, find_use, queue_state
from rmqkit.model import Queue
from rmqkit.options import WaitFor
from rmqkit.plural import plural
from rmqkit.report import WaitReport
from rmqkit.stop import Stop


def wait_for_queue(
    connection: ReconnectingConnection, queue: str, wanted: WaitFor, timeout_s: float, stop: Stop
) -> WaitReport:
    """Wait until a queue has the wanted state; `Connection.wait_for_queue` has the errors."""
    started_s = time.monotonic()
    unseen = ""
    if wanted.empty:
        queue_state(connection, queue)  # raises NotFound
        api, unseen = connect_if_available(connection)
        used = find_use(connection, api, (Queue(queue),), consumers=False, wait_s=timeout_s, pause=stop.wait)
        met, state = not used, used[0][1] if used else "no messages"
    else:
        met, state = _poll(connection, queue, wanted, started_s + timeout_s, stop)
    return WaitReport(queue, met, state, unseen, time.monotonic() - started_s)


def _poll(
    connection: ReconnectingConnection, queue: str, wanted: WaitFor, deadline_s: float, stop: Stop
) -> tuple[bool, str]:
    with EntityInspector(connection, stop) as inspector:
        while True:
            answer = inspector.passive_declare(Queue(queue))
            met = answer is not None and wanted.holds(answer.message_count, answer.consumer_count)
            left_s = deadline_s - time.monotonic()
            if met or left_s <= 0 or stop.wait(min(CHECK_EVERY_S, left_s)):
                break
    if answer is None:
        return False, "not been declared"
    return met, f"{plural(answer.message_count, 'ready message')} and {plural(answer.consumer_count, 'consumer')}"
