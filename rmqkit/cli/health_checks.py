"""The checks of `rmqkit check`: each is a function that yields results; errors of the broker become results, too."""

from __future__ import annotations

import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rmqkit.address import Address
from rmqkit.cli.health_text import Check, Level, Metric
from rmqkit.cli.options import connect
from rmqkit.errors import (
    AccessRefused,
    AuthenticationFailed,
    BrokerError,
    ConnectionLost,
    InputError,
    NotFound,
    Refused,
    Unreachable,
)
from rmqkit.http_api import health
from rmqkit.model import Topology
from rmqkit.plan import Outcome
from rmqkit.plural import plural
from rmqkit.report import QueueStatus
from rmqkit.settings import Settings

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.http_api.client import HttpApiClient

_DAY_S = 86_400
_TLS_S = 10.0
_CLOCKS_DIFFER_S = 60.0
_PEEK_NOT_COUNTED = (4, 3)  # the first version whose quorum queues do not count peeking as a delivery
_BROKEN = ("down", "crashed", "stopped", "minority")
_DRIFT = (Outcome.CREATE, Outcome.CHANGE, Outcome.CONFLICT, Outcome.MISSING, Outcome.UNSUPPORTED, Outcome.EXTRA)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of queues: at most this many messages, at most this age (seconds), and at least this many consumers."""

    max_ready: int | None = None
    max_unacked: int | None = None
    min_consumers: int | None = None
    max_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to check besides the broker: drift from a topology, and queues, named by patterns with `*` and `?`."""

    topology: Topology | None = None
    files: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    limits: Limits = Limits()
    min_days: int = 14


def run(settings: Settings, wanted: Wanted) -> Iterator[Check]:
    """Yield the results of all checks; without a connection, the first one alone."""
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(connect(settings))
        except AuthenticationFailed as exc:
            yield Check("login", Level.CRITICAL, exc.message)
            return
        except (Unreachable, ConnectionLost, NotFound) as exc:
            yield Check("connection", Level.CRITICAL, exc.message)
            return
        yield Check("connection", Level.OK, f"logged in as {connection.username!r}")
        for address in settings.addresses:
            if address.tls:
                yield _certificate(settings, address, wanted.min_days)
        api = None
        try:
            api = connection.http_api()
        except BrokerError as exc:
            yield Check("http_api", Level.UNKNOWN, exc.message)
        if api is not None:
            for name, check in (("alarms", _alarms), ("nodes", _nodes), ("quorum", _quorum)):
                yield from _made(name, lambda check=check: check(api, settings))  # type: ignore[misc]
        if wanted.topology is not None:
            topology = wanted.topology
            yield from _made("drift", lambda: _drift(connection, topology, wanted.files))
        if wanted.queues:
            yield from _made("queue", lambda: _queues(connection, api, wanted.queues, wanted.limits))


def _made(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield the results of a check, or one of level UNKNOWN if the broker gives none."""
    try:
        yield from check()
    except BrokerError as exc:
        yield Check(name, Level.UNKNOWN, exc.message)


def _alarms(api: HttpApiClient, _settings: Settings) -> Iterator[Check]:
    reason = health.failure(api, "alarms")
    found = ", ".join(api.alarms()) if reason else ""
    yield Check("alarms", Level.CRITICAL if reason else Level.OK, found or reason or "none")


def _nodes(api: HttpApiClient, settings: Settings) -> Iterator[Check]:
    cluster = health.cluster(api)
    down = f"down: {', '.join(cluster.down)}" if cluster.down else f"{plural(len(cluster.nodes), 'node')} running"
    yield Check("nodes", Level.CRITICAL if cluster.down else Level.OK, down)
    protocol = "amqp/ssl" if settings.addresses[0].tls else "amqp"
    deaf = [each for each in cluster.nodes if each not in (*cluster.down, *cluster.listening.get(protocol, ()))]
    message = f"no listener for {protocol} on {', '.join(deaf)}" if deaf else f"{protocol} on every running node"
    yield Check("listeners", Level.CRITICAL if deaf else Level.OK, message)


def _quorum(api: HttpApiClient, _settings: Settings) -> Iterator[Check]:
    reason = health.failure(api, "node-is-quorum-critical")
    message = reason or "no queue would lose its majority if this node stopped"
    yield Check("quorum", Level.CRITICAL if reason else Level.OK, message)


def _certificate(settings: Settings, address: Address, min_days: int) -> Check:
    """Check how long the certificate of a broker is valid, over a separate TLS connection."""
    try:
        with (
            socket.create_connection((address.host, address.port), _TLS_S) as plain,
            settings.tls_context(address).wrap_socket(plain, server_hostname=address.server_name) as encrypted,
        ):
            certificate = encrypted.getpeercert() or {}
    except (OSError, InputError) as exc:
        return Check("certificate", Level.UNKNOWN, f"{address}: {exc}")
    if "notAfter" not in certificate:
        return Check("certificate", Level.UNKNOWN, f"{address}: without verification, its dates cannot be read")
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / _DAY_S
    level = Level.CRITICAL if days < min_days else Level.WARNING if days < 2 * min_days else Level.OK
    text = f"{address.host}:{address.port}: valid for {plural(int(days), 'day')}"
    return Check("certificate", level, text, metrics=(Metric("days", int(days), min_days, is_minimum=True),))


def _drift(connection: Connection, topology: Topology, files: Sequence[str]) -> Iterator[Check]:
    planned = connection.plan(topology)
    counts = Counter(step.outcome for step in planned.steps)
    found = [f"{counts[outcome]:,} {outcome.value}" for outcome in _DRIFT if counts[outcome]]
    if found:
        advice = f"see `rmqkit plan {' '.join(files)}`"
        yield Check("drift", Level.CRITICAL, f"{', '.join(found)}: {advice}")
    elif planned.unseen:
        yield Check("drift", Level.UNKNOWN, "; ".join(planned.unseen))
    else:
        yield Check("drift", Level.OK, "none")


def _queues(
    connection: Connection, api: HttpApiClient | None, patterns: Sequence[str], limits: Limits
) -> Iterator[Check]:
    version = health.cluster(api).version if api else ()
    known = {each.name: each for each in api.queues()} if api else {}
    for pattern in patterns:
        names = [name for name in known if fnmatchcase(name, pattern)]
        is_name = not names and not set("*?[") & set(pattern)
        if not names and not is_name:
            yield Check("queue", Level.UNKNOWN, "no queue matches" if api else "patterns need the HTTP API", pattern)
        for name in [pattern] if is_name else names:
            try:
                state = connection.queue_state(name)  # its numbers are current
            except NotFound:
                down = known.get(name)
                yield Check("queue", Level.CRITICAL, f"is {down.state}" if down else "does not exist", name)
                continue
            except Refused as exc:
                yield Check("queue", Level.UNKNOWN, exc.message, name)
                continue
            queue = replace(known.get(name) or QueueStatus(name, 0, 0), ready=state.ready, consumers=state.consumers)
            yield _queue(connection, api, queue, limits, version)


def _queue(
    connection: Connection, api: HttpApiClient | None, queue: QueueStatus, limits: Limits, version: tuple[int, ...]
) -> Check:
    """Compare a queue with the limits."""
    metrics = [Metric("ready_messages", queue.ready, limits.max_ready)]
    metrics.append(Metric("consumers", queue.consumers, limits.min_consumers, is_minimum=True))
    problems = [f"is {queue.state}"] if queue.state in _BROKEN else []
    unknown = []
    if limits.max_ready is not None and queue.ready > limits.max_ready:
        problems.append(f"{queue.ready:,} ready, more than {limits.max_ready:,}")
    if limits.min_consumers is not None and queue.consumers < limits.min_consumers:
        problems.append(f"{plural(queue.consumers, 'consumer')}, fewer than {limits.min_consumers:,}")
    if queue.unacknowledged is not None:
        metrics.append(Metric("unacknowledged_messages", queue.unacknowledged, limits.max_unacked))
        if limits.max_unacked is not None and queue.unacknowledged > limits.max_unacked:
            problems.append(f"{queue.unacknowledged:,} unacknowledged, more than {limits.max_unacked:,}")
    elif limits.max_unacked is not None:
        unknown.append("unacknowledged messages need the HTTP API")
    if limits.max_age_s is not None:
        age_s, reason = _age(connection, api, queue, version)
        if age_s is None:
            unknown.append(f"age of the oldest message: {reason}")
        else:
            metrics.append(Metric("oldest_message_seconds", int(age_s), limits.max_age_s))
            if age_s > limits.max_age_s:
                problems.append(f"oldest message {age_s:,.0f} s old, more than {limits.max_age_s:,.15g} s")
    level = Level.CRITICAL if problems else Level.UNKNOWN if unknown else Level.OK
    message = "; ".join([*problems, *unknown]) or f"{queue.ready:,} ready, {plural(queue.consumers, 'consumer')}"
    return Check("queue", level, message, queue.name, tuple(metrics))


def _age(
    connection: Connection, api: HttpApiClient | None, queue: QueueStatus, version: tuple[int, ...]
) -> tuple[float | None, str]:
    """Return the age of the first ready message in seconds, by the timestamp that its publisher set; or why not.

    RabbitMQ reports the timestamp for classic queues. A stream is read by offset, which changes nothing. Before
    RabbitMQ 4.3, peeking into a quorum queue counts as a delivery: with a check every minute, messages would soon
    exceed their delivery limit.
    """
    if api is None:
        return None, "the HTTP API is needed"
    if not queue.ready:
        return 0.0, ""
    if queue.type == "classic":
        timestamp = health.head_timestamp(api, queue.name)
        return _since(timestamp)
    if queue.type == "quorum" and version < _PEEK_NOT_COUNTED:
        return None, "before RabbitMQ 4.3, peeking into a quorum queue counts as a delivery"
    try:
        peeked = connection.peek(queue.name, limit=1, offset="first" if queue.type == "stream" else None)
    except (InputError, AccessRefused) as exc:
        return None, exc.message
    found = peeked.messages[0].delivery.properties.timestamp if peeked.messages else None
    age_s, reason = _since(found.timestamp() if found else None)
    return age_s, peeked.cut_short or reason


def _since(timestamp: float | None) -> tuple[float | None, str]:
    """Return the seconds since a time; a time in the future, such as one in milliseconds, gives no age."""
    if timestamp is None:
        return None, "it has no timestamp"
    age_s = time.time() - timestamp
    return (max(age_s, 0.0), "") if age_s > -_CLOCKS_DIFFER_S else (None, "its timestamp is in the future")
