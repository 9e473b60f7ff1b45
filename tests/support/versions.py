"""Where versions of RabbitMQ differ in what tests look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.conftest import Broker


def major(broker: Broker) -> int:
    """Return 3 or 4."""
    return int(json.loads(broker.api("GET", "overview"))["rabbitmq_version"].partition(".")[0])


def untyped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a queue's arguments as RabbitMQ 3 tells of them: 4 writes the type out where nobody said one."""
    return {name: value for name, value in arguments.items() if (name, value) != ("x-queue-type", "classic")}
