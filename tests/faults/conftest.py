"""What fault tests need: a node that may be hurt, queues, and a watch over threads and files."""

from __future__ import annotations

import gc
import os
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest

from rmqkit.node.node import Node
from tests.conftest import Broker
from tests.faults.fault_run import Ground, io_threads, open_files
from tests.faults.ledger import Ledger
from tests.support.queues import declare
from tests.support.wait import wait_until

FOLDER = "RMQKIT_TEST_FOLDER"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A private node that the tests of one module hurt one after the other; each leaves it running."""
    private = Node(Path(os.environ[FOLDER]) / f"faults-{uuid.uuid4().hex[:12]}")
    private.start(port=0)
    yield private
    private.discard()


@pytest.fixture
def on_node(node: Node) -> Iterator[Callable[[str], Ledger]]:
    """Declare a durable queue on the module's node and open its books; the queue goes with the test."""
    names: list[str] = []

    def open_books(name: str = "") -> Ledger:
        names.append(name or f"faults-{uuid.uuid4().hex[:12]}")
        declare(node.url, names[-1])
        assert node.ctl("eval", "mnesia:sync_log().").returncode == 0  # or the queue itself may not survive kill -9
        return Ledger(names[-1])

    yield open_books
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        for name in names:
            connection.channel().queue_delete(name)


@pytest.fixture
def ground(broker: Broker, tmp_path: Path) -> Iterator[Ground]:
    """The shared broker, for faults that do not hurt it."""
    ground = Ground(broker, tmp_path / "round")
    yield ground
    ground.clear()


@pytest.fixture
def node_ground(node: Node, tmp_path: Path) -> Iterator[Ground]:
    """The module's node, which may be hurt."""
    ground = Ground.of_node(node, tmp_path / "round")
    yield ground
    ground.clear()


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """What decides on the moments; the seed is shown when the test fails."""
    seed = random.randrange(1 << 32)
    print(f"{request.node.name}: seed {seed}")  # noqa: T201
    return random.Random(seed)


@pytest.fixture
def ledger(broker_url: str, queue_name: str) -> Ledger:
    """The books of a fresh durable queue of the shared broker."""
    declare(broker_url, queue_name)
    return Ledger(queue_name)


@pytest.fixture
def leak_free() -> Iterator[None]:
    """Fail when the test leaves a thread of rmqkit's or an open file behind (I10)."""
    before = open_files()
    yield
    gc.collect()
    wait_until(lambda: not io_threads(), lambda: f"threads are left: {io_threads()}")
    wait_until(lambda: not open_files() - before, lambda: f"files are left: {open_files() - before}")
