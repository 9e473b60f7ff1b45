"""RabbitMQ's definitions (https://www.rabbitmq.com/docs/definitions) become a Topology, and the reverse.

A live broker holds what a topology file may not say, such as a dead-letter exchange that nobody declared: it is taken
as it is, and names that are not declared are external.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, TypeVar, get_args

from rmqkit import json_text
from rmqkit.errors import InputError, Location, Problem, TopologyError
from rmqkit.model import AppliesTo, Binding, DestinationType, Exchange, Policy, Queue, Topology
from rmqkit.topology.comparison import is_internal
from rmqkit.topology.file.names import BUILT_IN
from rmqkit.topology.file.schema import suggest
from rmqkit.topology.file.text import counted, headline

_NOUNS: Mapping[str, type[Any]] = {"exchanges": Exchange, "queues": Queue, "bindings": Binding, "policies": Policy}
_CHOICES = {"DestinationType": get_args(DestinationType), "AppliesTo": get_args(AppliesTo)}
_TYPES: Mapping[str, tuple[type, str]] = {  # by the annotation of a noun's field
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "Arguments": (dict, "a mapping"),
    **dict.fromkeys(("str", *_CHOICES), (str, "a text")),
}
_NEEDLESS = {"vhost", "type", "properties_key"}  # looked at elsewhere, or made of other fields
# Where the definitions come from: nothing that could be lost.
_ORIGIN = {"rabbit_version", "rabbitmq_version", "product_name", "product_version", "rabbitmq_definition_format"}
_ORIGIN |= {"original_cluster_name", "original_vhost_name", "explanation"}
_ORIGIN |= {"description", "default_queue_type"}  # RabbitMQ 4 repeats them, from the metadata of the virtual host
_NOT_THERE = ("where", "exclusive", "contract", "retry")  # fields of nouns that definitions lack
_Named = TypeVar("_Named", Exchange, Queue, Policy)


def from_definitions(
    source: str | Mapping[str, Any], *, file: str, vhost: str | None = None
) -> tuple[Topology, tuple[str, ...]]:
    """Return the topology of one virtual host, sorted by name, and in words what else the definitions hold.

    `source` is JSON, or what was made of it; `file` is what errors call it. What the broker or federation makes for
    itself is left out, as RabbitMQ does when it imports definitions. Raises DocumentError for what is not JSON,
    TopologyError for what are no definitions, and InputError if `vhost` is not there, or is None and there are several.
    """
    reader = _DefinitionsReader(json_text.parse(source, file) if isinstance(source, str) else source, file)
    reader.check()
    reader.choose(vhost)
    topology = reader.build()
    if reader.problems:
        raise TopologyError(headline(reader.problems), problems=reader.problems)
    return topology, (*reader.others(), *(counted(number, what) for what, number in reader.omitted.items()))


def to_definitions(topology: Topology, *, vhost: str | None = None) -> dict[str, Any]:
    """Return the definitions of a virtual host; with its name in each entity, as in a cluster's, if `vhost` is given.

    `not_in_definitions` tells what is left out.
    """
    place = {} if vhost is None else {"vhost": vhost}
    lost = _exclusive(topology)
    entities: Mapping[str, Iterable[Exchange | Queue | Binding | Policy]] = {
        "exchanges": topology.exchanges,
        "queues": [each for each in topology.queues if each.name not in lost],
        "bindings": [
            each for each in topology.bindings if each.destination_type != "queue" or each.destination not in lost
        ],
        "policies": topology.policies,
    }
    return {
        section: [place | {_key(each): getattr(entity, each.name) for each in _fields(section)} for entity in found]
        for section, found in entities.items()
    }


def not_in_definitions(topology: Topology) -> tuple[str, ...]:
    """Say in words what of a topology definitions cannot hold."""
    lost = len(_exclusive(topology))
    entities: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
    contracts = sum(each.contract is not None for each in entities)
    parts = {
        f"{counted(lost, 'exclusive queue')}, with bindings": lost,
        counted(contracts, "contract"): contracts,
        "the retries": any(each.retry for each in topology.queues),
        "the description": topology.description,
        "the publish target": topology.publish,
        "the names of external entities": topology.external_exchanges or topology.external_queues,
        "the scope": topology.scope,
        "the suppressed findings": topology.suppressions,
    }
    return tuple(name for name, part in parts.items() if part)


def _exclusive(topology: Topology) -> set[str]:
    return {queue.name for queue in topology.queues if queue.exclusive}


def _fields(section: str) -> list[Any]:
    """Return the fields of a noun that definitions have; an exclusive queue is never among them."""
    return [each for each in fields(_NOUNS[section]) if each.name not in _NOT_THERE]


def _key(noun_field: Any) -> str:
    return "apply-to" if noun_field.name == "apply_to" else str(noun_field.name)


@dataclass(slots=True)
class _DefinitionsReader:
    """Definitions on their way to a topology, and what is wrong with them."""

    data: Any
    file: str
    vhost: str | None = None
    problems: list[Problem] = field(default_factory=list)
    omitted: Counter[str] = field(default_factory=Counter)
    internal: set[tuple[str, str]] = field(default_factory=set)  # kind and name of what the broker makes for itself

    def check(self) -> None:
        """Raise TopologyError if these are no definitions at all."""
        if not isinstance(self.data, Mapping) or not self.data.keys() & _NOUNS.keys():
            message = "these are no definitions: there are neither exchanges, queues, bindings nor policies"
            advice = "RabbitMQ writes them with `rabbitmqctl export_definitions FILE`, or GET /api/definitions."
            raise TopologyError(f"{self.file}: {message}", advice=advice)
        for section in _NOUNS:
            if not isinstance(value := self.data.get(section, []), list):
                self._problem(section, f"is {_kind(value)}, and should be a list")

    def choose(self, vhost: str | None) -> None:
        """Settle which virtual host is meant; raise InputError if that cannot be told."""
        used = {item["vhost"] for section in _NOUNS for item in self._list(section) if _has_text(item, "vhost")}
        known = used | {item["name"] for item in self._list("vhosts") if _has_text(item, "name")}
        if vhost is None and len(used) > 1:
            message = f"{self.file} holds {len(used)} virtual hosts, and a topology is of one"
            raise InputError(message, advice=f"Choose with --vhost: {', '.join(sorted(used))}.")
        if vhost is not None and used and vhost not in known:
            raise InputError(
                f"{self.file}: there is no virtual host {vhost!r}", advice=f"There are: {', '.join(sorted(known))}."
            )
        self.vhost = vhost if vhost is not None else next(iter(used), None)

    def build(self) -> Topology:
        """Return the topology, of all that is well formed."""
        return _with_externals(
            Topology(
                exchanges=tuple(self._named("exchanges", self._exchange)),
                queues=tuple(self._named("queues", self._queue)),
                bindings=tuple(self._bindings()),
                policies=tuple(self._named("policies", self._policy)),
            )
        )

    def others(self) -> Iterator[str]:
        """Yield in words what the definitions hold beside a topology, section by section."""
        for section, value in self.data.items():
            if section in _NOUNS or section in _ORIGIN or not value:
                continue
            noun = "virtual host" if section == "vhosts" else section.removesuffix("s").replace("_", " ")
            if not isinstance(value, list):
                yield f"the {section.replace('_', ' ')} of the virtual host"
            elif mine := [item for item in value if self._is_mine(item, "name" if section == "vhosts" else "vhost")]:
                components = sorted({item["component"] for item in mine if _has_text(item, "component")})
                yield counted(len(mine), noun) + (f" ({', '.join(components)})" if components else "")

    def _problem(self, place: str, message: str) -> None:
        self.problems.append(Problem(Location(self.file), f"{place} {message}"))

    def _list(self, section: str) -> list[Any]:
        value = self.data.get(section)
        return value if isinstance(value, list) else []

    def _is_mine(self, item: Any, key: str) -> bool:
        """Tell whether an item is of the virtual host that was chosen, or says nothing of one."""
        return self.vhost is None or not _has_text(item, key) or item[key] == self.vhost

    def _entries(self, section: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Yield the well-formed entries of the virtual host: their place, a noun's fields, and what was written."""
        for index, item in enumerate(self._list(section)):
            place, count = f"{section}[{index}]", len(self.problems)
            if not isinstance(item, dict):
                self._problem(place, f"is {_kind(item)}, and should be a mapping")
            elif self._is_mine(item, "vhost"):
                known = {_key(each): each for each in _fields(section)}
                entry = {each.name: self._value(place, item, key, each) for key, each in known.items()}
                self.omitted.update(f"{key!r} field" for key in item.keys() - known.keys() - _NEEDLESS)
                if len(self.problems) == count:
                    yield place, entry | {"where": Location(self.file)}, item

    def _value(self, place: str, item: Mapping[str, Any], key: str, noun_field: Any) -> Any:
        """Return the value of a field, or its default; note what is wrong with it."""
        kind, noun = _TYPES[noun_field.type]
        if key not in item:
            if noun_field.default_factory is not MISSING:
                return {}
            if noun_field.default is MISSING:
                self._problem(place, f"has no {key}")
            return noun_field.default
        value, choices = item[key], _CHOICES.get(noun_field.type)
        if kind is dict and value == []:  # how older versions write an empty mapping
            return {}
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._problem(f"{place}.{key}", f"is {_kind(value)}, and should be {noun}")
        elif choices and value not in choices:
            hint = f"; did you mean {guess}?" if (guess := suggest(str(value), choices)) else ""
            self._problem(f"{place}.{key}", f"is {value!r}, and should be one of {', '.join(choices)}{hint}")
        return value

    def _named(self, section: str, build: Callable[..., _Named | None]) -> list[_Named]:
        """Build the entities of a section, sorted by name."""
        places: dict[str, str] = {}
        built: list[_Named] = []
        for place, entry, item in self._entries(section):
            first = places.setdefault(entry["name"], place)
            if first != place:
                self._problem(f"{place}.name", f"is {entry['name']!r}, and so is that of {first}")
            elif entity := build(entry, item):
                built.append(entity)
        return sorted(built, key=lambda each: each.name)

    def _exchange(self, entry: dict[str, Any], _: object) -> Exchange | None:
        exchange = Exchange(**entry)
        if not exchange.name or exchange.name in BUILT_IN:
            return None
        return None if self._is_internal("exchange", exchange) else exchange

    def _queue(self, entry: dict[str, Any], item: Mapping[str, Any]) -> Queue | None:
        kind = item.get("type")  # RabbitMQ may write it beside the arguments, or there alone
        if kind and (kind != "classic" or self._default_type() not in ("classic", "undefined")):
            entry["arguments"] = {"x-queue-type": kind} | entry["arguments"]
        queue = Queue(**entry)
        return None if self._is_internal("queue", queue) else queue

    def _default_type(self) -> str:
        """Return what a queue without a type is in the virtual host (RabbitMQ 3.13 and later say it)."""
        vhosts = [item for item in self._list("vhosts") if _has_text(item, "name") and item["name"] == self.vhost]
        metadata = [item.get("metadata") for item in (*vhosts, self.data)]
        return next(
            (each["default_queue_type"] for each in metadata if _has_text(each, "default_queue_type")), "classic"
        )

    def _policy(self, entry: dict[str, Any], _: object) -> Policy:
        return Policy(**entry)

    def _is_internal(self, kind: str, entity: Exchange | Queue) -> bool:
        """Tell whether the broker named it, or federation made it for itself; if so, it is omitted."""
        if made := is_internal(entity):
            self.internal.add((kind, entity.name))
            self.omitted[f"broker-owned {kind}"] += 1
        return made

    def _bindings(self) -> Iterator[Binding]:
        """Yield the bindings, sorted; that of a queue to the default exchange goes without saying."""
        found = {
            json.dumps([*entry.values()], sort_keys=True, default=str): entry
            for _, entry, _ in self._entries("bindings")
        }
        for _, entry in sorted(found.items()):
            if {("exchange", entry["source"]), (entry["destination_type"], entry["destination"])} & self.internal:
                self.omitted["broker-owned binding"] += 1
            elif entry["source"]:
                yield Binding(**entry)


def _with_externals(topology: Topology) -> Topology:
    """List as external what is referred to and not declared."""
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
        return {str: "a text", list: "a list", dict: "a mapping"}[type(value)]
    return json.dumps(value)
