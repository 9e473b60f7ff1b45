"""Load topology files into one Topology, or raise one error that lists every problem."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from rmqkit.errors import DocumentError, Location, Problem, TopologyError
from rmqkit.model import (
    Binding,
    Contract,
    Exchange,
    Policy,
    Publication,
    Queue,
    Retry,
    Service,
    Suppression,
    Target,
    Topology,
)
from rmqkit.topology.file import references
from rmqkit.topology.file.document import Document, KeyPath, parse, read
from rmqkit.topology.file.schema import check
from rmqkit.topology.file.text import headline
from rmqkit.topology.file.writer import to_yaml
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.names import Fault, check_arguments, check_length, check_name
from rmqkit.topology.retry import expand, parse_delay

_MAX_PROBLEMS = 1000
_ONE_VHOST = "Name the files of one virtual host: `rmqkit apply`, `plan`, `destroy` and `validate` take several."
_OF_DEFINITIONS = {"rabbit_version", "rabbitmq_version", "users", "vhosts", "permissions", "topic_permissions"}
_Entity = TypeVar("_Entity", Exchange, Queue, Policy, Service)


def load(*paths: str | Path, environ: Mapping[str, str] = os.environ) -> Topology:
    """Read topology files into one Topology, in the order given; variables have their values from `environ`.

    Several files may declare the same exchange, queue or binding if they agree. The last `publish:` applies;
    descriptions are joined, one per line. The waiting queues of retries are among the queues.

    Raises DocumentError if a file cannot be read or is not YAML, or a variable has no value, and TopologyError if the
    files break the rules, or name different virtual hosts; either way `problems` lists everything found, by file and
    line.

        topology = rmqkit.load("topologies/work.yaml")
        print([queue.name for queue in topology.queues])
    """
    return _only(load_by_vhost(*paths, environ=environ))


def merge(*topologies: Topology) -> Topology:
    """Check topologies that were made in Python, or loaded, and merge them into one, as `load` does with files.

    Raises TopologyError as `load` does; the places are lines of the topologies as files, which `rmqkit.to_yaml` writes.

        topology = rmqkit.merge(rmqkit.load("orders.yaml"), Topology(queues=(Queue("audit"),)))
    """
    readers: list[Callable[[], Document]] = [
        partial(parse, to_yaml(each), f"topology {number}", {}) for number, each in enumerate(topologies, 1)
    ]
    files = tuple(dict.fromkeys(file for each in topologies for file in each.files))
    variables = tuple(dict.fromkeys(variable for each in topologies for variable in each.variables))
    return replace(_only(_load(readers)), files=files, variables=variables)


def _only(topologies: tuple[Topology, ...]) -> Topology:
    if len(topologies) > 1:
        named = (f"{_vhost_text(each)} ({', '.join(each.files)})" for each in topologies)
        raise TopologyError(f"the files are for different virtual hosts: {'; '.join(named)}", advice=_ONE_VHOST)
    return topologies[0]


def load_by_vhost(*paths: str | Path, environ: Mapping[str, str] = os.environ) -> tuple[Topology, ...]:
    """Read topology files into one Topology for each virtual host that they name, in the order of the files.

    Files that name none are one Topology. Raises the errors of `load`.
    """
    return _load([partial(read, path, environ) for path in paths])


def loads(text: str, file: str = "<text>", environ: Mapping[str, str] = os.environ) -> Topology:
    """Read text as a topology file, named `file` in errors; raises the same errors as `load`."""
    return _load([partial(parse, text, file, environ)])[0]


def _load(readers: list[Callable[[], Document]]) -> tuple[Topology, ...]:
    files: list[_TopologyFile] = []
    unreadable: list[Problem] = []
    for reader in readers:
        try:
            file = _TopologyFile(reader())
            file.check_shape()
            files.append(file)
        except DocumentError as error:
            unreadable += error.problems
    problems = list(unreadable)
    for file in files:
        file.build()
    by_vhost: dict[str | None, list[_TopologyFile]] = {}
    for file in files:
        by_vhost.setdefault(file.vhost, []).append(file)
    topologies = [_merge(group) for group in by_vhost.values()] or [Topology()]
    for topology, group in zip(topologies, by_vhost.values(), strict=False):
        index = TopologyIndex(topology)
        for file in () if unreadable else group:  # unreadable files may declare names that the others use
            file.check_references(index)
    for file in files:
        problems += sorted(file.problems, key=lambda each: (each.where.line, each.where.column))
    if problems:
        failed = unreadable or any(file.document.problems for file in files)
        raise (DocumentError if failed else TopologyError)(headline(problems), problems=problems)
    return tuple(map(expand, topologies))


def _vhost_text(topology: Topology) -> str:
    return "that of the URL" if topology.vhost is None else repr(topology.vhost)


def _merge(files: list[_TopologyFile]) -> Topology:
    """Merge the files; an entity that two of them declare differently is a problem of the later one."""
    exchanges: dict[str, Exchange] = {}
    queues: dict[str, Queue] = {}
    policies: dict[str, Policy] = {}
    services: dict[str, Service] = {}
    bindings: dict[str, Binding] = {}
    for file in files:
        file.problems += _add(exchanges, file.exchanges, "exchange")
        file.problems += _add(queues, file.queues, "queue")
        file.problems += _add(policies, file.policies, "policy")
        file.problems += _add(services, file.services, "service")
        for binding in file.bindings.values():
            bindings.setdefault(_identity(binding), binding)
    return Topology(
        description="\n".join(file.section("description", "") for file in files if file.section("description", "")),
        exchanges=tuple(exchanges.values()),
        queues=tuple(queues.values()),
        bindings=tuple(bindings.values()),
        publish=next((target for file in reversed(files) if (target := file.publish())), None),
        external_exchanges=tuple(dict.fromkeys(name for file in files for name in file.external("exchanges"))),
        external_queues=tuple(dict.fromkeys(name for file in files for name in file.external("queues"))),
        policies=tuple(policies.values()),
        scope=tuple(dict.fromkeys(pattern for file in files for pattern in _texts(file.document.data.get("scope")))),
        suppressions=tuple(each for file in files for each in file.suppressions()),
        vhost=files[0].vhost,
        delay=any(file.document.data.get("delay") is True for file in files),
        variables=tuple(sorted(set().union(*(file.document.variables for file in files)), key=lambda each: each.name)),
        files=tuple(file.document.file for file in files),
        services=tuple(services.values()),
    )


def _add(all_files: dict[str, _Entity], one_file: dict[str, _Entity], kind: str) -> Iterator[Problem]:
    for name, entity in one_file.items():
        earlier = all_files.setdefault(name, entity)
        if _identity(earlier) != _identity(entity) and entity.where:
            message = f"{kind} {name!r} is declared differently in {earlier.where}"
            yield Problem(entity.where, message, "Declare it the same way in both, or in one file only.")


def _identity(entity: Exchange | Queue | Policy | Binding | Service) -> str:
    """Return a key that identifies an entity by its properties; unlike ==, it distinguishes true from 1."""
    properties = {name: getattr(entity, name) for name in entity.__slots__ if name != "where"}
    return json.dumps(properties, sort_keys=True, default=_part_identity)


def _part_identity(part: Contract | Retry | Publication) -> list[Any]:
    if isinstance(part, Publication):
        return [part.exchange, part.routing_keys, part.delay]
    if isinstance(part, Retry):
        return [part.delays_ms, part.then, part.native]
    return [part.format, os.path.abspath(part.path)]  # noqa: PTH100 - resolves `..`, and keeps links


def _retry(delays: list[str], then: str, where: Location, *, native: bool = False) -> Retry:
    return Retry(tuple(map(parse_delay, delays)), then, native, where)


def _texts(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


@dataclass(slots=True)
class FileReader:
    """A document whose entities are read: its problems, and the values that are malformed."""

    document: Document
    problems: list[Problem] = field(default_factory=list)
    faulty: set[KeyPath] = field(default_factory=set)

    def report(self, path: KeyPath, fault: Fault | None, *, key: bool = False) -> None:
        """Add the fault of a value, or of its key, if there is one."""
        if fault:
            where = self.document.where_key(path) if key else self.document.where(path)
            self.problems.append(Problem(where, *fault))

    def refuse_definitions(self, wanted: str) -> None:
        """Raise DocumentError if the document is RabbitMQ's definitions."""
        data, file = self.document.data, self.document.file
        lists = any(isinstance(data.get(section), list) for section in ("exchanges", "queues", "policies"))
        if data.keys() & _OF_DEFINITIONS or (lists and file.lower().endswith(".json")):
            advice = f"Convert it to a topology file: `rmqkit convert {shlex.quote(file)} topology.yaml`."
            fault = Problem(Location(file), f"this is a RabbitMQ definitions file, not {wanted}", advice)
            raise DocumentError(f"not {wanted}", problems=[fault])

    def is_faulty(self, *path: str | int) -> bool:
        """Tell whether a value, or one inside it, is malformed."""
        return any(each[: len(path)] == path for each in self.faulty)


@dataclass(slots=True)
class _TopologyFile(FileReader):
    """A document that is turned into a topology: its well-formed entities, and its problems."""

    exchanges: dict[str, Exchange] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    bindings: dict[int, Binding] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)

    def check_shape(self) -> None:
        """Check the document against the schema; raise DocumentError if it seems to be another kind of file."""
        self.problems += self.document.problems
        self.refuse_definitions("a topology file")
        if "scenarios" in self.document.data:
            where = self.document.where_key(("scenarios",))
            fault = Problem(where, "these are scenarios, not a topology", "Run them with `rmqkit test`.")
            raise DocumentError("not a topology", problems=[fault])
        for path, problem in check(self.document):
            self.problems.append(problem)
            self.faulty.add(path)
            if len(self.problems) >= _MAX_PROBLEMS:
                message, advice = "there may be more problems", "Check that this is the right file."
                rest = Problem(Location(self.document.file), message, advice)
                raise DocumentError("too many problems", problems=[*self.problems, rest])

    def build(self) -> None:
        self.faulty |= self.document.doubtful
        for name in self.section("exchanges", {}):
            self.report(("exchanges", name), check_name("exchange", name), key=True)
            self.exchanges[name] = Exchange(name, **self._properties("exchanges", name, Exchange))
        for name in self.section("queues", {}):
            self.report(("queues", name), check_name("queue", name), key=True)
            self._queue(name)
        for name in self.section("policies", {}):
            self._policy(name)
        for name in self.section("services", {}):
            self._service(name)
        seen: dict[str, Binding] = {}
        malformed = {path[1] for path in self.faulty if path[:1] == ("bindings",) and len(path) > 1}
        for index in range(len(self.section("bindings", []))):
            if index not in malformed:
                self._binding(index, seen)
        self.report(("vhost",), check_length("the name of the virtual host", self.vhost or ""))
        for kind in ("exchange", "queue"):
            for index, name in enumerate(self.section("external", {}).get(f"{kind}s") or ()):
                if isinstance(name, str) and not name.startswith("amq."):
                    self.report(("external", f"{kind}s", index), check_name(kind, name), key=True)

    def section(self, name: str, empty: Any) -> Any:
        """Return a section of the file, or `empty` if it is missing or malformed."""
        value = self.document.data.get(name)
        return value if isinstance(value, type(empty)) else empty

    def external(self, kind: str) -> list[str]:
        return _texts(self.section("external", {}).get(kind))

    @property
    def vhost(self) -> str | None:
        """Return the virtual host that the file names, if it does."""
        return self.section("vhost", "") or None

    def suppressions(self) -> Iterator[Suppression]:
        for index, entry in enumerate(self.section("lint", [])):
            if not self.is_faulty("lint", index):
                where = self.document.where(("lint", index))
                yield Suppression(entry["ignore"], entry.get("name", "*"), entry["reason"], where)

    def publish(self) -> Target | None:
        target = self.document.data.get("publish")
        return Target(**target) if isinstance(target, dict) and not self.is_faulty("publish") else None

    def check_references(self, index: TopologyIndex) -> None:
        """Check the references from the entities of this file to others, here or in other files."""
        faults = [references.check_exchange(exchange, index) for exchange in self.exchanges.values()]
        faults += [references.check_queue(queue, index) for queue in self.queues.values()]
        faults += [references.check_binding(number, each, index) for number, each in self.bindings.items()]
        faults += [references.check_service(service, index) for service in self.services.values()]
        if target := self.publish():
            faults.append(references.check_publish(target, index))
        for path, fault in chain.from_iterable(faults):
            self.report(path, fault)

    def _properties(self, section: str, key: str | int, noun: type[Any]) -> dict[str, Any]:
        """Return the well-formed properties and arguments of an entity, and its place."""
        path: KeyPath = (section, key)
        entity = self.document.data[section][key]
        given = entity if isinstance(entity, dict) else {}
        known = {*noun.__slots__, "type"} - {"where", "name"}
        properties = {name: given[name] for name in known & given.keys() if (*path, name) not in self.faulty}
        arguments = properties.get("arguments") or {}
        path = (*path, "arguments")
        properties["arguments"] = {name: arguments[name] for name in arguments if (*path, name) not in self.faulty}
        for inner, fault in check_arguments(properties["arguments"]):
            self.report((*path, *inner), fault)
        for part, make in (("contract", Contract), ("retry", _retry)):
            if (written := properties.pop(part, None)) and not self.is_faulty(section, key, part):
                properties[part] = make(**written, where=self.document.where((section, key, part)))
        return properties | {"where": self.document.where_key((section, key))}

    def _queue(self, name: str) -> None:
        properties = self._properties("queues", name, Queue)
        kind, arguments = properties.pop("type", None), properties["arguments"]
        if kind and arguments.setdefault("x-queue-type", kind) != kind:
            message = f"queue {name!r} has type {kind}, but x-queue-type is {arguments['x-queue-type']}"
            self.report(("queues", name, "arguments", "x-queue-type"), (message, "Remove x-queue-type."))
        self.queues[name] = Queue(name, **properties)

    def _policy(self, name: str) -> None:
        path: KeyPath = ("policies", name)
        fault = check_length(f"policy {name!r}", name) if name else ("a policy needs a name", "")
        if name in (".", ".."):
            fault = f"policy {name!r}: RabbitMQ's HTTP API cannot address this name", "Choose another name."
        self.report(path, fault, key=True)
        if not self.is_faulty(*path):
            for key in self.document.data["policies"][name]["definition"]:
                if key.startswith("x-"):
                    fault = f"{key!r} is an argument, not a key of a policy", f"Write {key.removeprefix('x-')}."
                    self.report((*path, "definition", key), fault, key=True)
            given = {key.replace("-", "_"): value for key, value in self.document.data["policies"][name].items()}
            self.policies[name] = Policy(name, **given, where=self.document.where_key(path))

    def _service(self, name: str) -> None:
        self.report(("services", name), None if name else ("a service needs a name", ""), key=True)
        if not self.is_faulty("services", name):
            given = self.document.data["services"][name] or {}
            names = {part: tuple(given.get(part) or ()) for part in ("consumes", "declares")}
            publishes = tuple(
                Publication(each.get("exchange", ""), tuple(each.get("routing_keys") or ()), each.get("delay", False))
                for each in given.get("publishes") or ()
            )
            self.services[name] = Service(name, publishes, **names, where=self.document.where_key(("services", name)))

    def _binding(self, index: int, seen: dict[str, Binding]) -> None:
        properties = self._properties("bindings", index, Binding)
        properties.pop("type", None)
        binding = Binding(**properties)
        earlier = seen.setdefault(_identity(binding), binding)
        if earlier is not binding and earlier.where:
            message = f"duplicate binding {binding}: first in line {earlier.where.line}"
            self.report(("bindings", index), (message, "Remove one."))
        self.bindings[index] = binding
