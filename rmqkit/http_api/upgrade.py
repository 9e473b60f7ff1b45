"""Find what an upgrade of a live broker would refuse, or change without an error (`topology/lint/releases.yaml`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rmqkit.errors import AccessRefused, AuthenticationFailed, Location, NotFound
from rmqkit.http_api import connections
from rmqkit.http_api.client import HttpApiClient
from rmqkit.http_api.connections import ClientConnection
from rmqkit.http_api.mapping import LiveTopology
from rmqkit.model import Topology
from rmqkit.topology.lint.linter import Finding, fact_finding, upgrade_findings
from rmqkit.topology.lint.releases import Release, facts, numbers

T = TypeVar("T")
_Found = Iterator[tuple[str, Mapping[str, object]]]  # names, each with the values that complete the texts of a fact


@dataclass(frozen=True, slots=True)
class UpgradeFindings:
    """The findings, those about the broker and its clients first, and the names of the virtual hosts that were read.

    `unseen` says, in sentences, what the user has no permission to see.
    """

    findings: tuple[Finding, ...]
    vhosts: tuple[str, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _BrokerFacts:
    """A broker as far as facts about releases concern it: feature flags with their state and stability, ...

    `channels` are those with a prefetch for all their consumers together.
    """

    version: str
    erlang: str
    feature_flags: tuple[Mapping[str, str], ...]
    deprecated_features: frozenset[str]
    node_types: Mapping[str, str]
    connections: tuple[ClientConnection, ...]
    channels: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def release(self) -> Release:
        return numbers(self.version)


def find(api: HttpApiClient, release: Release, *, all_vhosts: bool = False) -> UpgradeFindings:
    """Find what a release would refuse or change on a broker, and in its virtual host or all that the user may see.

    Raises the errors of `HttpApiClient.live`.
    """
    broker = _read(api, all_vhosts=all_vhosts)
    found = [*_of_broker(broker, release, Location(f"{api.address.host}:{api.address.port}"))]
    vhosts, unseen = [api], [*broker.unseen]
    if all_vhosts:
        names = api.fetch("vhosts?columns=name", lambda each: sorted(str(vhost["name"]) for vhost in each))
        vhosts = [api.for_vhost(name) for name in names]
    seen: list[str] = []
    for vhost in vhosts:
        try:
            live = vhost.live()
        except (AccessRefused, NotFound) as error:
            if not all_vhosts:
                raise
            if isinstance(error, AccessRefused):  # else it was deleted meanwhile
                unseen.append(f"Virtual host {vhost.address.vhost!r} is not shown: {error.advice}")
            continue
        seen.append(vhost.address.vhost)
        unseen += live.unseen
        where = Location(vhost.address.key)
        of_vhost = upgrade_findings(_typed(live), release, broker.release)
        found += [replace(each, where=where) for each in of_vhost]
    return UpgradeFindings(tuple(found), tuple(seen), tuple(dict.fromkeys(unseen)))


def _typed(live: LiveTopology) -> Topology:
    """Return a topology whose queues have their types among their arguments."""
    kind = {"x-queue-type": live.default_queue_type}
    queues = (replace(each, arguments=kind | dict(each.arguments)) for each in live.topology.queues)
    return replace(live.topology, queues=tuple(queues))


def _read(api: HttpApiClient, *, all_vhosts: bool) -> _BrokerFacts:
    unseen: list[str] = []

    def optional(what: str, read: Callable[[], Iterable[T]]) -> tuple[T, ...]:
        try:
            return tuple(read())
        except NotFound:  # not in this version
            return ()
        except (AccessRefused, AuthenticationFailed) as exc:
            unseen.append(f"{what} are not shown: {exc.advice or exc.message}")
            return ()

    def texts(path: str, *names: str) -> Callable[[], list[dict[str, str]]]:
        return lambda: api.fetch(path, lambda found: [{name: str(each.get(name)) for name in names} for each in found])

    place = "" if all_vhosts else "vhosts/{vhost}/"
    version, erlang = api.fetch("overview", lambda found: (found["rabbitmq_version"], found["erlang_version"]))
    nodes = optional("Nodes, and connections of other users,", texts("nodes?columns=name,type", "name", "type"))
    channels = optional("Channels", texts(f"{place}channels", "name", "global_prefetch_count"))
    used = optional("Deprecated features", texts("deprecated-features/used", "name"))
    return _BrokerFacts(
        version=str(version),
        erlang=str(erlang),
        feature_flags=optional("Feature flags", texts("feature-flags", "name", "state", "stability")),
        deprecated_features=frozenset(each["name"] for each in used),
        node_types={each["name"]: each["type"] for each in nodes},
        connections=optional("Connections", lambda: connections.connections(api, all_vhosts=all_vhosts)),
        channels=tuple(each["name"] for each in channels if each["global_prefetch_count"] not in ("None", "0")),
        unseen=tuple(unseen),
    )


def _of_broker(broker: _BrokerFacts, release: Release, where: Location) -> Iterator[Finding]:
    for fact in facts():
        severity = fact.severity(release, broker.release)
        if severity and (finder := FINDERS.get(fact.finder)):
            for name, values in finder(broker, release, fact.find[fact.finder]):
                yield fact_finding(fact, severity, name or fact.name, where, values)


def _path(broker: _BrokerFacts, release: Release, sources: Mapping[str, str]) -> _Found:
    """Find the releases at which an upgrade must stop; `sources` has the oldest from which one may be reached."""
    stops = [each for target, each in sources.items() if release >= numbers(target) and broker.release < numbers(each)]
    if stops:
        yield f"RabbitMQ {broker.version}", {"stops": ", ".join(stops)}


def _erlang(broker: _BrokerFacts, release: Release, minimum: Mapping[str, str]) -> _Found:
    needed = [each for target, each in minimum.items() if release >= numbers(target)][-1:]
    if needed and numbers(broker.erlang) < numbers(needed[0]):
        yield f"Erlang {broker.erlang}", {"needed": f"Erlang {needed[0]}"}


def _feature_flags(broker: _BrokerFacts, release: Release, required: Mapping[str, list[str]]) -> _Found:
    """Find disabled feature flags that a release on the way requires, by name or as one of the stable ones."""
    passed = {each: names for each, names in required.items() if broker.release < numbers(each) <= release}
    for flag in broker.feature_flags:
        needed = [each for each, names in passed.items() if flag["name"] in names or flag["stability"] in names]
        if needed and flag["state"] == "disabled":
            yield flag["name"], {"needed": needed[0]}


def _experimental_khepri(broker: _BrokerFacts, _: Release, __: object) -> _Found:
    if broker.release < (4,) and ("khepri_db", "enabled") in {
        (each["name"], each["state"]) for each in broker.feature_flags
    }:
        yield broker.version, {}


def _clients(matches: Callable[[ClientConnection, Any], bool]) -> Callable[[_BrokerFacts, Release, Any], _Found]:
    def find_clients(broker: _BrokerFacts, _: Release, value: object) -> _Found:
        for each in broker.connections:
            if matches(each, value):
                software = " ".join(filter(None, [each.client_name, each.client, each.version]))
                client = f"{software} ".lstrip() + f"of user {each.user!r} at {each.place}"
                yield each.name, {"client": client, "frame_max": each.frame_max}

    return find_clients


FINDERS: Mapping[str, Callable[[_BrokerFacts, Release, Any], _Found]] = {
    "path": _path,
    "erlang": _erlang,
    "feature_flags": _feature_flags,
    "experimental_khepri": _experimental_khepri,
    "deprecated_features": lambda broker, _, names: (
        (each, {}) for each in sorted(broker.deprecated_features & {*names})
    ),
    "node_type": lambda broker, _, kind: ((name, {}) for name, each in broker.node_types.items() if each == kind),
    "global_prefetch": lambda broker, _, __: ((each, {}) for each in broker.channels),
    "frame_max": _clients(lambda client, least: 0 < client.frame_max < least),
    "protocol": _clients(lambda client, protocol: client.protocol.startswith(protocol)),
    "unseen": lambda *_: iter([("", {})]),
}
