"""Check what one part of a topology says about another.

Some oddities are allowed here, as the broker allows them and they may be intended: cycles of dead-letter exchanges
(retry queues are made of them), a headers binding without `x-match` (the default is `all`), arguments of another queue
type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rmqkit.model import Binding, Exchange, Queue, Target
from rmqkit.topology.cycles import cycle_from
from rmqkit.topology.file.document import KeyPath
from rmqkit.topology.file.names import BUILT_IN, Fault, check_length, check_name, check_type, suggest
from rmqkit.topology.retry import MAX_DELAY_MS, waiting_queues

Faults = Iterator[tuple[KeyPath, Fault | None]]
"""Results of checks, each with the value it is about; None if the value is right."""

_MATCHES = ("all", "any", "all-with-x", "any-with-x")


@dataclass(slots=True)
class DeclaredNames:
    """The names that may be referred to: declared, even with a fault, external, or built in.

    `retries` holds, for each queue with a retry, the queue for messages whose last try failed.
    """

    exchanges: dict[str, Exchange | None] = field(default_factory=lambda: dict.fromkeys(BUILT_IN))
    queues: set[str] = field(default_factory=set)
    retries: dict[str, str] = field(default_factory=dict)

    def exchange_fault(self, name: str, role: str) -> Fault | None:
        """Report an exchange that is not declared."""
        return None if name in self.exchanges else _undeclared(role, name, "exchanges", [*self.exchanges])

    def queue_fault(self, name: str, role: str) -> Fault | None:
        """Report a queue that is not declared."""
        return None if name in self.queues else _undeclared(role, name, "queues", [*self.queues])

    def publish_fault(self, exchange: str) -> Fault | None:
        """Report an exchange that clients cannot publish to."""
        declared = self.exchanges.get(exchange)
        if declared and declared.internal:
            return f"clients cannot publish to internal exchange {exchange!r}", "Name an exchange that is not internal."
        return self.exchange_fault(exchange, "the exchange")

    def alternate(self, exchange: str) -> str:
        """Return the alternate exchange of an exchange, or an empty string."""
        declared = self.exchanges.get(exchange)
        return declared.arguments.get("alternate-exchange", "") if declared else ""

    def type_of(self, exchange: str) -> str:
        """Return the type of an exchange, or an empty string if it is external."""
        declared = self.exchanges.get(exchange)
        return declared.type if declared else BUILT_IN.get(exchange, "")


def _undeclared(role: str, name: str, section: str, known: list[str]) -> Fault:
    guess = name if name in known else suggest(name, known)
    advice = f"Declare it under {section}:, or list it under external: if it is declared elsewhere."
    return f"{role} {name!r} is not declared", f"Did you mean {guess!r}? {advice}" if guess else advice


def check_exchange(exchange: Exchange, known: DeclaredNames) -> Faults:
    """Check an exchange's type and its alternate exchange."""
    path: KeyPath = ("exchanges", exchange.name)
    yield (*path, "type"), check_type("exchange", exchange.type)
    alternate = exchange.arguments.get("alternate-exchange")
    if alternate:
        path = (*path, "arguments", "alternate-exchange")
        yield path, known.exchange_fault(alternate, "the alternate exchange")
        cycle = cycle_from(exchange.name, known.alternate)
        if cycle and exchange.name == min(cycle):  # reported once for all of them
            message = f"the alternate exchanges form a cycle: {' -> '.join(cycle)}"
            yield path, (message, "Remove the alternate-exchange of the last one, and bind a queue to it.")


def check_queue(queue: Queue, known: DeclaredNames) -> Faults:
    """Check a queue's type, flags and retry, and the destination of its dead letters."""
    path: KeyPath = ("queues", queue.name)
    kind = queue.arguments.get("x-queue-type", "")
    yield (*path, "arguments", "x-queue-type"), check_type("queue", kind) if kind else None
    if kind in ("quorum", "stream"):
        for flag, wrong in (("durable", False), ("auto_delete", True), ("exclusive", True)):
            if getattr(queue, flag) is wrong:
                message = f"a {kind} queue cannot have {flag}: {str(wrong).lower()}"
                yield (*path, flag), (message, f"Leave {flag} out, or choose type: classic.")
    if queue.retry:
        yield (*path, "retry"), _retry_fault(queue, kind, known)
        yield (*path, "retry", "then"), _then_fault(queue.name, queue.retry.then, known)
    exchange, key = (queue.arguments.get(f"x-dead-letter-{each}") for each in ("exchange", "routing-key"))
    path = (*path, "arguments")
    if exchange:
        yield (*path, "x-dead-letter-exchange"), known.exchange_fault(exchange, "the dead-letter exchange")
    elif exchange is not None and key:  # for the default exchange it is a queue
        yield (*path, "x-dead-letter-routing-key"), known.queue_fault(key, "the dead-letter queue")


def _retry_fault(queue: Queue, kind: str, known: DeclaredNames) -> Fault | None:
    """Explain why the waiting queues of a retry cannot be declared."""
    if kind == "stream":
        return f"queue {queue.name!r} is a stream, which cannot have a retry", "Leave retry out."
    if queue.retry and max(queue.retry.delays_ms) > MAX_DELAY_MS:
        return f"a delay of queue {queue.name!r} is longer than ten years, which RabbitMQ refuses", "Shorten it."
    for name in (each.name for each in waiting_queues(queue)):
        if name in known.queues:
            return f"queue {name!r} belongs to this retry, and is declared too", "Rename or remove the declared one."
        if fault := check_name("queue", name):
            return fault
    return None


def _then_fault(queue: str, then: str, known: DeclaredNames) -> Fault | None:
    """Explain why messages whose last try failed cannot end in a queue."""
    if cycle := cycle_from(queue, lambda name: then if name == queue else known.retries.get(name)):
        message = f"failed messages are retried forever: {' -> '.join(cycle)}"
        return message, "Name a queue without a retry, in which they stay until they are handled by hand."
    return known.queue_fault(then, "the queue")


def check_binding(index: int, binding: Binding, known: DeclaredNames) -> Faults:
    """Check that both ends of a binding exist, and that a headers exchange accepts it."""
    path: KeyPath = ("bindings", index)
    fault = known.exchange_fault(binding.source, "the source exchange") if binding.source else _DEFAULT_BOUND
    yield (*path, "source"), fault
    if binding.destination_type == "exchange":
        fault = known.exchange_fault(binding.destination, "the destination exchange")
        fault = fault if binding.destination else _DEFAULT_BOUND
        if fault and binding.destination and binding.destination in known.queues:
            fault = fault[0], f"{binding.destination!r} is a queue: leave destination_type out."
    else:
        fault = known.queue_fault(binding.destination, "the destination queue")
        if fault and binding.destination in known.exchanges:
            fault = fault[0], f"{binding.destination!r} is an exchange: add destination_type: exchange."
    yield (*path, "destination"), fault
    yield (*path, "routing_key"), check_length("the routing key", binding.routing_key)
    match = binding.arguments.get("x-match", "all")
    if known.type_of(binding.source) == "headers" and match not in _MATCHES:
        message = f"x-match is {match!r}, but should be one of {', '.join(_MATCHES)}"
        guess = suggest(str(match), _MATCHES)
        yield (*path, "arguments", "x-match"), (message, f"Did you mean {guess}?" if guess else "Leave it out for all.")


_DEFAULT_BOUND = (
    "the default exchange cannot be bound",
    "Leave the binding out: every queue is bound to it already, under its own name.",
)


def check_publish(publish: Target, known: DeclaredNames) -> Faults:
    """Check that the default target of `rmqkit publish` exists."""
    if publish.exchange:
        yield ("publish", "exchange"), known.publish_fault(publish.exchange)
        yield ("publish", "routing_key"), check_length("the routing key", publish.routing_key)
    elif publish.routing_key:
        yield ("publish", "routing_key"), known.queue_fault(publish.routing_key, "the queue")
    else:
        fault = "publish names neither an exchange nor a queue", "Write {exchange: NAME} or {routing_key: QUEUE}."
        yield ("publish",), fault
