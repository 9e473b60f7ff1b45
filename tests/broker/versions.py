"""Where versions of RabbitMQ differ in what tests look at."""

from __future__ import annotations

import json
from dataclasses import replace

from rmqkit import Queue
from tests.conftest import Broker


def major(broker: Broker) -> int:
    """Return 3 or 4."""
    return int(json.loads(broker.api("GET", "overview"))["rabbitmq_version"].partition(".")[0])


def untyped(queue: Queue) -> Queue:
    """Return a queue as RabbitMQ 3 tells of it: 4 writes the type out where nobody said one."""
    arguments = {name: value for name, value in queue.arguments.items() if (name, value) != ("x-queue-type", "classic")}
    return replace(queue, arguments=arguments)
