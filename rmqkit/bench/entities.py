"""The exchanges and queues of a run: declared before it, and deleted after it, or by the next run if it was killed.

Each run writes the names to a file and locks it; the kernel releases the lock however the run ends. Queues without a
next run of this user on this machine expire.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from rmqkit.amqp import entity_methods
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.bench.load import EXPIRES_MS, Layout, Load
from rmqkit.errors import BrokerError, NotFound
from rmqkit.model import Exchange, Queue, Target
from rmqkit.settings import Settings
from rmqkit.topology import delays


class BenchEntities:
    """The entities of a layout, on a connection."""

    def __init__(self, settings: Settings, load: Load, layout: Layout) -> None:
        self.connection = ReconnectingConnection(settings, "rmqkit bench")
        self._topology = layout.topology
        self._queues = [queue.name for queue in layout.topology.queues]
        if load.delay_s:
            self._queues += [delays.last_queue(Target("", name)).name for name in self._queues]
        self._declared_s = 0.0

    @contextmanager
    def declared(self, folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
        """Declare the entities, and delete them after the block; first, delete those of killed runs.

        `folder` has a file for each run at this broker and virtual host. Raises the errors of declaring, OSError.
        """
        self.connection.verify()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob("*.json"):
            self._delete_left(left)
        exchanges = [exchange.name for exchange in self._topology.exchanges]
        file = folder / f"{os.getpid()}-{time.time_ns()}.json"
        with file.open("x") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            json.dump([self._queues, exchanges], stream)
            stream.flush()
            try:
                self._declare()
                yield
            finally:
                self._delete(self._queues, exchanges, warn)
                file.unlink(missing_ok=True)
                self.connection.close()

    def _declare(self) -> None:
        self._declared_s = time.monotonic()
        for entities in (self._topology.exchanges, self._topology.queues, self._topology.bindings):
            if entities:
                list(entity_methods.declare_all(self.connection, entities))

    def renew(self) -> None:
        """Declare the entities again from time to time, so that queues without consumers do not expire."""
        if time.monotonic() - self._declared_s > EXPIRES_MS / 4000:
            with suppress(BrokerError):  # its clients say what is wrong
                self._declare()

    def ready(self) -> int:
        """Return the number of messages that are ready in all queues."""
        found = 0
        with closing(self.connection.channel()) as channel:
            for queue in self._topology.queues:
                found += channel.queue_counts(queue.name).message_count
        return found

    def _delete_left(self, file: Path) -> None:
        """Delete the entities of a run that was killed, unless it still runs."""
        with suppress(FileNotFoundError), file.open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                queues, exchanges = json.load(stream)
            except BlockingIOError:
                return
            except ValueError:  # killed while it wrote the file, before it declared anything
                queues, exchanges = [], []
            self._delete(queues, exchanges, lambda _: None)
            file.unlink(missing_ok=True)

    def _delete(self, queues: Sequence[str], exchanges: Sequence[str], warn: Callable[[str], None]) -> None:
        entities: list[Queue | Exchange] = [*map(Queue, queues), *map(Exchange, exchanges)]
        try:
            with closing(self.connection.channel()) as channel:
                for entity in entities:
                    with suppress(NotFound):
                        call = entity_methods.delete_call(entity)
                        channel.call(call.method, call.answer, subject=call.subject)
        except BrokerError as error:
            names = ", ".join(entity.name for entity in entities)
            warn(f"the queues and exchanges of this run were not deleted: {error.message}. Delete {names}")
