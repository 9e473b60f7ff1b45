"""The patterns of `rmqkit demo`: one table, and a module for each kind of demo.

A demo is a function from a DemoRunner to a Result: it shows commands as it runs them, and says whether the pattern
held its promises. Help, completion, errors and tests come from the table. A demo that needs more than the
private node names a context manager as its `broker`, which yields a DemoBroker with the nodes in it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmqkit.cli.demos.runner import DemoBroker, DemoRunner, Result


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern: one sentence, `module:function` of its demo and of its broker, and the amounts if nobody names others.

    `count` is how many messages are published at a time; `workers` how many processes share the work, None where no
    work is shared.
    """

    sentence: str
    demo: str
    count: int
    workers: int | None = None
    broker: str = "stage:private_node"

    def run(self, stage: DemoRunner) -> Result:
        """Run the demo."""
        demo: Callable[[DemoRunner], Result] = _load(self.demo)
        return demo(stage)

    def place(self) -> AbstractContextManager[DemoBroker]:
        """Provide the broker for as long as a block runs."""
        broker: Callable[[], AbstractContextManager[DemoBroker]] = _load(self.broker)
        return broker()


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)


PATTERNS = {
    "work": Pattern("Each message is done by one of several workers.", "work:run", 100_000, workers=3),
    "pubsub": Pattern("Every reader gets every message.", "sorting:pubsub", 1000),
    "routing": Pattern("Each queue gets the routing keys it asked for.", "sorting:routing", 300),
    "topics": Pattern("Each queue gets the keys that match its patterns.", "sorting:topics", 300),
    "headers": Pattern("Each queue gets what has the headers it asked for.", "sorting:headers", 300),
    "offline": Pattern("Readers who are away miss nothing.", "sorting:offline", 300),
    "rpc": Pattern("Servers answer requests; one of them is killed half-way.", "rpc:run", 10_000, workers=3),
    "streams": Pattern("A log is read again and again, from where each reader says.", "streams:run", 500),
    "cluster": Pattern(
        "Three nodes; one that leads a queue is killed half-way, and nothing is lost.",
        "cluster:run",
        50_000,
        workers=3,
        broker="cluster:private_cluster",
    ),
    "retry": Pattern("What fails comes back after a while, and is parked in the end.", "retry:run", 10),
    "priority": Pattern("What is urgent overtakes what waits.", "priority:run", 10),
    "single-active": Pattern("One consumer gets all; if it dies, the next does.", "single_active:run", 2000, workers=3),
}
