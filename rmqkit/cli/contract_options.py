"""Which contract bodies have to keep: that of a flag, or that of the topology applied last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from rmqkit.cli import output
from rmqkit.cli.last_applied import LastApplied
from rmqkit.errors import PayloadError, Problem, TopologyError
from rmqkit.model import Contract, Exchange, Queue, Target, Topology
from rmqkit.payload import contracts
from rmqkit.payload.formats import Check


def _contract(*names: str, metavar: str | None = None, help: str) -> Any:  # noqa: A002 - Typer's word
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Contract", show_default=False)


@dataclass(frozen=True, slots=True)
class SchemaOptions:
    """What bodies have to be, beyond their format."""

    schema: Annotated[
        str | None,
        _contract(
            "--schema",
            metavar="FILE",
            help="What every body has to be: a JSON Schema (.json) or an XML Schema (.xsd). Else the contract of the"
            " topology applied last, if it has one.",
        ),
    ] = None
    no_schema: Annotated[bool, _contract("--no-schema", help="Check no body against a contract.")] = False

    def contracts(self, applied: LastApplied | None) -> EffectiveContracts:
        """Return the contracts of a run; raise a usage error, or SettingsError."""
        if self.schema is None:
            return EffectiveContracts(None, None if self.no_schema else applied)
        if self.no_schema:
            raise typer.BadParameter("--schema and --no-schema contradict each other")
        return EffectiveContracts(contracts.of_schema(self.schema), None)

    def of_queue(self, queue: str, applied: LastApplied | None) -> Contract | None:
        """Return the contract of what is in a queue."""
        return self._of(Target("", queue), applied)

    def of_exchange(self, exchange: str, applied: LastApplied | None) -> Contract | None:
        """Return the contract of what is published to an exchange."""
        return self._of(Target(exchange), applied)

    def _of(self, target: Target, applied: LastApplied | None) -> Contract | None:
        found = self.contracts(applied)
        if contract := found.of(target.exchange, target.routing_key):
            found.tell(contract, target)
        return contract


class EffectiveContracts(contracts.Contracts):
    """The contracts of a run: one for all, or those of what was applied last; what is used of these is said, once."""

    def __init__(self, given: Contract | None, applied: LastApplied | None) -> None:
        super().__init__(applied.exchanges if applied else {}, applied.queues if applied else {})
        self._given = given
        self._applied = applied
        self._told: set[Contract] = set()

    def of(self, exchange: str, routing_key: str) -> Contract | None:
        """Return the contract of what is published there: that of the exchange, or of the queue that is meant."""
        return self._given or super().of(exchange, routing_key)

    def check(self, exchange: str, routing_key: str) -> Check | None:
        """Return what refuses bodies there. Raises PayloadError for a bad schema."""
        contract = self.of(exchange, routing_key)
        if contract and contract not in self._told:
            self._told.add(contract)
            self.tell(contract, Target(exchange, routing_key))
        return super().check(exchange, routing_key)

    def tell(self, contract: Contract, target: Target) -> None:
        """Say on standard error whose contract it is, unless it was named."""
        if self._applied:
            about = Target(target.exchange) if target.exchange else f"queue {target.routing_key!r}"
            files = ", ".join(self._applied.files)
            output.note(output.safe(f"Checking against {contract.schema}, the contract of {about} in {files}."))


@dataclass(frozen=True, slots=True)
class ConsumedSchemaOptions(SchemaOptions):
    """What bodies have to be, and where those go that are not."""

    invalid_to: Annotated[
        str | None,
        _contract(
            "--invalid-to",
            metavar="QUEUE",
            help="Where messages go that break the contract, with the reason in a header. Else where the"
            " queue's retry ends, or its dead-letter exchange, in the topology applied last; without either they are"
            " rejected.",
        ),
    ] = None

    def target(self, queue: str, applied: LastApplied | None) -> Target | None:
        """Return where invalid messages of a queue go; None to reject them."""
        if self.invalid_to is not None:
            return Target("", self.invalid_to)
        return applied.way_out(queue) if applied else None


def check(topology: Topology) -> None:
    """Read the schemas of all contracts. Raises TopologyError with what is wrong with them, and where each is named."""
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
                about = f"the contract of {type(entity).__name__.lower()} {entity.name!r}"
                yield from (Problem(contract.where, f"{about}: {problem}") for problem in exc.problems)
