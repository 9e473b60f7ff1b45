"""Send messages to the queues in which they wait, and declare these queues when they are first needed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rmqkit.amqp import entity_methods
from rmqkit.amqp.entity_inspector import EntityInspector
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import InputError, NotFound
from rmqkit.message import PERSISTENT, Message, Properties
from rmqkit.model import Exchange, Queue, Target
from rmqkit.payload.death_headers import DIED, X_DEATH
from rmqkit.topology import delays

Delay = timedelta | datetime
"""How long to delay a message, or until when; a datetime has a time zone."""

_NEW_S = 3.0  # messages that a quorum queue confirms in about its first second are lost if the broker is killed then
_HARMFUL = ("x-expires", "x-max-length", "x-max-length-bytes", "x-message-ttl")  # in a policy
_DECLARING = "declaring the queues of delayed messages (rmqkit.delay.*): this takes a few seconds, but only once"


def check(delay: Delay) -> None:
    """Raise InputError for a delay that is not positive or longer than 180 days, or for a time without a time zone."""
    if isinstance(delay, datetime) and delay.tzinfo is None:
        raise InputError(f"{delay.isoformat()} has no time zone", advice="Add one, such as Z for UTC, or +01:00.")
    now, seconds = datetime.now(UTC), _seconds_left(delay)
    if seconds <= 0:
        fault = "the delay is not positive"
        if isinstance(delay, datetime):
            fault = f"{delay.isoformat()} is in the past: it is {now.isoformat(timespec='seconds')} now"
        raise InputError(fault, advice="To deliver at once, publish without a delay.")
    if seconds > delays.MAX_DELAY_S:
        until = (now + timedelta(seconds=delays.MAX_DELAY_S)).isoformat(timespec="seconds")
        raise InputError(f"messages can be delayed by at most 180 days, until {until}")


def _seconds_left(delay: Delay) -> int:
    """Return the whole seconds of a delay, rounded up; 0 or less if its time has come."""
    left = delay - datetime.now(UTC) if isinstance(delay, datetime) else delay
    return math.ceil(left.total_seconds())


class DelayedPublishing:
    """Delays messages; remembers the targets whose queues were declared.

    `settings_of` returns the settings of a queue, those of its policies included; None if they cannot be seen.
    """

    def __init__(
        self, connection: ReconnectingConnection, settings_of: Callable[[str], Mapping[str, Any] | None]
    ) -> None:
        self._connection = connection
        self._settings_of = settings_of
        self._declared: set[Target] = set()
        self._last = PERSISTENT, (Target(), 0), PERSISTENT

    def each(
        self, messages: Iterable[Message | None], delay: Delay, on_warning: Callable[[str], None]
    ) -> Iterator[Message | None]:
        """Yield the messages, delayed; one whose time comes while others are published is sent at once."""
        check(delay)
        for message in messages:
            yield message and self._delayed(message, delay, on_warning)

    def _delayed(self, message: Message, delay: Delay, on_warning: Callable[[str], None]) -> Message:
        """Return a message, delayed, after its queues were declared.

        Raises NotFound if its target does not exist, PayloadError for an expiration, and the errors of declaring.
        """
        target = Target(message.exchange, "" if message.exchange else message.routing_key)
        if (seconds := _seconds_left(delay)) <= 0:
            return message
        properties = self._properties(message.properties, target, seconds)
        if target not in self._declared:
            self._declare(target, on_warning)
            self._declared.add(target)
        return Message(message.body, message.routing_key, delays.entrance(seconds), properties)

    def _properties(self, properties: Properties, target: Target, seconds: int) -> Properties:
        """Return the properties of a delayed message; messages that share theirs still do, and are encoded once."""
        given, delayed, found = self._last
        if given is not properties or delayed != (target, seconds):
            headers = dict(properties.headers or {})
            if X_DEATH in headers:  # a delivery, published again: see `set_aside`
                headers[DIED] = headers.pop(X_DEATH)
            found = delays.delayed_properties(replace(properties, headers=headers), target, seconds)
            self._last = properties, (target, seconds), found
        return found

    def _declare(self, target: Target, on_warning: Callable[[str], None]) -> None:
        """Declare what is missing on the way to a target. Raises NotFound, AccessRefused, ConnectionLost."""
        last = delays.last_queue(target)
        destination = Exchange(target.exchange) if target.exchange else Queue(target.routing_key)
        with EntityInspector(self._connection) as inspector:
            if inspector.passive_declare(destination) is None:
                subject = entity_methods.subject(destination)
                message = f"{subject} does not exist; nothing was delayed"
                raise NotFound(404, "NOT_FOUND", subject, message=message, advice="Declare it first: `rmqkit apply`.")
            complete = inspector.passive_declare(delays.DELIVER) is not None
            known = complete and inspector.passive_declare(last) is not None
        if not complete:
            on_warning(_DECLARING)
            ladder = delays.ladder()
            for part in (ladder.exchanges[:-1], ladder.queues, ladder.bindings):
                list(entity_methods.declare_all(self._connection, part))
            time.sleep(_NEW_S)
        if not known:
            for entity in (delays.DELIVER, last, delays.last_binding(target)):  # the first marks the levels as complete
                list(entity_methods.declare_all(self._connection, (entity,)))
        if not self._declared:
            self._check_policies()

    def _check_policies(self) -> None:
        """Raise InputError if a policy would drop messages that wait, or shorten delays, as far as can be seen."""
        longest = delays.ladder().queues[-1]
        settings = self._settings_of(longest.name) or {}
        if harmful := [
            each for each in _HARMFUL if settings.get(each) != longest.arguments.get(each) and each in settings
        ]:
            keys = ", ".join(each.removeprefix("x-") for each in harmful)
            advice = "Narrow the policy's pattern, for example by a leading ^(?!rmqkit\\.delay\\.)."
            raise InputError(
                f"a policy sets {keys} for the queues of delayed messages; nothing was delayed", advice=advice
            )
