"""The contract that bodies are checked against: that of an option, or that of the topology applied last."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import typer

from rmqkit.cli import output
from rmqkit.cli.last_applied import LastApplied
from rmqkit.cli.options import option_field
from rmqkit.errors import PayloadError, Problem, TopologyError
from rmqkit.model import Contract, Exchange, Queue, Target, Topology
from rmqkit.payload import contracts
from rmqkit.payload.formats import Check

_option = functools.partial(option_field, panel="Contract")


@dataclass(frozen=True, slots=True)
class SchemaOptions:
    """Which schema bodies are checked against."""

    schema: str | None = _option(
        "--schema FILE",
        "Check every body against a JSON Schema (.json) or an XML Schema (.xsd). [default: the contract in the"
        " topology applied last, if any]",
    )
    no_schema: bool = _option("--no-schema", "Check no body against a contract.", default=False)

    def contracts(self, applied: LastApplied | None) -> EffectiveContracts:
        """Return the contracts of a run; raise a usage error, or SettingsError."""
        if self.schema is None:
            return EffectiveContracts(None, None if self.no_schema else applied)
        if self.no_schema:
            raise typer.BadParameter("--schema and --no-schema cannot be combined")
        return EffectiveContracts(contracts.from_schema(self.schema), None)

    def of(self, target: Target, applied: LastApplied | None) -> Contract | None:
        """Return the contract of the messages that are published to a target, or wait in its queue."""
        effective = self.contracts(applied)
        if contract := effective.of(target.exchange, target.routing_key):
            effective.announce(contract, target)
        return contract


class EffectiveContracts(contracts.Contracts):
    """The contracts of a run: one for all bodies, or those applied last, each of which is announced when first used."""

    def __init__(self, given: Contract | None, applied: LastApplied | None) -> None:
        super().__init__(applied.exchanges if applied else {}, applied.queues if applied else {})
        self._given = given
        self._applied = applied
        self._announced: set[Contract] = set()

    def of(self, exchange: str, routing_key: str) -> Contract | None:
        """Return the contract for a target: that of its exchange or, without one, of its queue."""
        return self._given or super().of(exchange, routing_key)

    def check(self, exchange: str, routing_key: str) -> Check | None:
        """Return the check of bodies for a target. Raises PayloadError for an invalid schema."""
        contract = self.of(exchange, routing_key)
        if contract and contract not in self._announced:
            self.announce(contract, Target(exchange, routing_key))
        return super().check(exchange, routing_key)

    def announce(self, contract: Contract, target: Target) -> None:
        """Say on standard error which contract applies, unless an option named it."""
        self._announced.add(contract)
        if self._applied:
            subject = Target(target.exchange) if target.exchange else f"queue {target.routing_key!r}"
            files = self._applied.files_of(target)
            output.note(output.safe(f"Checking against {contract.schema}, the contract of {subject} in {files}."))


@dataclass(frozen=True, slots=True)
class ConsumedSchemaOptions(SchemaOptions):
    """Which schema consumed bodies are checked against, and where invalid messages go."""

    invalid_to: str | None = _option(
        "--invalid-to QUEUE",
        "Send messages that break the contract here, with the reason in a header. [default: where the queue's"
        " retry ends, or its dead-letter exchange, in the topology applied last; else see --on-failure]",
    )

    def of(self, target: Target, applied: LastApplied | None) -> Contract | None:
        """Return the contract of the messages; raise a usage error if there is none for `invalid_to`."""
        contract = SchemaOptions.of(self, target, applied)  # `super` does not know a class with slots
        if self.invalid_to is not None and not contract:
            raise typer.BadParameter("--invalid-to requires a contract. Name one with --schema.")
        return contract

    def target(self, queue: str, applied: LastApplied | None) -> Target | None:
        """Return where invalid messages of a queue go; None to reject them."""
        if self.invalid_to is not None:
            return Target("", self.invalid_to)
        return applied.failure_target(queue) if applied else None


def check(topology: Topology) -> None:
    """Read the schemas of all contracts; raise TopologyError with every problem and where the schema is named."""
    from rmqkit.topology.file.text import headline  # noqa: PLC0415 - start-up time

    if problems := list(_problems(topology)):
        raise TopologyError(headline(problems), problems=problems)


def _problems(topology: Topology) -> Iterator[Problem]:
    entities: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
    for entity in entities:
        if (contract := entity.contract) and contract.where:
            try:
                contracts.compile_contract(contract)
            except PayloadError as exc:
                subject = f"the contract of {type(entity).__name__.lower()} {entity.name!r}"
                yield from (Problem(contract.where, f"{subject}: {problem}") for problem in exc.problems)
