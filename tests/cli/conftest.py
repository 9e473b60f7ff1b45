"""The command line's surroundings: a broker, a state folder, an independent client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel


@pytest.fixture
def environment(broker_url: str, tmp_path: Path) -> dict[str, str]:
    """Return what a command's environment has to be: the tests' broker, and a state folder of its own."""
    return os.environ | {"RMQKIT_URL": broker_url, "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def channel(broker_url: str) -> Iterator[BlockingChannel]:
    """An independent client."""
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    yield connection.channel()
    connection.close()


@pytest.fixture
def queue(channel: BlockingChannel, queue_name: str) -> str:
    channel.queue_declare(queue_name, durable=True)
    return queue_name
