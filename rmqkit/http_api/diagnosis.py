"""Explain why a queue has a backlog: from the facts about it to causes, the most likely first, without I/O."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rmqkit.http_api.connections import QueueConsumer
from rmqkit.http_api.queue_facts import QueueFacts
from rmqkit.http_api.queue_settings import fate_when_full
from rmqkit.plural import plural, span

_BROKEN = ("down", "stopped", "crashed", "minority")
_TIMEOUT_MS = 1_800_000  # RabbitMQ's default (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout)
_NEAR = 0.5  # of the timeout
_GROWING = 1.1  # rate in by rate out, above which a backlog grows
_DEFAULT_LIMIT = 20  # redeliveries of a quorum queue since RabbitMQ 4.0


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason why messages wait or are lost: a code such as `no_consumer`, a sentence, and the next command."""

    code: str
    message: str
    command: str = ""


def diagnose(facts: QueueFacts, now: datetime | None = None) -> tuple[Cause, ...]:
    """Return the causes in the order of their likelihood; empty if no problem is found."""
    now = now or datetime.now(UTC)
    return tuple(cause for rule in _RULES for cause in rule(facts, now))


def _unavailable(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    state, offline = facts.status.state, [each for each in facts.members if each not in facts.online]
    if not facts.has_majority:
        message = (
            f"It has no majority: {len(offline)} of {plural(len(facts.members), 'member')} offline"
            f" ({', '.join(offline)}). Nothing is confirmed or delivered."
        )
        yield Cause("no_majority", message, "rmqkit check")
    elif state in _BROKEN:
        yield Cause("unavailable", f"It is {state} on its node {facts.leader or '(unknown)'}.", "rmqkit check")
    elif facts.leader in offline:
        message = f"Its leader {facts.leader} is offline, and no new leader has been elected yet."
        yield Cause("leader_offline", message, "rmqkit check")
    elif offline:
        message = f"Offline members: {', '.join(offline)}. The queue works, but tolerates fewer further failures."
        yield Cause("member_offline", message, "rmqkit check")


def _alarm(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    if facts.alarms:
        message = f"An alarm blocks all publishers: {', '.join(facts.alarms)}. No messages arrive until it clears."
        yield Cause("alarm", message, "rmqkit check")


def _dead_letters(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    if not facts.feeders or not (facts.status.ready or facts.status.published_per_s):
        return
    rate = facts.status.published_per_s or 0.0
    arriving = f"{rate:,.1f} messages a second are arriving" if rate else "none are arriving now"
    feeders = ", ".join(repr(each) for each in facts.feeders)
    message = f"It receives the dead letters of {feeders} ({arriving}). Find out why they failed, then replay them."
    yield Cause("dead_letters", message, f"rmqkit move {_quoted(facts)} --dry-run")


def _consumers(facts: QueueFacts, now: datetime) -> Iterator[Cause]:
    status, consumers = facts.status, facts.consumers
    if not consumers:
        if status.ready and not status.consumers:
            waiting = f"{plural(status.ready, 'message')} {'is' if status.ready == 1 else 'are'} waiting"
            advice, command = "Start a service that consumes the queue.", f"rmqkit peek {_quoted(facts)}"
            if facts.owner:
                advice = f"It is exclusive: only its client at {facts.owner} can consume it."
                command = "rmqkit connections"
            yield Cause("no_consumer", f"It has no consumers: {waiting}. {advice}", command)
        return
    active = [each for each in consumers if each.active]
    substitutes = len(consumers) - len(active)
    full = [each for each in active if each.is_full]
    if substitutes and len(active) <= 1 and (full or (active and _idle_s(active[0], now) and status.ready)):
        others = f"the other {plural(substitutes, 'consumer')} must wait for it"
        message = f"Its single active consumer, {_who(active[0], now)}, is not taking messages; {others}."
        yield Cause("single_active_consumer", message, _close(active[0]))
    elif full and len(full) == len(active):
        begin = f"All {len(full):,} consumers are full, and receive no more messages until they acknowledge some"
        if len(full) == 1:
            begin = "Its only consumer is full, and receives no more messages until it acknowledges some"
        yield Cause("consumers_full", f"{begin}: {_most(full, now)}.", _consumers_command(facts))
    held = sum(each.unacknowledged or 0 for each in consumers)
    if (status.unacknowledged or 0) > held and all(each.unacknowledged is not None for each in consumers):
        rest = plural((status.unacknowledged or 0) - held, "message")
        yield Cause("held_without_consumer", f"Clients hold {rest} that they fetched without a consumer (basic.get).")


def _unseen(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    if not facts.sees_all and facts.status.ready and (facts.consumers or facts.status.consumers):
        message = "Cannot tell whether its consumers are full: your user lacks the tag monitoring."
        yield Cause("consumers_unseen", message, _consumers_command(facts))


def _held_by_getters(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    if not facts.consumers and (count := facts.status.unacknowledged):
        message = f"Clients without a consumer hold {plural(count, 'unacknowledged message')}."
        yield Cause("held_without_consumer", message, "rmqkit connections")


def _timeout(facts: QueueFacts, now: datetime) -> Iterator[Cause]:
    for each in facts.consumers:
        timeout_s = (each.timeout_ms or _TIMEOUT_MS) / 1000
        idle_s = _idle_s(each, now)
        if each.ack_required and each.unacknowledged and idle_s >= timeout_s * _NEAR:
            timeout = f"{span(timeout_s)}{'' if each.timeout_ms else ' by default'}"
            message = (
                f"{_who(each, now)} has acknowledged nothing for {span(idle_s)}. RabbitMQ requeues its messages after"
                f" the consumer timeout ({timeout})."
            )
            yield Cause("consumer_timeout", message[:1].upper() + message[1:], _close(each))


def _delivery_limit(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    if facts.status.type != "quorum" or not facts.redelivered:
        return
    limit = facts.settings.get("x-delivery-limit", _DEFAULT_LIMIT if facts.version >= (4,) else None)
    times = plural(facts.redelivered, "time")
    if not isinstance(limit, int) or limit < 0:
        message = (
            f"Messages were redelivered {times}, and there is no delivery limit: a message that always fails stays."
        )
        yield Cause("no_delivery_limit", message, f"rmqkit peek {_quoted(facts)}")
        return
    exchange = facts.settings.get("x-dead-letter-exchange")
    fate = "dropped, because the queue has no dead-letter exchange" if exchange is None else "dead-lettered"
    message = f"Messages were redelivered {times}: after {limit + 1} failed deliveries, a message is {fate}."
    yield Cause("delivery_limit", message, f"rmqkit peek {_quoted(facts)}")


def _length_limit(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    limit = facts.settings.get("x-max-length")
    if isinstance(limit, int) and facts.status.ready >= limit > 0:
        message = f"It has reached its limit of {plural(limit, 'message')}: {fate_when_full(facts.settings)}."
        yield Cause("length_limit", message, _consumers_command(facts))


def _rates(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    status = facts.status
    published, acknowledged = status.published_per_s or 0.0, status.acknowledged_per_s or 0.0
    if not status.ready or not facts.consumers:
        return
    rates = f"{published:,.1f} messages a second arrive, and {acknowledged:,.1f} are acknowledged"
    if published > _GROWING * acknowledged:
        yield Cause(
            "growing", f"It is growing: {rates}. Add consumers, or make them faster.", _consumers_command(facts)
        )
    elif acknowledged > published:
        left_s = status.ready / (acknowledged - published)
        yield Cause("draining", f"It is shrinking: {rates}; it will be empty in about {span(left_s)}.", _wait(facts))


def _flow(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    if facts.slowed:
        names = ", ".join(dict.fromkeys(f"{each.client_name or each.place} ({each.state})" for each in facts.slowed))
        yield Cause("flow", f"RabbitMQ slows down or blocks publishers: {names}.", "rmqkit connections")


def _policy(facts: QueueFacts, _now: datetime) -> Iterator[Cause]:
    if facts.overruled:
        names = ", ".join(repr(each) for each in facts.overruled)
        yield Cause("policy", f"Of the policies that match it, only {facts.policy!r} applies; it overrides {names}.")


_RULES: tuple[Callable[[QueueFacts, datetime], Iterator[Cause]], ...] = (
    _unavailable,
    _alarm,
    _dead_letters,
    _consumers,
    _unseen,
    _held_by_getters,
    _timeout,
    _length_limit,
    _delivery_limit,
    _rates,
    _flow,
    _policy,
)


def _quoted(facts: QueueFacts) -> str:
    return shlex.quote(facts.status.name)


def _consumers_command(facts: QueueFacts) -> str:
    return f"rmqkit consumers {_quoted(facts)}"


def _wait(facts: QueueFacts) -> str:
    return f"rmqkit wait {_quoted(facts)} --empty"


def _close(consumer: QueueConsumer) -> str:
    return f"rmqkit connections --close {shlex.quote(consumer.connection.place)}"


def _idle_s(consumer: QueueConsumer, now: datetime) -> float:
    return (now - consumer.idle_since).total_seconds() if consumer.idle_since else 0.0


def _who(consumer: QueueConsumer, now: datetime) -> str:
    connection = consumer.connection
    name = f"{connection.client_name!r} from {connection.place}" if connection.client_name else connection.place
    held = plural(consumer.unacknowledged or 0, "unacknowledged message")
    idle = f", idle for {span(idle_s)}" if (idle_s := _idle_s(consumer, now)) >= 1 else ""
    return f"{name} ({held}{idle})"


def _most(consumers: list[QueueConsumer], now: datetime) -> str:
    """Name the consumers that hold the most messages for the longest time."""
    listed = sorted(consumers, key=lambda each: (-_idle_s(each, now), -(each.unacknowledged or 0)))
    more = f" and {len(listed) - 3:,} more" if len(listed) > 3 else ""  # noqa: PLR2004
    return ", ".join(_who(each, now) for each in listed[:3]) + more
