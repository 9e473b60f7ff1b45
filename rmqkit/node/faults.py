"""Faults of a private node, for the tests of services that must survive them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rmqkit.errors import NodeError
from rmqkit.node.node import Node

# Mnesia writes a declaration to disk a moment after it is confirmed; Khepri, RabbitMQ 4's store, writes it before. Both
# write the directory of quorum queues, a table of dets, half a second later: a queue that it lacks starts empty.
SYNC = (
    "[dets:sync(Table) || Table <- dets:all()],"
    "try mnesia:system_info(is_running) of yes -> mnesia:sync_log(); _ -> ok catch error:undef -> ok end"
)
_LIMIT = "vm_memory_monitor:get_vm_memory_high_watermark()."
_CUT = "Open = rabbit_networking:connections(), [exit(Each, kill) || Each <- Open], length(Open)."


class Faults:
    """Injects faults into a private node; `url` leads a service to the virtual host of a test, before and after."""

    def __init__(self, node: Node, url: str) -> None:
        self.url = url
        self._node = node

    def kill(self) -> None:
        """Kill the node, like a power cut, and start it again, which takes some seconds.

        Persistent messages in durable queues survive: it waits until RabbitMQ has written the declarations, which it
        does a moment after it confirms them. Raises NodeError if the node does not start.
        """
        self._evaluate(f"{SYNC}.")
        self._node.kill()
        self._node.start()

    def cut(self) -> int:
        """Break all connections without closing them first, as a failing network does; return their number."""
        return int(self._evaluate(_CUT))

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Stop the node during the block: it keeps its connections, but reads and answers nothing."""
        with self._node.frozen():
            yield

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Raise a memory alarm during the block: the node blocks publishers (https://www.rabbitmq.com/docs/memory)."""
        limit = self._evaluate(_LIMIT)
        self._evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.000001).")
        try:
            yield
        finally:
            self._evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({limit}).")

    def _evaluate(self, expression: str) -> str:
        done = self._node.ctl("eval", expression)
        if done.returncode:
            raise NodeError(f"rabbitmqctl eval failed: {done.stderr.strip()}")
        return done.stdout.strip()
