"""Check what one part of a topology says about another.

Not checked, because the broker takes it and somebody may mean it: loops of dead-letter exchanges (retry queues are made
of them), a headers binding without `x-match` (the broker's default is `all`), arguments of another queue type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rmqkit.errors import Problem
from rmqkit.model import Binding, Exchange, Queue
from rmqkit.topology.file.document import Document, KeyPath
from rmqkit.topology.file.names import BUILT_IN, Fault, check_exchange_type, check_length, check_name, check_queue_type
from rmqkit.topology.file.schema import suggest
from rmqkit.topology.retry import MAX_DELAY_MS, waiting_queues

_MATCHES = ("all", "any", "all-with-x", "any-with-x")


@dataclass(slots=True)
class DeclaredNames:
    """The names that may be referred to: declared, even if faultily, external, or built in.

    `retries` tells by name where queues with a retry send what failed the last time too.
    """

    exchanges: dict[str, Exchange | None] = field(default_factory=lambda: dict.fromkeys(BUILT_IN))
    queues: set[str] = field(default_factory=set)
    retries: dict[str, str] = field(default_factory=dict)

    def exchange_fault(self, name: str, what: str) -> Fault | None:
        """Say why nothing can be sent to an exchange, or None."""
        return None if name in self.exchanges else _undeclared(what, name, "exchanges", [*self.exchanges])

    def queue_fault(self, name: str, what: str) -> Fault | None:
        """Say why a queue cannot be meant, or None."""
        return None if name in self.queues else _undeclared(what, name, "queues", [*self.queues])

    def type_of(self, exchange: str) -> str:
        """Return the type of an exchange, or an empty text if it is external."""
        declared = self.exchanges.get(exchange)
        return declared.type if declared else BUILT_IN.get(exchange, "")


def _undeclared(what: str, name: str, section: str, known: list[str]) -> Fault:
    guess = name if name in known else suggest(name, known)
    advice = f"Declare it under {section}:, or list it under external: if others do."
    return f"{what} {name!r} is not declared", f"Did you mean {guess!r}? {advice}" if guess else advice


def check_exchange(document: Document, exchange: Exchange, known: DeclaredNames) -> Iterator[Problem]:
    """Check an exchange's type and its alternate exchange."""
    path: KeyPath = ("exchanges", exchange.name)
    yield from _problems(document, (*path, "type"), check_exchange_type(exchange.type))
    alternate = exchange.arguments.get("alternate-exchange")
    if alternate:
        path = (*path, "arguments", "alternate-exchange")
        yield from _problems(document, path, known.exchange_fault(alternate, "the alternate exchange"))
        loop = _alternates(exchange.name, known.exchanges)
        if loop and exchange.name == min(loop):  # once for all of them
            message = f"the alternate exchanges run in a circle: {' -> '.join(loop)}"
            yield Problem(
                document.where(path), message, "Let the last one have none: a queue bound to it keeps the rest."
            )


def _alternates(start: str, exchanges: Mapping[str, Exchange | None]) -> list[str]:
    """Return the way from an exchange over alternate exchanges back to itself, or nothing."""
    way, name = [start], start
    while (exchange := exchanges.get(name)) and len(way) <= len(exchanges):
        name = exchange.arguments.get("alternate-exchange", "")
        way.append(name)
        if name == start:
            return way
        if name in way[:-1]:
            return []  # the circle lies further on, and is reported there
    return []


def check_queue(document: Document, queue: Queue, known: DeclaredNames) -> Iterator[Problem]:
    """Check a queue's type against its flags, and where its dead letters go."""
    path: KeyPath = ("queues", queue.name)
    kind = queue.arguments.get("x-queue-type", "")
    yield from _problems(document, (*path, "arguments", "x-queue-type"), check_queue_type(kind) if kind else None)
    if kind in ("quorum", "stream"):
        for flag, wrong in (("durable", False), ("auto_delete", True), ("exclusive", True)):
            if getattr(queue, flag) is wrong:
                message = f"a {kind} queue cannot have {flag}: {str(wrong).lower()}"
                advice = f"Leave {flag} out, or choose type: classic."
                yield Problem(document.where((*path, flag)), message, advice)
    if queue.retry:
        yield from _problems(document, (*path, "retry"), _retry_fault(queue, kind, known))
        yield from _problems(document, (*path, "retry", "then"), _end_fault(queue.name, queue.retry.then, known))
    exchange = queue.arguments.get("x-dead-letter-exchange")
    if exchange is None:
        return
    if exchange:
        fault = known.exchange_fault(exchange, "the dead-letter exchange")
        yield from _problems(document, (*path, "arguments", "x-dead-letter-exchange"), fault)
    elif key := queue.arguments.get("x-dead-letter-routing-key"):  # the default exchange takes it for a queue
        fault = known.queue_fault(key, "the dead-letter queue")
        yield from _problems(document, (*path, "arguments", "x-dead-letter-routing-key"), fault)


def _retry_fault(queue: Queue, kind: str, known: DeclaredNames) -> Fault | None:
    """Say why the waiting queues of a retry cannot be made."""
    if kind == "stream":
        return f"queue {queue.name!r} is a stream, and nothing comes back into one alone", "Leave retry out."
    if queue.retry and max(queue.retry.delays_ms) > MAX_DELAY_MS:
        return f"a delay of queue {queue.name!r} is longer than ten years, which RabbitMQ refuses", "Shorten it."
    for name in (each.name for each in waiting_queues(queue)):
        if name in known.queues:
            return f"queue {name!r} is made by this retry, and is declared as well", "Rename that one, or leave it out."
        if fault := check_name("queue", name):
            return fault
    return None


def _end_fault(queue: str, then: str, known: DeclaredNames) -> Fault | None:
    """Say why what failed the last time too cannot end in a queue."""
    way = [queue, then]
    while (name := known.retries.get(way[-1])) and name not in way[1:]:
        way.append(name)
    if way[-1] == queue:
        message = f"what fails comes back for ever: {' -> '.join(way)}"
        return message, "Name a queue without a retry: its messages wait until somebody looks at them."
    return known.queue_fault(then, "the queue")


def check_binding(document: Document, index: int, binding: Binding, known: DeclaredNames) -> Iterator[Problem]:
    """Check that both ends of a binding exist, and that a headers exchange will take it."""
    path: KeyPath = ("bindings", index)
    to_exchange = binding.destination_type == "exchange"
    fault = known.exchange_fault(binding.source, "the source exchange") if binding.source else _DEFAULT_BOUND
    yield from _problems(document, (*path, "source"), fault)
    if to_exchange:
        fault = known.exchange_fault(binding.destination, "the destination exchange")
        fault = fault if binding.destination else _DEFAULT_BOUND
        if fault and binding.destination and binding.destination in known.queues:
            fault = fault[0], f"{binding.destination!r} is a queue: leave destination_type out."
    else:
        fault = known.queue_fault(binding.destination, "the destination queue")
        if fault and binding.destination in known.exchanges:
            fault = fault[0], f"{binding.destination!r} is an exchange: add destination_type: exchange."
    yield from _problems(document, (*path, "destination"), fault)
    yield from _problems(document, (*path, "routing_key"), check_length("the routing key", binding.routing_key))
    match = binding.arguments.get("x-match", "all")
    if known.type_of(binding.source) == "headers" and match not in _MATCHES:
        message = f"x-match is {match!r}, and should be one of {', '.join(_MATCHES)}"
        guess = suggest(str(match), _MATCHES)
        where = document.where((*path, "arguments", "x-match"))
        yield Problem(where, message, f"Did you mean {guess}?" if guess else "Leave it out for all.")


def check_policy(document: Document, name: str) -> Iterator[Problem]:
    """Check that a policy's definition has policy keys: those of arguments, but without `x-`."""
    for key in document.data["policies"][name]["definition"]:
        if key.startswith("x-"):
            where = document.where_key(("policies", name, "definition", key))
            message = f"{key!r} is an argument, and no key of a policy"
            yield Problem(where, message, f"Write {key.removeprefix('x-')}.")


_DEFAULT_BOUND = (
    "the default exchange cannot be bound",
    "Leave the binding out: every queue is bound to it already, under its own name.",
)


def check_publish(document: Document, publish: Mapping[str, Any], known: DeclaredNames) -> Iterator[Problem]:
    """Check that there is something where `rmqkit publish` would send to."""
    exchange, key = publish.get("exchange", ""), publish.get("routing_key", "")
    if exchange:
        fault = known.exchange_fault(exchange, "the exchange")
        declared = known.exchanges.get(exchange)
        if declared and declared.internal:
            fault = f"nobody can publish to {exchange!r}: it is internal", "Name an exchange that is not."
        yield from _problems(document, ("publish", "exchange"), fault)
        yield from _problems(document, ("publish", "routing_key"), check_length("the routing key", key))
    elif key:
        yield from _problems(document, ("publish", "routing_key"), known.queue_fault(key, "the queue"))
    else:
        fault = "publish names neither an exchange nor a queue", "Write {exchange: NAME} or {routing_key: QUEUE}."
        yield from _problems(document, ("publish",), fault)


def _problems(document: Document, path: KeyPath, fault: Fault | None) -> Iterator[Problem]:
    if fault:
        yield Problem(document.where(path), *fault)
