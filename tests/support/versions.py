"""Differences between versions of RabbitMQ that tests see."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError

from tests.conftest import Broker


def major(broker: Broker) -> int:
    """Return 3 or 4."""
    return version(broker)[0]


def version(broker: Broker) -> tuple[int, ...]:
    """Return the version in numbers, like (4, 3, 6); a node that has just started may answer 500 at first."""
    until_s = time.monotonic() + 10
    while True:
        try:
            overview = json.loads(broker.api("GET", "overview"))
            return tuple(map(int, overview["rabbitmq_version"].split(".")[:3]))
        except HTTPError as exc:
            if exc.code != 500 or time.monotonic() > until_s:
                raise
            time.sleep(0.2)


def peeking_is_not_counted(broker: Broker) -> bool:
    """Tell whether a nack does not count as a failed delivery of a quorum queue."""
    return version(broker) >= (4, 3)


def untyped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a queue's arguments as RabbitMQ 3 reports them: RabbitMQ 4 adds the type if none was declared."""
    return {name: value for name, value in arguments.items() if (name, value) != ("x-queue-type", "classic")}
