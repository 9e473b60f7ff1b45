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

# The module that defines each exported name.
_MODULES = {
    "address": "Tls",
    "app": "App",
    "connection": "Connection connect handle",
    "errors": (
        "AccessRefused AuthenticationFailed BrokerError ConnectionLost ConsumerCancelled DocumentError HandlerError "
        "InputError Location NodeError NotConfirmed NotFound OutputError PayloadError Problem PropertyMismatch "
        "Refused RemoteError ReplyTimeout ResourceLocked RmqkitError SettingsError TopologyError Unreachable "
        "Unroutable"
    ),
    "hooks": "ConnectionEvent EventKind Hooks",
    "message": "Delivery Message Properties Verdict",
    "messaging.background_publisher": "BackgroundPublisher",
    "messaging.consumer": "Consumer",
    "messaging.queue_browser": "QueueBrowser",
    "messaging.peek": "PeekedMessage PeekReport",
    "model": "Binding Contract Exchange Policy Queue Retry Suppression Target Topology",
    "options": (
        "ApplyOptions CallOptions ConsumeOptions FailurePolicy MoveOptions Offset PublishOptions Replay ServeOptions "
        "WaitFor"
    ),
    "payload.contracts": "compile_contract",
    "payload.message_template": "fill",
    "plan": "Difference Outcome Plan Step",
    "report": (
        "Answer ConsumeReport Failure Fate MoveGroup MoveReport PublishReport PurgeReport "
        "QueueState QueueStatus ServeReport WaitReport"
    ),
    "settings": "Settings load_settings",
    "stop": "Stop",
    "topology.file.loader": "load loads merge",
    "topology.file.writer": "to_yaml",
    "topology.lint.linter": "Finding lint",
    "topology.routing": "Route route",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}
__version__ = VERSION

if TYPE_CHECKING:
    from rmqkit.address import Tls as Tls
    from rmqkit.app import App as App
    from rmqkit.connection import Connection as Connection
    from rmqkit.connection import connect as connect
    from rmqkit.connection import handle as handle
    from rmqkit.errors import AccessRefused as AccessRefused
    from rmqkit.errors import AuthenticationFailed as AuthenticationFailed
    from rmqkit.errors import BrokerError as BrokerError
    from rmqkit.errors import ConnectionLost as ConnectionLost
    from rmqkit.errors import ConsumerCancelled as ConsumerCancelled
    from rmqkit.errors import DocumentError as DocumentError
    from rmqkit.errors import HandlerError as HandlerError
    from rmqkit.errors import InputError as InputError
    from rmqkit.errors import Location as Location
    from rmqkit.errors import NodeError as NodeError
    from rmqkit.errors import NotConfirmed as NotConfirmed
    from rmqkit.errors import NotFound as NotFound
    from rmqkit.errors import OutputError as OutputError
    from rmqkit.errors import PayloadError as PayloadError
    from rmqkit.errors import Problem as Problem
    from rmqkit.errors import PropertyMismatch as PropertyMismatch
    from rmqkit.errors import Refused as Refused
    from rmqkit.errors import RemoteError as RemoteError
    from rmqkit.errors import ReplyTimeout as ReplyTimeout
    from rmqkit.errors import ResourceLocked as ResourceLocked
    from rmqkit.errors import RmqkitError as RmqkitError
    from rmqkit.errors import SettingsError as SettingsError
    from rmqkit.errors import TopologyError as TopologyError
    from rmqkit.errors import Unreachable as Unreachable
    from rmqkit.errors import Unroutable as Unroutable
    from rmqkit.hooks import ConnectionEvent as ConnectionEvent
    from rmqkit.hooks import EventKind as EventKind
    from rmqkit.hooks import Hooks as Hooks
    from rmqkit.message import Delivery as Delivery
    from rmqkit.message import Message as Message
    from rmqkit.message import Properties as Properties
    from rmqkit.message import Verdict as Verdict
    from rmqkit.messaging.background_publisher import BackgroundPublisher as BackgroundPublisher
    from rmqkit.messaging.consumer import Consumer as Consumer
    from rmqkit.messaging.peek import PeekedMessage as PeekedMessage
    from rmqkit.messaging.peek import PeekReport as PeekReport
    from rmqkit.messaging.queue_browser import QueueBrowser as QueueBrowser
    from rmqkit.model import Binding as Binding
    from rmqkit.model import Contract as Contract
    from rmqkit.model import Exchange as Exchange
    from rmqkit.model import Policy as Policy
    from rmqkit.model import Queue as Queue
    from rmqkit.model import Retry as Retry
    from rmqkit.model import Suppression as Suppression
    from rmqkit.model import Target as Target
    from rmqkit.model import Topology as Topology
    from rmqkit.options import ApplyOptions as ApplyOptions
    from rmqkit.options import CallOptions as CallOptions
    from rmqkit.options import ConsumeOptions as ConsumeOptions
    from rmqkit.options import FailurePolicy as FailurePolicy
    from rmqkit.options import MoveOptions as MoveOptions
    from rmqkit.options import Offset as Offset
    from rmqkit.options import PublishOptions as PublishOptions
    from rmqkit.options import Replay as Replay
    from rmqkit.options import ServeOptions as ServeOptions
    from rmqkit.options import WaitFor as WaitFor
    from rmqkit.payload.contracts import compile_contract as compile_contract
    from rmqkit.payload.message_template import fill as fill
    from rmqkit.plan import Difference as Difference
    from rmqkit.plan import Outcome as Outcome
    from rmqkit.plan import Plan as Plan
    from rmqkit.plan import Step as Step
    from rmqkit.report import Answer as Answer
    from rmqkit.report import ConsumeReport as ConsumeReport
    from rmqkit.report import Failure as Failure
    from rmqkit.report import Fate as Fate
    from rmqkit.report import MoveGroup as MoveGroup
    from rmqkit.report import MoveReport as MoveReport
    from rmqkit.report import PublishReport as PublishReport
    from rmqkit.report import PurgeReport as PurgeReport
    from rmqkit.report import QueueState as QueueState
    from rmqkit.report import QueueStatus as QueueStatus
    from rmqkit.report import ServeReport as ServeReport
    from rmqkit.report import WaitReport as WaitReport
    from rmqkit.settings import Settings as Settings
    from rmqkit.settings import load_settings as load_settings
    from rmqkit.stop import Stop as Stop
    from rmqkit.topology.file.loader import load as load
    from rmqkit.topology.file.loader import loads as loads
    from rmqkit.topology.file.loader import merge as merge
    from rmqkit.topology.file.writer import to_yaml as to_yaml
    from rmqkit.topology.lint.linter import Finding as Finding
    from rmqkit.topology.lint.linter import lint as lint
    from rmqkit.topology.routing import Route as Route
    from rmqkit.topology.routing import route as route
else:
    __all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604 - all are strings

    def __getattr__(name: str) -> Any:  # hidden from type checkers: they would accept every name
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'rmqkit' has no attribute {name!r}")
        value = getattr(import_module(f"rmqkit.{_MODULE_OF[name]}"), name)
        globals()[name] = value  # found without this function from now on
        return value

    def __dir__() -> list[str]:
        return sorted(globals().keys() | _MODULE_OF.keys())
