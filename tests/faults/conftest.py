"""Fixtures of the fault tests: nodes that may be killed, ledgers, and a watch over threads and files."""

from __future__ import annotations

import gc
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from rmqkit.node.node import Node
from tests.conftest import Broker
from tests.faults.fault_run import FaultSetup, io_threads, open_files
from tests.faults.ledger import FaultLedger
from tests.support.queues import declare
from tests.support.wait import wait_until


@pytest.fixture
def node_ledger(node: Node) -> Iterator[Callable[..., FaultLedger]]:
    """Declare durable queues on the session's node, and return their ledgers; delete the queues after the test."""
    names: list[str] = []

    def declare_ledger(**arguments: Any) -> FaultLedger:
        names.append(f"faults-{uuid.uuid4().hex[:12]}")
        declare(node.url, names[-1], **arguments)
        return FaultLedger(names[-1])

    yield declare_ledger
    node.start()  # a failure may have left it dead
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        for name in names:
            connection.channel().queue_delete(name)


@pytest.fixture
def setup(broker: Broker, tmp_path: Path) -> Iterator[FaultSetup]:
    """Set up a fault that leaves the shared broker running."""
    setup = FaultSetup(broker, tmp_path / "run")
    yield setup
    setup.clean_up()


@pytest.fixture
def node_setup(node: Node, tmp_path: Path) -> Iterator[FaultSetup]:
    """Set up a fault that may kill the session's node."""
    setup = FaultSetup.of_node(node, tmp_path / "node run")
    yield setup
    setup.clean_up()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Return a source of random numbers for the moments of a fault; the seed is shown when the test fails."""
    seed = random.randrange(1 << 32)
    print(f"{request.node.name}: seed {seed}")  # noqa: T201
    return random.Random(seed)


@pytest.fixture
def ledger(broker_url: str, queue_name: str) -> FaultLedger:
    """Return the ledger of a fresh durable queue on the shared broker."""
    declare(broker_url, queue_name)
    return FaultLedger(queue_name)


@pytest.fixture
def leak_free() -> Iterator[None]:
    """Fail if the test leaves a thread of rmqkit or an open file behind."""
    before = open_files()
    yield
    gc.collect()
    wait_until(lambda: not io_threads(), lambda: f"threads are left: {io_threads()}")
    wait_until(lambda: not open_files() - before, lambda: f"files are left: {open_files() - before}")
