"""Derive the permissions that a service needs from a topology (https://www.rabbitmq.com/docs/access-control)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from rmqkit.model import Binding, Service, Target, Topology
from rmqkit.topology import delays
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.retry import waiting_queues

DEFAULT_EXCHANGE = "amq.default"  # the name by which permissions know the default exchange
_NO_NAME = "^$"  # names are never empty
_ENTRANCES = re.escape(delays.NAMES) + "[0-9]+"  # a pattern of names, the only one among names
_NO_KEY = "(?!)"  # but routing keys may be


@dataclass(frozen=True, slots=True)
class TopicPermission:
    """The routing keys of a topic exchange that a user may write (publish with) and read (bind with), as patterns."""

    exchange: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class Permissions:
    """The patterns of names that a user may configure, write and read; for topic exchanges also those of keys.

    `tags` are the tags that the user needs in addition (https://www.rabbitmq.com/docs/management#permissions).
    """

    configure: str
    write: str
    read: str
    topics: tuple[TopicPermission, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def writes_default_exchange(self) -> bool:
        """Tell whether the user may publish through the default exchange, which leads to every queue."""
        return bool(re.search(self.write, DEFAULT_EXCHANGE))


def permissions_of(topology: Topology, service: Service) -> Permissions:
    """Return the permissions that let a service do what its entry says, and as little else as RabbitMQ can express.

    A queue or exchange that it declares also takes those to bind it. Topic permissions are those of every topic
    exchange that the service may write or read. Passive declarations, which RabbitMQ 4.3 checks, need no more.
    """
    needs = _Needs(TopologyIndex(topology))
    for each in service.publishes:
        needs.publish(each.exchange, each.routing_keys)
        if each.delay:
            needs.delay(each.exchange, each.routing_keys)
    for queue in service.consumes:
        needs.consume(queue)
    for name in service.declares:
        needs.declare(name)
    topics = tuple(needs.topic_permissions())
    return Permissions(_names(needs.configure), _names(needs.write), _names(needs.read), topics, tuple(needs.tags))


@dataclass(slots=True)
class _Needs:
    """The names that a service configures, writes and reads, and the patterns of keys, by topic exchange."""

    index: TopologyIndex
    configure: dict[str, None] = field(default_factory=dict)
    write: dict[str, None] = field(default_factory=dict)
    read: dict[str, None] = field(default_factory=dict)
    written_keys: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    read_keys: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    tags: dict[str, None] = field(default_factory=dict)

    def publish(self, exchange: str, keys: Iterable[str]) -> None:
        self.write[exchange] = None
        self.written_keys[exchange] += [_key_pattern(key) for key in keys] or [".*"]

    def delay(self, exchange: str, keys: Iterable[str]) -> None:
        """Publish to the exchanges of the delay levels, and declare the last queue of each target."""
        self.write[_ENTRANCES] = None
        self.configure[delays.DELIVER.name] = self.read[delays.DELIVER.name] = None
        for key in [""] if exchange else keys:
            last = delays.last_queue(Target(exchange, key)).name
            self.configure[last] = self.write[last] = self.read[last] = None

    def consume(self, queue: str) -> None:
        """Read a queue; to retry a message, or to end its retry, its copy is published through the default exchange.

        The HTTP API shows whether the queue itself delays messages, as a native retry requires.
        """
        self.read[queue] = None
        if (declared := self.index.queues.get(queue)) and declared.retry:
            self.write[""] = None
            if declared.retry.native:
                self.tags["management"] = None

    def declare(self, name: str) -> None:
        """Configure an entity and bind it; one that names another exchange is also read, and that exchange written."""
        self.configure[name] = None
        if queue := self.index.queues.get(name):
            retry = queue.retry and replace(queue.retry, native=False)  # before RabbitMQ 4.3 none is native
            for each in (queue, *waiting_queues(replace(queue, retry=retry))):
                self.configure[each.name] = None
                self._leads_to(each.name, each.arguments.get("x-dead-letter-exchange"))
            self._bind(name, self.index.into_queue.get(name, ()))
        if exchange := self.index.exchanges.get(name):
            self._leads_to(name, exchange.arguments.get("alternate-exchange"))
            self._bind(name, self.index.into_exchange.get(name, ()))

    def _leads_to(self, name: str, exchange: object) -> None:
        if isinstance(exchange, str):
            self.read[name] = self.write[exchange] = None

    def _bind(self, name: str, bindings: Iterable[Binding]) -> None:
        for binding in bindings:
            self.write[name] = self.read[binding.source] = None
            self.read_keys[binding.source].append(re.escape(binding.routing_key))

    def topic_permissions(self) -> Iterator[TopicPermission]:
        for exchange in dict.fromkeys((*self.write, *self.read)):
            if exchange and self.index.type_of(exchange) == "topic":
                yield TopicPermission(
                    exchange,
                    _any_of(self.written_keys.get(exchange, ()), _NO_KEY if exchange in self.write else _NO_NAME),
                    _any_of(self.read_keys.get(exchange, ()), _NO_KEY if exchange in self.read else _NO_NAME),
                )


def _names(names: Iterable[str]) -> str:
    patterns = (name if name is _ENTRANCES else re.escape(name or DEFAULT_EXCHANGE) for name in names)
    return _any_of(list(patterns), _NO_NAME)


def _any_of(patterns: Iterable[str], nothing: str) -> str:
    """Return a pattern for texts that match one of some patterns as a whole."""
    found = [*dict.fromkeys(patterns)]
    if ".*" in found or not found:
        return ".*" if found else nothing
    return f"^({'|'.join(found)})$" if len(found) > 1 else f"^{found[0]}$"


def _key_pattern(key: str) -> str:
    """Return a regular expression for the routing keys that a pattern of a topic exchange matches."""
    text, joint = "", ""
    words = key.split(".")
    for position, word in enumerate(words):
        if word != "#":
            text += joint + (r"[^.]*" if word == "*" else re.escape(word))
            joint = r"\."
        elif words[position - 1 : position] == ["#"]:
            continue
        elif joint:
            text += r"(\.[^.]*)*"
        else:
            text += r"([^.]*\.)*"
    if key and joint and re.fullmatch(text, ""):  # the empty key has no word, not an empty one
        text = "(?=.)" + text
    return text if joint else ".*"
