"""`rmqkit route`."""

from __future__ import annotations

import json as text_of
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import output
from rmqkit.cli.files import readable
from rmqkit.cli.options import Json, parse_target
from rmqkit.errors import Unroutable
from rmqkit.model import Retry
from rmqkit.topology.retry import in_words

if TYPE_CHECKING:
    from rmqkit.topology.dead_letters import DeadLetter
    from rmqkit.topology.death_cycles import Reason
    from rmqkit.topology.routing import Leg, Route

_LEAVING: dict[Reason, str] = {
    "rejected": "rejected",
    "expired": "expired",
    "maxlen": "pushed out",
    "delivery_limit": "delivered too often",
}
_SHORT = 3  # steps that are rather told again than looked up above


def route(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Topology files, taken as one; - for stdin.")],
    *,
    exchange: Annotated[
        str | None, typer.Option("-e", "--exchange", metavar="NAME", help="The exchange; else the file's `publish:`.")
    ] = None,
    routing_key: Annotated[
        str | None, typer.Option("-r", "--routing-key", metavar="KEY", help="The routing key.")
    ] = None,
    queue: Annotated[
        str | None, typer.Option("-q", "--queue", metavar="NAME", help="One queue, through the default exchange.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "-H", "--header", metavar="K=V", help="A header: k=text, or k:=JSON; repeat it. CC and BCC count."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say which queues a message reaches, through which bindings, and what becomes of it there; without a broker.

    A queue's dead letters are followed hop by hop: what is rejected always, what expires or is pushed out where the
    queue has a TTL or a length limit. A retry is told. A message that reaches no queue is an error, with exit code 6.
    """
    from rmqkit.message import Properties  # noqa: PLC0415 - start-up time
    from rmqkit.payload import properties  # noqa: PLC0415
    from rmqkit.topology.dead_letters import dead_letters  # noqa: PLC0415
    from rmqkit.topology.file.loader import load  # noqa: PLC0415
    from rmqkit.topology.routing import route as find  # noqa: PLC0415

    headers = properties.parse_headers(header or ())
    topology = load(*map(readable, files))
    target = parse_target(queue=queue, exchange=exchange, routing_key=routing_key) or topology.publish
    if not target:
        raise typer.BadParameter("Name a target: -e, -r or -q. The files have no `publish:`.")
    properties.check_target(target.exchange, target.routing_key)
    properties.check(Properties(headers=headers))
    found = find(topology, target, headers)
    letters = dead_letters(topology, found)
    ends = {*found.queues, *(name for letter in letters for name in letter.route.queues)}
    retries = {each.name: each.retry for each in topology.queues if each.retry and each.name in ends}
    if json:
        told = {"dead_letters": [_letter_as_json(letter) for letter in letters]}
        told["retries"] = [_retry_as_json(name, retry) for name, retry in retries.items()]
        output.out_json(_as_json(found) | told)
        raise typer.Exit(exit_codes.NOT_CONFIRMED if found.unroutable else exit_codes.DONE)
    if found.legs:
        output.out("\n".join(_Tree(letters, retries).lines(found)))
    for sentence in found.unknown:
        output.warn(sentence)
    if found.unroutable:
        raise Unroutable(f"the message reaches no queue: {found.why}")


class _Tree:
    """The picture of a route: exchanges and queues, each with what follows told once."""

    def __init__(self, letters: tuple[DeadLetter, ...], retries: Mapping[str, Retry]) -> None:
        self.letters = letters
        self.retries = retries
        self.told: set[str] = set()
        self.led: set[tuple[str, tuple[str, ...]]] = set()  # ways of dead letters

    def lines(self, found: Route) -> Iterator[str]:
        """Yield the lines, coloured for standard output."""
        yield _name(found.exchange or "default exchange", "bold") + _dim(f"  ← {_keys(found)}")
        yield from self._branches(list(self._legs(found, found.exchange, set())))

    def _branches(self, branches: list[tuple[str, list[Any]]], indent: str = "") -> Iterator[str]:
        for number, (text, below) in enumerate(branches, 1):
            last = number == len(branches)
            yield _dim(f"{indent}{'└─' if last else '├─'} ") + text
            yield from self._branches(below, indent + ("   " if last else "│  "))

    def _legs(self, found: Route, source: str, told: set[str]) -> Iterator[tuple[str, list[Any]]]:
        """Yield a branch per leg from an exchange; where an exchange leads is told once."""
        told.add(source)
        for leg in found.legs:
            if leg.source == source and leg.to_exchange:
                again = leg.destination in told
                text = f"{_way(leg)} {_name(leg.destination, 'bold')}" + _dim("  as above" if again else "")
                yield text, [] if again else list(self._legs(found, leg.destination, told))
            elif leg.source == source:
                yield f"{_way(leg)} {_name(leg.destination, 'green')}", list(self._leaving(leg.destination))

    def _leaving(self, queue: str) -> Iterator[tuple[str, list[Any]]]:
        """Yield a branch for each thing that may become of a message in a queue."""
        if queue in self.told:
            return
        self.told.add(queue)
        if retry := self.retries.get(queue):
            yield f"if a handler of rmqkit fails: {output.safe(in_words(retry))}", []
        for letter in self.letters:
            if letter.queue != queue:
                continue
            onward = letter.route
            when = f"if {' or '.join(_LEAVING[reason] for reason in letter.reasons)}"
            if sentence := onward.why or "; ".join(onward.unknown):
                yield _dim(f"{when}: {output.safe(sentence)}"), list(self._legs(onward, onward.exchange, set()))
            else:
                way = onward.exchange, onward.keys
                again = way in self.led and len(onward.legs) > _SHORT
                self.led.add(way)
                text = f"{when} → {_name(onward.exchange or 'default exchange', 'bold')}" + _dim(f"  ← {_keys(onward)}")
                legs = [] if again else self._legs(onward, onward.exchange, set())
                yield text + _dim(", as above" if again else ""), [*legs, *map(_round, letter.cycles)]


def _round(cycle: tuple[str, ...]) -> tuple[str, list[Any]]:
    text = f"a cycle, {' → '.join(map(output.safe, cycle))}: dropped if it goes round without a rejection"
    return output.paint(text, "yellow", sys.stdout), []


def _way(leg: Leg) -> str:
    if not leg.binding:
        return _dim("no match, so its alternate →" if leg.to_exchange else "→")
    asked = [text_of.dumps(dict(leg.binding.arguments), ensure_ascii=False)] if leg.binding.arguments else []
    return " ".join([*map(output.safe, filter(None, [leg.binding.routing_key, *asked])), _dim("→")])


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


def _retry_as_json(queue: str, retry: Retry) -> dict[str, Any]:
    return {"queue": queue, "delays_ms": list(retry.delays_ms), "then": retry.then}
