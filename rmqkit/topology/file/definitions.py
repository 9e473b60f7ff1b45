"""Convert RabbitMQ's definitions (https://www.rabbitmq.com/docs/definitions) to a Topology, and back.

A live broker may hold what a topology file may not, such as a dead-letter exchange that is not declared: such names
become external.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar, get_args

from rmqkit import strict_json
from rmqkit.errors import InputError, Location, Problem, TopologyError
from rmqkit.model import AppliesTo, Binding, DestinationType, Exchange, Policy, Queue, Topology
from rmqkit.plural import plural
from rmqkit.topology import delays
from rmqkit.topology.comparison import is_internal
from rmqkit.topology.delays import DELIVER
from rmqkit.topology.file.text import headline
from rmqkit.topology.names import BUILT_IN, suggest

_CLASSES: Mapping[str, type[Any]] = {"exchanges": Exchange, "queues": Queue, "bindings": Binding, "policies": Policy}
_CHOICES = {"DestinationType": get_args(DestinationType), "AppliesTo": get_args(AppliesTo)}
_TYPES: Mapping[str, tuple[type, str]] = {  # by the annotation of a field
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "Arguments": (dict, "a mapping"),
    **dict.fromkeys(("str", *_CHOICES), (str, "text")),
}
_REDUNDANT = {"vhost", "type", "properties_key"}  # read elsewhere, or derived from other fields
# The origin of the definitions, which a topology does not need.
_ORIGIN = {"rabbit_version", "rabbitmq_version", "product_name", "product_version", "rabbitmq_definition_format"}
_ORIGIN |= {"original_cluster_name", "original_vhost_name", "explanation"}
_ORIGIN |= {"description", "default_queue_type"}  # RabbitMQ 4 repeats these from the metadata of the virtual host
_LACKING = ("where", "exclusive", "contract", "retry")  # fields that definitions lack
_Named = TypeVar("_Named", Exchange, Queue, Policy)


class Definitions(NamedTuple):
    """The topology of a virtual host, and descriptions of the rest of its definitions.

    `vhost` is None if they do not name it. RabbitMQ ignores the type of the `untyped` queues when it imports them: only
    their field `type` has it, and not the argument x-queue-type.
    """

    topology: Topology
    omitted: tuple[str, ...]
    vhost: str | None
    untyped: tuple[str, ...]


def from_definitions(source: str | Mapping[str, Any], *, file: str, vhost: str | None = None) -> Definitions:
    """Return the topology of one virtual host, sorted by name, and descriptions of the rest of the definitions.

    `source` is JSON or parsed JSON, named `file` in errors. Entities that the broker or federation creates are left
    out, as when RabbitMQ imports definitions. Raises DocumentError if `source` is not JSON, TopologyError if it does
    not hold definitions, and InputError if `vhost` does not exist, or is None and there are several.
    """
    reader = _DefinitionsReader(strict_json.parse(source, file) if isinstance(source, str) else source, file)
    reader.check()
    reader.choose(vhost)
    topology = reader.build()
    if reader.problems:
        raise TopologyError(headline(reader.problems), problems=reader.problems)
    omitted = (*reader.others(), *(plural(number, noun) for noun, number in reader.omitted.items() if number))
    return Definitions(topology, omitted, reader.vhost, tuple(reader.untyped))


def virtual_hosts(source: str, *, file: str) -> tuple[str | None, ...]:
    """Return the names of the virtual hosts whose entities definitions hold; None if they name none.

    Raises the errors of `from_definitions`.
    """
    reader = _DefinitionsReader(strict_json.parse(source, file), file)
    reader.check()
    return tuple(sorted(reader.used_vhosts())) or (None,)


def to_definitions(topology: Topology, *, vhost: str | None = None) -> dict[str, Any]:
    """Return the definitions of a virtual host; if `vhost` is given, with its name in each entity, as in a cluster's.

    `not_in_definitions` describes what is left out.
    """
    topology = delays.expand(topology)
    place = {} if vhost is None else {"vhost": vhost}
    lost = {("queue", name) for name in _exclusive(topology)}
    kept = replace(
        topology,
        queues=tuple(each for each in topology.queues if not each.exclusive),
        bindings=tuple(each for each in topology.bindings if (each.destination_type, each.destination) not in lost),
    )
    return {
        section: [
            place | {key: getattr(entity, each.name) for key, each in _fields(section).items()}
            for entity in getattr(kept, section)
        ]
        for section in _CLASSES
    }


def not_in_definitions(topology: Topology) -> tuple[str, ...]:
    """Describe the parts of a topology that definitions cannot hold."""
    lost = len(_exclusive(topology))
    entities: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
    contracts = sum(each.contract is not None for each in entities)
    parts = {
        f"{plural(lost, 'exclusive queue')}, with bindings": lost,
        plural(contracts, "contract"): contracts,
        "the retries": any(each.retry for each in topology.queues),
        "the description": topology.description,
        "the publish target": topology.publish,
        "the names of external entities": topology.external_exchanges or topology.external_queues,
        "the scope": topology.scope,
        "the suppressed findings": topology.suppressions,
        "the services": topology.services,
    }
    return tuple(name for name, part in parts.items() if part)


def _exclusive(topology: Topology) -> set[str]:
    return {queue.name for queue in topology.queues if queue.exclusive}


def _fields(section: str) -> dict[str, Any]:
    """Return the fields of an entity by their keys in definitions, which never hold exclusive queues."""
    return {each.name.replace("_to", "-to"): each for each in fields(_CLASSES[section]) if each.name not in _LACKING}


@dataclass(slots=True)
class _DefinitionsReader:
    """Definitions that are turned into a topology, and their problems."""

    data: Any
    file: str
    vhost: str | None = None
    problems: list[Problem] = field(default_factory=list)
    omitted: Counter[str] = field(default_factory=Counter)
    untyped: list[str] = field(default_factory=list)
    internal: set[tuple[str, str]] = field(default_factory=set)  # kind and name of entities the broker creates

    def check(self) -> None:
        """Raise TopologyError if these are not definitions at all."""
        if not isinstance(self.data, Mapping) or not self.data.keys() & _CLASSES.keys():
            message = "not definitions: there are no exchanges, queues, bindings or policies"
            advice = "Export them with `rabbitmqctl export_definitions FILE`, or GET /api/definitions."
            raise TopologyError(f"{self.file}: {message}", advice=advice)
        for section in _CLASSES:
            if not isinstance(value := self.data.get(section, []), list):
                self._problem(section, f"is {_kind(value)}, but should be a list")

    def choose(self, vhost: str | None) -> None:
        """Choose the virtual host; raise InputError if it does not exist or the choice is ambiguous."""
        used = self.used_vhosts()
        known = used | {item["name"] for item in self._list("vhosts") if _has_text(item, "name")}
        if vhost is None and len(used) > 1:
            message = f"{self.file} has {len(used)} virtual hosts, and a topology describes one"
            raise InputError(message, advice=f"Choose with `vhost=`: {', '.join(sorted(used))}.")
        if vhost is not None and used and vhost not in known:
            raise InputError(f"{self.file}: no virtual host {vhost!r}", advice=f"Known: {', '.join(sorted(known))}.")
        entities = [
            (f"{section}[{index}]", item)
            for section in ("exchanges", "queues", "bindings")  # policies name it in any export
            for index, item in enumerate(self._list(section))
            if isinstance(item, dict)
        ]
        unnamed = [place for place, item in entities if not _has_text(item, "vhost")]
        for place in unnamed if len(unnamed) < len(entities) else ():
            self._problem(place, "names no virtual host, but other entities do")
        self.vhost = vhost if vhost is not None else next(iter(used), None)

    def used_vhosts(self) -> set[str]:
        """Return the names of the virtual hosts that have entities."""
        return {item["vhost"] for section in _CLASSES for item in self._list(section) if _has_text(item, "vhost")}

    def build(self) -> Topology:
        exchanges, queues = self._named("exchanges", self._exchange), self._named("queues", self._queue)
        bindings, policies = tuple(self._bindings()), self._named("policies", lambda entry, _: Policy(**entry))
        delay = ("exchange", DELIVER.name) in self.internal
        return with_externals(Topology("", exchanges, queues, bindings, policies=policies, delay=delay))

    def others(self) -> Iterator[str]:
        """Describe what the definitions hold besides a topology, section by section."""
        for section, value in self.data.items():
            if section in _CLASSES or section in _ORIGIN or not value:
                continue
            noun = "virtual host" if section == "vhosts" else section.removesuffix("s").replace("_", " ")
            if not isinstance(value, list):
                yield f"the {section.replace('_', ' ')} of the virtual host"
            elif items := [item for item in value if self._is_chosen(item, "name" if section == "vhosts" else "vhost")]:
                components = sorted({item["component"] for item in items if _has_text(item, "component")})
                yield plural(len(items), noun) + (f" ({', '.join(components)})" if components else "")

    def _problem(self, place: str, message: str) -> None:
        self.problems.append(Problem(Location(self.file), f"{place} {message}"))

    def _list(self, section: str) -> list[Any]:
        return value if isinstance(value := self.data.get(section), list) else []

    def _is_chosen(self, item: Any, key: str) -> bool:
        """Tell whether an item belongs to the chosen virtual host, or names none."""
        return self.vhost is None or not _has_text(item, key) or item[key] == self.vhost

    def _entries(self, section: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Yield the well-formed entries of the virtual host: place, fields of the entity, and source."""
        for index, item in enumerate(self._list(section)):
            place, count = f"{section}[{index}]", len(self.problems)
            if not isinstance(item, dict):
                self._problem(place, f"is {_kind(item)}, but should be a mapping")
            elif self._is_chosen(item, "vhost"):
                known = _fields(section)
                entry = {each.name: self._value(place, item, key, each) for key, each in known.items()}
                self.omitted.update(f"{key!r} field" for key in item.keys() - known.keys() - _REDUNDANT)
                if len(self.problems) == count:
                    yield place, entry | {"where": Location(self.file)}, item

    def _value(self, place: str, item: Mapping[str, Any], key: str, noun_field: Any) -> Any:
        """Return the value of a field, or its default; report a wrong value."""
        kind, noun = _TYPES[noun_field.type]
        if key not in item:
            if noun_field.default_factory is not MISSING:
                return {}
            if noun_field.default is MISSING:
                self._problem(place, f"has no {key}")
            return noun_field.default
        value, choices = item[key], _CHOICES.get(noun_field.type)
        if kind is dict and value == []:  # older versions write an empty mapping so
            return {}
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._problem(f"{place}.{key}", f"is {_kind(value)}, but should be {noun}")
        elif choices and value not in choices:
            hint = f"; did you mean {guess}?" if (guess := suggest(str(value), choices)) else ""
            self._problem(f"{place}.{key}", f"is {value!r}, but should be one of {', '.join(choices)}{hint}")
        return value

    def _named(self, section: str, build: Callable[..., _Named | None]) -> tuple[_Named, ...]:
        places: dict[str, str] = {}
        built: list[_Named] = []
        for place, entry, item in self._entries(section):
            first = places.setdefault(entry["name"], place)
            if first != place:
                self._problem(f"{place}.name", f"is {entry['name']!r}, as in {first}")
            elif entity := build(entry, item):
                built.append(entity)
        return tuple(sorted(built, key=lambda each: each.name))

    def _exchange(self, entry: dict[str, Any], _: object) -> Exchange | None:
        exchange = Exchange(**entry)
        is_built_in = not exchange.name or exchange.name in BUILT_IN
        return None if is_built_in or self._is_internal("exchange", exchange) else exchange

    def _queue(self, entry: dict[str, Any], item: Mapping[str, Any]) -> Queue | None:
        kind = item.get("type")  # RabbitMQ may write it besides the arguments, or only here
        if kind and (kind != "classic" or self._default_type() not in ("classic", "undefined")):
            if "x-queue-type" not in entry["arguments"]:
                self.untyped.append(entry["name"])
            entry["arguments"] = {"x-queue-type": kind} | entry["arguments"]
        queue = Queue(**entry)
        return None if self._is_internal("queue", queue) else queue

    def _default_type(self) -> str:
        """Return the default queue type of the virtual host, which definitions hold since RabbitMQ 3.13."""
        vhosts = [item for item in self._list("vhosts") if _has_text(item, "name") and item["name"] == self.vhost]
        metadata = [item.get("metadata") for item in (*vhosts, self.data)]
        found = (each["default_queue_type"] for each in metadata if _has_text(each, "default_queue_type"))
        return next(found, "classic")

    def _is_internal(self, kind: str, entity: Exchange | Queue) -> bool:
        """Tell whether the broker or federation created an entity, and count it as omitted if so."""
        if internal := is_internal(entity):
            self.internal.add((kind, entity.name))
            self.omitted[f"broker-owned {kind}"] += not entity.name.startswith(delays.NAMES)
        return internal

    def _bindings(self) -> Iterator[Binding]:
        """Yield the bindings, sorted, without those of queues to the default exchange, which are implicit."""
        entries = (entry for _, entry, _ in self._entries("bindings"))
        found = {json.dumps([*entry.values()], sort_keys=True, default=str): entry for entry in entries}
        for _, entry in sorted(found.items()):
            if {("exchange", entry["source"]), (entry["destination_type"], entry["destination"])} & self.internal:
                self.omitted["broker-owned binding"] += not entry["source"].startswith(delays.NAMES)
            elif entry["source"]:
                yield Binding(**entry)


def with_externals(topology: Topology) -> Topology:
    """List names that are used but not declared as external."""
    exchanges: list[Any] = [each.source for each in topology.bindings]
    queues: list[Any] = []
    for binding in topology.bindings:
        (queues if binding.destination_type == "queue" else exchanges).append(binding.destination)
    exchanges += [each.arguments.get("alternate-exchange") for each in topology.exchanges]
    for queue in topology.queues:
        exchanges.append(target := queue.arguments.get("x-dead-letter-exchange"))
        queues.append(queue.arguments.get("x-dead-letter-routing-key") if target == "" else "")
    return replace(
        topology,
        external_exchanges=_unknown(exchanges, {*BUILT_IN, *(each.name for each in topology.exchanges)}),
        external_queues=_unknown(queues, {each.name for each in topology.queues}),
    )


def _unknown(names: Iterable[Any], known: set[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if isinstance(name, str) and name} - known))


def _has_text(item: Any, key: str) -> bool:
    return isinstance(item, dict) and isinstance(item.get(key), str)


def _kind(value: Any) -> str:
    if isinstance(value, str | list | dict):
        return {str: "text", list: "a list", dict: "a mapping"}[type(value)]
    return json.dumps(value)
