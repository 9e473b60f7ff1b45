"""Check the references from one part of a topology to another.

Some oddities are allowed here, as the broker allows them and they may be intended: cycles of dead-letter exchanges
(retry queues are made of them), a headers binding without `x-match` (the default is `all`), arguments of another queue
type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rmqkit.model import Binding, Exchange, Queue, Retry, Service, Target
from rmqkit.topology.cycles import cycle_from
from rmqkit.topology.file.document import KeyPath
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.names import BUILT_IN, Fault, check_length, check_name, check_type, suggest
from rmqkit.topology.retry import MAX_DELAY_MS, delay_text, endless, native_arguments, native_delays, waiting_queues

Faults = Iterator[tuple[KeyPath, Fault | None]]
"""Results of checks, each with the value it is about; None if the value is right."""

_MATCHES = ("all", "any", "all-with-x", "any-with-x")


def exchange_fault(index: TopologyIndex, name: str, role: str) -> Fault | None:
    """Report an exchange that is neither declared, external nor built in."""
    if index.is_known_exchange(name):
        return None
    return _undeclared(role, name, "exchanges", (*index.exchanges, *index.topology.external_exchanges, *BUILT_IN))


def queue_fault(index: TopologyIndex, name: str, role: str) -> Fault | None:
    """Report a queue that is neither declared nor external."""
    if index.is_known_queue(name):
        return None
    return _undeclared(role, name, "queues", (*index.queues, *index.topology.external_queues))


def publish_fault(index: TopologyIndex, exchange: str) -> Fault | None:
    """Report an exchange that clients cannot publish to."""
    declared = index.exchanges.get(exchange)
    if declared and declared.internal:
        return f"clients cannot publish to internal exchange {exchange!r}", "Name an exchange that is not internal."
    return exchange_fault(index, exchange, "the exchange")


def _undeclared(role: str, name: str, section: str, known: Iterable[str]) -> Fault:
    guess = suggest(name, known)
    advice = f"Declare it under {section}:, or list it under external: if it is declared elsewhere."
    return f"{role} {name!r} is not declared", f"Did you mean {guess!r}? {advice}" if guess else advice


def check_exchange(exchange: Exchange, index: TopologyIndex) -> Faults:
    """Check an exchange's type and its alternate exchange."""
    path: KeyPath = ("exchanges", exchange.name)
    yield (*path, "type"), check_type("exchange", exchange.type)
    alternate = exchange.arguments.get("alternate-exchange")
    if alternate:
        path = (*path, "arguments", "alternate-exchange")
        yield path, exchange_fault(index, alternate, "the alternate exchange")
        cycle = cycle_from(exchange.name, lambda name: _alternate(index.exchanges.get(name)))
        if cycle and exchange.name == min(cycle):  # reported once for all of them
            message = f"the alternate exchanges form a cycle: {' -> '.join(cycle)}"
            yield path, (message, "Remove the alternate-exchange of the last one, and bind a queue to it.")


def _alternate(exchange: Exchange | None) -> str:
    return exchange.arguments.get("alternate-exchange", "") if exchange else ""


def check_queue(queue: Queue, index: TopologyIndex) -> Faults:
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
        yield (*path, "retry"), _retry_fault(queue, kind, index)
        yield (*path, "retry", "then"), _then_fault(queue.name, queue.retry.then, index)
    exchange, key = (queue.arguments.get(f"x-dead-letter-{each}") for each in ("exchange", "routing-key"))
    path = (*path, "arguments")
    if exchange:
        yield (*path, "x-dead-letter-exchange"), exchange_fault(index, exchange, "the dead-letter exchange")
    elif exchange is not None and key:  # for the default exchange it is a queue
        yield (*path, "x-dead-letter-routing-key"), queue_fault(index, key, "the dead-letter queue")


def _retry_fault(queue: Queue, kind: str, index: TopologyIndex) -> Fault | None:
    """Explain why the waiting queues of a retry cannot be declared, or why the queue itself cannot delay messages."""
    if kind == "stream":
        return f"queue {queue.name!r} is a stream, which cannot have a retry", "Remove `retry`."
    if queue.retry and max(queue.retry.delays_ms) > MAX_DELAY_MS:
        return f"a delay of queue {queue.name!r} is longer than ten years, which RabbitMQ refuses", "Shorten it."
    if queue.retry and queue.retry.native:
        return _native_fault(queue, queue.retry, kind)
    for name in (each.name for each in waiting_queues(queue)):
        if index.is_known_queue(name):
            return f"queue {name!r} belongs to this retry, but is declared, too", "Rename or remove the declared one."
        if fault := check_name("queue", name):
            return fault
    return None


def _native_fault(queue: Queue, retry: Retry, kind: str) -> Fault | None:
    subject = f"queue {queue.name!r} has a native retry"
    if kind != "quorum":
        return f"{subject}, but is not declared as a quorum queue", "Write `type: quorum`, or remove `native`."
    if given := sorted(native_arguments(queue).keys() & queue.arguments.keys()):
        return f"{subject}, and the argument {given[0]}", "Remove the argument: the retry sets it."
    if (delays := native_delays(retry)) != retry.delays_ms:
        possible = ", ".join(map(delay_text, delays))
        advice = f"Write delays like [{possible}], or remove `native`."
        return f"{subject}, whose delays must be 1, 2, 3, ... times the first one, capped at the last one", advice
    limit = queue.arguments.get("x-delivery-limit", -1)
    if isinstance(limit, int) and 0 <= limit < len(delays):
        advice = f"Write x-delivery-limit: {len(delays)} or more."
        return f"{subject}, but its delivery limit of {limit} is reached before the last delay", advice
    return None


def _then_fault(queue: str, then: str, index: TopologyIndex) -> Fault | None:
    """Explain why messages whose last try failed cannot end in a queue."""
    return endless(queue, then, index.queues) or queue_fault(index, then, "the queue")


def check_binding(number: int, binding: Binding, index: TopologyIndex) -> Faults:
    """Check that both ends of a binding exist, and that a headers exchange accepts it."""
    path: KeyPath = ("bindings", number)
    fault = exchange_fault(index, binding.source, "the source exchange") if binding.source else _DEFAULT_BOUND
    yield (*path, "source"), fault
    if binding.destination_type == "exchange":
        fault = exchange_fault(index, binding.destination, "the destination exchange")
        fault = fault if binding.destination else _DEFAULT_BOUND
        if fault and binding.destination and index.is_known_queue(binding.destination):
            fault = fault[0], f"{binding.destination!r} is a queue: leave destination_type out."
    else:
        fault = queue_fault(index, binding.destination, "the destination queue")
        if fault and binding.destination and index.is_known_exchange(binding.destination):
            fault = fault[0], f"{binding.destination!r} is an exchange: add destination_type: exchange."
    yield (*path, "destination"), fault
    yield (*path, "routing_key"), check_length("the routing key", binding.routing_key)
    match = binding.arguments.get("x-match", "all")
    if index.type_of(binding.source) == "headers" and match not in _MATCHES:
        message = f"x-match is {match!r}, but should be one of {', '.join(_MATCHES)}"
        guess = suggest(str(match), _MATCHES)
        yield (
            (*path, "arguments", "x-match"),
            (message, f"Did you mean {guess}?" if guess else "Remove it to match all."),
        )


_DEFAULT_BOUND = (
    "the default exchange cannot be bound",
    "Leave the binding out: every queue is bound to it already, under its own name.",
)


def check_publish(publish: Target, index: TopologyIndex) -> Faults:
    """Check that the default target of `rmqkit publish` exists."""
    if publish.exchange:
        yield ("publish", "exchange"), publish_fault(index, publish.exchange)
        yield ("publish", "routing_key"), check_length("the routing key", publish.routing_key)
    elif publish.routing_key:
        yield ("publish", "routing_key"), queue_fault(index, publish.routing_key, "the queue")
    else:
        fault = "publish names neither an exchange nor a queue", "Write {exchange: NAME} or {routing_key: QUEUE}."
        yield ("publish",), fault


def check_service(service: Service, index: TopologyIndex) -> Faults:
    """Check that what a service publishes to and consumes exists, and that the files declare what it declares."""
    for number, each in enumerate(service.publishes):
        path: KeyPath = ("services", service.name, "publishes", number)
        if each.exchange:
            yield (*path, "exchange"), publish_fault(index, each.exchange)
        elif not each.routing_keys:
            fault = "the default exchange needs routing_keys", "Write the names of queues, or the name of an exchange."
            yield path, fault
        if each.delay and not index.topology.delay:
            advice = "Add it, so that `rmqkit apply` declares the queues of delayed messages."
            yield (*path, "delay"), ("the files have no `delay: true` at the top level", advice)
        for position, key in enumerate(each.routing_keys):
            fault_of_key = (
                check_length("the routing key", key) if each.exchange else queue_fault(index, key, "the queue")
            )
            yield (*path, "routing_keys", position), fault_of_key
    for number, queue in enumerate(service.consumes):
        yield ("services", service.name, "consumes", number), queue_fault(index, queue, "the queue")
    known = (*index.queues, *index.exchanges)
    for number, name in enumerate(service.declares):
        fault = f"{name!r} is neither a queue nor an exchange of the file", "Declare it under queues: or exchanges:."
        guess = suggest(name, known)
        advice = f"Did you mean {guess!r}? {fault[1]}" if guess else fault[1]
        yield ("services", service.name, "declares", number), None if name in known else (fault[0], advice)
