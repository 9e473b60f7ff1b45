"""The patterns of `rmqkit demo`, as one table that help, completion, errors and tests read.

A demo is a function from a DemoRunner to a Result. It shows commands as it runs them, and checks that the pattern kept
its promises.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern: a sentence, its topology, `module:function` of its demo, and the default amounts.

    `count` is the number of messages published at a time; `workers` the number of processes that share the work, None
    where no work is shared. `deliveries` maps each kind of message, by its routing key or headers, to the queues that
    get it.
    """

    sentence: str
    topology: str
    demo: str
    count: int
    workers: int | None = None
    clustered: bool = False
    deliveries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


PATTERNS = {
    "work": Pattern("Each message is done by one of several workers.", "work", "sharing:work", 100_000, workers=3),
    "pubsub": Pattern("Every reader gets every message.", "pubsub", "routing:pubsub", 1000),
    "routing": Pattern(
        "Each queue gets the routing keys it is bound with.",
        "routing",
        "routing:route",
        300,
        deliveries={"error": ("log_errors", "log_all"), "info": ("log_all",), "debug": ()},
    ),
    "topics": Pattern(
        "Each queue gets the keys that match its patterns.",
        "topics",
        "routing:route",
        300,
        deliveries={
            "order.eu.paid": ("orders_billing", "orders_europe", "orders_audit"),
            "order.us.paid": ("orders_billing", "orders_audit"),
            "order.eu.sent": ("orders_europe", "orders_audit"),
            "order.us.sent": ("orders_audit",),
        },
    ),
    "headers": Pattern(
        "Each queue gets the messages whose headers match its binding.",
        "headers",
        "routing:route",
        300,
        deliveries={
            "format=pdf pages:=1": ("documents_leaflets", "documents_printer"),
            "format=pdf pages=1": ("documents_printer",),  # the text "1" is not the number 1
            "urgent:=true": ("documents_printer",),
            "format=html": (),
        },
    ),
    "offline": Pattern("Readers who are away miss nothing.", "offline", "routing:offline", 300),
    "rpc": Pattern("Servers answer requests; one of them is killed half-way.", "rpc", "sharing:rpc", 10_000, workers=3),
    "streams": Pattern("Readers of a log start anywhere, as often as they like.", "stream", "ordering:streams", 500),
    "cluster": Pattern(
        "Three nodes; the leader of a queue is killed half-way, and nothing is lost.",
        "orders",
        "sharing:cluster",
        50_000,
        workers=3,
        clustered=True,
    ),
    "retry": Pattern("Failed tasks are retried after growing delays, then parked.", "retry", "retry:run", 10),
    "priority": Pattern("Urgent messages overtake waiting ones.", "priority", "ordering:priority", 10),
    "single-active": Pattern(
        "One consumer gets all messages; if it dies, the next takes over.",
        "single_active",
        "ordering:single_active",
        2000,
        workers=3,
    ),
}
