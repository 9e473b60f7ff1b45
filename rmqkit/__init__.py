"""A messaging toolkit for RabbitMQ: topologies in YAML, fast confirmed publishing, consumers that lose no message.

import rmqkit

topology = rmqkit.load("topologies/work.yaml")
with rmqkit.connect("amqp://guest:guest@localhost:5672/") as connection:
    connection.apply(topology)
    connection.publish(rmqkit.Message(b"hello", routing_key="worker_queue"))
    for delivery in connection.consume("worker_queue", count=1):
        print(delivery.body)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rmqkit.version import VERSION

if TYPE_CHECKING:
    from rmqkit.connection import Connection, connect
    from rmqkit.errors import (
        AccessRefused,
        AuthenticationFailed,
        BrokerError,
        ConnectionLost,
        ConsumerCancelled,
        DocumentError,
        HandlerError,
        InputError,
        Location,
        NodeError,
        NotConfirmed,
        NotFound,
        OutputError,
        PayloadError,
        Problem,
        PropertyMismatch,
        Refused,
        RemoteError,
        ReplyTimeout,
        ResourceLocked,
        RmqkitError,
        SettingsError,
        TopologyError,
        Unreachable,
        Unroutable,
    )
    from rmqkit.handlers.runner import handle
    from rmqkit.message import Delivery, Message, Properties, Verdict
    from rmqkit.messaging.consumer import Consumer
    from rmqkit.model import Binding, Contract, Exchange, Policy, Queue, Retry, Suppression, Target, Topology
    from rmqkit.options import ApplyOptions, PublishOptions, Replay
    from rmqkit.payload.contracts import compile_contract
    from rmqkit.payload.message_template import fill
    from rmqkit.plan import Difference, Outcome, Plan, Step
    from rmqkit.report import (
        Answer,
        ConsumeReport,
        Failure,
        Fate,
        MoveGroup,
        MoveReport,
        PublishReport,
        QueueState,
        QueueStatus,
        ServeReport,
    )
    from rmqkit.settings import Settings
    from rmqkit.stop import Stop
    from rmqkit.topology.file.loader import load
    from rmqkit.topology.lint.linter import Finding, lint
    from rmqkit.topology.routing import Route, route

__version__ = VERSION

__all__ = [
    "AccessRefused",
    "Answer",
    "ApplyOptions",
    "AuthenticationFailed",
    "Binding",
    "BrokerError",
    "Connection",
    "ConnectionLost",
    "ConsumeReport",
    "Consumer",
    "ConsumerCancelled",
    "Contract",
    "Delivery",
    "Difference",
    "DocumentError",
    "Exchange",
    "Failure",
    "Fate",
    "Finding",
    "HandlerError",
    "InputError",
    "Location",
    "Message",
    "MoveGroup",
    "MoveReport",
    "NodeError",
    "NotConfirmed",
    "NotFound",
    "Outcome",
    "OutputError",
    "PayloadError",
    "Plan",
    "Policy",
    "Problem",
    "Properties",
    "PropertyMismatch",
    "PublishOptions",
    "PublishReport",
    "Queue",
    "QueueState",
    "QueueStatus",
    "Refused",
    "RemoteError",
    "Replay",
    "ReplyTimeout",
    "ResourceLocked",
    "Retry",
    "RmqkitError",
    "Route",
    "ServeReport",
    "Settings",
    "SettingsError",
    "Step",
    "Stop",
    "Suppression",
    "Target",
    "Topology",
    "TopologyError",
    "Unreachable",
    "Unroutable",
    "Verdict",
    "__version__",
    "compile_contract",
    "connect",
    "fill",
    "handle",
    "lint",
    "load",
    "route",
]

# The modules that define these names, the cheapest to import first.
_MODULES = (
    "errors",
    "message",
    "model",
    "plan",
    "report",
    "stop",
    "settings",
    "payload.contracts",
    "topology.file.loader",
    "topology.routing",
    "topology.lint.linter",
    "payload.message_template",
    "options",
    "connection",
    "handlers.runner",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rmqkit' has no attribute {name!r}")
    modules = (import_module(f"rmqkit.{module}") for module in _MODULES)
    value = next(getattr(module, name) for module in modules if hasattr(module, name))
    globals()[name] = value  # found without this function from now on
    return value
