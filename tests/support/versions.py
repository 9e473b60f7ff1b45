"""Differences between versions of RabbitMQ that tests see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.conftest import Broker


def major(broker: Broker) -> int:
    """Return 3 or 4."""
    return version(broker)[0]


def version(broker: Broker) -> tuple[int, ...]:
    """Return the version in numbers, like (4, 3, 6)."""
    return tuple(map(int, json.loads(broker.api("GET", "overview"))["rabbitmq_version"].split(".")[:3]))


def peeking_is_not_counted(broker: Broker) -> bool:
    """Tell whether a nack does not count as a failed delivery of a quorum queue."""
    return version(broker) >= (4, 3)


def untyped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a queue's arguments as RabbitMQ 3 reports them: RabbitMQ 4 adds the type if none was declared."""
    return {name: value for name, value in arguments.items() if (name, value) != ("x-queue-type", "classic")}
