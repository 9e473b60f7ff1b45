"""Convert a Topology to AsyncAPI 3 (https://www.asyncapi.com/docs/reference/specification/v3.0.0), and back.

Each exchange and each queue is a channel with an AMQP binding; contracts are messages. Parts that AsyncAPI cannot
express, such as bindings and arguments, are extensions (`x-rabbitmq-*`), so that rmqkit reads its own documents
completely.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rmqkit import strict_json
from rmqkit.errors import Location, Problem, TopologyError
from rmqkit.model import Binding, Contract, Exchange, Queue, Target, Topology
from rmqkit.plural import plural
from rmqkit.topology.file import document
from rmqkit.topology.file.definitions import with_externals
from rmqkit.topology.file.text import headline, read_text

_TYPES = ("direct", "fanout", "topic", "headers")  # those that the AMQP binding knows
_JSON_SCHEMA = "application/schema+json;version="
_DRAFT = re.compile(r"draft[-/](?:\d{4}-\d\d|\d\d)")
_BEGINNING = re.compile(r"""(?:\s|#.*\n|---\n)*\{?\s*["']?asyncapi["']?\s*:""")


class AsyncApi(NamedTuple):
    """The topology of a document, and descriptions of the rest of it."""

    topology: Topology
    omitted: tuple[str, ...]


def is_asyncapi(text: str) -> bool:
    """Tell whether a file begins as AsyncAPI documents do, in JSON or YAML."""
    return bool(_BEGINNING.match(text))


def to_asyncapi(topology: Topology, server: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a document with a channel for each exchange and queue, a message for each contract.

    Applications send to exchanges, and receive from queues. `server` is the broker, as AsyncAPI's server object. A
    schema in JSON is part of the document; raises DocumentError if it cannot be read. `not_in_asyncapi` describes what
    is left out.
    """
    document = _AsyncApiWriter(topology).document()
    return document | ({"servers": {"broker": dict(server)}} if server else {})


def with_contracts(live: Topology, declared: Topology) -> tuple[Topology, tuple[str, ...]]:
    """Return a live topology with the contracts, the description and the target of declared files.

    Also return the sorted names of exchanges and queues that are not live, but have a contract or are the target.
    """
    entities: list[Exchange | Queue] = [*declared.exchanges, *declared.queues]
    contracts = {(type(each), each.name): each.contract for each in entities if each.contract}
    target = declared.publish
    missing = set()
    if target and not target.exchange.startswith("amq."):
        names = {each.name for each in (live.exchanges if target.exchange else live.queues)}
        missing = {target.exchange or target.routing_key} - names
    known = replace(
        live,
        description=declared.description,
        publish=None if missing else target,
        exchanges=tuple(replace(each, contract=contracts.pop((Exchange, each.name), None)) for each in live.exchanges),
        queues=tuple(replace(each, contract=contracts.pop((Queue, each.name), None)) for each in live.queues),
    )
    return known, tuple(sorted(missing | {name for _, name in contracts}))


def not_in_asyncapi(topology: Topology) -> tuple[str, ...]:
    """Describe the parts of a topology that the document does not hold."""
    parts = {
        "the virtual host": topology.vhost,
        "the queues of delayed messages": topology.delay,
        "the retries": any(each.retry for each in topology.queues),
        plural(len(topology.policies), "policy"): topology.policies,
        "the services": topology.services,
        "the scope": topology.scope,
        "the suppressed findings": topology.suppressions,
    }
    return tuple(name for name, part in parts.items() if part)


@dataclass(slots=True)
class _AsyncApiWriter:
    """A topology that is turned into a document; `keys` are those of its channels, by kind and name."""

    topology: Topology
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    messages: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        topology = self.topology
        entities = [("exchange", each) for each in topology.exchanges] + [("queue", each) for each in topology.queues]
        for kind, entity in entities:
            self.keys[kind, entity.name] = self._key(f"{kind}_{entity.name}")
            if entity.contract:
                self.messages[self.keys[kind, entity.name]] = _message(entity.name, entity.contract)
        channels = {self.keys[kind, each.name]: self._channel(kind, each) for kind, each in entities}
        target = topology.publish
        info: dict[str, Any] = {"title": topology.description or "RabbitMQ topology", "version": "1.0.0"}
        if target:
            info["x-rabbitmq-publish"] = {"exchange": target.exchange, "routing_key": target.routing_key}
        found = {"asyncapi": "3.0.0", "info": info, "channels": channels, "operations": dict(self._operations())}
        return found | ({"components": {"messages": self.messages}} if self.messages else {})

    def _key(self, name: str) -> str:
        """Return a key as references need it: letters, digits, _ and -."""
        key = base = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        while key in self.keys.values():
            key = f"{base}_{sum(each.startswith(base) for each in self.keys.values()) + 1}"
        return key

    def _channel(self, kind: str, entity: Exchange | Queue) -> dict[str, Any]:
        common = {"name": entity.name, "durable": entity.durable, "autoDelete": entity.auto_delete}
        amqp: dict[str, Any] = {"is": "queue" if kind == "queue" else "routingKey", "bindingVersion": "0.3.0"}
        extra: dict[str, Any] = {"arguments": dict(entity.arguments), "bindings": self._bindings(kind, entity.name)}
        if isinstance(entity, Queue):
            amqp["queue"] = common | {"exclusive": entity.exclusive}
        else:
            amqp["exchange"] = common | ({"type": entity.type} if entity.type in _TYPES else {})
            extra |= {"type": "" if entity.type in _TYPES else entity.type, "internal": entity.internal}
        messages = {key: {"$ref": f"#/components/messages/{key}"} for key in self._messages(kind, entity)}
        channel = {"address": entity.name if kind == "queue" else None, "bindings": {"amqp": amqp}}
        channel |= {"messages": messages} if messages else {}
        return channel | {f"x-rabbitmq-{name}": value for name, value in extra.items() if value}

    def _bindings(self, kind: str, name: str) -> list[dict[str, Any]]:
        return [
            {"source": each.source, "routing_key": each.routing_key}
            | ({"arguments": dict(each.arguments)} if each.arguments else {})
            for each in self.topology.bindings
            if (each.destination_type, each.destination) == (kind, name)
        ]

    def _messages(self, kind: str, entity: Exchange | Queue) -> list[str]:
        """Return the messages of a channel: its own, or else those of the exchanges that feed it."""
        own = self.keys[kind, entity.name]
        if own in self.messages:
            return [own]
        sources = (self.keys.get(("exchange", each["source"])) for each in self._bindings(kind, entity.name))
        return [key for key in dict.fromkeys(sources) if key in self.messages]

    def _operations(self) -> Iterator[tuple[str, Any]]:
        target = self.topology.publish
        for (kind, name), key in self.keys.items():
            channel = {"channel": {"$ref": f"#/channels/{key}"}}
            internal = any(each.internal for each in self.topology.exchanges if each.name == name)
            if (kind == "exchange" and not internal) or (kind == "queue" and target == Target("", name)):
                sent = {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}
                yield f"send_{key}", {"action": "send", **channel, "bindings": {"amqp": sent}}
            if kind == "queue":
                received = {"ack": True, "bindingVersion": "0.3.0"}
                yield f"receive_{key}", {"action": "receive", **channel, "bindings": {"amqp": received}}


def _message(name: str, contract: Contract) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": name,
        "contentType": f"application/{contract.format}",
        "x-rabbitmq-schema": contract.schema,
    }
    if contract.format == "json":
        schema = strict_json.parse(read_text(contract.path), contract.path)
        draft = _DRAFT.search(str(schema.get("$schema", ""))) if isinstance(schema, dict) else None
        version = draft[0].replace("/", "-") if draft else "draft-2020-12"
        message["payload"] = {"schemaFormat": f"{_JSON_SCHEMA}{version}", "schema": schema}
    return message


def from_asyncapi(text: str, *, file: str) -> AsyncApi:
    """Return the exchanges and queues of a document, in JSON or YAML, and descriptions of the rest.

    `file` names it in errors. Only channels with an AMQP binding become entities. Raises DocumentError for text that
    is neither, TopologyError for another version than 3, or values of a wrong type.
    """
    if text.lstrip().startswith("{"):
        reader = _AsyncApiReader(strict_json.parse(text, file), file)
    else:
        found = document.parse(text, file, {})
        reader = _AsyncApiReader(found.data, file, found.problems)
    topology = reader.build()
    if reader.problems:
        raise TopologyError(headline(reader.problems), problems=reader.problems)
    return AsyncApi(with_externals(topology), tuple(reader.omitted()))


@dataclass(slots=True)
class _AsyncApiReader:
    """A document that is turned into a topology, and its problems."""

    data: dict[str, Any]
    file: str
    problems: list[Problem] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def build(self) -> Topology:
        version = str(self.data.get("asyncapi"))
        if not version.startswith("3."):
            advice = "Convert the document to version 3 with AsyncAPI's CLI, `asyncapi convert`."
            self._problem("asyncapi", f"is {version}, but only version 3 is supported", advice)
            return Topology()
        exchanges: list[Exchange] = []
        queues: list[Queue] = []
        bindings: list[Binding] = []
        for key, entry in self._mapping(self.data, "channels", "").items():
            place = f"channels.{key}"
            channel = self._resolved(entry, place)
            amqp = self._mapping(self._mapping(channel, "bindings", place), "amqp", f"{place}.bindings")
            kind = "queue" if amqp.get("is") == "queue" or "queue" in amqp else "exchange"
            given = self._mapping(amqp, kind, f"{place}.bindings.amqp")
            name = self._of(str, given, "name", place, channel.get("address") or "" if kind == "queue" else "")
            if not amqp or not name:
                self.skipped.append(key)
                continue
            common = self._common(given, channel, place) | {"name": name}
            if kind == "queue":
                queues.append(Queue(**common, exclusive=self._flag(given, "exclusive", place)))
            else:
                kind_of = self._of(str, channel, "x-rabbitmq-type", place, "") or given.get("type", "direct")
                internal = self._flag(channel, "x-rabbitmq-internal", place)
                exchanges.append(Exchange(**common, type=str(kind_of), internal=internal))
            bindings += self._bindings(channel, kind, name, f"{place}.x-rabbitmq-bindings")
        return self._topology(exchanges, queues, bindings)

    def _bindings(self, channel: Mapping[str, Any], kind: Any, name: str, place: str) -> Iterator[Binding]:
        for each in self._of(list, channel, "x-rabbitmq-bindings", place, []):
            if not isinstance(each, dict):
                self._problem(place, "has an item that is not an object")
                continue
            source, key = (self._of(str, each, text, place, "") for text in ("source", "routing_key"))
            yield Binding(source, name, kind, key, self._mapping(each, "arguments", place))

    def _topology(self, exchanges: list[Exchange], queues: list[Queue], bindings: list[Binding]) -> Topology:
        info = self._mapping(self.data, "info", "")
        publish = info.get("x-rabbitmq-publish")
        title = self._of(str, info, "title", "info", "")
        return Topology(
            description="" if title == "RabbitMQ topology" else title,
            exchanges=tuple(exchanges),
            queues=tuple(queues),
            bindings=tuple(bindings),
            publish=Target(**publish) if isinstance(publish, dict) else None,
        )

    def _common(self, given: Mapping[str, Any], channel: Mapping[str, Any], place: str) -> dict[str, Any]:
        contract = None
        for key, message in self._mapping(channel, "messages", place).items():
            found = self._resolved(message, f"{place}.messages.{key}")
            if found.get("name") == given.get("name") and "x-rabbitmq-schema" in found:
                is_xml = str(found.get("contentType")).endswith("xml")
                contract = Contract("xml" if is_xml else "json", str(found["x-rabbitmq-schema"]))
        return {
            "durable": self._flag(given, "durable", place, default=True),
            "auto_delete": self._flag(given, "autoDelete", place),
            "arguments": self._mapping(channel, "x-rabbitmq-arguments", place),
            "contract": contract,
        }

    def omitted(self) -> Iterator[str]:
        """Describe the parts that a topology cannot have."""
        if self.skipped:
            yield f"channels without the name of an AMQP exchange or queue: {', '.join(self.skipped)}"
        for section, noun in (("servers", "server"), ("operations", "operation")):
            if number := len(self._mapping(self.data, section, "")):
                yield plural(number, noun)
        texts = re.findall(r'"payload": ', json.dumps(self.data))
        if texts:
            yield plural(len(texts), "payload schema")

    def _resolved(self, value: Any, place: str) -> Mapping[str, Any]:
        """Return an object, or the one that it refers to within the document."""
        if isinstance(value, dict) and isinstance(reference := value.get("$ref"), str):
            value = self.data
            for part in reference.removeprefix("#/").split("/"):
                value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
        if not isinstance(value, dict) or "$ref" in value:
            self._problem(place, "is not an object, or is a reference that does not lead to one in this document")
            return {}
        return value

    def _mapping(self, parent: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
        value: dict[str, Any] = self._of(dict, parent, key, place, {})
        return value

    def _flag(self, parent: Mapping[str, Any], key: str, place: str, *, default: bool = False) -> bool:
        return bool(self._of(bool, parent, key, place, default))

    def _of(self, kind: type, parent: Mapping[str, Any], key: str, place: str, default: Any) -> Any:
        value = parent.get(key, default)
        if isinstance(value, kind):
            return value
        self._problem(f"{place}.{key}".lstrip("."), f"is not {_NOUNS[kind]}")
        return default

    def _problem(self, place: str, message: str, advice: str = "") -> None:
        self.problems.append(Problem(Location(self.file), f"{place} {message}", advice))


_NOUNS = {str: "text", bool: "true or false", dict: "an object", list: "a list"}
