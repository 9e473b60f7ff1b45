"""`rmqkit route`."""

import sys
from collections.abc import Iterator, Mapping
from json import dumps
from typing import Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import output, topology_source
from rmqkit.cli.options import Json, option, parse_target
from rmqkit.errors import InputError, Unroutable
from rmqkit.message import Properties
from rmqkit.model import Retry, Target, Topology
from rmqkit.payload import properties
from rmqkit.topology.dead_letters import DeadLetter, dead_letters
from rmqkit.topology.retry import in_words
from rmqkit.topology.routing import DeathReason, Leg, Route
from rmqkit.topology.routing import route as find_route

_LEAVING: dict[DeathReason, str] = {
    "rejected": "rejected",
    "expired": "expired",
    "maxlen": "pushed out",
    "delivery_limit": "over the delivery limit",
}
_SHORT = 3  # legs that are repeated rather than abbreviated to "as above"


def route(
    files: topology_source.Files,
    *,
    exchange: Annotated[
        str | None, option("-e --exchange NAME", "The exchange. [default: the files' `publish:`]")
    ] = None,
    routing_key: Annotated[str | None, option("-r --routing-key KEY", "The routing key.")] = None,
    queue: Annotated[str | None, option("-q --queue NAME", "One queue, through the default exchange.")] = None,
    header: Annotated[
        list[str] | None, option("-H --header K=V", "A header: k=text, or k:=JSON; repeatable, CC and BCC too.")
    ] = None,
    vhost: Annotated[
        str | None, option("--vhost NAME", "The virtual host, if the files name several. [default: that of the target]")
    ] = None,
    json: Json = False,
) -> None:
    """Show which queues a message reaches, through which bindings, and what may happen to it there, without a broker.

    Dead letters are followed from queue to queue: rejected messages always, expired or pushed out ones if the queue has
    a TTL or a length limit. Retries are shown too. A message that reaches no queue is an error, with exit code 6.
    """
    headers = properties.parse_headers(header or ())
    target = parse_target(queue=queue, exchange=exchange, routing_key=routing_key)
    topology = _topology(files, vhost, target)
    target = target or topology.publish
    if not target:
        raise typer.BadParameter("Name a target: -e, -r or -q. The files have no `publish:`.")
    properties.check_target(target.exchange, target.routing_key)
    properties.check(Properties(headers=headers))
    found = find_route(topology, target, headers)
    letters = dead_letters(topology, found)
    reached = {*found.queues, *(name for letter in letters for name in letter.route.queues)}
    retries = {each.name: each.retry for each in topology.queues if each.retry and each.name in reached}
    if json:
        more = {"dead_letters": [_letter_as_json(letter) for letter in letters]}
        more["retries"] = [
            {"queue": name, "delays_ms": list(retry.delays_ms), "then": retry.then} for name, retry in retries.items()
        ]
        output.out_json(_as_json(found) | more)
        raise typer.Exit(exit_codes.NOT_CONFIRMED if found.unroutable else exit_codes.DONE)
    if found.legs:
        output.out("\n".join(_Tree(letters, retries).lines(found)))
    for sentence in found.unknown:
        output.warn(sentence)
    if found.unroutable:
        raise Unroutable(f"the message reaches no queue: {found.why}")


def _topology(files: list[str], vhost: str | None, target: Target | None) -> Topology:
    """Return the topology of a virtual host: the named one, or else the one that has the target. Raises InputError."""
    topologies = topology_source.load_topologies(files)
    if vhost is not None:
        found = [each for each in topologies if each.vhost == vhost]
    elif len(topologies) > 1:
        found = [each for each in topologies if _has(each, target)]
    else:
        found = list(topologies)
    if len(found) == 1:
        return found[0]
    names = ", ".join(repr(each.vhost) for each in topologies)
    if vhost is not None:
        raise InputError(f"no file names virtual host {vhost!r}", advice=f"The files name {names}.")
    which = "several virtual hosts" if found else "none of the virtual hosts"
    raise InputError(f"the target is in {which} of the files", advice=f"Choose one with --vhost: {names}.")


def _has(topology: Topology, target: Target | None) -> bool:
    if target is None:
        return topology.publish is not None
    if target.exchange:
        return target.exchange in {each.name for each in topology.exchanges} | set(topology.external_exchanges)
    return target.routing_key in {each.name for each in topology.queues} | set(topology.external_queues)


class _Tree:
    """Draw a route as a tree of exchanges and queues; the branches below each are drawn once."""

    def __init__(self, letters: tuple[DeadLetter, ...], retries: Mapping[str, Retry]) -> None:
        self.letters = letters
        self.retries = retries
        self.drawn_queues: set[str] = set()
        self.drawn_letters: set[tuple[str, tuple[str, ...]]] = set()  # exchange and routing keys

    def lines(self, found: Route) -> Iterator[str]:
        """Yield the lines, colored for standard output."""
        yield _name(found.exchange or "default exchange", "bold") + _dim(f"  ← {_keys(found)}")
        yield from self._branches(list(self._legs(found, found.exchange, set())))

    def _branches(self, branches: list[tuple[str, list[Any]]], indent: str = "") -> Iterator[str]:
        for number, (text, below) in enumerate(branches, 1):
            last = number == len(branches)
            yield _dim(f"{indent}{'└─' if last else '├─'} ") + text
            yield from self._branches(below, indent + ("   " if last else "│  "))

    def _legs(self, found: Route, source: str, drawn: set[str]) -> Iterator[tuple[str, list[Any]]]:
        """Yield a branch for each leg from an exchange; those below an exchange are drawn once."""
        drawn.add(source)
        for leg in found.legs:
            if leg.source == source and leg.to_exchange:
                repeated = leg.destination in drawn
                text = f"{_arrow(leg)} {_name(leg.destination, 'bold')}" + _dim("  as above" if repeated else "")
                yield text, [] if repeated else list(self._legs(found, leg.destination, drawn))
            elif leg.source == source:
                yield f"{_arrow(leg)} {_name(leg.destination, 'green')}", list(self._leaving(leg.destination))

    def _leaving(self, queue: str) -> Iterator[tuple[str, list[Any]]]:
        """Yield a branch for each way in which a message may leave a queue."""
        if queue in self.drawn_queues:
            return
        self.drawn_queues.add(queue)
        if retry := self.retries.get(queue):
            yield f"if a handler of rmqkit fails: {output.safe(in_words(retry))}", []
        for letter in self.letters:
            if letter.queue != queue:
                continue
            following = letter.route
            when = f"if {' or '.join(_LEAVING[reason] for reason in letter.reasons)}"
            if sentence := following.why or "; ".join(following.unknown):
                yield _dim(f"{when}: {output.safe(sentence)}"), list(self._legs(following, following.exchange, set()))
            else:
                letters = following.exchange, following.keys
                repeated = letters in self.drawn_letters and len(following.legs) > _SHORT
                self.drawn_letters.add(letters)
                exchange = _name(following.exchange or "default exchange", "bold")
                text = f"{when} → {exchange}" + _dim(f"  ← {_keys(following)}")
                legs = [] if repeated else self._legs(following, following.exchange, set())
                yield text + _dim(", as above" if repeated else ""), [*legs, *map(_cycle, letter.cycles)]


def _cycle(cycle: tuple[str, ...]) -> tuple[str, list[Any]]:
    text = f"a cycle, {' → '.join(map(output.safe, cycle))}: dropped if it returns without a rejection"
    return output.paint(text, "yellow", sys.stdout), []


def _arrow(leg: Leg) -> str:
    if not leg.binding:
        return _dim("no match, so its alternate →" if leg.to_exchange else "→")
    arguments = dumps(dict(leg.binding.arguments), ensure_ascii=False) if leg.binding.arguments else ""
    return " ".join([*map(output.safe, filter(None, [leg.binding.routing_key, arguments])), _dim("→")])


def _keys(found: Route) -> str:
    return ", ".join(output.safe(key) or "no routing key" for key in found.keys)


def _name(name: str, style: output.Style) -> str:
    return output.paint(output.safe(name), style, sys.stdout)


def _dim(text: str) -> str:
    return output.paint(text, "dim", sys.stdout)


def _as_json(found: Route) -> dict[str, Any]:
    return {
        "exchange": found.exchange,
        "routing_keys": list(found.keys),
        "queues": list(found.queues),
        "unroutable": found.unroutable,
        "why": found.why,
        "unknown": list(found.unknown),
        "paths": [[_leg_as_json(leg) for leg in path] for path in found.paths],
    }


def _leg_as_json(leg: Leg) -> dict[str, Any]:
    step: dict[str, Any] = {"source": leg.source, "destination": leg.destination}
    step["destination_type"] = "exchange" if leg.to_exchange else "queue"
    if not leg.binding:
        return step | {"by": "alternate" if leg.to_exchange else "default"}
    return step | {"by": "binding", "routing_key": leg.binding.routing_key, "arguments": dict(leg.binding.arguments)}


def _letter_as_json(letter: DeadLetter) -> dict[str, Any]:
    cycles = [list(cycle) for cycle in letter.cycles]
    return {"queue": letter.queue, "reasons": list(letter.reasons), "cycles": cycles} | _as_json(letter.route)
