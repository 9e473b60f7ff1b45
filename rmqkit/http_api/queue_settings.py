"""The settings of one queue on a live broker, those of its policies included, and where it dead-letters to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmqkit.errors import NotFound
from rmqkit.http_api.client import HttpApiClient, path_part
from rmqkit.model import Queue, Target, Topology
from rmqkit.plural import plural
from rmqkit.topology import policies


def live_settings(api: HttpApiClient, name: str) -> dict[str, Any]:
    """Return the arguments of a queue together with the settings of its policies, in argument form, and its type.

    Raises the errors of `HttpApiClient.live`.
    """

    def settings_of(found: Any) -> dict[str, Any]:
        settings = {**found["arguments"], "x-queue-type": found["type"]}
        definitions = [found.get("effective_policy_definition") or {}]
        if "effective_policy_definition" not in found:  # RabbitMQ computes it for its statistics, every five seconds
            queue = Queue(name, arguments=settings)
            listed = (Topology(policies=each) for each in (api.policies(), api.operator_policies()))
            definitions = [each.definition for topology in listed if (each := policies.policy_of(topology, queue))]
        for definition in definitions:
            settings = policies.with_policy(settings, definition, found["type"])
        return settings

    return api.fetch(f"queues/{{vhost}}/{path_part(name)}", settings_of)


REJECTED = "new messages are rejected"


def fate_when_full(settings: Mapping[str, Any]) -> str:
    """Say what happens when a queue with these settings is full (https://www.rabbitmq.com/docs/maxlength)."""
    overflow, queue_type = settings.get("x-overflow", "drop-head"), settings.get("x-queue-type")
    if overflow == "reject-publish" or (overflow == "reject-publish-dlx" and queue_type != "quorum"):
        return REJECTED
    dead = settings.get("x-dead-letter-exchange") is not None
    return "the oldest messages are dead-lettered" if dead else "the oldest messages are dropped"


def overflow(settings: Mapping[str, Any], messages: int) -> str:
    """Say what happens when a queue with these settings gets to hold this many messages; empty if none of them goes.

    Their bytes are not known, so any limit in bytes is named. A stream keeps what its retention says.
    """
    fate = fate_when_full(settings)
    if fate == REJECTED or settings.get("x-queue-type") == "stream":
        return ""
    length, size = settings.get("x-max-length"), settings.get("x-max-length-bytes")
    limits = [plural(length, "message")] if isinstance(length, int) and messages > length else []
    limits += [plural(size, "byte")] if isinstance(size, int) else []
    return f"it keeps at most {' and '.join(limits)}; beyond that, {fate}" if limits else ""


def dead_letter_target(api: HttpApiClient, queue: str) -> Target | None:
    """Return the target of the messages that a queue rejects; None if they are dropped, because it leads nowhere.

    A routing key of "" keeps the message's own. Raises the errors of `HttpApiClient.live`.
    """
    settings = live_settings(api, queue)
    exchange, key = settings.get("x-dead-letter-exchange"), settings.get("x-dead-letter-routing-key", "")
    if not isinstance(exchange, str) or not isinstance(key, str):
        return None
    place = f"exchanges/{{vhost}}/{path_part(exchange)}/bindings/source" if exchange else ""
    if not exchange and key:
        place = f"queues/{{vhost}}/{path_part(key)}"
    try:
        return Target(exchange, key) if not place or api.fetch(place, bool) else None
    except NotFound:
        return None
